//! Facts from headers, and whether a file is whole, without decoding a pixel.
//!
//! One walker a format. Each follows the structure that the format declares (segments, chunks, boxes, offsets) up to its end
//! marker, so that a file that was cut off or spliced is refused at the door. What only a decoder can see (bad entropy coding)
//! is left to the rendering.

mod bmp;
mod gif;
mod heif;
mod ico;
mod jpeg;
mod jxl;
mod png;
mod source;
mod tiff;
mod webp;

use std::io::{BufRead, Cursor, Seek};

use crate::format::SNIFF_BYTES;
use crate::{Error, Facts, Format, Limits};
pub(crate) use heif::{CodePoints, HeifPicture, ItemColours};
use source::Source;

/// Reads the facts of a whole file and checks its structure to the end.
///
/// Memory is bounded by a few hundred kilobytes whatever the file's size; time is linear in it. Bytes in memory are read where they
/// are; a file wants a buffer of some ten kilobytes.
///
/// # Errors
/// [`Error::Unsupported`], [`Error::Corrupt`], [`Error::Truncated`] or [`Error::OverLimit`]; [`Error::Io`] when reading fails.
pub fn inspect<R: BufRead + Seek>(reader: R, limits: &Limits) -> Result<Facts, Error> {
    let mut source = Source::new(reader)?;
    let format = Format::sniff(source.peek(SNIFF_BYTES)?)?;
    source.announce(format);
    match format {
        Format::Jpeg => jpeg::inspect(&mut source, limits),
        Format::Png => png::inspect(&mut source, limits),
        Format::Gif => gif::inspect(&mut source, limits),
        Format::WebP => webp::inspect(&mut source, limits),
        Format::Bmp => bmp::inspect(&mut source, limits),
        Format::Tiff => tiff::inspect(&mut source, limits),
        Format::Ico => ico::inspect(&mut source, limits),
        Format::Avif | Format::Heic => heif::inspect(&mut source, limits),
        Format::Jxl => jxl::inspect(&mut source, limits),
    }
}

/// [`inspect`] for an AVIF or HEIC that is going to be decoded: beside its facts, what else the container says of the picture.
pub(crate) fn inspect_heif(bytes: &[u8], format: Format, limits: &Limits) -> Result<HeifPicture, Error> {
    let mut source = Source::new(Cursor::new(bytes))?;
    source.announce(format);
    heif::inspect_picture(&mut source, limits)
}

/// Refuses as early as possible: looks at the first bytes of a file whose rest is still to come.
///
/// What the head alone can't show is no error here; [`inspect`] judges the whole file later.
///
/// # Errors
/// As [`inspect`], but never [`Error::Truncated`].
pub fn inspect_head(head: &[u8], limits: &Limits) -> Result<(), Error> {
    match inspect(Cursor::new(head), limits) {
        Ok(_) | Err(Error::Truncated { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

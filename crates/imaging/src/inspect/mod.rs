//! Facts from headers, and whether a file is whole, without decoding a pixel.
//!
//! One walker a format. Each follows the structure that the format declares (segments, chunks, boxes, offsets), so that a file that
//! was cut off or spliced is refused at the door. A decoder needs no end marker, so a file without a proper one passes when all of
//! its pixels may be there: [`inspect_closely`] says so. What only a decoder can see (bad entropy coding) is left to the rendering.

mod bmp;
mod exif;
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

pub(crate) use bmp::{FILE_HEADER_BYTES as BMP_FILE_HEADER_BYTES, Outline as BmpOutline};
pub(crate) use gif::Outline as GifOutline;
pub(crate) use heif::{CodePoints, HeifPicture, ItemColours};
pub(crate) use ico::Entry as IconEntry;
pub(crate) use jpeg::{Outline as JpegOutline, Process as JpegProcess};
use source::Source;

use crate::format::SNIFF_BYTES;
use crate::{Error, Facts, Format, Limits};

/// What [`inspect_closely`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspected {
    /// What the headers say.
    pub facts: Facts,
    /// Whether the structure has no proper end, so that only decoding shows whether the pixels are whole.
    pub doubtful: bool,
}

/// Reads the facts of a whole file and checks its structure to the end.
///
/// Memory is bounded by a few hundred kilobytes whatever the file's size; time is linear in it. Bytes in memory are read where they
/// are; a file wants a buffer of some ten kilobytes.
///
/// # Errors
/// [`Error::Unsupported`], [`Error::Undrawable`], [`Error::Corrupt`], [`Error::Truncated`] or [`Error::OverLimit`]; [`Error::Io`]
/// when reading fails.
pub fn inspect<R: BufRead + Seek>(reader: R, limits: &Limits) -> Result<Facts, Error> {
    Ok(inspect_closely(reader, limits)?.facts)
}

/// [`inspect`], and whether the structure leaves a doubt.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_closely<R: BufRead + Seek>(reader: R, limits: &Limits) -> Result<Inspected, Error> {
    let mut source = Source::new(reader)?;
    let format = Format::sniff(source.peek(SNIFF_BYTES)?)?;
    source.announce(format);
    let facts = match format {
        Format::Jpeg => jpeg::inspect(&mut source, limits),
        Format::Png => png::inspect(&mut source, limits),
        Format::Gif => gif::inspect(&mut source, limits),
        Format::WebP => webp::inspect(&mut source, limits),
        Format::Bmp => bmp::inspect(&mut source, limits),
        Format::Tiff => tiff::inspect(&mut source, limits),
        Format::Ico => ico::inspect(&mut source, limits),
        Format::Avif | Format::Heic => heif::inspect(&mut source, limits),
        Format::Jxl => jxl::inspect(&mut source, limits),
    }?;
    Ok(Inspected { facts, doubtful: source.is_doubtful() })
}

/// A source over bytes that are going to be decoded, and are of this format.
fn in_memory(bytes: &[u8], format: Format) -> Result<Source<Cursor<&[u8]>>, Error> {
    let mut source = Source::new(Cursor::new(bytes))?;
    source.announce(format);
    Ok(source)
}

/// [`inspect`] for an AVIF or HEIC that is going to be decoded: beside its facts, what else the container says of the picture.
pub(crate) fn inspect_heif(bytes: &[u8], format: Format, limits: &Limits) -> Result<HeifPicture, Error> {
    heif::inspect_picture(&mut in_memory(bytes, format)?, limits)
}

/// The whole boxes at the beginning of a file in boxes: what stands behind them belongs to no picture.
pub(crate) fn whole_boxes(bytes: &[u8]) -> &[u8] {
    heif::whole_boxes(bytes)
}

/// [`inspect`] for a JPEG that is going to be decoded.
pub(crate) fn inspect_jpeg(bytes: &[u8], limits: &Limits) -> Result<JpegOutline, Error> {
    jpeg::outline(&mut in_memory(bytes, Format::Jpeg)?, limits)
}

/// [`inspect`] for a GIF that is going to be decoded.
pub(crate) fn inspect_gif(bytes: &[u8], limits: &Limits) -> Result<GifOutline, Error> {
    gif::outline(&mut in_memory(bytes, Format::Gif)?, limits)
}

/// [`inspect`] for a bitmap that is going to be decoded.
pub(crate) fn inspect_bmp(bytes: &[u8], limits: &Limits) -> Result<BmpOutline, Error> {
    bmp::outline(&mut in_memory(bytes, Format::Bmp)?, limits)
}

/// [`inspect`] for an icon that is going to be decoded: the size that stands for it.
pub(crate) fn inspect_ico(bytes: &[u8], limits: &Limits) -> Result<IconEntry, Error> {
    ico::largest(&mut in_memory(bytes, Format::Ico)?, limits)
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

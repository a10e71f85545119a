//! Bitmaps, by image's decoder for those of Windows.

use std::borrow::Cow;
use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::{DynamicImage, ImageDecoder as _, ImageError};

use super::{DECODED_BYTES_MAX, Decoded, bounds, broken, check_decoded, decoded};
use crate::inspect::{BMP_FILE_HEADER_BYTES, BmpOutline, inspect_bmp};
use crate::{Error, Format, Limits, Orientation};

/// Where the file header says that pixels begin.
const DATA_OFFSET_AT: usize = 10;
/// The header that Windows introduced, with which that of OS/2 2.x begins.
const WINDOWS_HEADER_BYTES: usize = 40;

pub(super) fn decode(source: &[u8], limits: &Limits) -> Result<Decoded, Error> {
    let outline = inspect_bmp(source, limits)?;
    let source = padded(as_windows(source, &outline), &outline);
    pixels(BmpDecoder::new(Cursor::new(source)).map_err(failed)?, limits)
        .map(|picture| decoded(picture, None, Orientation::UPRIGHT))
}

/// The pixels of a decoder that has read its headers.
pub(super) fn pixels<R: std::io::BufRead + std::io::Seek>(
    mut decoder: BmpDecoder<R>,
    limits: &Limits,
) -> Result<DynamicImage, Error> {
    let (width, height) = decoder.dimensions();
    crate::facts::check_size(Format::Bmp, width, height, limits)?;
    check_decoded(decoder.total_bytes())?;
    decoder.set_limits(bounds(limits, DECODED_BYTES_MAX * 2)).map_err(failed)?;
    DynamicImage::from_decoder(decoder).map_err(failed)
}

fn failed(error: ImageError) -> Error {
    broken(Format::Bmp, error)
}

/// A file whose header is Windows': that of OS/2 2.x goes on, or ends sooner, and what is missing in it is zero.
fn as_windows<'a>(source: &'a [u8], outline: &BmpOutline) -> Cow<'a, [u8]> {
    if !outline.is_os2 {
        return source.into();
    }
    let begin = BMP_FILE_HEADER_BYTES as usize;
    let header_len = outline.header_len as usize;
    let Some(header) = source.get(begin..begin + header_len) else { return source.into() };
    let mut windows = header[..header_len.min(WINDOWS_HEADER_BYTES)].to_vec();
    windows.resize(WINDOWS_HEADER_BYTES, 0);
    windows[..4].copy_from_slice(&(WINDOWS_HEADER_BYTES as u32).to_le_bytes());
    let mut file = [&source[..begin], &windows, &source[begin + header_len..]].concat();
    let field = &mut file[DATA_OFFSET_AT..DATA_OFFSET_AT + 4];
    let offset = u32::from_le_bytes([field[0], field[1], field[2], field[3]]);
    let offset = offset.wrapping_sub(outline.header_len).wrapping_add(WINDOWS_HEADER_BYTES as u32);
    field.copy_from_slice(&offset.to_le_bytes());
    file.into()
}

/// A file whose last row has its padding.
fn padded<'a>(source: Cow<'a, [u8]>, outline: &BmpOutline) -> Cow<'a, [u8]> {
    if !matches!(outline.compression, 0 | 3 | 6) {
        return source;
    }
    let offset = source.get(DATA_OFFSET_AT..DATA_OFFSET_AT + 4).map_or(0, |at| u32::from_le_bytes([at[0], at[1], at[2], at[3]]));
    let row_len = (u64::from(outline.facts.width) * u64::from(outline.bits)).div_ceil(32) * 4;
    let end = usize::try_from(u64::from(offset) + row_len * u64::from(outline.facts.height)).unwrap_or(usize::MAX);
    // Inspection has made sure that no more is missing.
    if end <= source.len() || end - source.len() > 3 {
        return source;
    }
    let mut file = source.into_owned();
    file.resize(end, 0);
    file.into()
}

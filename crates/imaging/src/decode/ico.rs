//! Windows icons: the size that stands for an icon is a PNG, or a bitmap with a mask.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::{DynamicImage, RgbaImage};

use super::{Decoded, bmp, broken, check_decoded, decoded, png};
use crate::inspect::{IconEntry, inspect_ico};
use crate::{Error, Format, Limits, Orientation};

const HEADER_BYTES: usize = 40;
/// Where the header has the height, the compression and the number of colours.
const HEIGHT_AT: usize = 8;
const COMPRESSION_AT: usize = 16;
const COLOURS_AT: usize = 32;

pub(super) fn decode(source: &[u8], limits: &Limits) -> Result<Decoded, Error> {
    let entry = inspect_ico(source, limits)?;
    check_decoded(u64::from(entry.facts.width) * u64::from(entry.facts.height) * 8)?;
    let begin = usize::try_from(entry.offset).unwrap_or(usize::MAX);
    let len = usize::try_from(entry.len).unwrap_or(usize::MAX);
    let bytes = source.get(begin..begin.saturating_add(len)).ok_or(Error::Truncated { format: Format::Ico })?;
    if entry.is_png {
        return png::still(bytes, &entry.facts, limits);
    }
    let picture = bitmap(bytes, &entry, limits)?;
    Ok(decoded(picture.into(), None, Orientation::UPRIGHT))
}

/// A bitmap that is as high as its pixels and its mask together, with transparency.
fn bitmap(bytes: &[u8], entry: &IconEntry, limits: &Limits) -> Result<RgbaImage, Error> {
    let short = || broken(Format::Ico, "a bitmap is shorter than its rows");
    let (width, height) = (entry.facts.width as usize, entry.facts.height as usize);
    let row_len = (width * usize::from(entry.bits)).div_ceil(32) * 4;
    let u32_at =
        |at: usize| bytes.get(at..at + 4).map_or(0, |field| u32::from_le_bytes([field[0], field[1], field[2], field[3]]));
    let compression = u32_at(COMPRESSION_AT);
    let colours = match (entry.bits, u32_at(COLOURS_AT) as usize) {
        (bits @ 1..=8, 0) => 1 << bits,
        (1..=8, colours) => colours.min(256),
        _ => 0,
    };
    let pixels_at = HEADER_BYTES + colours * 4 + if compression == 3 { 12 } else { 0 };
    let mask_at = pixels_at + row_len * height;
    if entry.bits == 32 && compression == 0 {
        let rows = bytes.get(pixels_at..mask_at).ok_or_else(short)?;
        let picture = with_alpha(rows, entry.facts.width, entry.facts.height).ok_or_else(short)?;
        // Where any pixel has opacity, opacity alone counts; the mask is for programs that know none.
        if picture.pixels().any(|pixel| pixel.0[3] != 0) {
            return Ok(picture);
        }
    }
    let mut bitmap = bytes.to_vec();
    bitmap[HEIGHT_AT..HEIGHT_AT + 4].copy_from_slice(&entry.facts.height.to_le_bytes());
    let decoder = BmpDecoder::new_without_file_header(Cursor::new(bitmap)).map_err(|error| broken(Format::Ico, error))?;
    let picture = bmp::pixels(decoder, limits)?;
    Ok(masked(picture, bytes.get(mask_at..).unwrap_or_default()))
}

/// Blue, green, red and opacity, from the lowest row up.
fn with_alpha(rows: &[u8], width: u32, height: u32) -> Option<RgbaImage> {
    let row_len = width as usize * 4;
    let pixels = rows.chunks_exact(row_len).rev().flat_map(|row| row.chunks_exact(4)).flat_map(|p| [p[2], p[1], p[0], p[3]]);
    RgbaImage::from_raw(width, height, pixels.collect())
}

/// One bit a pixel, from the lowest row up: what is set can't be seen. A mask that isn't whole hides nothing.
fn masked(picture: DynamicImage, mask: &[u8]) -> RgbaImage {
    let mut picture = DynamicImage::from(picture.into_rgb8()).into_rgba8();
    let row_len = (picture.width() as usize).div_ceil(32) * 4;
    let height = picture.height();
    if mask.len() < row_len * height as usize {
        return picture;
    }
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let byte = mask[(height - 1 - y) as usize * row_len + x as usize / 8];
        if byte & (0x80 >> (x % 8)) != 0 {
            pixel.0 = [0; 4];
        }
    }
    picture
}

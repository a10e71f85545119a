//! JPEG by libjpeg-turbo as mozjpeg builds it: the one decoder that is fast, decodes to a fraction, and gets every sampling right.

use std::cell::Cell;
use std::io::{BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use image::{DynamicImage, GrayImage, RgbImage};
use mozjpeg::{ColorSpace, Decompress, Marker};

use super::{Decoded, broken, check_decoded, upright};
use crate::inspect::{JpegOutline, JpegProcess, inspect_jpeg};
use crate::{Error, Format, Limits, Undrawable, colour};

/// Eighths to which a picture is decoded: those that SIMD is for.
const SCALES: [u32; 3] = [1, 2, 4];
/// What stands in for what is missing behind the last byte of a picture without an end marker.
const FILLER: [u8; 64] = [0; 64];
/// Bytes that a decoder reads ahead of the last pixel.
const READ_AHEAD: usize = 16;
const END: [u8; 2] = [0xFF, 0xD9];

pub(super) fn decode(source: &[u8], limits: &Limits, wanted: impl Fn(u32, u32) -> (u32, u32)) -> Result<Decoded, Error> {
    let outline = inspect_jpeg(source, limits)?;
    if let Some(kind) = undrawable(&outline) {
        return Err(Error::Undrawable { kind });
    }
    let facts = outline.facts;
    check_decoded(u64::from(facts.width) * u64::from(facts.height) * 4)?;
    let swapped = facts.orientation.swaps_sides();
    let full_size = if swapped { (facts.height, facts.width) } else { (facts.width, facts.height) };
    let enough = wanted(full_size.0, full_size.1);
    let (width, height) = if swapped { (enough.1, enough.0) } else { enough };
    let fraction = |eighths: u32, side: u32| (side * eighths).div_ceil(8);
    let suffices = |eighths: &u32| fraction(*eighths, facts.width) >= width && fraction(*eighths, facts.height) >= height;
    let eighths = SCALES.into_iter().find(suffices).unwrap_or(8);
    let filler_read = Rc::new(Cell::new(0));
    let reader = Reader::new(source, &outline, Rc::clone(&filler_read));
    // The library reports errors by unwinding.
    let pixels = catch_unwind(AssertUnwindSafe(|| pixels(reader, eighths, &filler_read)))
        .map_err(|_| broken(Format::Jpeg, "libjpeg gave up"))?;
    let (picture, profile, filler_needed) = pixels.map_err(|error| broken(Format::Jpeg, error))?;
    // A picture in one scan is read only as far as its last pixel.
    if !outline.has_end && outline.process == JpegProcess::Sequential && filler_needed > READ_AHEAD {
        return Err(Error::Truncated { format: Format::Jpeg });
    }
    Ok(Decoded { picture: upright(picture, facts.orientation), profile, full_size })
}

/// Kinds of JPEG that libjpeg doesn't decode here.
fn undrawable(outline: &JpegOutline) -> Option<Undrawable> {
    match outline {
        JpegOutline { process: JpegProcess::Lossless, .. } => Some(Undrawable::LosslessJpeg),
        JpegOutline { process: JpegProcess::Hierarchical, .. } => Some(Undrawable::HierarchicalJpeg),
        JpegOutline { precision: 8, .. } => None,
        _ => Some(Undrawable::DeepJpeg),
    }
}

/// The picture up to its end and, where it has no end marker, filler and one: byte by byte, so that it is known how much of that was
/// needed.
struct Reader<'a> {
    source: &'a [u8],
    /// Empty where the source has an end of its own.
    filler: &'a [u8],
    end: &'a [u8],
    filler_read: Rc<Cell<usize>>,
}

impl<'a> Reader<'a> {
    fn new(source: &'a [u8], outline: &JpegOutline, filler_read: Rc<Cell<usize>>) -> Self {
        if outline.has_end {
            return Self { source, filler: &[], end: &[], filler_read };
        }
        let end = usize::try_from(outline.end).unwrap_or(usize::MAX).min(source.len());
        Self { source: &source[..end], filler: &FILLER, end: &END, filler_read }
    }
}

impl BufRead for Reader<'_> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if !self.source.is_empty() {
            return Ok(self.source);
        }
        if let Some(first) = self.filler.get(..1) {
            self.filler_read.set(self.filler_read.get() + 1);
            return Ok(first);
        }
        Ok(self.end)
    }

    fn consume(&mut self, count: usize) {
        let part = if !self.source.is_empty() {
            &mut self.source
        } else if !self.filler.is_empty() {
            &mut self.filler
        } else {
            &mut self.end
        };
        *part = &part[count.min(part.len())..];
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

/// The picture, its profile, and how much of the filler its pixels needed.
fn pixels(
    reader: Reader<'_>,
    eighths: u32,
    filler_read: &Cell<usize>,
) -> std::io::Result<(DynamicImage, Option<Vec<u8>>, usize)> {
    let mut decoder = Decompress::with_markers(&[Marker::APP(2), Marker::APP(14)]).from_reader(reader)?;
    decoder.scale(u8::try_from(eighths).unwrap_or(8));
    let profile = profile(decoder.markers().filter(|marker| marker.marker == Marker::APP(2)).map(|marker| marker.data));
    let inverted = decoder.markers().any(|marker| marker.marker == Marker::APP(14) && marker.data.starts_with(b"Adobe"));
    let colours = match decoder.color_space() {
        ColorSpace::JCS_GRAYSCALE => ColorSpace::JCS_GRAYSCALE,
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => ColorSpace::JCS_CMYK,
        _ => ColorSpace::JCS_RGB,
    };
    let mut scan = decoder.to_colorspace(colours)?;
    let (width, height) = (scan.width(), scan.height());
    let mut pixels = vec![0_u8; scan.min_flat_buffer_size()];
    scan.read_scanlines_into(&mut pixels)?;
    let filler_needed = filler_read.get();
    // What comes after the last line is of no interest, as in browsers.
    let _ = catch_unwind(AssertUnwindSafe(|| scan.finish()));
    let size = (u32::try_from(width).unwrap_or(0), u32::try_from(height).unwrap_or(0));
    let (picture, profile) = match colours {
        ColorSpace::JCS_GRAYSCALE => (GrayImage::from_raw(size.0, size.1, pixels).map(DynamicImage::from), profile),
        ColorSpace::JCS_CMYK => {
            // Adobe's programs store light; others store inks.
            if inverted {
                pixels.iter_mut().for_each(|ink| *ink = 255 - *ink);
            }
            let pixels = colour::rgb_of_cmyk(&pixels, profile.as_deref());
            (RgbImage::from_raw(size.0, size.1, pixels).map(DynamicImage::from), None)
        }
        _ => (RgbImage::from_raw(size.0, size.1, pixels).map(DynamicImage::from), profile),
    };
    let picture = picture.ok_or_else(|| std::io::Error::other("its pixels are not as many as it says"))?;
    Ok((picture, profile, filler_needed))
}

/// Puts the pieces of a profile together (ICC.1:2022 annex B.4): each says which it is, and of how many.
fn profile<'a>(segments: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut pieces: Vec<(u8, u8, &[u8])> = segments
        .filter_map(|segment| match segment.strip_prefix(b"ICC_PROFILE\0")? {
            [number, count, piece @ ..] => Some((*number, *count, piece)),
            _ => None,
        })
        .collect();
    pieces.sort_by_key(|(number, ..)| *number);
    let count = pieces.first()?.1;
    let whole = pieces.len() == usize::from(count)
        && pieces.iter().zip(1_u8..).all(|(piece, number)| piece.0 == number && piece.1 == count);
    whole.then(|| pieces.iter().flat_map(|(.., piece)| piece.iter().copied()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_in_pieces_is_put_together_in_order_or_left() {
        let piece = |number: u8, count: u8, text: &str| [b"ICC_PROFILE\0".as_slice(), &[number, count], text.as_bytes()].concat();
        let of = |pieces: &[Vec<u8>]| profile(pieces.iter().map(Vec::as_slice));
        assert_eq!(of(&[piece(2, 2, "b"), b"other".to_vec(), piece(1, 2, "a")]), Some(b"ab".to_vec()));
        assert_eq!(of(&[piece(1, 1, "a")]), Some(b"a".to_vec()));
        assert_eq!(of(&[piece(1, 2, "a")]), None);
        assert_eq!(of(&[piece(1, 2, "a"), piece(1, 2, "a")]), None);
        assert_eq!(of(&[b"ICC_PROFILE\0".to_vec()]), None);
    }
}

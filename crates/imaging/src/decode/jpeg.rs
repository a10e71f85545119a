//! JPEG by libjpeg-turbo as mozjpeg builds it: the one decoder that is fast, decodes to a fraction, and gets every sampling right.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::{DynamicImage, GrayImage, RgbImage};
use mozjpeg::{ColorSpace, Decompress, Marker};

use super::{Decoded, broken, check_decoded, upright};
use crate::{Error, Format, Limits, colour, inspect};

/// Eighths to which a picture is decoded: those that SIMD is for.
const SCALES: [u32; 3] = [1, 2, 4];

pub(super) fn decode(source: &[u8], limits: &Limits, wanted: impl Fn(u32, u32) -> (u32, u32)) -> Result<Decoded, Error> {
    let facts = inspect(Cursor::new(source), limits)?;
    check_decoded(u64::from(facts.width) * u64::from(facts.height) * 4)?;
    let swapped = facts.orientation.swaps_sides();
    let full_size = if swapped { (facts.height, facts.width) } else { (facts.width, facts.height) };
    let enough = wanted(full_size.0, full_size.1);
    let (width, height) = if swapped { (enough.1, enough.0) } else { enough };
    let fraction = |eighths: u32, side: u32| (side * eighths).div_ceil(8);
    let suffices = |eighths: &u32| fraction(*eighths, facts.width) >= width && fraction(*eighths, facts.height) >= height;
    let eighths = SCALES.into_iter().find(suffices).unwrap_or(8);
    // The library reports errors by unwinding.
    let pixels = catch_unwind(AssertUnwindSafe(|| pixels(source, eighths))).map_err(|_| broken(Format::Jpeg, "it is damaged"))?;
    let (picture, profile) = pixels.map_err(|error| broken(Format::Jpeg, error))?;
    Ok(Decoded { picture: upright(picture, facts.orientation), profile, full_size })
}

fn pixels(source: &[u8], eighths: u32) -> std::io::Result<(DynamicImage, Option<Vec<u8>>)> {
    let mut decoder = Decompress::with_markers(&[Marker::APP(2), Marker::APP(14)]).from_mem(source)?;
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
    // What comes after the last line is of no interest, as in browsers.
    let _ = catch_unwind(AssertUnwindSafe(|| scan.finish()));
    let size = (u32::try_from(width).unwrap_or(0), u32::try_from(height).unwrap_or(0));
    let (picture, profile) = match colours {
        ColorSpace::JCS_GRAYSCALE => (GrayImage::from_raw(size.0, size.1, pixels).map(DynamicImage::from), profile),
        ColorSpace::JCS_CMYK => {
            if inverted {
                pixels.iter_mut().for_each(|ink| *ink = 255 - *ink);
            }
            let pixels = colour::rgb_of_cmyk(&pixels, profile.as_deref());
            (RgbImage::from_raw(size.0, size.1, pixels).map(DynamicImage::from), None)
        }
        _ => (RgbImage::from_raw(size.0, size.1, pixels).map(DynamicImage::from), profile),
    };
    let picture = picture.ok_or_else(|| std::io::Error::other("its pixels are not as many as it says"))?;
    Ok((picture, profile))
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

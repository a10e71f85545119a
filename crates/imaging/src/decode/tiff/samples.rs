//! What the samples of a TIFF mean.

use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage};
use tiff::decoder::{BufferLayoutPreference, DecodingResult};

use super::directory::{self, Directory};
use super::{Page, undrawable};
use crate::{Error, Undrawable, colour};

/// TIFF 6.0 §3 and later: what the first samples of a pixel are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Photometric {
    WhiteIsZero,
    BlackIsZero,
    Rgb,
    Palette,
    Cmyk,
    YCbCr,
    /// L*, a* and b*, of which the last two have a sign.
    Lab,
    /// The same with 128 added to the last two.
    IccLab,
}

impl Photometric {
    fn samples(self) -> u32 {
        match self {
            Self::WhiteIsZero | Self::BlackIsZero | Self::Palette => 1,
            Self::Rgb | Self::YCbCr | Self::Lab | Self::IccLab => 3,
            Self::Cmyk => 4,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opacity {
    None,
    /// Colours are as bright as they are seen over black.
    Multiplied,
    Separate,
}

pub(super) struct Meaning {
    pub(super) photometric: Photometric,
    opacity: Opacity,
    /// Red, green and blue of each number.
    palette: Vec<[u8; 3]>,
}

impl Meaning {
    pub(super) fn read(directory: &Directory<'_>, samples: u32, depth: u32) -> Result<Self, Error> {
        let photometric = match directory.number(directory::PHOTOMETRIC) {
            Some(0) => Photometric::WhiteIsZero,
            Some(1 | 4) => Photometric::BlackIsZero,
            Some(2) => Photometric::Rgb,
            Some(3) => Photometric::Palette,
            Some(5) => Photometric::Cmyk,
            Some(6) => Photometric::YCbCr,
            Some(8) => Photometric::Lab,
            Some(9) => Photometric::IccLab,
            None if samples >= 3 => Photometric::Rgb,
            None => Photometric::BlackIsZero,
            Some(_) => return Err(undrawable(Undrawable::TiffColours)),
        };
        if samples < photometric.samples() {
            return Err(super::short("it has too few samples for its colours"));
        }
        let palette = match photometric {
            Photometric::Palette if depth <= 8 => palette(&directory.numbers(directory::COLOUR_MAP).unwrap_or_default()),
            Photometric::Palette => return Err(undrawable(Undrawable::TiffPalette)),
            _ => Vec::new(),
        };
        let opacity = match directory.numbers(directory::EXTRA_SAMPLES).as_deref().and_then(<[u32]>::first) {
            _ if samples == photometric.samples() => Opacity::None,
            Some(1) => Opacity::Multiplied,
            Some(2) => Opacity::Separate,
            // Writers that don't name the fourth sample mean opacity.
            None if samples == photometric.samples() + 1 => Opacity::Separate,
            _ => Opacity::None,
        };
        Ok(Self { photometric, opacity, palette })
    }
}

/// All reds, then all greens, then all blues, in sixteen bits; some writers have eight.
fn palette(map: &[u32]) -> Vec<[u8; 3]> {
    let colours = map.len() / 3;
    let shift = if map.iter().all(|value| *value < 256) { 0 } else { 8 };
    let part = |index: usize| (map[index] >> shift).min(255) as u8;
    (0..colours).map(|index| [part(index), part(colours + index), part(2 * colours + index)]).collect()
}

/// Pixel after pixel, eight bits a sample; numbers of a palette stay what they are.
pub(super) fn to_eight_bits(samples: DecodingResult, page: &Page, layout: &BufferLayoutPreference) -> Vec<u8> {
    let is_palette = page.meaning.photometric == Photometric::Palette;
    let flat = match samples {
        DecodingResult::U8(samples) if page.bits < 8 => unpacked(&samples, page, is_palette),
        DecodingResult::U8(samples) => samples,
        DecodingResult::U16(samples) => {
            samples.into_iter().map(|sample| ((u32::from(sample) * 255 + 32_767) / 65_535) as u8).collect()
        }
        DecodingResult::I8(samples) => samples.into_iter().map(|sample| sample.cast_unsigned() ^ 0x80).collect(),
        DecodingResult::U32(samples) => stretched(samples.into_iter().map(f64::from)),
        DecodingResult::U64(samples) => stretched(samples.into_iter().map(|sample| sample as f64)),
        DecodingResult::I16(samples) => stretched(samples.into_iter().map(f64::from)),
        DecodingResult::I32(samples) => stretched(samples.into_iter().map(f64::from)),
        DecodingResult::I64(samples) => stretched(samples.into_iter().map(|sample| sample as f64)),
        DecodingResult::F16(samples) => in_unit_range(samples.into_iter().map(|sample| f64::from(sample.to_f32()))),
        DecodingResult::F32(samples) => in_unit_range(samples.into_iter().map(f64::from)),
        DecodingResult::F64(samples) => in_unit_range(samples.into_iter()),
    };
    if layout.planes <= 1 {
        return flat;
    }
    let plane = page.width as usize * page.height as usize;
    let planes: Vec<&[u8]> = flat.chunks_exact(plane).collect();
    (0..plane).flat_map(|at| planes.iter().map(move |plane| plane[at])).collect()
}

/// Samples of less than eight bits: every row begins with a byte.
fn unpacked(packed: &[u8], page: &Page, keeps_numbers: bool) -> Vec<u8> {
    let in_row = page.width as usize * if page.separate_planes { 1 } else { page.samples as usize };
    let row_bytes = usize::try_from(page.row_bytes()).unwrap_or(usize::MAX).max(1);
    let (bits, mask) = (page.bits as usize, (1_u32 << page.bits) - 1);
    let factor = if keeps_numbers { 1 } else { 255 / mask };
    let sample = |row: &[u8], index: usize| {
        let at = index * bits;
        let shift = 8 - bits - at % 8;
        (u32::from(row[at / 8]) >> shift & mask) * factor
    };
    packed.chunks_exact(row_bytes).flat_map(|row| (0..in_row).map(move |index| sample(row, index) as u8)).collect()
}

/// Numbers without an agreed white: from the smallest, which is black, to the largest.
fn stretched(samples: impl Iterator<Item = f64> + Clone) -> Vec<u8> {
    let finite = samples.clone().filter(|sample| sample.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), sample| (low.min(sample), high.max(sample)));
    let span = if high > low { high - low } else { 1.0 };
    samples.map(|sample| ((sample - low) / span * 255.0).round().clamp(0.0, 255.0) as u8).collect()
}

/// Floating point is from 0 to 1, or data without an agreed white.
fn in_unit_range(samples: impl Iterator<Item = f64> + Clone) -> Vec<u8> {
    if samples.clone().all(|sample| sample.is_nan() || (-0.5..=2.0).contains(&sample)) {
        return samples.map(|sample| (sample * 255.0).round().clamp(0.0, 255.0) as u8).collect();
    }
    stretched(samples)
}

/// The pixels, and the profile that their numbers still follow.
pub(super) fn picture(samples: &[u8], page: &Page, profile: Option<Vec<u8>>) -> Option<(DynamicImage, Option<Vec<u8>>)> {
    let Page { width, height, meaning, .. } = page;
    let (width, height) = (*width, *height);
    let count = page.samples as usize;
    let own = meaning.photometric.samples() as usize;
    let colours = |convert: fn(&Meaning, &[u8]) -> [u8; 3]| -> Vec<u8> {
        samples.chunks_exact(count).flat_map(|pixel| convert(meaning, pixel)).collect()
    };
    let opacity = || samples.chunks_exact(count).map(|pixel| pixel[own]);
    let has_opacity = meaning.opacity != Opacity::None;
    let (pixels, profile) = match meaning.photometric {
        Photometric::WhiteIsZero | Photometric::BlackIsZero => {
            let invert = if meaning.photometric == Photometric::WhiteIsZero { 0xFF } else { 0 };
            let gray = samples.chunks_exact(count).map(|pixel| pixel[0] ^ invert);
            if !has_opacity {
                return Some((GrayImage::from_raw(width, height, gray.collect())?.into(), profile));
            }
            let multiplied = meaning.opacity == Opacity::Multiplied;
            let divide = |(gray, opacity): (u8, u8)| [if multiplied { divided(gray, opacity) } else { gray }, opacity];
            let pixels = gray.zip(opacity()).flat_map(divide).collect();
            return Some((GrayAlphaImage::from_raw(width, height, pixels)?.into(), profile));
        }
        Photometric::Rgb => (colours(|_, pixel| [pixel[0], pixel[1], pixel[2]]), profile),
        Photometric::Palette => {
            (colours(|meaning, pixel| meaning.palette.get(usize::from(pixel[0])).copied().unwrap_or_default()), profile)
        }
        Photometric::YCbCr => (colours(|_, pixel| rgb_of_ycbcr(pixel)), profile),
        Photometric::Lab => {
            (colours(|_, pixel| rgb_of_lab(pixel[0], pixel[1].cast_signed().into(), pixel[2].cast_signed().into())), None)
        }
        Photometric::IccLab => {
            (colours(|_, pixel| rgb_of_lab(pixel[0], i16::from(pixel[1]) - 128, i16::from(pixel[2]) - 128)), None)
        }
        Photometric::Cmyk => {
            let inks: Vec<u8> = samples.chunks_exact(count).flat_map(|pixel| [pixel[0], pixel[1], pixel[2], pixel[3]]).collect();
            (colour::rgb_of_cmyk(&inks, profile.as_deref()), None)
        }
    };
    if !has_opacity {
        return Some((RgbImage::from_raw(width, height, pixels)?.into(), profile));
    }
    let multiplied = meaning.opacity == Opacity::Multiplied;
    let with_opacity = |(colour, opacity): (&[u8], u8)| {
        let part = |at: usize| if multiplied { divided(colour[at], opacity) } else { colour[at] };
        [part(0), part(1), part(2), opacity]
    };
    let pixels = pixels.chunks_exact(3).zip(opacity()).flat_map(with_opacity).collect();
    Some((RgbaImage::from_raw(width, height, pixels)?.into(), profile))
}

/// The colour of a pixel that was multiplied by its opacity.
fn divided(part: u8, opacity: u8) -> u8 {
    match opacity {
        0 => 0,
        _ => ((u32::from(part) * 255 + u32::from(opacity) / 2) / u32::from(opacity)).min(255) as u8,
    }
}

/// As in JPEG (ITU-T T.871 §7), of which most of these are.
fn rgb_of_ycbcr(pixel: &[u8]) -> [u8; 3] {
    let (luma, blue, red) = (f32::from(pixel[0]), f32::from(pixel[1]) - 128.0, f32::from(pixel[2]) - 128.0);
    let byte = |value: f32| value.round().clamp(0.0, 255.0) as u8;
    [byte(luma + 1.402 * red), byte(luma - 0.344_136 * blue - 0.714_136 * red), byte(luma + 1.772 * blue)]
}

/// CIE L*a*b* of the white of printing (D50), brought to the white of screens by Bradford's matrix (ICC.1:2022 annex E) and to sRGB.
fn rgb_of_lab(lightness: u8, a: i16, b: i16) -> [u8; 3] {
    let y = (f32::from(lightness) * (100.0 / 255.0) + 16.0) / 116.0;
    let (x, z) = (y + f32::from(a) / 500.0, y - f32::from(b) / 200.0);
    let linear = |value: f32| if value > 6.0 / 29.0 { value.powi(3) } else { (value - 4.0 / 29.0) * (108.0 / 841.0) };
    let (x, y, z) = (linear(x) * 0.9642, linear(y), linear(z) * 0.8249);
    let curve = |value: f32| {
        let value = value.clamp(0.0, 1.0);
        let curved = if value <= 0.003_130_8 { value * 12.92 } else { 1.055 * value.powf(1.0 / 2.4) - 0.055 };
        (curved * 255.0).round() as u8
    };
    [
        curve(3.133_856 * x - 1.616_867 * y - 0.490_615 * z),
        curve(-0.978_768 * x + 1.916_142 * y + 0.033_454 * z),
        curve(0.071_945 * x - 0.228_991 * y + 1.405_243 * z),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lab_of_known_colours() {
        let near = |found: [u8; 3], right: [u8; 3]| found.iter().zip(right).all(|(one, other)| one.abs_diff(other) <= 2);
        assert!(near(rgb_of_lab(255, 0, 0), [255, 255, 255]));
        assert!(near(rgb_of_lab(0, 0, 0), [0, 0, 0]));
        // sRGB's red, by its profile.
        assert!(near(rgb_of_lab(138, 81, 70), [255, 0, 0]), "{:?}", rgb_of_lab(138, 81, 70));
    }
}

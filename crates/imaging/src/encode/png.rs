//! PNG: with a palette where there are few colours, or where the source had one.

use image::codecs::png::PngEncoder;
use image::{DynamicImage, ImageEncoder as _};
use png::{BitDepth, ColorType, Compression, Encoder, Filter};

use super::palette::{COLOURS_MAX, Palette, Pixel};
use super::{Encoding, Failed};

/// A palette of a source is kept as long as the picture's colours are so near to one, on average, of 255.
const PALETTE_DISTANCE_MAX: f64 = 2.0;

impl From<png::EncodingError> for Failed {
    fn from(error: png::EncodingError) -> Self {
        Self::of(error)
    }
}

pub(super) fn encode(picture: &DynamicImage, encoding: &Encoding<'_>) -> Result<Vec<u8>, Failed> {
    if let Some(palette) = palette(picture, encoding) {
        return indexed(picture, palette, encoding.profile);
    }
    let mut bytes = Vec::new();
    let mut encoder = PngEncoder::new(&mut bytes);
    if let Some(profile) = encoding.profile {
        // A profile that PNG can't hold is left behind.
        let _ = encoder.set_icc_profile(profile.to_vec());
    }
    picture.write_with_encoder(encoder)?;
    Ok(bytes)
}

/// The palette that a picture is to have. Gray ones stay gray, unless a palette makes them shorter: one of 16 numbers.
fn palette(picture: &DynamicImage, encoding: &Encoding<'_>) -> Option<Palette> {
    const GRAY_COLOURS_MAX: usize = 16;
    match picture {
        // A profile of gray explains no palette.
        DynamicImage::ImageLuma8(_) if encoding.profile.is_some() => None,
        DynamicImage::ImageLuma8(_) => Palette::exact(pixels(picture), GRAY_COLOURS_MAX),
        DynamicImage::ImageRgb8(_) | DynamicImage::ImageRgba8(_) => {
            let exact = Palette::exact(pixels(picture), COLOURS_MAX);
            exact.or_else(|| if encoding.palette && !encoding.lossless { near(picture) } else { None })
        }
        _ => None,
    }
}

fn near(picture: &DynamicImage) -> Option<Palette> {
    let mut palette = Palette::near(&pixels(picture).flatten().collect::<Vec<u8>>(), COLOURS_MAX);
    palette.distance(pixels(picture)).is_some_and(|distance| distance <= PALETTE_DISTANCE_MAX).then_some(palette)
}

/// All of a picture's, with their opacity. What cannot be seen has no colour.
fn pixels(picture: &DynamicImage) -> Box<dyn Iterator<Item = Pixel> + '_> {
    match picture {
        DynamicImage::ImageLuma8(pixels) => Box::new(pixels.pixels().map(|pixel| [pixel.0[0], pixel.0[0], pixel.0[0], 255])),
        DynamicImage::ImageRgb8(pixels) => Box::new(pixels.pixels().map(|pixel| [pixel.0[0], pixel.0[1], pixel.0[2], 255])),
        DynamicImage::ImageRgba8(pixels) => Box::new(pixels.pixels().map(|pixel| if pixel.0[3] == 0 { [0; 4] } else { pixel.0 })),
        _ => Box::new(std::iter::empty()),
    }
}

fn indexed(picture: &DynamicImage, mut palette: Palette, profile: Option<&[u8]>) -> Result<Vec<u8>, Failed> {
    let (width, height) = (picture.width(), picture.height());
    let (depth, bits) = match palette.colours().len() {
        0..=2 => (BitDepth::One, 1),
        3..=4 => (BitDepth::Two, 2),
        5..=16 => (BitDepth::Four, 4),
        _ => (BitDepth::Eight, 8),
    };
    let colours = palette.colours();
    let opaque_from = colours.iter().rposition(|colour| colour[3] < u8::MAX).map_or(0, |last| last + 1);
    let opacities: Vec<u8> = colours[..opaque_from].iter().map(|colour| colour[3]).collect();
    let table: Vec<u8> = colours.iter().flat_map(|colour| [colour[0], colour[1], colour[2]]).collect();
    let mut info = png::Info::with_size(width, height);
    (info.color_type, info.bit_depth) = (ColorType::Indexed, depth);
    info.palette = Some(table.into());
    info.trns = (!opacities.is_empty()).then(|| opacities.into());
    info.icc_profile = profile.map(|profile| profile.to_vec().into());
    let mut bytes = Vec::new();
    let mut encoder = Encoder::with_info(&mut bytes, info)?;
    // Numbers next to each other have nothing in common that a filter could take away.
    encoder.set_filter(Filter::NoFilter);
    encoder.set_compression(Compression::Balanced);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&packed(pixels(picture).map(|pixel| palette.number(pixel).unwrap_or_default()), width, bits))?;
    writer.finish()?;
    Ok(bytes)
}

/// Lines of numbers with so many bits each, the first in the highest.
fn packed(numbers: impl Iterator<Item = u8>, width: u32, bits: usize) -> Vec<u8> {
    if bits == 8 {
        return numbers.collect();
    }
    let (width, line_bytes) = (width as usize, (width as usize * bits).div_ceil(8));
    let mut bytes = Vec::new();
    for (index, number) in numbers.enumerate() {
        let x = index % width;
        if x == 0 {
            bytes.resize(index / width * line_bytes + line_bytes, 0);
        }
        let start = bytes.len() - line_bytes;
        bytes[start + x * bits / 8] |= number << (8 - bits - x * bits % 8);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;
    use image::{Rgb, RgbImage, Rgba, RgbaImage};

    fn encoded(picture: &DynamicImage, palette: bool) -> Vec<u8> {
        let encoding =
            Encoding { format: Format::Png, quality: None, lossless: false, progressive: false, palette, profile: None };
        encode(picture, &encoding).expect("encodes")
    }

    const INDEXED: u8 = 3;

    /// Bits a number and kind of pixels, as the header has them.
    fn header(png: &[u8]) -> (u8, u8) {
        (png[24], png[25])
    }

    #[test]
    fn few_colours_are_numbered_with_as_few_bits_as_will_do() {
        for (colours, bits) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8), (256, 8)] {
            // An odd width, so that lines end within a byte.
            let picture: DynamicImage = RgbImage::from_fn(37, 21, |x, y| Rgb([((x + y * 37) % colours) as u8, 7, 9])).into();
            let bytes = encoded(&picture, false);
            assert_eq!(header(&bytes), (bits, INDEXED), "{colours}");
            assert_eq!(image::load_from_memory(&bytes).expect("decodes").into_rgb8(), picture.into_rgb8(), "{colours}");
        }
        let more: DynamicImage = RgbImage::from_fn(40, 40, |x, y| Rgb([x as u8, y as u8, 0])).into();
        assert_eq!(header(&encoded(&more, false)), (8, 2));
    }

    #[test]
    fn opacity_is_in_the_palette_too() {
        let picture = RgbaImage::from_fn(20, 20, |x, y| Rgba([x as u8, 0, 0, if y < 10 { 128 } else { 255 }]));
        let bytes = encoded(&picture.clone().into(), false);
        assert_eq!(header(&bytes), (8, INDEXED));
        assert_eq!(image::load_from_memory(&bytes).expect("decodes").into_rgba8(), picture);
    }

    #[test]
    fn a_palette_of_the_source_is_kept_as_long_as_it_is_near() {
        // Two colours, blended along an edge as scaling does.
        let drawing: DynamicImage = RgbImage::from_fn(400, 300, |x, y| {
            let part = (x * 3 + y).saturating_sub(600).min(255) as u8;
            Rgb([part, 255 - part, (y / 2) as u8])
        })
        .into();
        assert_eq!(header(&encoded(&drawing, false)), (8, 2));
        let kept = encoded(&drawing, true);
        assert_eq!(header(&kept), (8, INDEXED));
        assert!(kept.len() * 2 < encoded(&drawing, false).len());
        let noise: DynamicImage = RgbImage::from_fn(200, 200, |x, y| {
            let mixed = (x * 7919 + y * 104_729).wrapping_mul(2_654_435_761);
            Rgb([(mixed >> 24) as u8, (mixed >> 16) as u8, (mixed >> 8) as u8])
        })
        .into();
        assert_eq!(header(&encoded(&noise, true)), (8, 2));
    }
}

//! WebP by libwebp.

use std::collections::HashSet;

use image::{DynamicImage, RgbImage};
use webp::{Encoder, WebPConfig};

use super::{Encoding, Failed};

/// As like the picture as 80 is with method 4, which libvips uses: a tenth more bytes in two thirds of the time (`docs/performance.md`).
const QUALITY: u8 = 81;
/// Time against size, 0 to 6.
const METHOD: i32 = 2;
/// A picture of so few colours is drawn: without loss it is smaller, and its edges stay.
const DRAWN_COLOURS_MAX: usize = 256;
/// In a larger one that would take too long.
const DRAWN_PIXELS_MAX: u64 = 16_000_000;
/// The same of gray. More are drawn where most pixels are as their neighbour.
const DRAWN_LEVELS_MAX: usize = 16;

pub(super) fn encode(picture: &DynamicImage, encoding: &Encoding<'_>) -> Result<Vec<u8>, Failed> {
    let config = config(encoding, is_drawn(picture))?;
    let encoded = match picture {
        DynamicImage::ImageRgb8(pixels) => Encoder::from_rgb(pixels, pixels.width(), pixels.height()).encode_advanced(&config),
        DynamicImage::ImageRgba8(pixels) => Encoder::from_rgba(pixels, pixels.width(), pixels.height()).encode_advanced(&config),
        other => {
            let pixels = other.to_rgb8();
            Encoder::from_rgb(&pixels, pixels.width(), pixels.height()).encode_advanced(&config)
        }
    };
    encoded.map(|bytes| bytes.to_vec()).map_err(|error| Failed(format!("the WebP encoder refuses it: {error:?}")))
}

pub(super) fn config(encoding: &Encoding<'_>, drawn: bool) -> Result<WebPConfig, Failed> {
    let mut config = WebPConfig::new().map_err(|()| Failed("the WebP encoder has no settings".to_owned()))?;
    config.method = METHOD;
    config.quality = f32::from(encoding.quality.unwrap_or(QUALITY));
    if encoding.lossless || drawn {
        // For lossless pictures quality means effort.
        (config.lossless, config.quality) = (1, 50.0);
    }
    Ok(config)
}

/// Whether a picture is drawn rather than photographed: it has few colours. Of gray there are never more, so a gray one must be even too.
fn is_drawn(picture: &DynamicImage) -> bool {
    if u64::from(picture.width()) * u64::from(picture.height()) > DRAWN_PIXELS_MAX {
        return false;
    }
    let mut colours = HashSet::new();
    let mut few = |colour: [u8; 4]| {
        colours.insert(colour);
        colours.len() <= DRAWN_COLOURS_MAX
    };
    match picture {
        DynamicImage::ImageRgb8(pixels) if is_gray(pixels) => is_even(pixels.as_raw(), 3),
        DynamicImage::ImageRgb8(pixels) => pixels.pixels().all(|pixel| few([pixel.0[0], pixel.0[1], pixel.0[2], 255])),
        DynamicImage::ImageRgba8(pixels) => pixels.pixels().all(|pixel| few(pixel.0)),
        DynamicImage::ImageLuma8(pixels) => is_even(pixels.as_raw(), 1),
        _ => false,
    }
}

fn is_gray(pixels: &RgbImage) -> bool {
    pixels.pixels().all(|pixel| pixel.0[0] == pixel.0[1] && pixel.0[1] == pixel.0[2])
}

/// Whether samples have few levels, or most are as their neighbour: as on paper, and unlike in photographs.
fn is_even(samples: &[u8], channels: usize) -> bool {
    let bright = || samples.iter().step_by(channels);
    let mut levels = [false; 256];
    bright().for_each(|level| levels[usize::from(*level)] = true);
    let alike = bright().zip(bright().skip(1)).filter(|(one, next)| one == next).count();
    levels.into_iter().filter(|has| *has).count() <= DRAWN_LEVELS_MAX || alike * 2 >= samples.len() / channels
}

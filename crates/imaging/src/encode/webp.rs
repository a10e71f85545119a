//! WebP by libwebp.

use std::collections::HashSet;

use image::DynamicImage;
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
        DynamicImage::ImageRgb8(pixels) => pixels.pixels().all(|pixel| few([pixel.0[0], pixel.0[1], pixel.0[2], 255])),
        DynamicImage::ImageRgba8(pixels) => pixels.pixels().all(|pixel| few(pixel.0)),
        _ => false,
    }
}

//! JPEG by mozjpeg in the profile of libjpeg-turbo: its smaller one takes five times as long.

use std::panic::{AssertUnwindSafe, catch_unwind};

use image::DynamicImage;
use mozjpeg::{ColorSpace, Compress};

use super::{Encoding, Failed};

const QUALITY: u8 = 85;

pub(super) fn encode(picture: &DynamicImage, encoding: &Encoding<'_>) -> Result<Vec<u8>, Failed> {
    // The library reports errors by unwinding.
    let encoded = catch_unwind(AssertUnwindSafe(|| match picture {
        DynamicImage::ImageLuma8(pixels) => compress(ColorSpace::JCS_GRAYSCALE, pixels.dimensions(), pixels, encoding),
        DynamicImage::ImageRgb8(pixels) => compress(ColorSpace::JCS_RGB, pixels.dimensions(), pixels, encoding),
        other => {
            let pixels = other.to_rgb8();
            compress(ColorSpace::JCS_RGB, pixels.dimensions(), &pixels, encoding)
        }
    }));
    encoded.map_err(|_| Failed("the JPEG encoder gave up".to_owned()))?.map_err(Failed::of)
}

fn compress(
    colours: ColorSpace,
    (width, height): (u32, u32),
    pixels: &[u8],
    encoding: &Encoding<'_>,
) -> std::io::Result<Vec<u8>> {
    let mut encoder = Compress::new(colours);
    encoder.set_fastest_defaults();
    encoder.set_size(width as usize, height as usize);
    encoder.set_quality(f32::from(encoding.quality.unwrap_or(QUALITY)));
    if encoding.progressive {
        encoder.set_progressive_mode();
        encoder.set_optimize_coding(true);
    }
    let mut encoder = encoder.start_compress(Vec::new())?;
    if let Some(profile) = encoding.profile {
        encoder.write_icc_profile(profile);
    }
    encoder.write_scanlines(pixels)?;
    encoder.finish()
}

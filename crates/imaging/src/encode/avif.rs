//! AVIF by rav1e, in one thread.

use image::DynamicImage;
use ravif::{BitDepth, Encoder, Img};
use rgb::FromSlice as _;

use super::{Encoding, Failed};

const QUALITY: u8 = 65;
/// Time against size, 1 to 10: the step to 8 costs three times as much and saves a fiftieth.
const SPEED: u8 = 9;

pub(super) fn encode(picture: &DynamicImage, encoding: &Encoding<'_>) -> Result<Vec<u8>, Failed> {
    let quality = f32::from(if encoding.lossless { 100 } else { encoding.quality.unwrap_or(QUALITY) });
    // Ten bits would be a little smaller, but not every decoder is fast at them.
    let encoder = Encoder::new()
        .with_quality(quality)
        .with_alpha_quality(quality)
        .with_speed(SPEED)
        .with_bit_depth(BitDepth::Eight)
        .with_num_threads(Some(1));
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let encoded = match picture {
        DynamicImage::ImageRgb8(pixels) => encoder.encode_rgb(Img::new(pixels.as_raw().as_rgb(), width, height)),
        DynamicImage::ImageRgba8(pixels) => encoder.encode_rgba(Img::new(pixels.as_raw().as_rgba(), width, height)),
        other => encoder.encode_rgb(Img::new(other.to_rgb8().as_raw().as_rgb(), width, height)),
    };
    encoded.map(|encoded| encoded.avif_file).map_err(Failed::of)
}

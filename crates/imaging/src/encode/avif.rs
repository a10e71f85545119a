//! AVIF, in one thread.

use image::DynamicImage;
use imagewell_pixels::encode_avif;

use super::{Encoding, Failed};

const QUALITY: u8 = 65;
/// Time against size, 1 to 10: the step to 8 costs three times as much and saves a fiftieth.
const SPEED: u8 = 9;

pub(super) fn encode(picture: &DynamicImage, encoding: &Encoding<'_>) -> Result<Vec<u8>, Failed> {
    let quality = if encoding.lossless { 100 } else { encoding.quality.unwrap_or(QUALITY) };
    encode_avif(picture, f32::from(quality), SPEED).map_err(Failed::of)
}

//! AVIF by rav1e, in one thread.

use image::DynamicImage;
use ravif::{BitDepth, Encoder, Error, Img};
use rgb::FromSlice as _;

/// The picture as an AVIF file of eight bits. The quality is of 1 to 100; the speed of 1 to 10, where a low one costs time and saves bytes.
///
/// # Errors
/// When the encoder refuses the picture, such as one without pixels.
pub fn encode_avif(picture: &DynamicImage, quality: f32, speed: u8) -> Result<Vec<u8>, Error> {
    // Ten bits would be a little smaller, but not every decoder is fast at them.
    let encoder = Encoder::new()
        .with_quality(quality)
        .with_alpha_quality(quality)
        .with_speed(speed)
        .with_bit_depth(BitDepth::Eight)
        .with_num_threads(Some(1));
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let encoded = match picture {
        DynamicImage::ImageRgb8(pixels) => encoder.encode_rgb(Img::new(pixels.as_raw().as_rgb(), width, height)),
        DynamicImage::ImageRgba8(pixels) => encoder.encode_rgba(Img::new(pixels.as_raw().as_rgba(), width, height)),
        other => encoder.encode_rgb(Img::new(other.to_rgb8().as_raw().as_rgb(), width, height)),
    };
    encoded.map(|encoded| encoded.avif_file)
}

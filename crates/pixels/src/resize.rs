//! Resizes pictures, for the three kinds of pixels that decoding leaves: gray, RGB and RGBA of eight bits.
//!
//! The library's `resize` takes whatever it is given and so compiles every algorithm for thirteen kinds of pixels.

use fast_image_resize as fir;
use fir::images::{TypedImage, TypedImageRef};
use fir::pixels::{InnerPixel, U8, U8x3, U8x4};
use fir::{PixelTrait, ResizeError, ResizeOptions, Resizer};
use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};

/// The picture with another number of pixels. One with other pixels than decoding leaves becomes one of RGBA.
///
/// # Errors
/// When the options name a part outside the picture.
pub fn resize(picture: &DynamicImage, to: (u32, u32), options: &ResizeOptions) -> Result<DynamicImage, ResizeError> {
    let from = (picture.width(), picture.height());
    match picture {
        DynamicImage::ImageLuma8(pixels) => {
            let mut resized = GrayImage::new(to.0, to.1);
            resize_bytes::<U8>(pixels, from, &mut resized, to, options)?;
            Ok(resized.into())
        }
        DynamicImage::ImageRgb8(pixels) => {
            let mut resized = RgbImage::new(to.0, to.1);
            resize_bytes::<U8x3>(pixels, from, &mut resized, to, options)?;
            Ok(resized.into())
        }
        DynamicImage::ImageRgba8(pixels) => {
            let mut resized = RgbaImage::new(to.0, to.1);
            resize_bytes::<U8x4>(pixels, from, &mut resized, to, options)?;
            Ok(resized.into())
        }
        other => resize(&DynamicImage::ImageRgba8(other.to_rgba8()), to, options),
    }
}

fn resize_bytes<P: PixelTrait + InnerPixel>(
    pixels: &[u8],
    from: (u32, u32),
    resized: &mut [u8],
    to: (u32, u32),
    options: &ResizeOptions,
) -> Result<(), ResizeError> {
    // Buffers of an image have the size that they need, and bytes need no alignment.
    let unfit = |_| ResizeError::PixelTypesAreDifferent;
    let source = TypedImageRef::<P>::from_buffer(from.0, from.1, pixels).map_err(unfit)?;
    let mut target = TypedImage::<P>::from_buffer(to.0, to.1, resized).map_err(unfit)?;
    Resizer::new().resize_typed(&source, &mut target, options)
}

//! Resizes pictures, for the three kinds of pixels that decoding leaves: gray, RGB and RGBA of eight bits.
//!
//! The library's `resize` takes whatever it is given and so compiles every algorithm for thirteen kinds of pixels, which was three quarters
//! of this crate's code.

use fast_image_resize as fir;
use fir::images::{TypedImage, TypedImageRef};
use fir::pixels::{InnerPixel, U8, U8x3, U8x4};
use fir::{PixelTrait, ResizeError, ResizeOptions, Resizer};
use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};

/// The picture with another number of pixels. One with other pixels than decoding leaves becomes one of RGBA.
///
/// # Errors
/// When the options name a part outside the picture.
pub(crate) fn resize(picture: &DynamicImage, to: (u32, u32), options: &ResizeOptions) -> Result<DynamicImage, ResizeError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_pixels_keeps_its_colour_and_its_kind() {
        let options = ResizeOptions::new();
        let pictures = [
            DynamicImage::ImageLuma8(GrayImage::from_pixel(8, 6, image::Luma([90]))),
            DynamicImage::ImageRgb8(RgbImage::from_pixel(8, 6, image::Rgb([90, 10, 200]))),
            DynamicImage::ImageRgba8(RgbaImage::from_pixel(8, 6, image::Rgba([90, 10, 200, 255]))),
        ];
        for picture in pictures {
            let resized = resize(&picture, (4, 3), &options).expect("resizes");
            assert_eq!((resized.width(), resized.height(), resized.color()), (4, 3, picture.color()));
            assert_eq!(resized.to_rgba8().get_pixel(2, 1), picture.to_rgba8().get_pixel(2, 1));
        }
        let deep = DynamicImage::new_rgb16(8, 6);
        assert_eq!(resize(&deep, (4, 3), &options).expect("resizes").color(), image::ColorType::Rgba8);
    }

    #[test]
    fn a_part_outside_the_picture_is_an_error() {
        let options = ResizeOptions::new().crop(4.0, 4.0, 8.0, 8.0);
        assert!(resize(&DynamicImage::new_rgb8(8, 6), (4, 3), &options).is_err());
    }
}

//! What is done to pixels once they have their size.

use image::{DynamicImage, RgbImage, Rgba, RgbaImage, imageops};

use crate::transform::Colour;

/// Puts a picture on a canvas at a place, over a colour. The colour may be transparent.
pub(crate) fn on_canvas(picture: &DynamicImage, canvas: (u32, u32), place: (u32, u32), background: Colour) -> DynamicImage {
    let mut whole = RgbaImage::from_pixel(canvas.0, canvas.1, Rgba(background.0));
    if background.0[3] == 0 {
        imageops::replace(&mut whole, &picture.to_rgba8(), place.0.into(), place.1.into());
    } else {
        imageops::overlay(&mut whole, &picture.to_rgba8(), place.0.into(), place.1.into());
    }
    if background.0[3] == u8::MAX { DynamicImage::from(whole).into_rgb8().into() } else { whole.into() }
}

/// Gaussian, by three box filters: its time doesn't depend on its size.
pub(crate) fn blurred(picture: &DynamicImage, sigma: f32) -> DynamicImage {
    match picture {
        // Colours of what can't be seen must not show at its edges.
        DynamicImage::ImageRgba8(pixels) => unmultiplied(imageops::fast_blur(&multiplied(pixels), sigma)).into(),
        DynamicImage::ImageLuma8(pixels) => imageops::fast_blur(pixels, sigma).into(),
        other => imageops::fast_blur(&other.to_rgb8(), sigma).into(),
    }
}

/// Adds what a blur of one pixel takes away, `amount` times. Opacity stays.
pub(crate) fn sharpened(picture: DynamicImage, amount: f32) -> DynamicImage {
    let soft = blurred(&picture, 1.0);
    let sharp = |pixel: &mut u8, soft: u8| {
        let (value, soft) = (f32::from(*pixel), f32::from(soft));
        *pixel = (value + (value - soft) * amount).round().clamp(0.0, 255.0) as u8;
    };
    match (picture, soft) {
        (DynamicImage::ImageRgba8(mut pixels), DynamicImage::ImageRgba8(soft)) => {
            for (pixel, soft) in pixels.pixels_mut().zip(soft.pixels()) {
                (0..3).for_each(|channel| sharp(&mut pixel.0[channel], soft.0[channel]));
            }
            pixels.into()
        }
        (DynamicImage::ImageLuma8(mut pixels), DynamicImage::ImageLuma8(soft)) => {
            pixels.iter_mut().zip(soft.iter()).for_each(|(pixel, soft)| sharp(pixel, *soft));
            pixels.into()
        }
        (picture, soft) => {
            let (mut pixels, soft): (RgbImage, RgbImage) = (picture.into_rgb8(), soft.into_rgb8());
            pixels.iter_mut().zip(soft.iter()).for_each(|(pixel, soft)| sharp(pixel, *soft));
            pixels.into()
        }
    }
}

fn multiplied(pixels: &RgbaImage) -> RgbaImage {
    let mut pixels = pixels.clone();
    for Rgba([red, green, blue, opacity]) in pixels.pixels_mut() {
        [red, green, blue].into_iter().for_each(|part| *part = (u16::from(*part) * u16::from(*opacity) / 255) as u8);
    }
    pixels
}

fn unmultiplied(mut pixels: RgbaImage) -> RgbaImage {
    for Rgba([red, green, blue, opacity]) in pixels.pixels_mut() {
        let whole = |part: u8| (u16::from(part) * 255).checked_div(u16::from(*opacity)).unwrap_or(0).min(255) as u8;
        (*red, *green, *blue) = (whole(*red), whole(*green), whole(*blue));
    }
    pixels
}

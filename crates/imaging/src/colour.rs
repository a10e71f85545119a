//! What the numbers of pixels mean: profiles (ICC.1) are followed to sRGB, so that a rendering needs none.

use image::{DynamicImage, GrayAlphaImage, RgbImage, RgbaImage};
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};

/// The picture in sRGB. A profile that can't be followed is left aside: the picture is shown as if it had none.
pub(crate) fn to_srgb(picture: DynamicImage, profile: Option<&[u8]>) -> DynamicImage {
    let Some(profile) = profile.and_then(|bytes| ColorProfile::new_from_slice(bytes).ok()) else { return picture };
    let (width, height) = (picture.width(), picture.height());
    let followed = match (&picture, profile.color_space) {
        (DynamicImage::ImageRgb8(pixels), DataColorSpace::Rgb) => follow(&profile, Layout::Rgb, pixels.as_raw(), Layout::Rgb)
            .and_then(|pixels| RgbImage::from_raw(width, height, pixels))
            .map(Into::into),
        (DynamicImage::ImageRgba8(pixels), DataColorSpace::Rgb) => follow(&profile, Layout::Rgba, pixels.as_raw(), Layout::Rgba)
            .and_then(|pixels| RgbaImage::from_raw(width, height, pixels))
            .map(Into::into),
        (DynamicImage::ImageLuma8(pixels), DataColorSpace::Gray) => follow(&profile, Layout::Gray, pixels.as_raw(), Layout::Rgb)
            .and_then(|pixels| RgbImage::from_raw(width, height, pixels))
            .map(Into::into),
        _ => None,
    };
    followed.unwrap_or(picture)
}

/// Whether a profile is one for the kind of pixels that a picture has.
pub(crate) fn explains(profile: &[u8], picture: &DynamicImage) -> bool {
    let space = ColorProfile::new_from_slice(profile).map(|profile| profile.color_space);
    match space {
        Ok(DataColorSpace::Rgb) => picture.color().has_color(),
        Ok(DataColorSpace::Gray) => !picture.color().has_color(),
        _ => false,
    }
}

/// Gray with opacity in sRGB; none where the profile isn't one of gray.
pub(crate) fn rgba_of_gray(pixels: &GrayAlphaImage, profile: Option<&[u8]>) -> Option<RgbaImage> {
    let profile = ColorProfile::new_from_slice(profile?).ok()?;
    if profile.color_space != DataColorSpace::Gray {
        return None;
    }
    let followed = follow(&profile, Layout::GrayAlpha, pixels.as_raw(), Layout::Rgba)?;
    RgbaImage::from_raw(pixels.width(), pixels.height(), followed)
}

/// The RGB of CMYK: 0 is no ink.
pub(crate) fn rgb_of_cmyk(pixels: &[u8], profile: Option<&[u8]>) -> Vec<u8> {
    let profile = profile.and_then(|bytes| ColorProfile::new_from_slice(bytes).ok());
    let profile = profile.filter(|profile| profile.color_space == DataColorSpace::Cmyk);
    if let Some(pixels) = profile.and_then(|profile| follow(&profile, Layout::Rgba, pixels, Layout::Rgb)) {
        return pixels;
    }
    pixels
        .chunks_exact(4)
        .flat_map(|inks| {
            let light = u16::from(255 - inks[3]);
            [inks[0], inks[1], inks[2]].map(|ink| u8::try_from(u16::from(255 - ink) * light / 255).unwrap_or(u8::MAX))
        })
        .collect()
}

fn follow(profile: &ColorProfile, from: Layout, pixels: &[u8], to: Layout) -> Option<Vec<u8>> {
    let srgb = ColorProfile::new_srgb();
    let transform = profile.create_transform_8bit(from, &srgb, to, TransformOptions::default()).ok()?;
    let mut followed = vec![0; pixels.len() / from.channels() * to.channels()];
    transform.transform(pixels, &mut followed).ok()?;
    Some(followed)
}

/// The mean of the pixels in the fullest cell of a colour cube of 8×8×8. What can't be seen doesn't count.
pub(crate) fn dominant(pixels: &RgbaImage) -> [u8; 3] {
    let mut cells = vec![[0_u64; 4]; 512];
    for [red, green, blue, opacity] in pixels.pixels().map(|pixel| pixel.0) {
        let cell = usize::from(red >> 5) << 6 | usize::from(green >> 5) << 3 | usize::from(blue >> 5);
        let weight = u64::from(opacity);
        for (sum, part) in cells[cell].iter_mut().zip([u64::from(red), u64::from(green), u64::from(blue), 1]) {
            *sum += part * weight;
        }
    }
    let [red, green, blue, weight] = cells.into_iter().max_by_key(|cell| cell[3]).unwrap_or_default();
    [red, green, blue].map(|sum| u8::try_from(sum / weight.max(1)).unwrap_or(u8::MAX))
}

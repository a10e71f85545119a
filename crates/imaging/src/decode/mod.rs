//! Bytes → pixels: upright, eight bits a channel, under limits that hold before anything is allocated.

mod avif;
mod bmp;
mod canvas;
mod frames;
mod gif;
mod heic;
mod ico;
mod jpeg;
mod png;
mod tiff;
mod webp;

use std::fmt;
use std::io::Cursor;

use image::metadata::Orientation as Turn;
use image::{DynamicImage, ImageDecoder};
use jxl_oxide::integration::JxlDecoder;

pub(crate) use frames::{Animation, animation};

use crate::transform::Crop;
use crate::{Error, Format, Limit, Limits, Orientation, colour};

/// Decoded pixels of one image.
const DECODED_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Pixels as they are seen, and the profile that says what their numbers mean.
pub(crate) struct Decoded {
    pub(crate) picture: DynamicImage,
    pub(crate) profile: Option<Vec<u8>>,
    /// The picture's own width and height, whatever it was decoded to.
    pub(crate) full_size: (u32, u32),
}

/// Decodes the first frame. `wanted` is told the upright size and says what size is enough; a JPEG then comes smaller, by a half, a
/// quarter or an eighth, at a fraction of the work.
///
/// # Errors
/// [`Error::Undrawable`] for kinds that have no decoder here, [`Error::OverLimit`], [`Error::Render`] for broken pixels.
pub(crate) fn decode(source: &[u8], limits: &Limits, wanted: impl Fn(u32, u32) -> (u32, u32)) -> Result<Decoded, Error> {
    let format = Format::sniff(source)?;
    let failed = |error: image::ImageError| broken(format, error);
    match format {
        Format::Jpeg => jpeg::decode(source, limits, wanted),
        Format::Avif => avif::decode(source, limits),
        Format::Heic => heic::decode(source, limits),
        Format::Jxl => {
            let facts = crate::inspect(Cursor::new(source), limits)?;
            check_decoded(u64::from(facts.width) * u64::from(facts.height) * 16)?;
            let decoder = JxlDecoder::with_thread_pool(Cursor::new(source), jxl_oxide::JxlThreadPool::none());
            // It turns the picture by itself. What an Exif box says counts for nothing (18181-2 §9.3).
            still(decoder.map_err(failed)?, format, limits)
        }
        Format::Gif => gif::still(source, limits),
        Format::Png => png::still(source, &crate::inspect(Cursor::new(source), limits)?, limits),
        Format::WebP => webp::still(source, &crate::inspect(Cursor::new(source), limits)?, limits),
        Format::Bmp => bmp::decode(source, limits),
        Format::Ico => ico::decode(source, limits),
        Format::Tiff => tiff::decode(source, limits),
    }
}

pub(super) fn broken(format: Format, detail: impl fmt::Display) -> Error {
    Error::Render { format, detail: detail.to_string() }
}

pub(super) fn check_decoded(bytes: u64) -> Result<(), Error> {
    if bytes > DECODED_BYTES_MAX {
        return Err(Error::OverLimit { limit: Limit::DecodedBytes, actual: bytes, max: DECODED_BYTES_MAX });
    }
    Ok(())
}

/// The part of a picture that its container shows.
fn visible(picture: DynamicImage, aperture: Crop) -> DynamicImage {
    let Crop { x, y, width, height } = aperture;
    if (width, height) == (picture.width(), picture.height()) { picture } else { picture.crop_imm(x, y, width, height) }
}

/// The picture as it is seen.
fn upright(mut picture: DynamicImage, orientation: Orientation) -> DynamicImage {
    picture.apply_orientation(Turn::from_exif(orientation.exif()).unwrap_or(Turn::NoTransforms));
    picture
}

fn bounds(limits: &Limits, alloc_bytes_max: u64) -> image::Limits {
    let mut bounds = image::Limits::no_limits();
    bounds.max_image_width = Some(limits.side_px_max);
    bounds.max_image_height = Some(limits.side_px_max);
    bounds.max_alloc = Some(alloc_bytes_max);
    bounds
}

/// What is decoded upright, whatever else its metadata says.
fn still(mut decoder: impl ImageDecoder, format: Format, limits: &Limits) -> Result<Decoded, Error> {
    let failed = |error: image::ImageError| broken(format, error);
    let (width, height) = decoder.dimensions();
    crate::facts::check_size(format, width, height, limits)?;
    check_decoded(decoder.total_bytes())?;
    // The pixels and what the decoder needs beside them, now that their size is known and allowed.
    decoder.set_limits(bounds(limits, DECODED_BYTES_MAX * 2)).map_err(failed)?;
    // A broken profile is no reason to refuse a picture.
    let profile = decoder.icc_profile().unwrap_or_default();
    let picture = DynamicImage::from_decoder(decoder).map_err(failed)?;
    Ok(decoded(picture, profile, Orientation::UPRIGHT))
}

/// A picture as it was decoded to its full size, brought to eight bits and upright.
fn decoded(picture: DynamicImage, profile: Option<Vec<u8>>, orientation: Orientation) -> Decoded {
    let (picture, profile) = plain(picture, profile);
    let picture = upright(picture, orientation);
    let full_size = (picture.width(), picture.height());
    Decoded { picture, profile, full_size }
}

/// One of the three kinds of pixels that all else here is written for: gray, RGB and RGBA of eight bits. A profile of gray is
/// followed where gray comes with opacity, because the result is none of gray.
fn plain(picture: DynamicImage, profile: Option<Vec<u8>>) -> (DynamicImage, Option<Vec<u8>>) {
    match picture {
        DynamicImage::ImageRgb8(_) | DynamicImage::ImageRgba8(_) | DynamicImage::ImageLuma8(_) => (picture, profile),
        DynamicImage::ImageLumaA16(_) => plain(picture.into_luma_alpha8().into(), profile),
        DynamicImage::ImageLumaA8(pixels) => match colour::rgba_of_gray(&pixels, profile.as_deref()) {
            Some(followed) => (followed.into(), None),
            None => (DynamicImage::from(pixels).into_rgba8().into(), profile),
        },
        other if other.color().has_alpha() => (other.into_rgba8().into(), profile),
        other if other.color().has_color() => (other.into_rgb8().into(), profile),
        other => (other.into_luma8().into(), profile),
    }
}

//! Bytes → pixels: upright, eight bits a channel, under limits that hold before anything is allocated.

mod avif;
mod frames;
mod heic;
mod jpeg;

use std::fmt;
use std::io::Cursor;

use image::metadata::Orientation as Turn;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use jxl_oxide::integration::JxlDecoder;

pub(crate) use frames::{Animation, animation};

use crate::transform::Crop;
use crate::{Error, Format, Limit, Limits, Orientation};

/// Before its headers are understood a decoder may allocate no more than this: a colour profile can inflate to any cap.
const HEADER_ALLOC_BYTES_MAX: u64 = 4 * 1024 * 1024;
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
/// [`Error::Unsupported`] for formats that have no decoder here, [`Error::OverLimit`], [`Error::Render`] for broken pixels.
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
            // It turns the picture by itself.
            still(
                JxlDecoder::with_thread_pool(Cursor::new(source), jxl_oxide::JxlThreadPool::none()).map_err(failed)?,
                format,
                limits,
            )
        }
        _ => still(reader(source, format, limits)?.into_decoder().map_err(failed)?, format, limits),
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

fn reader<'a>(source: &'a [u8], format: Format, limits: &Limits) -> Result<ImageReader<Cursor<&'a [u8]>>, Error> {
    let mut reader = ImageReader::with_format(Cursor::new(source), image_format(format)?);
    reader.limits(bounds(limits, HEADER_ALLOC_BYTES_MAX));
    Ok(reader)
}

fn bounds(limits: &Limits, alloc_bytes_max: u64) -> image::Limits {
    let mut bounds = image::Limits::no_limits();
    bounds.max_image_width = Some(limits.side_px_max);
    bounds.max_image_height = Some(limits.side_px_max);
    bounds.max_alloc = Some(alloc_bytes_max);
    bounds
}

fn still(mut decoder: impl ImageDecoder, format: Format, limits: &Limits) -> Result<Decoded, Error> {
    let failed = |error: image::ImageError| broken(format, error);
    let (width, height) = decoder.dimensions();
    crate::facts::check_size(format, width, height, limits)?;
    check_decoded(decoder.total_bytes())?;
    // The pixels and what the decoder needs beside them, now that their size is known and allowed.
    decoder.set_limits(bounds(limits, DECODED_BYTES_MAX * 2)).map_err(failed)?;
    let orientation = decoder.orientation().map_err(failed)?;
    // A broken profile is no reason to refuse a picture.
    let profile = decoder.icc_profile().unwrap_or_default();
    let mut picture = eight_bits(DynamicImage::from_decoder(decoder).map_err(failed)?);
    picture.apply_orientation(orientation);
    let full_size = (picture.width(), picture.height());
    Ok(Decoded { picture, profile, full_size })
}

fn image_format(format: Format) -> Result<ImageFormat, Error> {
    match format {
        Format::Png => Ok(ImageFormat::Png),
        Format::Gif => Ok(ImageFormat::Gif),
        Format::WebP => Ok(ImageFormat::WebP),
        Format::Bmp => Ok(ImageFormat::Bmp),
        Format::Tiff => Ok(ImageFormat::Tiff),
        Format::Ico => Ok(ImageFormat::Ico),
        Format::Jpeg | Format::Avif | Format::Heic | Format::Jxl => {
            Err(Error::Unsupported { what: "this format has a decoder of its own" })
        }
    }
}

fn eight_bits(picture: DynamicImage) -> DynamicImage {
    match picture {
        DynamicImage::ImageRgb8(_) | DynamicImage::ImageRgba8(_) | DynamicImage::ImageLuma8(_) => picture,
        other if other.color().has_alpha() => DynamicImage::ImageRgba8(other.into_rgba8()),
        other if other.color().has_color() => DynamicImage::ImageRgb8(other.into_rgb8()),
        other => DynamicImage::ImageLuma8(other.into_luma8()),
    }
}

//! Bytes → pixels: the first frame, turned upright, eight bits a channel, under limits that hold before anything is allocated.

use std::fmt;
use std::io::Cursor;

use image::metadata::Orientation as Turn;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use jpeg_decoder::PixelFormat;

use crate::{Error, Format, Limit, Limits, colour, inspect};

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
    if format == Format::Jpeg { jpeg(source, limits, wanted) } else { other(source, format, limits) }
}

fn broken(format: Format, detail: impl fmt::Display) -> Error {
    Error::Render { format, detail: detail.to_string() }
}

fn check_decoded(bytes: u64) -> Result<(), Error> {
    if bytes > DECODED_BYTES_MAX {
        return Err(Error::OverLimit { limit: Limit::DecodedBytes, actual: bytes, max: DECODED_BYTES_MAX });
    }
    Ok(())
}

/// zune-jpeg, which is what `image` uses, gets 4:2:0 and 4:4:0 in separate scans silently wrong, and can't decode to a fraction.
fn jpeg(source: &[u8], limits: &Limits, wanted: impl Fn(u32, u32) -> (u32, u32)) -> Result<Decoded, Error> {
    let failed = |error: jpeg_decoder::Error| broken(Format::Jpeg, error);
    let facts = inspect(Cursor::new(source), limits)?;
    let swapped = facts.orientation.swaps_sides();
    check_decoded(u64::from(facts.width) * u64::from(facts.height) * 4)?;
    let mut decoder = jpeg_decoder::Decoder::new(Cursor::new(source));
    decoder.set_max_decoding_buffer_size(usize::try_from(DECODED_BYTES_MAX).unwrap_or(usize::MAX));
    decoder.read_info().map_err(failed)?;
    let full_size = if swapped { (facts.height, facts.width) } else { (facts.width, facts.height) };
    let enough = wanted(full_size.0, full_size.1);
    let (width, height) = if swapped { (enough.1, enough.0) } else { enough };
    let side = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
    decoder.scale(side(width), side(height)).map_err(failed)?;
    let pixels = decoder.decode().map_err(failed)?;
    let info = decoder.info().ok_or_else(|| broken(Format::Jpeg, "it has no frame"))?;
    let profile = decoder.icc_profile();
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    let (picture, profile) = match info.pixel_format {
        PixelFormat::L8 => (GrayImage::from_raw(width, height, pixels).map(DynamicImage::from), profile),
        PixelFormat::RGB24 => (RgbImage::from_raw(width, height, pixels).map(DynamicImage::from), profile),
        PixelFormat::L16 => {
            let pixels = pixels.chunks_exact(2).map(|sample| sample[1]).collect();
            (GrayImage::from_raw(width, height, pixels).map(DynamicImage::from), profile)
        }
        PixelFormat::CMYK32 => {
            let pixels = colour::rgb_of_cmyk(&pixels, profile.as_deref());
            (RgbImage::from_raw(width, height, pixels).map(DynamicImage::from), None)
        }
    };
    let mut picture = picture.ok_or_else(|| broken(Format::Jpeg, "its pixels are not as many as it says"))?;
    picture.apply_orientation(Turn::from_exif(facts.orientation.exif()).unwrap_or(Turn::NoTransforms));
    Ok(Decoded { picture, profile, full_size })
}

fn other(source: &[u8], format: Format, limits: &Limits) -> Result<Decoded, Error> {
    let failed = |error: image::ImageError| broken(format, error);
    let mut reader = ImageReader::with_format(Cursor::new(source), image_format(format)?);
    let mut bounds = image::Limits::no_limits();
    bounds.max_image_width = Some(limits.side_px_max);
    bounds.max_image_height = Some(limits.side_px_max);
    bounds.max_alloc = Some(HEADER_ALLOC_BYTES_MAX);
    reader.limits(bounds.clone());
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    crate::facts::check_size(format, width, height, limits)?;
    check_decoded(decoder.total_bytes())?;
    // The pixels and what the decoder needs beside them, now that their size is known and allowed.
    bounds.max_alloc = Some(DECODED_BYTES_MAX * 2);
    decoder.set_limits(bounds).map_err(failed)?;
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
        Format::Jpeg => Ok(ImageFormat::Jpeg),
        Format::Png => Ok(ImageFormat::Png),
        Format::Gif => Ok(ImageFormat::Gif),
        Format::WebP => Ok(ImageFormat::WebP),
        Format::Bmp => Ok(ImageFormat::Bmp),
        Format::Tiff => Ok(ImageFormat::Tiff),
        Format::Ico => Ok(ImageFormat::Ico),
        Format::Avif | Format::Heic | Format::Jxl => {
            Err(Error::Unsupported { what: "AVIF, HEIC and JPEG XL images are kept and served, but can't be rendered yet" })
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

//! Pixels: decode → orient → fit → encode. Meant to run in a process of its own; see [`crate`].

use std::fmt;
use std::io::Cursor;
use std::str::FromStr;

use fast_image_resize as fir;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{DynamicImage, ImageDecoder, ImageEncoder as _, ImageFormat, ImageReader};

use crate::{Error, Format, Limit, Limits};

/// Before its headers are understood a decoder may allocate no more than this: a colour profile can inflate to any cap.
const HEADER_ALLOC_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Decoded pixels of one image.
const DECODED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// JPEG quality of renderings.
const JPEG_QUALITY: u8 = 85;

/// What size a rendering has. Never larger than the original.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// As large as the original: only turned upright and freed of metadata.
    Original,
    /// The largest that fits into width × height pixels, aspect kept.
    Inside(u32, u32),
}

impl fmt::Display for Fit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Original => out.write_str("original"),
            Self::Inside(width, height) => write!(out, "inside-{width}x{height}"),
        }
    }
}

impl FromStr for Fit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "a fit is `original` or `inside-WIDTHxHEIGHT`";
        if text == "original" {
            return Ok(Self::Original);
        }
        let (width, height) = text.strip_prefix("inside-").and_then(|size| size.split_once('x')).ok_or(WRONG)?;
        match (width.parse(), height.parse()) {
            (Ok(width @ 1..), Ok(height @ 1..)) => Ok(Self::Inside(width, height)),
            _ => Err(WRONG),
        }
    }
}

/// Renders the first frame: upright, fitted, without EXIF, XMP or any other metadata but the colour profile.
/// Opaque pictures come out as JPEG, others as PNG.
///
/// # Errors
/// [`Error::Unsupported`] for formats that have no decoder here, [`Error::OverLimit`], [`Error::Render`] for broken pixels.
pub fn render(source: &[u8], fit: Fit, limits: &Limits) -> Result<Vec<u8>, Error> {
    let format = Format::sniff(source)?;
    let failed = |error: &dyn fmt::Display| Error::Render { format, detail: error.to_string() };
    let (picture, profile) = decode(source, format, limits)?;
    let picture = fitted(picture, fit).map_err(|error| failed(&error))?;
    encode(picture, profile).map_err(|error| failed(&error))
}

fn decode(source: &[u8], format: Format, limits: &Limits) -> Result<(DynamicImage, Option<Vec<u8>>), Error> {
    let failed = |error: &dyn fmt::Display| Error::Render { format, detail: error.to_string() };
    let mut reader = ImageReader::with_format(Cursor::new(source), image_format(format)?);
    let mut bounds = image::Limits::no_limits();
    bounds.max_image_width = Some(limits.side_px_max);
    bounds.max_image_height = Some(limits.side_px_max);
    bounds.max_alloc = Some(HEADER_ALLOC_BYTES_MAX);
    reader.limits(bounds.clone());
    let mut decoder = reader.into_decoder().map_err(|error| failed(&error))?;
    let (width, height) = decoder.dimensions();
    crate::facts::check_size(format, width, height, limits)?;
    let decoded = decoder.total_bytes();
    if decoded > DECODED_BYTES_MAX {
        return Err(Error::OverLimit { limit: Limit::DecodedBytes, actual: decoded, max: DECODED_BYTES_MAX });
    }
    // The pixels and what the decoder needs beside them, now that their size is known and allowed.
    bounds.max_alloc = Some(DECODED_BYTES_MAX * 2);
    decoder.set_limits(bounds).map_err(|error| failed(&error))?;
    let orientation = decoder.orientation().map_err(|error| failed(&error))?;
    // A broken profile is no reason to refuse a picture.
    let profile = decoder.icc_profile().unwrap_or_default();
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| failed(&error))?;
    picture.apply_orientation(orientation);
    Ok((picture, profile))
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

fn fitted(picture: DynamicImage, fit: Fit) -> Result<DynamicImage, fir::ResizeError> {
    let picture = eight_bits(picture);
    let Fit::Inside(width_max, height_max) = fit else { return Ok(picture) };
    let (width, height) = (picture.width(), picture.height());
    let scale = (f64::from(width_max) / f64::from(width)).min(f64::from(height_max) / f64::from(height));
    if scale >= 1.0 {
        return Ok(picture);
    }
    let scaled = |side: u32, max: u32| ((f64::from(side) * scale).round() as u32).clamp(1, max);
    let mut small = DynamicImage::new(scaled(width, width_max), scaled(height, height_max), picture.color());
    let options = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Lanczos3));
    fir::Resizer::new().resize(&picture, &mut small, &options)?;
    Ok(small)
}

fn eight_bits(picture: DynamicImage) -> DynamicImage {
    match picture {
        DynamicImage::ImageRgb8(_) | DynamicImage::ImageRgba8(_) | DynamicImage::ImageLuma8(_) => picture,
        other if other.color().has_alpha() => DynamicImage::ImageRgba8(other.into_rgba8()),
        other if other.color().has_color() => DynamicImage::ImageRgb8(other.into_rgb8()),
        other => DynamicImage::ImageLuma8(other.into_luma8()),
    }
}

fn encode(picture: DynamicImage, profile: Option<Vec<u8>>) -> Result<Vec<u8>, image::ImageError> {
    let mut bytes = Vec::new();
    let opaque = match &picture {
        DynamicImage::ImageRgba8(pixels) => pixels.pixels().all(|pixel| pixel.0[3] == u8::MAX),
        _ => true,
    };
    if opaque {
        let picture = if picture.color().has_alpha() { DynamicImage::ImageRgb8(picture.into_rgb8()) } else { picture };
        let mut encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
        if let Some(profile) = profile {
            let _ = encoder.set_icc_profile(profile);
        }
        picture.write_with_encoder(encoder)?;
    } else {
        let mut encoder = PngEncoder::new(&mut bytes);
        if let Some(profile) = profile {
            let _ = encoder.set_icc_profile(profile);
        }
        picture.write_with_encoder(encoder)?;
    }
    Ok(bytes)
}

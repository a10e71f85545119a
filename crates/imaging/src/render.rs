//! Pixels: decode → crop → fit → to sRGB → encode. Meant to run in a process of its own; see [`crate`].
//!
//! Sizes change in gamma space, as in browsers and libvips: by SSIM it keeps a little more of photographs than linear light does
//! (`docs/performance.md`).

use std::fmt;

use fast_image_resize as fir;
use image::DynamicImage;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;

use crate::decode::decode;
use crate::transform::{Crop, Fit, Transform};
use crate::{Error, Format, Limits, colour};

/// JPEG quality of renderings.
const JPEG_QUALITY: u8 = 85;
/// A JPEG is decoded to at least so many times the size that is wanted; the rest is the filter's, which does it better.
const OVERSAMPLING: f64 = 1.5;

/// A rectangle of the picture and the size that it is brought to.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Plan {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    to: (u32, u32),
}

/// Renders the first frame: upright, cropped, fitted, in sRGB and without any metadata.
///
/// # Errors
/// [`Error::Unsupported`] for formats that have no decoder here, [`Error::OverLimit`], [`Error::Render`] for broken pixels.
pub fn render(source: &[u8], transform: &Transform, limits: &Limits) -> Result<Vec<u8>, Error> {
    let format = Format::sniff(source)?;
    let failed = |error: &dyn fmt::Display| Error::Render { format, detail: error.to_string() };
    let decoded = decode(source, limits, |width, height| {
        let plan = plan(transform, width, height);
        let scale = (f64::from(plan.to.0) / plan.width).max(f64::from(plan.to.1) / plan.height) * OVERSAMPLING;
        let enough = |side: u32| (f64::from(side) * scale.min(1.0)).ceil() as u32;
        (enough(width), enough(height))
    })?;
    let (width, height) = (decoded.picture.width(), decoded.picture.height());
    let (full_width, full_height) = decoded.full_size;
    // Planned on the full picture, carried out on one that may have come smaller.
    let plan = plan(transform, full_width, full_height).scaled(width, height, full_width, full_height);
    let picture = resize(decoded.picture, &plan).map_err(|error| failed(&error))?;
    encode(colour::to_srgb(picture, decoded.profile.as_deref()), transform).map_err(|error| failed(&error))
}

fn plan(transform: &Transform, width: u32, height: u32) -> Plan {
    let Crop { x, y, width, height } =
        transform.crop.map_or(Crop { x: 0, y: 0, width, height }, |crop| clamped(crop, width, height));
    let whole = Plan { left: x.into(), top: y.into(), width: width.into(), height: height.into(), to: (width, height) };
    match transform.fit {
        Fit::Original => whole,
        Fit::Inside(width_max, height_max) => {
            let scale = (f64::from(width_max) / whole.width).min(f64::from(height_max) / whole.height).min(1.0);
            let side = |side: f64, max: u32| ((side * scale).round() as u32).clamp(1, max);
            if scale < 1.0 { Plan { to: (side(whole.width, width_max), side(whole.height, height_max)), ..whole } } else { whole }
        }
        Fit::Cover(to_width, to_height) => {
            let scale = (whole.width / f64::from(to_width)).min(whole.height / f64::from(to_height));
            let (width, height) = (f64::from(to_width) * scale, f64::from(to_height) * scale);
            let (left, top) = (whole.left + (whole.width - width) / 2.0, whole.top + (whole.height - height) / 2.0);
            Plan { left, top, width, height, to: (to_width, to_height) }
        }
    }
}

/// What of a crop lies on the picture; at least one pixel of it.
fn clamped(crop: Crop, width: u32, height: u32) -> Crop {
    let (x, y) = (crop.x.min(width - 1), crop.y.min(height - 1));
    Crop { x, y, width: crop.width.clamp(1, width - x), height: crop.height.clamp(1, height - y) }
}

impl Plan {
    fn scaled(self, width: u32, height: u32, full_width: u32, full_height: u32) -> Self {
        let (across, down) = (f64::from(width) / f64::from(full_width), f64::from(height) / f64::from(full_height));
        let (left, top) = (self.left * across, self.top * down);
        let (right, bottom) = ((self.left + self.width) * across, (self.top + self.height) * down);
        // Rounding may not lead over the edge.
        let (right, bottom) = (right.min(width.into()), bottom.min(height.into()));
        Self { left, top, width: right - left, height: bottom - top, ..self }
    }

    fn is_nothing(&self, picture: &DynamicImage) -> bool {
        self.to == (picture.width(), picture.height())
            && (self.left, self.top) == (0.0, 0.0)
            && (self.width, self.height) == (picture.width().into(), picture.height().into())
    }
}

fn resize(picture: DynamicImage, plan: &Plan) -> Result<DynamicImage, fir::ResizeError> {
    if plan.is_nothing(&picture) {
        return Ok(picture);
    }
    let mut resized = DynamicImage::new(plan.to.0, plan.to.1, picture.color());
    let options = fir::ResizeOptions::new()
        .crop(plan.left, plan.top, plan.width, plan.height)
        .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Lanczos3));
    fir::Resizer::new().resize(&picture, &mut resized, &options)?;
    Ok(resized)
}

fn encode(picture: DynamicImage, transform: &Transform) -> Result<Vec<u8>, image::ImageError> {
    let opaque = match &picture {
        DynamicImage::ImageRgba8(pixels) => pixels.pixels().all(|pixel| pixel.0[3] == u8::MAX),
        _ => true,
    };
    let picture = if opaque && picture.color().has_alpha() { DynamicImage::ImageRgb8(picture.into_rgb8()) } else { picture };
    let mut bytes = Vec::new();
    match transform.outputs.choose(opaque) {
        Format::Jpeg => {
            picture.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, transform.quality.unwrap_or(JPEG_QUALITY)))?;
        }
        Format::WebP => picture.write_with_encoder(WebPEncoder::new_lossless(&mut bytes))?,
        _ => picture.write_with_encoder(PngEncoder::new(&mut bytes))?,
    }
    Ok(bytes)
}

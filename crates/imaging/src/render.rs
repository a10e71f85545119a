//! Pixels: decode → crop and turn → fit → to sRGB → background, blur, sharpening → encode. Meant to run in a process of its own; see
//! [`crate`].
//!
//! Sizes change in gamma space, as in browsers and libvips: by SSIM it keeps a little more of photographs than linear light does
//! (`docs/performance.md`).

use std::io::Cursor;

use fast_image_resize as fir;
use image::DynamicImage;

use crate::decode::{Animation, Decoded, animation, decode};
use crate::encode::{AnimationEncoder, Encoding, Failed, Moment, encode, holds_profile};
use crate::plan::{Plan, cropped, turned_size};
use crate::stripped::stripped;
use crate::transform::{Colour, Metadata, Rotation, Transform};
use crate::{Error, Facts, Format, Limit, Limits, Orientation, colour, effects, inspect};
use imagewell_pixels::resize;

/// A JPEG is decoded to at least so many times the size that is wanted; the rest is the filter's, which does it better. 1.5 would gain
/// two thousandths of likeness for a fifth more time (`docs/performance.md`).
const OVERSAMPLING: f64 = 1.25;
const WHITE: Colour = Colour([255; 4]);
const CLEAR: Colour = Colour([255, 255, 255, 0]);

/// Renders a picture: upright, cropped, turned, fitted, with nothing of its metadata but what the transform asks for. An animation
/// stays one where the transform and its output allow; otherwise it is its first frame. Where nothing changes, and what
/// was made is larger than the source, the source without its metadata is the rendering.
///
/// # Errors
/// [`Error::Unsupported`] for formats that have no decoder here, [`Error::OverLimit`], [`Error::Render`] for broken pixels.
pub fn render(source: &[u8], transform: &Transform, limits: &Limits) -> Result<Vec<u8>, Error> {
    let format = Format::sniff(source)?;
    let rendered = encoded(source, format, transform, limits)?;
    if rendered.len() <= source.len() || !transform.outputs.contain(format) {
        return Ok(rendered);
    }
    Ok(unchanged(source, transform, limits).unwrap_or(rendered))
}

fn encoded(source: &[u8], format: Format, transform: &Transform, limits: &Limits) -> Result<Vec<u8>, Error> {
    let failed = |Failed(detail)| Error::Render { format, detail };
    if transform.animate
        && transform.outputs.can_animate()
        && let Some(animation) = animation(source, limits)?
        && let Some(format) = transform.outputs.choose_animated(Plan::new(transform, animation.size, None).size())
    {
        return animated(animation, format, transform, limits, failed);
    }
    let decoded = decode(source, limits, |width, height| enough(transform, (width, height)))?;
    Plan::new(transform, decoded.full_size, None).check(limits)?;
    let Decoded { picture, profile, full_size } = decoded;
    let (picture, kept) = drawn(picture, profile.as_deref(), full_size, transform).map_err(failed)?;
    let opaque = is_opaque(&picture);
    let picture = if opaque && picture.color().has_alpha() { DynamicImage::ImageRgb8(picture.into_rgb8()) } else { picture };
    let chosen = transform.outputs.choose(opaque, (picture.width(), picture.height()));
    let picture = if chosen == Format::Jpeg && !opaque { over(picture, WHITE) } else { picture };
    // What the format can't hold has to be followed after all.
    let (picture, kept) = match kept {
        Some(profile) if !holds_profile(chosen) => (colour::to_srgb(picture, Some(profile)), None),
        kept => (picture, kept),
    };
    let palette = has_palette(source, format);
    encode(&picture, &Encoding { palette, ..encoding(transform, chosen, kept) }).map_err(failed)
}

/// The source without its metadata, where the transform asks for nothing but that.
fn unchanged(source: &[u8], transform: &Transform, limits: &Limits) -> Option<Vec<u8>> {
    let Facts { format, width, height, frames, orientation } = inspect(Cursor::new(source), limits).ok()?;
    let Transform { rotation, flip, background, blur, sharpen, quality, lossless, metadata, animate, outputs, .. } = *transform;
    let asks_for_more = background.is_some() || blur.is_some() || sharpen.is_some() || quality.is_some();
    let turned = rotation != Rotation::None || flip.horizontal || flip.vertical || orientation != Orientation::UPRIGHT;
    if asks_for_more || turned || lossless || outputs.progressive || metadata != Metadata::None || (frames > 1 && !animate) {
        return None;
    }
    let plan = Plan::new(transform, (width, height), None);
    if plan.canvas.is_some() || !plan.keeps((width, height)) { None } else { stripped(source, format) }
}

/// Whether a file's pixels are numbers of colours.
fn has_palette(source: &[u8], format: Format) -> bool {
    const COLOUR_TYPE_AT: usize = 25;
    const INDEXED: u8 = 3;
    match format {
        Format::Gif => true,
        Format::Png => source.get(COLOUR_TYPE_AT) == Some(&INDEXED),
        _ => false,
    }
}

fn encoding<'a>(transform: &Transform, format: Format, profile: Option<&'a [u8]>) -> Encoding<'a> {
    let Transform { quality, lossless, outputs, .. } = *transform;
    Encoding { format, quality, lossless, progressive: outputs.progressive, palette: false, profile }
}

/// The upright size that is enough for a rendering.
pub(crate) fn enough(transform: &Transform, (width, height): (u32, u32)) -> (u32, u32) {
    let scale = (Plan::new(transform, (width, height), None).scale() * OVERSAMPLING).min(1.0);
    let enough = |side: u32| (f64::from(side) * scale).ceil() as u32;
    (enough(width), enough(height))
}

/// One upright picture as it will be encoded, and the profile that its numbers still follow.
pub(crate) fn drawn<'a>(
    picture: DynamicImage,
    profile: Option<&'a [u8]>,
    full_size: (u32, u32),
    transform: &Transform,
) -> Result<(DynamicImage, Option<&'a [u8]>), Failed> {
    let picture = turned(picture, transform);
    let plan = planned(&picture, full_size, transform);
    carried_out(&plan, picture, profile, full_size, transform)
}

/// The plan for a turned picture, whose pixels decide where the transform leaves that to them.
fn planned(picture: &DynamicImage, full_size: (u32, u32), transform: &Transform) -> Plan {
    let part = if transform.gravity.needs_pixels() { cropped(transform, picture, full_size) } else { None };
    Plan::new(transform, full_size, Some(part.as_ref().unwrap_or(picture)))
}

fn carried_out<'a>(
    plan: &Plan,
    picture: DynamicImage,
    profile: Option<&'a [u8]>,
    full_size: (u32, u32),
    transform: &Transform,
) -> Result<(DynamicImage, Option<&'a [u8]>), Failed> {
    // Planned on the full picture, carried out on one that may have come smaller.
    let on_this = plan.on((picture.width(), picture.height()), turned_size(transform, full_size));
    let picture = resized(picture, &on_this).map_err(|error| Failed(error.to_string()))?;
    let (picture, kept) = match profile {
        Some(profile) if keeps_profile(plan, &picture, profile, transform) => (picture, Some(profile)),
        profile => (colour::to_srgb(picture, profile), None),
    };
    let picture = match plan.canvas {
        Some(canvas) => effects::on_canvas(&picture, canvas.size, canvas.place, transform.background.unwrap_or(CLEAR)),
        None => match transform.background {
            Some(background) => over(picture, background),
            None => picture,
        },
    };
    let picture = match transform.blur {
        Some(tenths) => effects::blurred(&picture, f32::from(tenths) / 10.0),
        None => picture,
    };
    let picture = match transform.sharpen {
        Some(tenths) => effects::sharpened(picture, f32::from(tenths) / 10.0),
        None => picture,
    };
    Ok((picture, kept))
}

/// Whether a picture's numbers may go on meaning what its profile says: it is of their kind, no later step makes them another one, and no
/// colour is added, which would be sRGB's.
fn keeps_profile(plan: &Plan, picture: &DynamicImage, profile: &[u8], transform: &Transform) -> bool {
    let has_colour = picture.color().has_color();
    let adds_colour = transform.background.is_some() && (plan.canvas.is_some() || picture.color().has_alpha());
    let becomes_rgb = plan.canvas.is_some() && !has_colour;
    transform.metadata == Metadata::Profile && !adds_colour && !becomes_rgb && colour::explains(profile, picture)
}

/// Frame after frame, so that only what is to be encoded is held.
fn animated(
    animation: Animation<'_>,
    format: Format,
    transform: &Transform,
    limits: &Limits,
    failed: impl Fn(Failed) -> Error,
) -> Result<Vec<u8>, Error> {
    let Animation { frames, count, profile, size, plays } = animation;
    let transform = &Transform { metadata: Metadata::None, ..*transform };
    check_animation(&Plan::new(transform, size, None), count, limits)?;
    let mut encoder = AnimationEncoder::new(encoding(transform, format, None), plays);
    // One for all frames: a window that followed each of them would jump.
    let mut plan = None;
    for frame in frames {
        let frame = frame?;
        let full_size = frame.canvas.dimensions();
        let picture = turned(frame.canvas.into(), transform);
        let plan = *plan.get_or_insert_with(|| planned(&picture, full_size, transform));
        let (picture, _) = carried_out(&plan, picture, profile.as_deref(), full_size, transform).map_err(&failed)?;
        encoder.add(Moment { canvas: picture.into_rgba8(), milliseconds: frame.milliseconds });
    }
    encoder.finish().map_err(failed)
}

/// Refuses animations over the limits, before anything is allocated for their frames.
fn check_animation(plan: &Plan, count: u32, limits: &Limits) -> Result<(), Error> {
    plan.check(limits)?;
    let (width, height) = plan.size();
    let actual = u64::from(width) * u64::from(height) * u64::from(count);
    if actual > limits.output_frame_pixels_max {
        return Err(Error::OverLimit { limit: Limit::OutputFramePixels, actual, max: limits.output_frame_pixels_max });
    }
    Ok(())
}

fn turned(picture: DynamicImage, transform: &Transform) -> DynamicImage {
    let picture = match transform.rotation {
        Rotation::None => picture,
        Rotation::Right => picture.rotate90(),
        Rotation::Half => picture.rotate180(),
        Rotation::Left => picture.rotate270(),
    };
    let picture = if transform.flip.horizontal { picture.fliph() } else { picture };
    if transform.flip.vertical { picture.flipv() } else { picture }
}

fn resized(picture: DynamicImage, plan: &Plan) -> Result<DynamicImage, fir::ResizeError> {
    if plan.keeps((picture.width(), picture.height())) {
        return Ok(picture);
    }
    let options = fir::ResizeOptions::new()
        .crop(plan.left, plan.top, plan.width, plan.height)
        .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Lanczos3));
    resize(&picture, plan.to, &options)
}

fn over(picture: DynamicImage, background: Colour) -> DynamicImage {
    if !picture.color().has_alpha() {
        return picture;
    }
    effects::on_canvas(&picture, (picture.width(), picture.height()), (0, 0), background)
}

fn is_opaque(picture: &DynamicImage) -> bool {
    match picture {
        DynamicImage::ImageRgba8(pixels) => pixels.pixels().all(|pixel| pixel.0[3] == u8::MAX),
        _ => true,
    }
}

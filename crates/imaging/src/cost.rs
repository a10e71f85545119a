//! What a rendering will take, known before anything is decoded.

use std::fmt;

use crate::plan::Plan;
use crate::transform::{Outputs, Transform};
use crate::{Facts, Format};

/// An encoder that takes a large part of a second for each megapixel, many times what the others take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowEncoder {
    /// AVIF.
    Avif,
    /// WebP without loss.
    LosslessWebP,
}

/// The format in words.
impl fmt::Display for SlowEncoder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Avif => "AVIF",
            Self::LosslessWebP => "lossless WebP",
        })
    }
}

/// The slow encoder that a rendering of an image goes through, with the pixels that it gets, of all frames of an animation together; none
/// when a quick one makes it.
#[must_use]
pub fn slow_encoder(transform: &Transform, facts: &Facts) -> Option<(SlowEncoder, u64)> {
    let size = output_size(transform, facts);
    let animated = if transform.animate && facts.frames > 1 { transform.outputs.choose_animated(size) } else { None };
    let encoder = match animated.unwrap_or_else(|| transform.outputs.choose(true, size)) {
        Format::Avif => SlowEncoder::Avif,
        Format::WebP if transform.lossless => SlowEncoder::LosslessWebP,
        _ => return None,
    };
    let frames = if animated.is_some() { u64::from(facts.frames) } else { 1 };
    Some((encoder, (u64::from(size.0) * u64::from(size.1)).saturating_mul(frames)))
}

/// The size of a rendering in the only format that may be made, where that format can't be so large.
#[must_use]
pub fn too_large_for(transform: &Transform, facts: &Facts) -> Option<(Format, (u32, u32))> {
    let size = output_size(transform, facts);
    transform.outputs.only().filter(|format| !format.holds(size)).map(|format| (format, size))
}

/// The same transform for clients whose other formats are as good: without AVIF. None when AVIF alone was asked for.
#[must_use]
pub fn without_avif(transform: &Transform) -> Option<Transform> {
    let outputs = Outputs { avif: false, ..transform.outputs };
    let others = outputs.jpeg || outputs.png || outputs.webp || outputs.gif;
    (transform.outputs.avif && others).then_some(Transform { outputs, ..*transform })
}

/// Width and height of a rendering, by the size that the image says it has.
fn output_size(transform: &Transform, facts: &Facts) -> (u32, u32) {
    let swaps = facts.orientation.swaps_sides();
    let upright = if swaps { (facts.height, facts.width) } else { (facts.width, facts.height) };
    Plan::new(transform, upright, None).size()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Orientation;
    use crate::transform::{Fit, Rotation};

    #[test]
    fn the_slow_encoders_and_their_pixels_are_known_beforehand() {
        let facts = Facts { format: Format::Jpeg, width: 400, height: 300, frames: 1, orientation: Orientation::from_exif(6) };
        let avif = Outputs { avif: true, ..Outputs::NONE };
        let of = |outputs, fit| Transform { outputs, ..Transform::of(fit) };
        assert_eq!(slow_encoder(&of(avif, Fit::Original), &facts), Some((SlowEncoder::Avif, 120_000)));
        let small = Transform { rotation: Rotation::Right, ..of(avif, Fit::Inside(40, 400)) };
        assert_eq!(slow_encoder(&small, &facts), Some((SlowEncoder::Avif, 40 * 30)));
        let padded = of(avif, Fit::Contain(500, 500));
        assert_eq!(slow_encoder(&padded, &facts), Some((SlowEncoder::Avif, 250_000)), "the background counts");
        let lossless = Transform { lossless: true, ..of(Outputs::WEBP, Fit::Original) };
        assert_eq!(slow_encoder(&lossless, &facts), Some((SlowEncoder::LosslessWebP, 120_000)));
        for quick in [of(Outputs::WEBP, Fit::Original), of(Outputs::CLASSIC, Fit::Original)] {
            assert_eq!(slow_encoder(&quick, &facts), None);
        }
        let long = Facts { height: 20_000, ..facts };
        assert_eq!(too_large_for(&of(Outputs::WEBP, Fit::Original), &long), Some((Format::WebP, (20_000, 400))));
        assert_eq!(too_large_for(&of(Outputs::WEBP, Fit::Inside(16_383, 16_383)), &long), None);
        let modern = Outputs { webp: true, ..Outputs::CLASSIC };
        assert_eq!(too_large_for(&of(modern, Fit::Original), &long), None, "another format is taken");
        let moving = Transform { animate: true, ..of(Outputs { webp: true, ..avif }, Fit::Original) };
        assert_eq!(slow_encoder(&moving, &Facts { frames: 2, ..facts }), None);
        let moving = Transform { lossless: true, ..moving };
        let (animation, still) = (Facts { frames: 7, ..facts }, Transform { animate: false, ..moving });
        assert_eq!(slow_encoder(&moving, &animation), Some((SlowEncoder::LosslessWebP, 7 * 120_000)), "every frame is encoded");
        assert_eq!(slow_encoder(&still, &animation), Some((SlowEncoder::Avif, 120_000)), "one frame is");
        assert_eq!(without_avif(&of(avif, Fit::Original)), None, "there is nothing else");
        let modern = of(Outputs { avif: true, ..Outputs::CLASSIC }, Fit::Original);
        assert_eq!(without_avif(&modern), Some(of(Outputs::CLASSIC, Fit::Original)));
    }
}

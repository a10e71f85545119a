//! What is made of an image, as a value with one canonical text: the text names renderings and goes to the process that makes them.

use std::fmt;
use std::str::FromStr;

use crate::Format;

/// A part of the upright picture, in its pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Crop {
    /// From the left edge.
    pub x: u32,
    /// From the upper edge.
    pub y: u32,
    /// At least 1.
    pub width: u32,
    /// At least 1.
    pub height: u32,
}

/// What size a rendering has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fit {
    /// As large as the original, or as its crop.
    Original,
    /// The largest that fits into width × height pixels, aspect kept; never enlarged.
    Inside(u32, u32),
    /// Exactly width × height pixels: the middle of the picture, or of its crop, enlarged where it must be.
    Cover(u32, u32),
}

/// The formats that a rendering may come out in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Outputs {
    /// For opaque pictures.
    pub jpeg: bool,
    /// For any.
    pub png: bool,
    /// Lossless here, so it is for pictures with transparency.
    pub webp: bool,
}

impl Fit {
    /// So many pixels wide and high.
    #[must_use]
    pub fn square(side: u32) -> Self {
        Self::Cover(side, side)
    }
}

impl Outputs {
    /// What every client reads.
    pub const CLASSIC: Self = Self { jpeg: true, png: true, webp: false };
    /// PNG alone.
    pub const PNG: Self = Self { jpeg: false, png: true, webp: false };

    /// The one that suits a picture best; PNG when nothing suits.
    #[must_use]
    pub fn choose(self, opaque: bool) -> Format {
        match (opaque, self.jpeg, self.webp, self.png) {
            (true, true, _, _) => Format::Jpeg,
            (false, _, true, _) | (_, _, true, false) => Format::WebP,
            _ => Format::Png,
        }
    }
}

/// What is made of an image: crop, then fit, then output. Upright and in sRGB always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transform {
    /// None is all of it.
    pub crop: Option<Crop>,
    /// How large.
    pub fit: Fit,
    /// JPEG quality from 1 to 100; none is the usual one.
    pub quality: Option<u8>,
    /// As what.
    pub outputs: Outputs,
}

impl Transform {
    /// All of the picture, for clients of any age.
    #[must_use]
    pub fn of(fit: Fit) -> Self {
        Self { crop: None, fit, quality: None, outputs: Outputs::CLASSIC }
    }
}

impl fmt::Display for Transform {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Crop { x, y, width, height }) = self.crop {
            write!(out, "crop-{x}-{y}-{width}-{height}_")?;
        }
        match self.fit {
            Fit::Original => out.write_str("original")?,
            Fit::Inside(width, height) => write!(out, "inside-{width}x{height}")?,
            Fit::Cover(width, height) => write!(out, "cover-{width}x{height}")?,
        }
        if let Some(quality) = self.quality {
            write!(out, "_q{quality}")?;
        }
        let Outputs { jpeg, png, webp } = self.outputs;
        let names = [("jpeg", jpeg), ("png", png), ("webp", webp)];
        names
            .iter()
            .filter(|(_, allowed)| *allowed)
            .enumerate()
            .try_for_each(|(index, (name, _))| write!(out, "{}{name}", if index == 0 { '_' } else { '-' }))
    }
}

impl FromStr for Transform {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str =
            "a transform has the form crop-X-Y-W-H_FIT_qN_FORMATS, where FIT is original, inside-WxH or cover-WxH";
        let mut steps = text.split('_').peekable();
        let crop = steps.next_if(|step| step.starts_with("crop-")).map(|step| crop_of(step).ok_or(WRONG)).transpose()?;
        let fit = steps.next().and_then(fit_of).ok_or(WRONG)?;
        let quality = steps.next_if(|step| step.starts_with('q')).map(|step| quality_of(step).ok_or(WRONG)).transpose()?;
        let outputs = steps.next().and_then(outputs_of).ok_or(WRONG)?;
        if steps.next().is_some() { Err(WRONG) } else { Ok(Self { crop, fit, quality, outputs }) }
    }
}

fn crop_of(step: &str) -> Option<Crop> {
    let mut numbers = step.strip_prefix("crop-")?.split('-').map(str::parse::<u32>);
    let mut next = || numbers.next()?.ok();
    let crop = Crop { x: next()?, y: next()?, width: next()?, height: next()? };
    (crop.width > 0 && crop.height > 0 && numbers.next().is_none()).then_some(crop)
}

fn fit_of(step: &str) -> Option<Fit> {
    let side = |text: &str| text.parse::<u32>().ok().filter(|side| *side > 0);
    if let Some((width, height)) = step.strip_prefix("inside-").and_then(|size| size.split_once('x')) {
        return Some(Fit::Inside(side(width)?, side(height)?));
    }
    if let Some((width, height)) = step.strip_prefix("cover-").and_then(|size| size.split_once('x')) {
        return Some(Fit::Cover(side(width)?, side(height)?));
    }
    (step == "original").then_some(Fit::Original)
}

fn quality_of(step: &str) -> Option<u8> {
    step.strip_prefix('q')?.parse().ok().filter(|quality| (1..=100).contains(quality))
}

fn outputs_of(step: &str) -> Option<Outputs> {
    let mut outputs = Outputs { jpeg: false, png: false, webp: false };
    for name in step.split('-') {
        match name {
            "jpeg" => outputs.jpeg = true,
            "png" => outputs.png = true,
            "webp" => outputs.webp = true,
            _ => return None,
        }
    }
    Some(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_transform_is_read_back() {
        let crop = Crop { x: 1, y: 0, width: 30, height: 40 };
        let all = Outputs { jpeg: true, png: true, webp: true };
        for (transform, text) in [
            (Transform::of(Fit::Original), "original_jpeg-png"),
            (Transform::of(Fit::Inside(2000, 1000)), "inside-2000x1000_jpeg-png"),
            (
                Transform { crop: Some(crop), fit: Fit::square(64), quality: None, outputs: all },
                "crop-1-0-30-40_cover-64x64_jpeg-png-webp",
            ),
            (Transform { crop: None, fit: Fit::Cover(1, 2), quality: Some(7), outputs: Outputs::PNG }, "cover-1x2_q7_png"),
        ] {
            assert_eq!(transform.to_string(), text);
            assert_eq!(text.parse(), Ok(transform));
        }
        for text in [
            "",
            "original",
            "cover-0x1_png",
            "cover--1x1_png",
            "original_q0_png",
            "original_q101_png",
            "inside-5_png",
            "crop-1-2-3_original_png",
            "crop-1-2-3-0_original_png",
            "original_gif",
            "original_png_png",
            "../x",
        ] {
            assert!(text.parse::<Transform>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn transparency_is_kept_whatever_the_client_reads() {
        let all = Outputs { jpeg: true, png: true, webp: true };
        let only = |jpeg, png, webp| Outputs { jpeg, png, webp };
        assert_eq!((all.choose(true), all.choose(false)), (Format::Jpeg, Format::WebP));
        assert_eq!((Outputs::CLASSIC.choose(true), Outputs::CLASSIC.choose(false)), (Format::Jpeg, Format::Png));
        assert_eq!(only(true, false, false).choose(false), Format::Png, "nothing suits");
        assert_eq!(only(false, false, true).choose(true), Format::WebP);
        assert_eq!(only(false, true, true).choose(true), Format::Png);
    }
}

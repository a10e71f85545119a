//! The canonical text of a transform: its steps in the order in which they are carried out, with what is usual left out.

use std::fmt;
use std::str::FromStr;

use super::{Colour, Crop, Fit, Gravity, Metadata, Outputs, Rotation, Transform};

const WRONG: &str = "a transform has the form crop-X-Y-W-H_FIT_FORMATS, as in inside-300x200_q80_jpeg-png";

/// Names of outputs and where they stand.
type Output = (&'static str, fn(&mut Outputs) -> &mut bool);
const OUTPUTS: [Output; 6] = [
    ("jpeg", |outputs| &mut outputs.jpeg),
    ("progressive", |outputs| &mut outputs.progressive),
    ("png", |outputs| &mut outputs.png),
    ("webp", |outputs| &mut outputs.webp),
    ("avif", |outputs| &mut outputs.avif),
    ("gif", |outputs| &mut outputs.gif),
];

impl fmt::Display for Transform {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Crop { x, y, width, height }) = self.crop {
            write!(out, "crop-{x}-{y}-{width}-{height}_")?;
        }
        if self.rotation != Rotation::None {
            write!(out, "rotate-{}_", self.rotation.degrees())?;
        }
        match (self.flip.horizontal, self.flip.vertical) {
            (false, false) => {}
            (horizontal, vertical) => {
                write!(out, "flip-{}{}_", if horizontal { "h" } else { "" }, if vertical { "v" } else { "" })?;
            }
        }
        match self.fit {
            Fit::Original => out.write_str("original")?,
            Fit::Inside(width, height) => write!(out, "inside-{width}x{height}")?,
            Fit::Width(width) => write!(out, "width-{width}")?,
            Fit::Height(height) => write!(out, "height-{height}")?,
            Fit::Outside(width, height) => write!(out, "outside-{width}x{height}")?,
            Fit::Cover(width, height) => write!(out, "cover-{width}x{height}")?,
            Fit::Contain(width, height) => write!(out, "contain-{width}x{height}")?,
            Fit::Fill(width, height) => write!(out, "fill-{width}x{height}")?,
        }
        match self.gravity {
            Gravity::Focus => {}
            Gravity::Centre => out.write_str("_centre")?,
            Gravity::Point(x, y) => write!(out, "_point-{x}-{y}")?,
            Gravity::Side(x, y) => write!(out, "_side-{}-{}", x + 1, y + 1)?,
            Gravity::Entropy => out.write_str("_entropy")?,
            Gravity::Attention => out.write_str("_attention")?,
        }
        if let Some(Colour([red, green, blue, opacity])) = self.background {
            write!(out, "_bg-{red:02x}{green:02x}{blue:02x}{opacity:02x}")?;
        }
        for (name, value) in [("blur-", self.blur), ("sharpen-", self.sharpen), ("q", self.quality.map(u16::from))] {
            if let Some(value) = value {
                write!(out, "_{name}{value}")?;
            }
        }
        let flags = [
            ("enlarge", self.enlarge),
            ("lossless", self.lossless),
            ("profile", self.metadata == Metadata::Profile),
            ("animate", self.animate),
        ];
        flags.iter().filter(|(_, set)| *set).try_for_each(|(name, _)| write!(out, "_{name}"))?;
        let mut outputs = self.outputs;
        let names = OUTPUTS.iter().filter_map(|(name, allowed)| allowed(&mut outputs).then_some(*name)).collect::<Vec<_>>();
        write!(out, "_{}", names.join("-"))
    }
}

/// Only the canonical text is read: whatever means the same is written the same.
impl FromStr for Transform {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (steps, outputs) = text.rsplit_once('_').ok_or(WRONG)?;
        let mut transform = Self { enlarge: false, outputs: outputs_of(outputs).ok_or(WRONG)?, ..Self::of(Fit::Original) };
        for step in steps.split('_') {
            read_step(&mut transform, step).ok_or(WRONG)?;
        }
        if transform.to_string() == text { Ok(transform) } else { Err(WRONG) }
    }
}

fn read_step(transform: &mut Transform, step: &str) -> Option<()> {
    let (name, value) = step.split_once('-').unwrap_or((step, ""));
    match name {
        "crop" => transform.crop = Some(crop_of(value)?),
        "rotate" => transform.rotation = Rotation::from_degrees(value.parse().ok()?)?,
        "flip" => (transform.flip.horizontal, transform.flip.vertical) = (value.contains('h'), value.contains('v')),
        "original" | "width" | "height" | "inside" | "outside" | "cover" | "contain" | "fill" => {
            transform.fit = fit_of(name, value)?;
        }
        "centre" | "point" | "side" | "entropy" | "attention" => transform.gravity = gravity_of(name, value)?,
        "bg" => transform.background = Some(Colour::from_hex(value)?),
        "blur" => transform.blur = Some(value.parse().ok().filter(|blur| (1..=Transform::BLUR_MAX).contains(blur))?),
        "sharpen" => {
            transform.sharpen = Some(value.parse().ok().filter(|sharpen| (1..=Transform::SHARPEN_MAX).contains(sharpen))?);
        }
        "enlarge" => transform.enlarge = true,
        "lossless" => transform.lossless = true,
        "profile" => transform.metadata = Metadata::Profile,
        "animate" => transform.animate = true,
        _ => {
            let quality: u8 = step.strip_prefix('q')?.parse().ok()?;
            transform.quality = Some(quality).filter(|quality| (1..=100).contains(quality));
        }
    }
    Some(())
}

fn crop_of(value: &str) -> Option<Crop> {
    let mut numbers = value.split('-').map(str::parse::<u32>);
    let mut next = || numbers.next()?.ok();
    let crop = Crop { x: next()?, y: next()?, width: next()?, height: next()? };
    (crop.width > 0 && crop.height > 0 && numbers.next().is_none()).then_some(crop)
}

fn fit_of(name: &str, value: &str) -> Option<Fit> {
    let side = |text: &str| text.parse::<u32>().ok().filter(|side| *side > 0);
    match name {
        "original" => return Some(Fit::Original),
        "width" => return side(value).map(Fit::Width),
        "height" => return side(value).map(Fit::Height),
        _ => {}
    }
    let (width, height) = value.split_once('x')?;
    let (width, height) = (side(width)?, side(height)?);
    Some(match name {
        "inside" => Fit::Inside(width, height),
        "outside" => Fit::Outside(width, height),
        "cover" => Fit::Cover(width, height),
        "contain" => Fit::Contain(width, height),
        _ => Fit::Fill(width, height),
    })
}

fn gravity_of(name: &str, value: &str) -> Option<Gravity> {
    let pair = || value.split_once('-');
    match name {
        "centre" => Some(Gravity::Centre),
        "entropy" => Some(Gravity::Entropy),
        "attention" => Some(Gravity::Attention),
        "point" => {
            let thousandth = |text: &str| text.parse::<u16>().ok().filter(|part| *part <= 1000);
            let (x, y) = pair()?;
            Some(Gravity::Point(thousandth(x)?, thousandth(y)?))
        }
        _ => {
            let third = |text: &str| text.parse::<i8>().ok().filter(|third| (0..=2).contains(third)).map(|third| third - 1);
            let (x, y) = pair()?;
            Some(Gravity::Side(third(x)?, third(y)?))
        }
    }
}

fn outputs_of(text: &str) -> Option<Outputs> {
    let mut outputs = Outputs::NONE;
    for name in text.split('-') {
        let (_, allowed) = OUTPUTS.iter().find(|(known, _)| *known == name)?;
        *allowed(&mut outputs) = true;
    }
    Some(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::Flip;

    #[test]
    fn the_text_of_a_transform_is_read_back() {
        let everything = Transform {
            crop: Some(Crop { x: 1, y: 0, width: 30, height: 40 }),
            rotation: Rotation::Left,
            flip: Flip { horizontal: true, vertical: true },
            fit: Fit::Contain(10, 20),
            gravity: Gravity::Side(-1, 1),
            enlarge: true,
            background: Colour::from_hex("0a0b0c80"),
            blur: Some(15),
            sharpen: Some(10),
            quality: Some(7),
            lossless: true,
            metadata: Metadata::Profile,
            animate: true,
            outputs: Outputs { jpeg: true, progressive: true, png: true, webp: true, avif: true, gif: true },
        };
        let png = |fit| Transform { enlarge: false, outputs: Outputs::PNG, ..Transform::of(fit) };
        for (transform, text) in [
            (Transform::of(Fit::Original), "original_jpeg-png-gif"),
            (Transform::of(Fit::square(64)), "cover-64x64_enlarge_jpeg-png-gif"),
            (png(Fit::Inside(2000, 1000)), "inside-2000x1000_png"),
            (png(Fit::Width(2000)), "width-2000_png"),
            (png(Fit::Height(1)), "height-1_png"),
            (png(Fit::Outside(1, 2)), "outside-1x2_png"),
            (png(Fit::Fill(1, 2)), "fill-1x2_png"),
            (Transform { gravity: Gravity::Point(0, 1000), ..png(Fit::Cover(1, 2)) }, "cover-1x2_point-0-1000_png"),
            (Transform { gravity: Gravity::Centre, ..png(Fit::Cover(1, 2)) }, "cover-1x2_centre_png"),
            (Transform { gravity: Gravity::Attention, ..png(Fit::Cover(1, 2)) }, "cover-1x2_attention_png"),
            (
                everything,
                "crop-1-0-30-40_rotate-270_flip-hv_contain-10x20_side-0-2_bg-0a0b0c80_blur-15_sharpen-10_q7_enlarge_lossless_profile_\
                 animate_jpeg-progressive-png-webp-avif-gif",
            ),
        ] {
            assert_eq!(transform.to_string(), text);
            assert_eq!(text.parse(), Ok(transform));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "original",
            "original_",
            "cover-0x1_png",
            "cover--1x1_png",
            "cover-01x1_png",
            "original_q0_png",
            "original_q101_png",
            "inside-5_png",
            "crop-1-2-3_original_png",
            "crop-1-2-3-0_original_png",
            "original_tiff",
            "original_png_png",
            "original_png-jpeg",
            "original_bg-fff_png",
            "original_bg-FFFFFFFF_png",
            "rotate-45_original_png",
            "flip-vh_original_png",
            "original_blur-0_png",
            "original_blur-1001_png",
            "original_enlarge_q5_png",
            "point-1-1001_original_png",
            "../x",
        ] {
            assert!(text.parse::<Transform>().is_err(), "{text:?}");
        }
    }
}

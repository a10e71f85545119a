//! Transforms as they stand in URLs: `w_300,h_200,fit_cover,f_auto`. The order means nothing; every step stands once.

use imagewell_imaging::transform::{Fit, Outputs, Transform};

/// Largest ratio of device pixels to those of the page.
const RATIO_MAX: f64 = 4.0;

/// What was asked for, before the client's formats are known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Asked {
    fit: Fit,
    quality: Option<u8>,
    /// None leaves it to the picture and to what the client reads.
    outputs: Option<Outputs>,
}

impl Asked {
    /// Reads a transform. Sides are at most `side_px_max`, device pixels counted.
    pub(super) fn parse(text: &str, side_px_max: u32) -> Result<Self, String> {
        let mut steps = Steps::default();
        if text != "original" {
            for step in text.split(',') {
                steps.read(step)?;
            }
        }
        steps.asked(side_px_max)
    }

    pub(super) fn depends_on_accept(&self) -> bool {
        self.outputs.is_none()
    }

    pub(super) fn transform(&self, client: Outputs) -> Transform {
        Transform { quality: self.quality, outputs: self.outputs.unwrap_or(client), ..Transform::of(self.fit) }
    }
}

#[derive(Default)]
struct Steps {
    width: Option<u32>,
    height: Option<u32>,
    ratio: Option<f64>,
    cover: Option<bool>,
    quality: Option<u8>,
    format: Option<Option<Outputs>>,
}

impl Steps {
    fn read(&mut self, step: &str) -> Result<(), String> {
        let (name, value) = step.split_once('_').unwrap_or((step, ""));
        match name {
            "w" => once(name, &mut self.width, whole(value).filter(|side| *side > 0), "pixels, from 1"),
            "h" => once(name, &mut self.height, whole(value).filter(|side| *side > 0), "pixels, from 1"),
            "dpr" => {
                let ratio = value.parse::<f64>().ok().filter(|ratio| (1.0..=RATIO_MAX).contains(ratio));
                once(name, &mut self.ratio, ratio, "a ratio from 1 to 4")
            }
            "fit" => {
                let cover = match value {
                    "cover" => Some(true),
                    "inside" => Some(false),
                    _ => None,
                };
                once(name, &mut self.cover, cover, "inside or cover")
            }
            "q" => {
                let quality = whole(value).and_then(|quality| u8::try_from(quality).ok());
                once(name, &mut self.quality, quality.filter(|quality| (1..=100).contains(quality)), "a quality from 1 to 100")
            }
            "f" => once(name, &mut self.format, format(value), "auto, jpeg, png or webp"),
            _ => Err(format!("there is no step {step:?}, but w, h, dpr, fit, q and f, as in w_300,h_200,fit_cover")),
        }
    }

    fn asked(self, side_px_max: u32) -> Result<Asked, String> {
        let device = |side: u32| (f64::from(side) * self.ratio.unwrap_or(1.0)).round() as u32;
        let (width, height) = (self.width.map(device), self.height.map(device));
        if [width, height].into_iter().flatten().any(|side| side > side_px_max) {
            return Err(format!("a side has at most {side_px_max} pixels, dpr counted"));
        }
        let fit = match (width, height, self.cover.unwrap_or(false)) {
            (Some(width), Some(height), true) => Fit::Cover(width, height),
            (_, _, true) => return Err("fit_cover needs w and h".to_owned()),
            (None, None, false) if self.ratio.is_some() => return Err("dpr needs w or h".to_owned()),
            (None, None, false) => Fit::Original,
            (width, height, false) => Fit::Inside(width.unwrap_or(side_px_max), height.unwrap_or(side_px_max)),
        };
        Ok(Asked { fit, quality: self.quality, outputs: self.format.flatten() })
    }
}

fn once<T>(name: &str, place: &mut Option<T>, value: Option<T>, hint: &str) -> Result<(), String> {
    let value = value.ok_or_else(|| format!("{name}_ is followed by {hint}"))?;
    if place.replace(value).is_some() { Err(format!("{name} is given twice")) } else { Ok(()) }
}

fn whole(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// WebP is lossless here, so it is for drawings; a picture with transparency never comes out as JPEG.
fn format(name: &str) -> Option<Option<Outputs>> {
    let only = |jpeg, png, webp| Some(Some(Outputs { jpeg, png, webp }));
    match name {
        "auto" => Some(None),
        "jpeg" => only(true, false, false),
        "png" => only(false, true, false),
        "webp" => only(false, false, true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(asked: &str) -> Result<String, String> {
        Asked::parse(asked, 4000).map(|asked| asked.transform(Outputs::CLASSIC).to_string())
    }

    #[test]
    fn the_same_steps_in_any_order_are_the_same_transform() {
        for (asked, expected) in [
            ("original", "original_jpeg-png"),
            ("f_png", "original_png"),
            ("w_300", "inside-300x4000_jpeg-png"),
            ("w_300,h_200", "inside-300x200_jpeg-png"),
            ("h_200,w_300,fit_inside,f_auto", "inside-300x200_jpeg-png"),
            ("w_300,h_200,fit_cover", "cover-300x200_jpeg-png"),
            ("fit_cover,h_200,w_300", "cover-300x200_jpeg-png"),
            ("w_300,h_200,fit_cover,dpr_2", "cover-600x400_jpeg-png"),
            ("w_33,h_33,fit_cover,dpr_1.5,q_70,f_jpeg", "cover-50x50_q70_jpeg"),
            ("w_4000", "inside-4000x4000_jpeg-png"),
        ] {
            assert_eq!(text(asked).as_deref(), Ok(expected), "{asked}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused_with_a_reason() {
        for (asked, reason) in [
            ("", "no step"),
            ("x_1", "no step"),
            ("w", "pixels"),
            ("w_0", "pixels"),
            ("w_-1", "pixels"),
            ("w_1e3", "pixels"),
            ("w_4001", "at most 4000"),
            ("w_2001,dpr_2", "at most 4000"),
            ("w_1,w_1", "twice"),
            ("w_1,", "no step"),
            ("fit_cover,w_1", "needs w and h"),
            ("fit_fill,w_1", "inside or cover"),
            ("dpr_2", "needs w or h"),
            ("w_1,dpr_0.5", "ratio"),
            ("w_1,dpr_NaN", "ratio"),
            ("q_0", "quality"),
            ("q_101", "quality"),
            ("f_gif", "auto, jpeg"),
            ("original,w_1", "no step"),
        ] {
            let refused = text(asked).expect_err(asked);
            assert!(refused.contains(reason), "{asked}: {refused}");
        }
    }
}

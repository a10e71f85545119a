//! Transforms as they stand in URLs: `w_300,h_200,fit_cover,f_auto`. The order means nothing; every step stands once.

use imagewell_imaging::transform::{Colour, Crop, Fit, Flip, Gravity, Metadata, Outputs, Rotation, Transform};

/// Largest ratio of device pixels to those of the page.
const RATIO_MAX: f64 = 4.0;

/// What was asked for, before the client's formats are known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asked {
    transform: Transform,
    /// None leaves it to the picture and to what the client reads.
    outputs: Option<Outputs>,
    progressive: bool,
}

impl Asked {
    /// Reads a transform. Sides are at most `side_px_max`, device pixels counted.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, side_px_max: u32) -> Result<Self, String> {
        let mut steps = Steps::default();
        // The original takes steps too, but none that would change its size.
        let text = match text.strip_prefix("original") {
            Some("") => "",
            Some(",") => return Err("there is no step behind the comma".to_owned()),
            Some(rest) => rest.strip_prefix(',').unwrap_or(text),
            None if text.is_empty() => return Err("there is no step".to_owned()),
            None => {
                steps.may_resize = true;
                text
            }
        };
        for step in text.split(',').filter(|_| !text.is_empty()) {
            steps.read(step)?;
        }
        steps.asked(side_px_max)
    }

    /// Whether what is answered depends on the request's `Accept`.
    #[must_use]
    pub fn depends_on_accept(&self) -> bool {
        self.outputs.is_none()
    }

    /// The transform for a client that reads these formats.
    #[must_use]
    pub fn transform(&self, client: Outputs) -> Transform {
        let outputs = self.outputs.unwrap_or(client);
        Transform { outputs: Outputs { progressive: self.progressive && outputs.jpeg, ..outputs }, ..self.transform }
    }
}

#[derive(Default)]
struct Steps {
    may_resize: bool,
    width: Option<u32>,
    height: Option<u32>,
    ratio: Option<f64>,
    fit: Option<fn(u32, u32) -> Fit>,
    gravity: Option<Gravity>,
    crop: Option<Crop>,
    rotation: Option<Rotation>,
    flip: Option<Flip>,
    background: Option<Colour>,
    blur: Option<u16>,
    sharpen: Option<u16>,
    quality: Option<u8>,
    metadata: Option<Metadata>,
    enlarge: Option<()>,
    still: Option<()>,
    lossless: Option<()>,
    progressive: Option<()>,
    format: Option<Option<Outputs>>,
}

impl Steps {
    fn read(&mut self, step: &str) -> Result<(), String> {
        let (name, value) = step.split_once('_').unwrap_or((step, ""));
        match name {
            "w" => once(name, &mut self.width, positive(value), "pixels, from 1"),
            "h" => once(name, &mut self.height, positive(value), "pixels, from 1"),
            "dpr" => {
                let ratio = decimal(value).filter(|ratio| (1.0..=RATIO_MAX).contains(ratio));
                once(name, &mut self.ratio, ratio, "a ratio from 1 to 4")
            }
            "fit" => once(name, &mut self.fit, fit(value), "inside, outside, cover, contain or fill"),
            "g" => once(
                name,
                &mut self.gravity,
                gravity(value),
                "a side as in north or southeast, center, focus, entropy, attention, or a point as in 0.3-0.7",
            ),
            "crop" => once(name, &mut self.crop, crop(value), "X-Y-WIDTH-HEIGHT in pixels of the upright original"),
            "rotate" => once(name, &mut self.rotation, whole(value).and_then(Rotation::from_degrees), "0, 90, 180 or 270"),
            "flip" => once(name, &mut self.flip, flip(value), "h, v or hv"),
            "bg" => {
                once(name, &mut self.background, Colour::from_hex(value), "a colour as in ffffff, or ffffff80 with its opacity")
            }
            "blur" => once(name, &mut self.blur, tenths(value, Transform::BLUR_MAX), "pixels from 0.1 to 100, in tenths"),
            "sharpen" => {
                once(name, &mut self.sharpen, tenths(value, Transform::SHARPEN_MAX), "an amount from 0.1 to 10, in tenths")
            }
            "q" => {
                let quality = whole(value).and_then(|quality| u8::try_from(quality).ok());
                once(name, &mut self.quality, quality.filter(|quality| (1..=100).contains(quality)), "a quality from 1 to 100")
            }
            "meta" => once(name, &mut self.metadata, metadata(value), "none or profile"),
            "f" => once(name, &mut self.format, format(value), "auto, jpeg, png, webp, avif or gif"),
            "enlarge" => once(name, &mut self.enlarge, bare(step, name), "nothing"),
            "still" => once(name, &mut self.still, bare(step, name), "nothing"),
            "lossless" => once(name, &mut self.lossless, bare(step, name), "nothing"),
            "progressive" => once(name, &mut self.progressive, bare(step, name), "nothing"),
            _ => Err(format!(
                "there is no step {step:?}, but w, h, dpr, fit, g, crop, rotate, flip, bg, blur, sharpen, q, f, meta, enlarge, still, \
                 lossless and progressive, as in w_300,h_200,fit_cover"
            )),
        }
    }

    fn asked(self, side_px_max: u32) -> Result<Asked, String> {
        let fit = self.sized(side_px_max)?;
        let transform = Transform {
            crop: self.crop,
            rotation: self.rotation.unwrap_or_default(),
            flip: self.flip.unwrap_or_default(),
            gravity: canonical_gravity(self.gravity.unwrap_or_default(), fit),
            // Nothing can be larger than the original.
            enlarge: self.enlarge.is_some() && fit != Fit::Original,
            background: self.background,
            blur: self.blur,
            sharpen: self.sharpen,
            quality: self.quality,
            lossless: self.lossless.is_some(),
            metadata: self.metadata.unwrap_or_default(),
            animate: self.still.is_none(),
            ..Transform::of(fit)
        };
        Ok(Asked { transform, outputs: self.format.flatten(), progressive: self.progressive.is_some() })
    }

    fn sized(&self, side_px_max: u32) -> Result<Fit, String> {
        let device = |side: u32| (f64::from(side) * self.ratio.unwrap_or(1.0)).round() as u32;
        let (width, height) = (self.width.map(device), self.height.map(device));
        let resizes = width.or(height).is_some() || self.fit.is_some() || self.ratio.is_some();
        if resizes && !self.may_resize {
            return Err("original keeps its size: leave the word out".to_owned());
        }
        if [width, height].into_iter().flatten().any(|side| side > side_px_max) {
            return Err(format!("a side has at most {side_px_max} pixels, dpr counted"));
        }
        match (width, height, self.fit) {
            (Some(width), Some(height), fit) => Ok(fit.unwrap_or(Fit::Inside)(width, height)),
            (None, None, Some(_)) => Err("fit needs w and h".to_owned()),
            (None, None, None) if self.ratio.is_some() => Err("dpr needs w or h".to_owned()),
            (None, None, None) => Ok(Fit::Original),
            (width, height, fit) if fit.is_none_or(|fit| matches!(fit(1, 1), Fit::Inside(..))) => {
                Ok(width.map(Fit::Width).or(height.map(Fit::Height)).unwrap_or(Fit::Original))
            }
            _ => Err("that fit needs w and h".to_owned()),
        }
    }
}

/// Where nothing is cut off and nothing added, no gravity pulls: so that the same rendering has the same name.
fn canonical_gravity(gravity: Gravity, fit: Fit) -> Gravity {
    match (fit, gravity) {
        (Fit::Cover(..), gravity) | (Fit::Contain(..), gravity @ Gravity::Side(..)) => gravity,
        _ => Gravity::Focus,
    }
}

fn once<T>(name: &str, place: &mut Option<T>, value: Option<T>, hint: &str) -> Result<(), String> {
    let value = value.ok_or_else(|| format!("{name}_ is followed by {hint}"))?;
    if place.replace(value).is_some() { Err(format!("{name} is given twice")) } else { Ok(()) }
}

fn bare(step: &str, name: &str) -> Option<()> {
    (step == name).then_some(())
}

fn whole(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn positive(text: &str) -> Option<u32> {
    whole(text).filter(|number| *number > 0)
}

/// Digits with at most one point: no signs, exponents or names of numbers.
fn decimal(text: &str) -> Option<f64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
}

fn tenths(text: &str, max: u16) -> Option<u16> {
    let tenths = (decimal(text)? * 10.0).round();
    (1.0..=f64::from(max)).contains(&tenths).then_some(tenths as u16)
}

fn fit(name: &str) -> Option<fn(u32, u32) -> Fit> {
    match name {
        "inside" => Some(Fit::Inside),
        "outside" => Some(Fit::Outside),
        "cover" => Some(Fit::Cover),
        "contain" => Some(Fit::Contain),
        "fill" => Some(Fit::Fill),
        _ => None,
    }
}

fn gravity(name: &str) -> Option<Gravity> {
    Some(match name {
        "center" => Gravity::Centre,
        "north" => Gravity::Side(0, -1),
        "northeast" => Gravity::Side(1, -1),
        "east" => Gravity::Side(1, 0),
        "southeast" => Gravity::Side(1, 1),
        "south" => Gravity::Side(0, 1),
        "southwest" => Gravity::Side(-1, 1),
        "west" => Gravity::Side(-1, 0),
        "northwest" => Gravity::Side(-1, -1),
        "focus" => Gravity::Focus,
        "entropy" => Gravity::Entropy,
        "attention" => Gravity::Attention,
        point => {
            let thousandths =
                |text: &str| Some((decimal(text)?.clamp(0.0, 2.0) * 1000.0).round() as u16).filter(|part| *part <= 1000);
            let (x, y) = point.split_once('-')?;
            Gravity::Point(thousandths(x)?, thousandths(y)?)
        }
    })
}

fn crop(text: &str) -> Option<Crop> {
    let mut numbers = text.split('-').map(whole);
    let mut next = || numbers.next()?;
    let crop = Crop { x: next()?, y: next()?, width: next()?, height: next()? };
    (crop.width > 0 && crop.height > 0 && numbers.next().is_none()).then_some(crop)
}

fn flip(text: &str) -> Option<Flip> {
    let (horizontal, vertical) = match text {
        "h" => (true, false),
        "v" => (false, true),
        "hv" => (true, true),
        _ => return None,
    };
    Some(Flip { horizontal, vertical })
}

fn metadata(name: &str) -> Option<Metadata> {
    match name {
        "none" => Some(Metadata::None),
        "profile" => Some(Metadata::Profile),
        _ => None,
    }
}

fn format(name: &str) -> Option<Option<Outputs>> {
    let only = |outputs| Some(Some(outputs));
    match name {
        "auto" => Some(None),
        "jpeg" => only(Outputs::JPEG),
        "png" => only(Outputs::PNG),
        "webp" => only(Outputs::WEBP),
        "avif" => only(Outputs { avif: true, ..Outputs::NONE }),
        "gif" => only(Outputs { gif: true, ..Outputs::NONE }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(asked: &str) -> Result<String, String> {
        Asked::parse(asked, 4000).map(|asked| asked.transform(Outputs::PNG).to_string())
    }

    #[test]
    fn the_same_steps_in_any_order_are_the_same_transform() {
        for (asked, expected) in [
            ("original", "original_animate_png"),
            ("original,f_webp,rotate_90", "rotate-90_original_animate_webp"),
            ("f_png", "original_animate_png"),
            ("w_300", "width-300_animate_png"),
            ("h_300,fit_inside", "height-300_animate_png"),
            ("w_300,h_200", "inside-300x200_animate_png"),
            ("h_200,w_300,fit_inside,f_auto,still", "inside-300x200_png"),
            ("w_300,h_200,fit_cover", "cover-300x200_animate_png"),
            ("fit_cover,h_200,w_300,g_focus", "cover-300x200_animate_png"),
            ("w_300,h_200,fit_cover,dpr_2,enlarge", "cover-600x400_enlarge_animate_png"),
            ("w_33,h_33,fit_cover,dpr_1.5,q_70,f_jpeg", "cover-50x50_q70_animate_jpeg"),
            ("w_9,progressive,f_jpeg", "width-9_animate_jpeg-progressive"),
            ("w_9,progressive,f_png", "width-9_animate_png"),
            ("w_4000", "width-4000_animate_png"),
            ("w_9,h_9,fit_outside,g_north", "outside-9x9_animate_png"),
            ("w_9,h_9,fit_contain,g_southeast,bg_FFcc00", "contain-9x9_side-2-2_bg-ffcc00ff_animate_png"),
            ("w_9,h_9,fit_fill,flip_h", "flip-h_fill-9x9_animate_png"),
            ("w_9,h_9,fit_cover,g_0.25-1", "cover-9x9_point-250-1000_animate_png"),
            ("w_9,h_9,fit_cover,g_attention", "cover-9x9_attention_animate_png"),
            ("crop_1-2-3-4,rotate_270,flip_hv", "crop-1-2-3-4_rotate-270_flip-hv_original_animate_png"),
            ("w_9,blur_2.5,sharpen_1,meta_profile,lossless", "width-9_blur-25_sharpen-10_lossless_profile_animate_png"),
            ("rotate_0,meta_none,w_1", "width-1_animate_png"),
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
            ("fit_cover", "needs w and h"),
            ("fit_stretch,w_1", "inside, outside"),
            ("dpr_2", "needs w or h"),
            ("w_1,dpr_0.5", "ratio"),
            ("w_1,dpr_NaN", "ratio"),
            ("q_0", "quality"),
            ("q_101", "quality"),
            ("f_tiff", "auto, jpeg"),
            ("original,w_1", "keeps its size"),
            ("originals", "no step"),
            ("original,", "behind the comma"),
            ("g_up", "a side"),
            ("g_0.5", "a side"),
            ("g_1.1-0", "a side"),
            ("crop_1-2-3", "WIDTH"),
            ("crop_1-2-3-0", "WIDTH"),
            ("rotate_45", "90"),
            ("flip_x", "h, v"),
            ("bg_fff", "colour"),
            ("blur_0", "0.1 to 100"),
            ("blur_100.1", "0.1 to 100"),
            ("sharpen_inf", "0.1 to 10"),
            ("meta_all", "none or profile"),
            ("enlarge_2", "nothing"),
            ("still_", "nothing"),
        ] {
            let refused = text(asked).expect_err(asked);
            assert!(refused.contains(reason), "{asked}: {refused}");
        }
    }
}

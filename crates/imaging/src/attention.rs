//! Which part of a picture matters, told by its pixels: for crops that nobody drew.

use fast_image_resize as fir;
use image::{DynamicImage, GrayImage, RgbImage, imageops};

use crate::transform::Gravity;
use imagewell_pixels::resize;

/// Pictures are judged at about this size: larger details than that make no subject.
const SIDE: u32 = 96;
const BINS: usize = 32;

/// A window that moves along one side of a picture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Whether it moves from left to right, or from top to bottom.
    pub(crate) across: bool,
    /// Its length as a part of the side, up to 1.
    pub(crate) part: f64,
}

/// Where the window should begin, as a part of what it can move: 0 is left or top, 1 right or bottom.
pub(crate) fn begin(picture: &DynamicImage, window: Window, gravity: Gravity) -> f64 {
    let Some(small) = small(picture) else { return 0.5 };
    let side = if window.across { small.width() } else { small.height() };
    let length = ((f64::from(side) * window.part).round() as u32).clamp(1, side);
    let room = side - length;
    if room == 0 {
        return 0.5;
    }
    let score: Box<dyn Fn(u32) -> f64> = match gravity {
        Gravity::Entropy => {
            let grey = imageops::grayscale(&small);
            Box::new(move |begin| entropy(&grey, window.across, begin, length))
        }
        _ => {
            let lines = interest(&small, window.across);
            Box::new(move |begin| lines[begin as usize..(begin + length) as usize].iter().sum())
        }
    };
    // Of places that are as good, the one nearest to the middle.
    let distance = |begin: u32| (f64::from(begin) - f64::from(room) / 2.0).abs();
    let best =
        (0..=room).max_by(|one, other| score(*one).total_cmp(&score(*other)).then(distance(*other).total_cmp(&distance(*one))));
    f64::from(best.unwrap_or(room / 2)) / f64::from(room)
}

fn small(picture: &DynamicImage) -> Option<RgbImage> {
    let scale = f64::from(SIDE) / f64::from(picture.width().max(picture.height()));
    let side = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
    let options = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Box));
    let small = resize(picture, (side(picture.width()), side(picture.height())), &options).ok()?;
    Some(small.into_rgb8())
}

/// Shannon's, of the brightness inside the window.
fn entropy(grey: &GrayImage, across: bool, begin: u32, length: u32) -> f64 {
    let mut bins = [0_u32; BINS];
    for (x, y, pixel) in grey.enumerate_pixels() {
        let place = if across { x } else { y };
        if (begin..begin + length).contains(&place) {
            bins[usize::from(pixel.0[0]) * BINS / 256] += 1;
        }
    }
    let total = f64::from(bins.iter().sum::<u32>().max(1));
    bins.iter().filter(|count| **count > 0).map(|count| f64::from(*count) / total).map(|share| -share * share.log2()).sum()
}

/// How much each column, or line, draws the eye.
fn interest(picture: &RgbImage, across: bool) -> Vec<f64> {
    let mut lines = vec![0.0; if across { picture.width() } else { picture.height() } as usize];
    let grey = imageops::grayscale(picture);
    let at = |x: u32, y: u32| f64::from(grey.get_pixel(x.min(grey.width() - 1), y.min(grey.height() - 1)).0[0]);
    for (x, y, pixel) in picture.enumerate_pixels() {
        let edge = (at(x + 1, y) - at(x.saturating_sub(1), y)).abs() + (at(x, y + 1) - at(x, y.saturating_sub(1))).abs();
        let [red, green, blue] = pixel.0.map(f64::from);
        let (most, least) = (red.max(green).max(blue), red.min(green).min(blue));
        let saturation = if most > 40.0 { (most - least) / most } else { 0.0 };
        // Skin of any shade has its red, green and blue in much the same proportion (Kovač and others, 2003, loosened).
        let is_skin =
            red > 60.0 && red > green && green > blue * 0.9 && (red - green) > 10.0 && saturation < 0.7 && (red - green) < 90.0;
        lines[if across { x } else { y } as usize] += edge / 255.0 * 2.0 + saturation * 0.3 + if is_skin { 1.0 } else { 0.0 };
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grey, with a disc of skin or of noise on it.
    fn picture(disc_x: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> DynamicImage {
        RgbImage::from_fn(300, 100, |x, y| {
            let inside = x.abs_diff(disc_x).pow(2) + y.abs_diff(50).pow(2) < 40_u32.pow(2);
            image::Rgb(if inside { pixel(x, y) } else { [128, 128, 128] })
        })
        .into()
    }

    #[test]
    fn the_window_goes_where_something_is() {
        let window = Window { across: true, part: 1.0 / 3.0 };
        let noise = |x: u32, y: u32| [(x * 7919 + y * 104_729) as u8; 3];
        let skin = |_, _| [224, 172, 140];
        for (at, expected) in [(50, 0.0..0.15), (150, 0.4..0.6), (250, 0.85..1.01)] {
            let by_entropy = begin(&picture(at, noise), window, Gravity::Entropy);
            let by_attention = begin(&picture(at, skin), window, Gravity::Attention);
            assert!(expected.contains(&by_entropy), "{at}: {by_entropy}");
            assert!(expected.contains(&by_attention), "{at}: {by_attention}");
        }
        let plain = DynamicImage::new_rgb8(300, 100);
        assert_eq!(begin(&plain, window, Gravity::Attention), 0.5, "nothing is anywhere: the middle");
        assert_eq!(begin(&plain, Window { across: false, part: 1.0 }, Gravity::Entropy), 0.5);
    }
}

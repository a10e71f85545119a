//! Whether a file is shown as the picture that it is.

use std::io::Cursor;

use image::{DynamicImage, Rgba};
use imagewell_imaging::render::render;
use imagewell_imaging::transform::{Fit, Outputs, Transform};
use imagewell_imaging::{Error, Limits, inspect};

pub const SIZE: (u32, u32) = (40, 30);

/// A smooth picture without symmetry.
pub fn scene() -> DynamicImage {
    let pixel = |x: u32, y: u32| image::Rgb([(x * 6) as u8, (y * 8) as u8, (200 - x * 2 - y) as u8]);
    image::RgbImage::from_fn(SIZE.0, SIZE.1, pixel).into()
}

pub fn shown(bytes: &[u8]) -> Result<DynamicImage, Error> {
    let transform = Transform { outputs: Outputs::PNG, ..Transform::of(Fit::Original) };
    let png = render(bytes, &transform, &Limits::default())?;
    Ok(image::load_from_memory(&png).expect("a PNG"))
}

/// Mean distance of the channels, over white, of 255.
pub fn distance(one: &DynamicImage, other: &DynamicImage) -> f64 {
    let over_white = |picture: &DynamicImage| -> Vec<u8> {
        let white = |part: u8, opacity: u8| 255 - (u32::from(255 - part) * u32::from(opacity) / 255) as u8;
        let pixels = picture.to_rgba8();
        pixels.pixels().flat_map(|Rgba([r, g, b, a])| [white(*r, *a), white(*g, *a), white(*b, *a)]).collect()
    };
    assert_eq!((one.width(), one.height()), (other.width(), other.height()));
    let (one, other) = (over_white(one), over_white(other));
    let sum: u64 = one.iter().zip(&other).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / one.len() as f64
}

/// Each is rendered as this picture, and its record agrees with the rendering.
#[track_caller]
pub fn assert_shown(name: &str, bytes: &[u8], right: &DynamicImage) {
    let facts = inspect(Cursor::new(bytes), &Limits::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let picture = shown(bytes).unwrap_or_else(|error| panic!("{name}: {error}: {error:?}"));
    let swaps = facts.orientation.swaps_sides();
    let said = if swaps { (facts.height, facts.width) } else { (facts.width, facts.height) };
    assert_eq!(said, (picture.width(), picture.height()), "{name}: the record");
    let off = distance(&picture, right);
    assert!(off < 4.0, "{name} is off by {off:.1}");
}

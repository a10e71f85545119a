//! TIFF as editors, scanners and instruments write it.

mod pictures;

use image::{DynamicImage, Rgba, RgbaImage};
use pictures::shown::{SIZE, assert_shown, scene};
use pictures::tiff::{Tags, page, tags};

fn with(mut tags: Tags, more: &[(u16, u16, &[u32])]) -> Tags {
    tags.extend(more.iter().map(|(tag, kind, values)| (*tag, (*kind, values.to_vec()))));
    tags
}

#[test]
fn tiffs_of_every_kind_are_shown() {
    let (width, height) = SIZE;
    let rgb = scene().into_rgb8();
    let gray = scene().into_luma8();
    let is_gray = DynamicImage::from(gray.clone());
    let opacity = |x: u32| 100 + x * 3;
    let soft = RgbaImage::from_fn(width, height, |x, y| {
        let image::Rgb([r, g, b]) = *rgb.get_pixel(x, y);
        Rgba([r, g, b, opacity(x) as u8])
    });
    let soft_gray = RgbaImage::from_fn(width, height, |x, y| {
        let [g] = gray.get_pixel(x, y).0;
        Rgba([g, g, g, opacity(x) as u8])
    });
    let multiplied: Vec<u8> = soft
        .pixels()
        .flat_map(|Rgba([r, g, b, a])| {
            [r, g, b].map(|part| (u32::from(*part) * u32::from(*a) / 255) as u8).into_iter().chain([*a])
        })
        .collect();
    let gray_alpha: Vec<u8> = soft_gray.pixels().flat_map(|Rgba([g, _, _, a])| [*g, *a]).collect();
    let nibbles: Vec<u8> = gray.as_raw().chunks_exact(2).map(|two| two[0] & 0xF0 | two[1] >> 4).collect();
    let pairs: Vec<u8> =
        gray.as_raw().chunks_exact(4).map(|four| four.iter().fold(0, |byte, part| byte << 2 | part >> 6)).collect();
    let few = |bits: u32| {
        let levels = (1_u32 << bits) - 1;
        let step = |part: u8| ((u32::from(part) >> (8 - bits)) * 255 / levels) as u8;
        DynamicImage::from(image::GrayImage::from_fn(width, height, |x, y| image::Luma([step(gray.get_pixel(x, y).0[0])])))
    };
    // Gray 0, 1, 2, … as colours of a palette.
    let map: Vec<u32> = (0..3).flat_map(|_| (0..256).map(|value| value * 257)).collect();
    let cmyk: Vec<u8> = rgb.pixels().flat_map(|pixel| pixel.0.map(|part| 255 - part).into_iter().chain([0])).collect();
    let sixteen: Vec<u8> = gray.as_raw().iter().flat_map(|part| (u16::from(*part) * 257).to_le_bytes()).collect();
    let floats: Vec<u8> = rgb.as_raw().iter().flat_map(|part| (f32::from(*part) / 255.0).to_le_bytes()).collect();
    let signed: Vec<u8> = gray.as_raw().iter().map(|part| part ^ 0x80).collect();
    let bits: Vec<u8> = gray
        .as_raw()
        .chunks_exact(width as usize)
        .flat_map(|row| {
            row.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |sum, (at, part)| sum | u8::from(*part > 99) << at))
        })
        .collect();
    let black_and_white = DynamicImage::from(image::GrayImage::from_fn(width, height, |x, y| {
        image::Luma([if gray.get_pixel(x, y).0[0] > 99 { 255 } else { 0 }])
    }));
    let planes: Vec<u8> = (0..3).flat_map(|channel| rgb.pixels().map(move |pixel| pixel.0[channel])).collect();
    let lab: Vec<u8> = gray.as_raw().iter().flat_map(|part| [lightness(*part), 0, 0]).collect();
    let icc_lab: Vec<u8> = gray.as_raw().iter().flat_map(|part| [lightness(*part), 128, 128]).collect();
    let plain = rgb.as_raw();
    let cases: Vec<(&str, Tags, &[u8], DynamicImage)> = vec![
        ("RGB", tags(8, 3, 2), plain, scene()),
        ("no lengths", with(tags(8, 3, 2), &[(279, 4, &[])]), plain, scene()),
        ("a length past the end", with(tags(8, 3, 2), &[(279, 4, &[99_999_999])]), plain, scene()),
        ("a private tag past the end", with(tags(8, 3, 2), &[(50_000, 4, &[])]), plain, scene()),
        ("gray and opacity", with(tags(8, 2, 1), &[(338, 3, &[2])]), &gray_alpha, soft_gray.clone().into()),
        ("opacity that isn't named", tags(8, 4, 2), soft.as_raw(), soft.clone().into()),
        ("multiplied opacity", with(tags(8, 4, 2), &[(338, 3, &[1])]), &multiplied, soft.clone().into()),
        ("four bits", tags(4, 1, 1), &nibbles, few(4)),
        ("two bits", tags(2, 1, 1), &pairs, few(2)),
        ("a palette", with(tags(8, 1, 3), &[(320, 3, &map)]), gray.as_raw(), is_gray.clone()),
        ("inks", tags(8, 4, 5), &cmyk, scene()),
        ("sixteen bits", tags(16, 1, 1), &sixteen, is_gray.clone()),
        ("floating point", with(tags(32, 3, 2), &[(339, 3, &[3, 3, 3])]), &floats, scene()),
        ("signed", with(tags(8, 1, 1), &[(339, 3, &[2])]), &signed, is_gray.clone()),
        ("low bits first", with(tags(1, 1, 1), &[(266, 3, &[2])]), &bits, black_and_white),
        (
            "planes",
            with(tags(8, 3, 2), &[(284, 3, &[2]), (273, 4, &[8, 1208, 2408]), (279, 4, &[1200, 1200, 1200])]),
            &planes,
            scene(),
        ),
        ("CIELab", tags(8, 3, 8), &lab, is_gray.clone()),
        ("ICCLab", tags(8, 3, 9), &icc_lab, is_gray),
    ];
    for (name, tags, strip, right) in cases {
        let mut tags = tags;
        let planes = tags.remove(&273);
        let file = page_with_offsets(width, height, tags, strip, planes);
        let file = if name.starts_with("a private tag") { with_lost_tag(file) } else { file };
        assert_shown(name, &file, &right);
    }
}

/// Lightness of a gray of sRGB, in 255 parts.
fn lightness(part: u8) -> u8 {
    let value = f64::from(part) / 255.0;
    let linear = if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) };
    let lightness = if linear > 0.008_856 { 116.0 * linear.cbrt() - 16.0 } else { 903.3 * linear };
    (lightness * 2.55).round() as u8
}

fn page_with_offsets(width: u32, height: u32, tags: Tags, strip: &[u8], offsets: Option<(u16, Vec<u32>)>) -> Vec<u8> {
    match offsets {
        Some(offsets) => pictures::tiff::page_at(width, height, tags, strip, &offsets),
        None => page(width, height, tags, strip),
    }
}

/// The page's entry for its samples, of which there is one each, becomes one of another tag that points past the end.
fn with_lost_tag(mut file: Vec<u8>) -> Vec<u8> {
    let directory = u32::from_le_bytes(file[4..8].try_into().expect("four")) as usize;
    let count = u16::from_le_bytes([file[directory], file[directory + 1]]);
    let end = directory + 2 + usize::from(count) * 12;
    let lost = [&65_000_u16.to_le_bytes()[..], &[4, 0], &5_000_u32.to_le_bytes(), &[0xFF, 0xFF, 0xFF, 0x0F]].concat();
    // Values that stand behind the directory move with it: their offsets do not, so it is written anew at the end.
    let entries = file[directory + 2..end].to_vec();
    let begin = file.len() as u32;
    file[4..8].copy_from_slice(&begin.to_le_bytes());
    file.extend((count + 1).to_le_bytes());
    file.extend(entries);
    file.extend(lost);
    file.extend([0; 4]);
    file
}

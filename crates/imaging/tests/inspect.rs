//! What `inspect` says of whole, cut, bent and hostile files.

mod pictures;

use std::io::Cursor;

use image::ImageFormat;
use imagewell_imaging::render::render;
use imagewell_imaging::transform::{Fit, Outputs, Transform};
use imagewell_imaging::{Error, Facts, Format, Limit, Limits, inspect, inspect_head};
use pictures::{
    animated_gif, encoded, exif, gradient, indexed_png, jpeg_with_exif, png_chunk, png_claiming, webp_with_exif, whole_files,
};
use proptest::prelude::*;

fn inspected(bytes: &[u8]) -> Result<Facts, Error> {
    inspect(Cursor::new(bytes), &Limits::default())
}

#[test]
fn whole_files_of_every_format_give_their_facts() {
    let mut seen = std::collections::HashSet::new();
    for (name, bytes, size) in whole_files() {
        let facts = inspected(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((facts.width, facts.height), size, "{name}");
        assert_eq!(facts.orientation.exif(), 1, "{name}");
        let frames = match name {
            "animated gif" => 3,
            "animated jxl" | "animated webp" => 5,
            _ => 1,
        };
        assert_eq!(facts.frames, frames, "{name}");
        seen.insert(facts.format);
    }
    assert_eq!(seen.len(), Format::ALL.len(), "every format is covered");
}

/// What passes although it is cut has all of its pixels, or its decoder says that it hasn't.
#[test]
fn a_file_cut_anywhere_is_refused_or_shown_whole() {
    let transform = Transform { outputs: Outputs::PNG, ..Transform::of(Fit::Inside(64, 64)) };
    let shown = |bytes: &[u8]| {
        let png = render(bytes, &transform, &Limits::default()).ok()?;
        Some(image::load_from_memory(&png).expect("a PNG").into_rgba8())
    };
    for (name, bytes, _) in whole_files() {
        let whole = shown(&bytes);
        let step = (bytes.len() / 200).max(1);
        for len in (0..bytes.len()).step_by(step).chain(bytes.len() - 4..bytes.len()) {
            let Ok(facts) = inspected(&bytes[..len]) else { continue };
            let Some(picture) = shown(&bytes[..len]) else { continue };
            // Frames at the end may be missing, and are then not counted.
            let (whole, size) = (whole.as_ref().expect("renders"), bytes.len());
            let off: u64 = picture.as_raw().iter().zip(whole.as_raw()).map(|(one, other)| u64::from(one.abs_diff(*other))).sum();
            let off = off as f64 / whole.as_raw().len() as f64;
            assert!(off < 3.0, "{name} cut to {len} of {size} bytes passes as {facts:?} and is off by {off:.1}");
        }
    }
}

#[test]
fn the_head_of_a_good_file_is_never_refused() {
    for (name, bytes, _) in whole_files() {
        for len in (16..bytes.len()).step_by(bytes.len() / 200 + 1) {
            let verdict = inspect_head(&bytes[..len], &Limits::default());
            assert!(verdict.is_ok(), "{name}: the first {len} bytes are refused: {verdict:?}");
        }
    }
}

#[test]
fn orientation_is_read_wherever_it_stands_and_nonsense_counts_as_upright() {
    let jpeg = encoded(&gradient(40, 30), ImageFormat::Jpeg);
    let webp = encoded(&gradient(40, 30), ImageFormat::WebP);
    for value in 0..=9_u16 {
        let expected = if (1..=8).contains(&value) { value as u8 } else { 1 };
        for big_endian in [false, true] {
            let block = exif(value, big_endian);
            let png = png_claiming(40, 30, &[png_chunk(b"eXIf", &block)]);
            for bytes in [jpeg_with_exif(&jpeg, &block), png, webp_with_exif(&webp, 40, 30, &block)] {
                let facts = inspected(&bytes).expect("whole");
                assert_eq!(facts.orientation.exif(), expected, "{value} in {}", facts.format);
                assert_eq!((facts.width, facts.height), (40, 30), "the size is the stored one");
            }
        }
    }
    for nonsense in [255, 65535] {
        assert_eq!(inspected(&jpeg_with_exif(&jpeg, &exif(nonsense, false))).expect("whole").orientation.exif(), 1);
    }
    // An EXIF block that is cut, empty or points at itself is no reason to refuse a picture.
    for block in [&b""[..], b"II", b"II*\0\x08\0\0\0", b"MM\0*\xFF\xFF\xFF\xFF", b"II*\0\x08\0\0\0\xFF\xFF"] {
        assert_eq!(inspected(&jpeg_with_exif(&jpeg, block)).expect("whole").orientation.exif(), 1);
    }
}

#[test]
fn every_limit_holds_at_its_edge_and_refuses_one_past_it() {
    let limits = Limits { pixels_max: 5000, side_px_max: 100, frames_max: 3, frame_pixels_max: 600, ..Limits::default() };
    let check = |bytes: &[u8]| inspect(Cursor::new(bytes), &limits);
    let over = |bytes: &[u8]| match check(bytes) {
        Err(Error::OverLimit { limit, .. }) => limit,
        other => panic!("{other:?}"),
    };
    let wide = Limits { frame_pixels_max: u64::MAX, ..limits };
    assert!(inspect(Cursor::new(png_claiming(100, 50, &[])), &wide).is_ok());
    assert_eq!(over(&png_claiming(101, 1, &[])), Limit::Side);
    assert_eq!(over(&png_claiming(1, 101, &[])), Limit::Side);
    assert_eq!(over(&png_claiming(51, 99, &[])), Limit::Pixels);
    assert!(check(&animated_gif(3)).is_ok(), "3 frames of 20×10");
    assert_eq!(over(&animated_gif(4)), Limit::Frames);
    let tight = Limits { frame_pixels_max: 599, ..limits };
    assert!(matches!(
        inspect(Cursor::new(animated_gif(3)), &tight),
        Err(Error::OverLimit { limit: Limit::FramePixels, actual: 600, max: 599 })
    ));
}

#[test]
fn bombs_are_refused_from_their_first_bytes() {
    let bomb = png_claiming(20_000, 20_000, &[]);
    for refused in [inspected(&bomb).map(|_| ()), inspect_head(&bomb[..40], &Limits::default())] {
        assert!(matches!(refused, Err(Error::OverLimit { limit: Limit::Pixels, actual: 400_000_000, .. })), "{refused:?}");
    }
    let animation = png_chunk(b"acTL", &[0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]);
    assert!(matches!(inspected(&png_claiming(10, 10, &[animation])), Err(Error::OverLimit { limit: Limit::Frames, .. })));
    let mut bmp = encoded(&gradient(4, 4), ImageFormat::Bmp);
    bmp[18..26].copy_from_slice(&[0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0x7F]);
    assert!(matches!(inspected(&bmp), Err(Error::OverLimit { limit: Limit::Side, .. })));
}

#[test]
fn broken_structure_is_told_from_truncation() {
    let mut checksum = png_claiming(40, 30, &[]);
    let at = checksum.len() - 20;
    checksum[at] ^= 1;
    let no_data = [b"\x89PNG\r\n\x1A\n".to_vec(), png_claiming(4, 4, &[])[8..33].to_vec(), png_chunk(b"IEND", b"")].concat();
    let empty = png_claiming(0, 30, &[]);
    let cases: &[(&str, &[u8])] = &[
        ("a flipped bit", &checksum),
        ("no image data", &no_data),
        ("no width", &empty),
        ("a JPEG of markers only", b"\xFF\xD8\xFF\xD9"),
        ("a GIF without images", b"GIF89a\x01\0\x01\0\0\0\0;"),
        ("a TIFF without pages", b"II*\0\0\0\0\0"),
        ("a RIFF of nothing", b"RIFF\x04\0\0\0WEBP"),
    ];
    for (name, bytes) in cases {
        assert!(matches!(inspected(bytes), Err(Error::Corrupt { .. })), "{name}: {:?}", inspected(bytes));
    }
}

#[test]
fn pages_in_a_circle_are_refused() {
    let mut tiff = encoded(&gradient(4, 4), ImageFormat::Tiff);
    let first = u32::from_le_bytes(tiff[4..8].try_into().expect("four bytes")) as usize;
    let entries = usize::from(u16::from_le_bytes([tiff[first], tiff[first + 1]]));
    let next = first + 2 + entries * 12;
    tiff[next..next + 4].copy_from_slice(&(first as u32).to_le_bytes());
    assert!(matches!(inspected(&tiff), Err(Error::Corrupt { .. })));
}

/// A page of one pixel, in one tile of this size.
fn tiled_tiff(width: u32, height: u32) -> Vec<u8> {
    let mut tiff = [&b"II*\0"[..], &8_u32.to_le_bytes(), &6_u16.to_le_bytes()].concat();
    for (tag, value) in [(256, 1), (257, 1), (322, width), (323, height), (324, 86), (325, 1)] {
        tiff.extend([u16::to_le_bytes(tag), 4_u16.to_le_bytes()].concat());
        tiff.extend([1_u32.to_le_bytes(), value.to_le_bytes()].concat());
    }
    tiff.extend([0; 5]);
    tiff
}

#[test]
fn tiles_are_no_larger_than_an_image_may_be() {
    assert!(inspected(&tiled_tiff(16, 16)).is_ok(), "{:?}", inspected(&tiled_tiff(16, 16)));
    // 64 million pixels are the limit.
    assert!(inspected(&tiled_tiff(50_000, 1_280)).is_ok());
    for (width, height) in [(50_000, 1_281), (1 << 31, 1), (1 << 31, 1 << 31), (u32::MAX, u32::MAX), (0, 16), (16, 0)] {
        let refused = inspected(&tiled_tiff(width, height));
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "{width}x{height}: {refused:?}");
    }
}

/// An AVIF of a megabyte whose index declares 6.5 billion pieces of nothing: it once took a thread a quarter of a minute.
#[test]
fn the_work_of_inspecting_is_linear_in_the_length_of_a_file() {
    let part = |kind: &[u8; 4], payload: &[u8]| [&(payload.len() as u32 + 8).to_be_bytes()[..], kind, payload].concat();
    let avif = |locations: &[u8]| {
        let sizes = part(b"ipco", &part(b"ispe", &[0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 16]));
        let of_items = part(b"ipma", &[0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1, 1]);
        let index =
            [&[0; 4][..], &part(b"pitm", &[0, 0, 0, 0, 0, 1]), locations, &part(b"iprp", &[sizes, of_items].concat())].concat();
        [part(b"ftyp", b"avif\0\0\0\0avifmif1"), part(b"meta", &index), part(b"mdat", b"x")].concat()
    };
    // Version, widths, number of items; then of each: id, method, reference, number of extents.
    let locations = |method: u8, items: u32, extents: u16| {
        let item = [&[0, 0, 0, 1, 0, method, 0, 0][..], &extents.to_be_bytes()].concat();
        part(b"iloc", &[&[2, 0, 0, 0, 0, 0][..], &items.to_be_bytes(), &item.repeat(items as usize)].concat())
    };
    assert!(inspected(&avif(&locations(1, 3, 2))).is_ok());
    // Few enough to be allowed, and far more than the file has bytes.
    let empty = inspected(&avif(&locations(1, 1, 60_000)));
    assert!(matches!(empty, Err(Error::Corrupt { .. })), "{empty:?}");
    for method in [0, 1, 2] {
        let refused = inspected(&avif(&locations(method, 99_960, 65_535)));
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "{method}: {refused:?}");
    }
    // Pages that share the bytes of a long list: each is another, and each is read again.
    let (pages, numbers) = (200_u32, 100_000_u32);
    let lists = 8 + pages * 54;
    let mut tiff = [&b"II*\0"[..], &8_u32.to_le_bytes()].concat();
    for page in 0..pages {
        tiff.extend(4_u16.to_le_bytes());
        for (tag, count, value) in [(256, 1, 1), (257, 1, 1), (273, numbers, lists), (279, numbers, lists)] {
            tiff.extend([u16::to_le_bytes(tag), 4_u16.to_le_bytes()].concat());
            tiff.extend([u32::to_le_bytes(count), value.to_le_bytes()].concat());
        }
        tiff.extend(if page + 1 == pages { [0; 4] } else { (8 + (page + 1) * 54).to_le_bytes() });
    }
    tiff.resize(tiff.len() + numbers as usize * 4, 0);
    let refused = inspected(&tiff);
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
}

#[test]
fn a_picture_in_parts_of_one_byte_is_read_to_its_end() {
    let whole = whole_files().into_iter().map(|(_, bytes, _)| bytes).find(|bytes| bytes.starts_with(b"\xFF\x0A")).expect("one");
    let part = |kind: &[u8; 4], payload: &[u8]| [&(payload.len() as u32 + 8).to_be_bytes()[..], kind, payload].concat();
    let last = whole.len() - 1;
    let parts = whole.iter().enumerate().flat_map(|(number, byte)| {
        let index = number as u32 | if number == last { 1 << 31 } else { 0 };
        part(b"jxlp", &[&index.to_be_bytes()[..], &[*byte]].concat())
    });
    let start = [&b"\0\0\0\x0CJXL \r\n\x87\n"[..], &part(b"ftyp", b"jxl \0\0\0\0jxl ")].concat();
    // Beside as many that hold nothing at all.
    let nothing = part(b"jxlp", &[0; 4]).repeat(100_000);
    let file: Vec<u8> = start.into_iter().chain(nothing).chain(parts).collect();
    assert_eq!(inspected(&file).expect("is whole"), inspected(&whole).expect("is whole"));
}

/// A decoder of others panics over a palette that ends in the middle of a colour.
#[test]
fn a_palette_is_whole_colours_and_where_it_is_needed() {
    assert!(inspected(&indexed_png(&[0; 3])).is_ok() && inspected(&indexed_png(&[0; 768])).is_ok());
    for len in [0, 1, 2, 4, 767, 771] {
        assert!(matches!(inspected(&indexed_png(&vec![0; len])), Err(Error::Corrupt { .. })), "{len}");
    }
    let mut without = indexed_png(&[0; 3]);
    let at = without.windows(4).position(|window| window == b"PLTE").expect("palette") - 4;
    without.drain(at..at + 12 + 3);
    assert!(matches!(inspected(&without), Err(Error::Corrupt { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is bent, inspection ends without a panic and never reads facts beyond the limits.
    #[test]
    fn bent_files_never_panic(which in any::<prop::sample::Index>(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        thread_local!(static FILES: Vec<Vec<u8>> = whole_files().into_iter().map(|(_, bytes, _)| bytes).collect());
        let mut bytes = FILES.with(|files| which.get(files).clone());
        // Structure stands near the start; most changes go there.
        let reach = bytes.len().min(512);
        for (at, value) in changes {
            let at = at.index(reach);
            bytes[at] = value;
        }
        let limits = Limits::default();
        if let Ok(facts) = inspected(&bytes) {
            prop_assert!(u64::from(facts.width) * u64::from(facts.height) <= limits.pixels_max);
            prop_assert!(facts.frames <= limits.frames_max);
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600), which in 0_usize..10) {
        const STARTS: [&[u8]; 10] = [
            b"\xFF\xD8\xFF", b"\x89PNG\r\n\x1A\n", b"GIF89a", b"RIFF\xFF\0\0\0WEBP", b"BM", b"II*\0", b"\0\0\x01\0\x02\0",
            b"\0\0\0\x14ftypavif\0\0\0\0avif", b"\xFF\x0A", b"\0\0\0\x0CJXL \r\n\x87\n",
        ];
        let _ = inspected(&[STARTS[which], &bytes].concat());
    }
}

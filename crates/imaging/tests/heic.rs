//! HEIC beside what libheif makes of it: `testdata/heic` has each file with libheif's picture, in sRGB.

mod pictures;

use std::io::Cursor;

use image::DynamicImage;
use imagewell_imaging::render::render;
use imagewell_imaging::transform::{Fit, Outputs, Transform};
use imagewell_imaging::{Error, Limits, inspect};

fn testdata(name: &str) -> Vec<u8> {
    let path = format!("{}/../../testdata/heic/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn rendered(source: &[u8]) -> Result<DynamicImage, Error> {
    let small = Transform { outputs: Outputs::PNG, ..Transform::of(Fit::Inside(120, 96)) };
    render(source, &small, &Limits::default()).map(|bytes| image::load_from_memory(&bytes).expect("decodes"))
}

/// Mean distance of two pictures' channels, of 255; what cannot be seen does not count.
fn distance(one: &DynamicImage, other: &DynamicImage) -> f64 {
    assert_eq!((one.width(), one.height()), (other.width(), other.height()));
    let pairs = one.to_rgba8().into_raw().into_iter().zip(other.to_rgba8().into_raw()).collect::<Vec<_>>();
    let sum: f64 = pairs
        .chunks_exact(4)
        .map(|pixel| {
            let seen = f64::from(pixel[3].1) / 255.0;
            let colours: u32 = pixel[..3].iter().map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
            f64::from(colours) * seen + f64::from(pixel[3].0.abs_diff(pixel[3].1))
        })
        .sum();
    sum / pairs.len() as f64
}

/// `tiles` has 48 of them, a profile, a gain map, a thumbnail, and an EXIF block that says what `irot` says too; `part` is cropped,
/// turned and mirrored; `ten-bits` names its primaries by code points; `opacity` has a second picture for it; `overlaid` is made of others.
#[test]
fn pictures_are_those_of_libheif() {
    for (name, size) in [
        ("tiles", (340, 500)),
        ("part", (40, 64)),
        ("ten-bits", (96, 64)),
        ("opacity", (96, 64)),
        ("gray", (96, 64)),
        ("overlaid", (120, 90)),
    ] {
        let source = testdata(&format!("{name}.heic"));
        let facts = inspect(Cursor::new(&source), &Limits::default()).expect("whole");
        let upright = if facts.orientation.swaps_sides() { (facts.height, facts.width) } else { (facts.width, facts.height) };
        assert_eq!(upright, size, "{name}: the record says what is shown");
        let picture = rendered(&source).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = image::load_from_memory(&testdata(&format!("{name}.png"))).expect("decodes");
        let apart = distance(&picture, &expected);
        assert!(apart < 1.5, "{name} is {apart:.2} off");
    }
}

#[test]
fn a_setting_leaves_them_undecoded() {
    let limits = Limits { heic: false, ..Limits::default() };
    let error = render(&testdata("gray.heic"), &Transform::of(Fit::Original), &limits).expect_err("refused");
    assert!(error.to_string().contains("images.heic"), "{error}");
    inspect(Cursor::new(testdata("gray.heic")), &limits).expect("is still stored");
}

/// What a file says of its size is checked against its limits, and the coded pictures against what the file says.
#[test]
fn sizes_that_contradict_each_other_are_refused_before_they_cost_anything() {
    let with_size = |name: &str, old: (u32, u32), new: (u32, u32), times: usize| {
        let size = |(width, height): (u32, u32)| [&width.to_be_bytes()[..], &height.to_be_bytes()].concat();
        let mut source = testdata(name);
        let places: Vec<usize> = source.windows(8).enumerate().filter(|(_, at)| *at == size(old)).map(|(at, _)| at).collect();
        assert_eq!(places.len(), times, "{name}");
        places.into_iter().for_each(|at| source[at..at + 8].copy_from_slice(&size(new)));
        source
    };
    let refused = |source: &[u8]| rendered(source).map_err(|error| format!("{error}: {error:?}")).expect_err("refused");
    let bomb = with_size("gray.heic", (96, 64), (20_000, 20_000), 1);
    assert!(refused(&bomb).contains("pixels in one frame"), "{}", refused(&bomb));
    let larger = with_size("gray.heic", (96, 64), (400, 400), 1);
    assert!(refused(&larger).contains("smaller than it says"), "{}", refused(&larger));
    let hidden = with_size("gray.heic", (96, 64), (2, 2), 1);
    assert!(refused(&hidden).contains("size limit"), "{}", refused(&hidden));
    let uncovered = with_size("tiles.heic", (64, 64), (40, 40), 1);
    assert!(refused(&uncovered).contains("cover"), "{}", refused(&uncovered));
    let costly = with_size("tiles.heic", (64, 64), (5000, 5000), 1);
    assert!(refused(&costly).contains("many times"), "{}", refused(&costly));
}

#[test]
fn a_picture_that_is_cut_in_its_pixels_is_refused() {
    let source = testdata("ten-bits.heic");
    assert!(matches!(rendered(&source[..source.len() - 1]), Err(Error::Truncated { .. })));
    let mut spoiled = source.clone();
    let middle = source.len() - 700;
    spoiled[middle..].fill(0xFF);
    assert!(rendered(&spoiled).is_err());
}

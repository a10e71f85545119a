//! Renderings that somebody has looked at, kept in `testdata/golden`. `UPDATE_GOLDEN=1 cargo test -p imagewell-imaging golden` makes
//! them anew; look at them before they are committed.

mod pictures;

use std::path::PathBuf;

use image::{DynamicImage, ImageFormat, RgbaImage};
use imagewell_imaging::render::render;
use imagewell_imaging::transform::{Colour, Crop, Fit, Flip, Gravity, Outputs, Rotation, Transform};
use imagewell_imaging::{Format, Limits};
use pictures::{encoded, exif, jpeg_with_exif, wide_gamut};

fn testdata(name: &str) -> Vec<u8> {
    let path = format!("{}/../../testdata/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn transform(crop: Option<Crop>, fit: Fit) -> Transform {
    Transform { crop, outputs: Outputs::PNG, ..Transform::of(fit) }
}

fn rendered(source: &[u8], transform: &Transform) -> DynamicImage {
    image::load_from_memory(&render(source, transform, &Limits::default()).expect("renders")).expect("decodes")
}

/// Mean distance of two pictures' channels, of 255.
fn distance(one: &DynamicImage, other: &DynamicImage) -> f64 {
    assert_eq!((one.width(), one.height()), (other.width(), other.height()));
    let (one, other) = (one.to_rgba8(), other.to_rgba8());
    let sum: u64 = one.as_raw().iter().zip(other.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / one.as_raw().len() as f64
}

fn chelsea() -> DynamicImage {
    image::load_from_memory(&testdata("photos/chelsea.png")).expect("decodes")
}

/// A soft disc on nothing.
fn with_alpha() -> Vec<u8> {
    let disc = RgbaImage::from_fn(200, 120, |x, y| {
        let distance = ((f64::from(x) - 100.0).powi(2) + (f64::from(y) - 60.0).powi(2)).sqrt();
        image::Rgba([230, 60, 90, ((58.0 - distance) * 8.0).clamp(0.0, 255.0) as u8])
    });
    encoded(&disc.into(), ImageFormat::Png)
}

fn sixteen_bits() -> Vec<u8> {
    encoded(&DynamicImage::ImageRgb16(chelsea().into_rgb16()), ImageFormat::Png)
}

fn sideways() -> Vec<u8> {
    jpeg_with_exif(&testdata("photos/astronaut-512.jpg"), &exif(6, true))
}

#[test]
fn renderings_are_as_somebody_has_seen_them() {
    let face = Some(Crop { x: 150, y: 10, width: 180, height: 180 });
    let (small, tall) = (transform(None, Fit::Inside(96, 96)), transform(None, Fit::Cover(32, 96)));
    let contained = transform(None, Fit::Contain(96, 96));
    let cases: Vec<(&str, Vec<u8>, Transform)> = vec![
        ("photograph", testdata("photos/astronaut-512.jpg"), transform(None, Fit::square(96))),
        ("photograph-cropped", testdata("photos/astronaut-512.jpg"), transform(face, Fit::square(96))),
        ("photograph-inside", testdata("photos/rocket.jpg"), transform(None, Fit::Inside(96, 96))),
        ("stars", testdata("photos/hubble_deep_field.jpg"), transform(None, Fit::square(96))),
        ("sideways", sideways(), transform(None, Fit::square(96))),
        ("wide-gamut", wide_gamut(&testdata("photos/chelsea.png")), transform(None, Fit::Inside(96, 96))),
        ("alpha", with_alpha(), transform(None, Fit::square(64))),
        ("sixteen-bits", sixteen_bits(), transform(None, Fit::Inside(96, 96))),
        ("cmyk", testdata("formats/cmyk.jpg"), transform(None, Fit::Original)),
        ("animated", testdata("formats/animated.webp"), transform(None, Fit::Original)),
        ("animated-gif", pictures::animated_gif(3), transform(None, Fit::square(64))),
        ("enlarged", testdata("formats/lossy.webp"), transform(None, Fit::square(160))),
        ("avif", testdata("formats/small.avif"), transform(None, Fit::Original)),
        ("jpeg-xl", testdata("formats/small.jxl"), transform(None, Fit::Original)),
        ("rotated", testdata("photos/rocket.jpg"), Transform { rotation: Rotation::Right, ..small }),
        ("flipped", testdata("photos/rocket.jpg"), Transform { flip: Flip { horizontal: true, vertical: false }, ..small }),
        ("contained", testdata("photos/rocket.jpg"), Transform { background: Colour::from_hex("203080"), ..contained }),
        ("contained-clear", testdata("photos/rocket.jpg"), contained),
        ("filled", testdata("photos/rocket.jpg"), transform(None, Fit::Fill(96, 96))),
        ("outside", testdata("photos/rocket.jpg"), transform(None, Fit::Outside(64, 64))),
        ("on-colour", with_alpha(), Transform { background: Colour::from_hex("ffcc00"), ..small }),
        ("blurred", testdata("photos/chelsea.png"), Transform { blur: Some(30), ..small }),
        ("blurred-alpha", with_alpha(), Transform { blur: Some(60), ..small }),
        ("sharpened", testdata("photos/chelsea.png"), Transform { sharpen: Some(15), ..small }),
        ("north-west", testdata("photos/rocket.jpg"), Transform { gravity: Gravity::Side(-1, -1), ..tall }),
        ("point", testdata("photos/rocket.jpg"), Transform { gravity: Gravity::Point(800, 500), ..tall }),
        ("attention", testdata("photos/astronaut-512.jpg"), Transform { gravity: Gravity::Attention, ..tall }),
        ("entropy", testdata("photos/rocket.jpg"), Transform { gravity: Gravity::Entropy, ..tall }),
    ];
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden");
    for (name, source, transform) in cases {
        let path = folder.join(format!("{name}.png"));
        let bytes = render(&source, &transform, &Limits::default()).expect("renders");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(&folder).expect("makes");
            std::fs::write(&path, &bytes).expect("writes");
        }
        let golden = image::load_from_memory(&std::fs::read(&path).expect("golden file")).expect("decodes");
        let apart = distance(&image::load_from_memory(&bytes).expect("decodes"), &golden);
        assert!(apart < 1.0, "{name} is {apart:.2} off: look at it");
    }
}

/// zune-jpeg decodes these silently wrong; libjpeg-turbo finds all three the same but for their sampling.
#[test]
fn jpegs_whose_colours_come_in_scans_of_their_own_are_decoded_right() {
    let decoded = |name: &str| rendered(&testdata(name), &transform(None, Fit::Original));
    let one_scan = decoded("formats/one-scan-420.jpg");
    let original = chelsea().resize_exact(96, 64, image::imageops::FilterType::Lanczos3);
    assert!(distance(&decoded("formats/separate-scans-420.jpg"), &one_scan) < 0.01);
    for name in ["formats/one-scan-420.jpg", "formats/separate-scans-420.jpg", "formats/separate-scans-440.jpg"] {
        let apart = distance(&decoded(name), &original);
        assert!(apart < 6.0, "{name}: {apart:.2}");
    }
}

#[test]
fn profiles_are_followed_to_srgb_and_left_behind() {
    let source = wide_gamut(&testdata("photos/chelsea.png"));
    let followed = rendered(&source, &transform(None, Fit::Original));
    assert!(distance(&followed, &chelsea()) < 1.5, "{}", distance(&followed, &chelsea()));
    let ignored = image::load_from_memory(&source).expect("decodes");
    assert!(distance(&ignored, &chelsea()) > 2.0, "the numbers alone are other colours");
    let bytes = render(&source, &transform(None, Fit::Original), &Limits::default()).expect("renders");
    assert!(!bytes.windows(4).any(|window| window == b"iCCP"));
}

/// An AVIF of colours in Display P3, written down twice: its profile says so, its code points leave it open.
#[test]
fn colours_of_an_avif_are_what_its_container_says() {
    let source = testdata("formats/profile.avif");
    let decoded = |changes: &[(&[u8], &[u8])]| {
        let mut source = source.clone();
        for (old, new) in changes {
            let at = source.windows(old.len()).position(|window| window == *old).expect("is there");
            source[at..at + new.len()].copy_from_slice(new);
        }
        rendered(&source, &transform(None, Fit::Original))
    };
    let original = chelsea().resize_exact(96, 64, image::imageops::FilterType::Lanczos3);
    let near = |picture: &DynamicImage| distance(picture, &original);
    assert!(near(&decoded(&[])) < 3.0, "{}", near(&decoded(&[])));

    const NO_PROFILE: (&[u8], &[u8]) = (b"colrprof", b"colrnone");
    let coded = |primaries: u8, matrix: u8, range: u8| {
        decoded(&[NO_PROFILE, (b"nclx", &[b'n', b'c', b'l', b'x', 0, primaries, 0, 2, 0, matrix, range])])
    };
    let (p3, srgb) = (coded(12, 6, 0x80), coded(1, 6, 0x80));
    assert!(near(&p3) < 3.0, "{}", near(&p3));
    assert!(near(&srgb) > near(&p3) + 1.0, "{}, {}", near(&srgb), near(&p3));
    for (primaries, matrix, range) in
        [(9, 6, 0x80), (11, 6, 0x80), (12, 1, 0x80), (12, 8, 0x80), (12, 9, 0x80), (12, 0, 0x80), (12, 6, 0)]
    {
        let apart = distance(&coded(primaries, matrix, range), &p3);
        assert!(apart > 0.3, "{primaries}, {matrix}, {range}: {apart:.2}");
    }
    // What H.273 reserves nobody says; what the container leaves open the sequence header says: BT.601 in full range.
    assert!(distance(&coded(3, 6, 0x80), &srgb) < 0.01);
    assert!(distance(&coded(2, 2, 0x80), &srgb) < 0.01);
    assert!(distance(&decoded(&[NO_PROFILE, (b"nclx", b"none")]), &srgb) < 0.01);
}

/// Without a profile inks are only roughly colours, but a cat stays a cat.
#[test]
fn inks_become_the_colours_that_they_stand_for() {
    let cat = chelsea().resize_exact(96, 64, image::imageops::FilterType::Lanczos3);
    let apart = distance(&rendered(&testdata("formats/cmyk.jpg"), &transform(None, Fit::Original)), &cat);
    assert!(apart < 12.0, "{apart:.2}");
}

#[test]
fn sixteen_bits_and_eight_look_alike() {
    let eight = rendered(&testdata("photos/chelsea.png"), &transform(None, Fit::Inside(100, 100)));
    assert!(distance(&rendered(&sixteen_bits(), &transform(None, Fit::Inside(100, 100))), &eight) < 0.6);
}

/// A crop is in the pixels of the upright picture, however it is stored and however small a JPEG was decoded.
#[test]
fn crops_are_cut_from_the_upright_picture() {
    let photograph = testdata("photos/astronaut-512.jpg");
    let upright = image::load_from_memory(&photograph).expect("decodes");
    for (crop, side) in [((100, 50, 200, 200), 200), ((100, 50, 200, 200), 20), ((0, 0, 512, 512), 40), ((511, 511, 900, 900), 1)]
    {
        let (x, y, width, height) = crop;
        let (width_there, height_there) = (width.min(512 - x), height.min(512 - y));
        let expected =
            upright.crop_imm(x, y, width_there, height_there).resize_exact(side, side, image::imageops::FilterType::Lanczos3);
        let crop = Some(Crop { x, y, width, height });
        let apart = distance(&rendered(&photograph, &transform(crop, Fit::square(side))), &expected);
        assert!(apart < 3.0, "{crop:?} at {side}: {apart:.2}");
    }
    // Orientation 6 shows the stored left edge on top.
    let turned = upright.rotate90();
    let crop = Some(Crop { x: 60, y: 120, width: 150, height: 100 });
    let expected = turned.crop_imm(60, 120, 150, 100);
    assert!(distance(&rendered(&sideways(), &transform(crop, Fit::Original)), &expected) < 3.0);
}

#[test]
fn squares_are_as_large_as_asked_for() {
    for (width, height, side) in [(40, 30, 1), (40, 30, 30), (40, 30, 512), (1, 1, 16), (3, 300, 64), (2000, 10, 100)] {
        let source = encoded(&pictures::gradient(width, height), ImageFormat::Png);
        let square = rendered(&source, &transform(None, Fit::square(side)));
        assert_eq!((square.width(), square.height()), (side, side), "{width}x{height}");
    }
}

#[test]
fn the_output_is_what_the_client_reads_and_the_picture_needs() {
    let modern = Outputs { webp: true, ..Outputs::CLASSIC };
    let format = |source: &[u8], outputs| {
        let transform = Transform { outputs, ..Transform::of(Fit::square(32)) };
        Format::sniff(&render(source, &transform, &Limits::default()).expect("renders")).expect("known")
    };
    assert_eq!(format(&testdata("photos/rocket.jpg"), Outputs::CLASSIC), Format::Jpeg);
    assert_eq!(format(&testdata("photos/rocket.jpg"), modern), Format::WebP);
    assert_eq!(format(&testdata("photos/rocket.jpg"), Outputs { avif: true, ..modern }), Format::Avif);
    assert_eq!(format(&with_alpha(), modern), Format::WebP);
    assert_eq!(format(&with_alpha(), Outputs::CLASSIC), Format::Png);
    assert_eq!(format(&with_alpha(), Outputs::JPEG), Format::Jpeg, "on white");
    assert_eq!(format(&testdata("photos/rocket.jpg"), Outputs::PNG), Format::Png);
}

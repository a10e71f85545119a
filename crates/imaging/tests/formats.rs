//! What comes out: formats, movement, likeness, metadata.

mod pictures;

use std::io::Cursor;

use image::codecs::gif::GifDecoder;
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, DynamicImage, GenericImageView as _};
use imagewell_imaging::look::look;
use imagewell_imaging::render::render;
use imagewell_imaging::transform::{Crop, Fit, Metadata, Outputs, Rotation, Transform};
use imagewell_imaging::{Error, Format, Limit, Limits, inspect};
use ssimulacra2::{ColorPrimaries, Rgb, TransferCharacteristic, compute_frame_ssimulacra2};

fn testdata(name: &str) -> Vec<u8> {
    let path = format!("{}/../../testdata/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn rendered(source: &[u8], transform: &Transform) -> Vec<u8> {
    render(source, transform, &Limits::default()).expect("renders")
}

/// Any format of ours as pixels, by way of a PNG.
fn pixels(bytes: &[u8]) -> DynamicImage {
    let png = rendered(bytes, &Transform { outputs: Outputs::PNG, ..Transform::of(Fit::Original) });
    image::load_from_memory(&png).expect("decodes")
}

/// SSIMULACRA 2: 100 is the same, 90 can't be told apart, 70 is high quality, 50 medium.
fn likeness(one: &DynamicImage, other: &DynamicImage) -> f64 {
    let linear = |picture: &DynamicImage| {
        let data = picture.to_rgb32f().pixels().map(|pixel| pixel.0).collect();
        let (width, height) = picture.dimensions();
        Rgb::new(data, width as usize, height as usize, TransferCharacteristic::SRGB, ColorPrimaries::BT709).expect("pixels")
    };
    compute_frame_ssimulacra2(linear(one), linear(other)).expect("compares")
}

#[test]
fn every_output_looks_like_the_picture() {
    let source = testdata("photos/chelsea.png");
    let original = image::load_from_memory(&source).expect("decodes");
    let fit = Fit::Inside(300, 300);
    let reference = original.resize(300, 300, image::imageops::FilterType::Lanczos3);
    for (outputs, format, least) in [
        (Outputs::PNG, Format::Png, 95.0),
        (Outputs::JPEG, Format::Jpeg, 70.0),
        (Outputs { progressive: true, ..Outputs::JPEG }, Format::Jpeg, 70.0),
        (Outputs::WEBP, Format::WebP, 65.0),
        (Outputs { avif: true, ..Outputs::NONE }, Format::Avif, 65.0),
        (Outputs { gif: true, ..Outputs::NONE }, Format::Gif, 30.0),
    ] {
        let bytes = rendered(&source, &Transform { outputs, ..Transform::of(fit) });
        assert_eq!(Format::sniff(&bytes).expect("known"), format);
        inspect(Cursor::new(&bytes), &Limits::default()).expect("whole");
        let alike = likeness(&reference, &pixels(&bytes));
        assert!(alike > least, "{format} {outputs:?}: {alike:.1}");
    }
    let lossless = rendered(&source, &Transform { outputs: Outputs::WEBP, lossless: true, ..Transform::of(Fit::Original) });
    assert_eq!(pixels(&lossless).to_rgb8(), original.to_rgb8());
}

#[test]
fn quality_is_bytes() {
    let source = testdata("photos/astronaut-512.jpg");
    for outputs in [Outputs::JPEG, Outputs::WEBP, Outputs { avif: true, ..Outputs::NONE }] {
        let len = |quality| rendered(&source, &Transform { quality, outputs, ..Transform::of(Fit::square(200)) }).len();
        assert!(len(Some(20)) < len(None) && len(None) < len(Some(98)), "{outputs:?}");
    }
}

#[test]
fn a_progressive_jpeg_comes_in_scans() {
    let source = testdata("photos/astronaut-512.jpg");
    let scans = |progressive| {
        let outputs = Outputs { progressive, ..Outputs::JPEG };
        rendered(&source, &Transform { outputs, ..Transform::of(Fit::square(200)) })
            .windows(2)
            .filter(|two| two == b"\xFF\xDA")
            .count()
    };
    assert_eq!(scans(false), 1);
    assert!(scans(true) > 3);
}

#[test]
fn transparency_lives_through_webp_and_avif() {
    let disc = image::RgbaImage::from_fn(64, 64, |x, y| {
        let far = x.abs_diff(32).pow(2) + y.abs_diff(32).pow(2) > 400;
        image::Rgba([200, 40 + (x % 16) as u8, (y % 32) as u8, if far { 0 } else { 255 }])
    });
    let source = pictures::encoded(&disc.into(), image::ImageFormat::Png);
    for outputs in [Outputs::WEBP, Outputs { avif: true, ..Outputs::NONE }] {
        let picture = pixels(&rendered(&source, &Transform { outputs, ..Transform::of(Fit::Original) }));
        assert!(picture.get_pixel(1, 1).0[3] < 20 && picture.get_pixel(32, 32).0[3] > 235, "{outputs:?}");
    }
}

/// Widths, heights and milliseconds of a GIF's or WebP's frames.
fn moments(bytes: &[u8]) -> Vec<(u32, u32, u32)> {
    let frames = match Format::sniff(bytes).expect("known") {
        Format::Gif => GifDecoder::new(Cursor::new(bytes)).expect("GIF").into_frames(),
        _ => WebPDecoder::new(Cursor::new(bytes)).expect("WebP").into_frames(),
    };
    frames
        .map(|frame| {
            let frame = frame.expect("frame");
            let (numerator, denominator) = frame.delay().numer_denom_ms();
            (frame.buffer().width(), frame.buffer().height(), numerator / denominator)
        })
        .collect()
}

/// A block that moves, unevenly.
fn moving() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for (at, milliseconds) in [(0, 100), (20, 250), (40, 40)] {
        let picture = image::RgbaImage::from_fn(60, 30, |x, _| {
            image::Rgba(if (at..at + 20).contains(&x) { [200, 30, 30, 255] } else { [30, 30, 90, 255] })
        });
        let delay = image::Delay::from_numer_denom_ms(milliseconds, 1);
        encoder.encode_frame(image::Frame::from_parts(picture, 0, 0, delay)).expect("encodes");
    }
    drop(encoder);
    bytes
}

#[test]
fn animations_stay_animations_where_the_output_can() {
    let animate = |outputs| Transform { animate: true, outputs, ..Transform::of(Fit::Inside(16, 16)) };
    for source in [moving(), testdata("formats/animated.webp")] {
        let before = moments(&source);
        for outputs in [Outputs::WEBP, Outputs { gif: true, ..Outputs::NONE }] {
            let after = moments(&rendered(&source, &animate(outputs)));
            assert_eq!(after.len(), before.len(), "{outputs:?}");
            assert!(after.iter().all(|(width, height, _)| *width.max(height) == 16));
            let lasts = |moments: &[(u32, u32, u32)]| moments.iter().map(|moment| moment.2).collect::<Vec<_>>();
            assert_eq!(lasts(&after), lasts(&before), "{outputs:?}");
        }
        let still = rendered(&source, &Transform { animate: false, ..animate(Outputs::WEBP) });
        assert_eq!(inspect(Cursor::new(&still), &Limits::default()).expect("whole").frames, 1);
        assert_eq!(Format::sniff(&rendered(&source, &animate(Outputs::JPEG))).expect("known"), Format::Jpeg);
    }
}

#[test]
fn animations_and_enlargements_are_bounded() {
    let refused = |source: &[u8], transform: &Transform, limits: &Limits| render(source, transform, limits).expect_err("refused");
    let limits = Limits { output_frame_pixels_max: 767, ..Limits::default() };
    let animated = Transform { animate: true, outputs: Outputs::WEBP, ..Transform::of(Fit::square(16)) };
    let error = refused(&pictures::animated_gif(3), &animated, &limits);
    assert!(matches!(error, Error::OverLimit { limit: Limit::OutputFramePixels, actual: 768, max: 767 }), "{error:?}");
    let error = refused(&testdata("photos/rocket.jpg"), &Transform::of(Fit::square(9000)), &Limits::default());
    assert!(matches!(error, Error::OverLimit { limit: Limit::OutputPixels, .. }), "{error:?}");
}

#[test]
fn a_profile_is_kept_on_request_with_the_numbers_that_it_explains() {
    let source = pictures::wide_gamut(&testdata("photos/chelsea.png"));
    let kept =
        |outputs| rendered(&source, &Transform { metadata: Metadata::Profile, outputs, ..Transform::of(Fit::Inside(100, 100)) });
    assert!(kept(Outputs::PNG).windows(4).any(|name| name == b"iCCP"));
    assert!(kept(Outputs::JPEG).windows(11).any(|name| name == b"ICC_PROFILE"));
    let followed = rendered(&source, &Transform { outputs: Outputs::PNG, ..Transform::of(Fit::Inside(100, 100)) });
    // Read by a program that follows profiles, both look alike; formats that can't hold it have been followed.
    let alike = |bytes: &[u8]| likeness(&image::load_from_memory(&followed).expect("decodes"), &pixels(bytes));
    assert!(alike(&kept(Outputs::PNG)) > 90.0);
    assert!(alike(&kept(Outputs::WEBP)) > 60.0);
}

/// Only the colour profile may be kept; where and with what it was taken never is.
#[test]
fn personal_metadata_is_in_no_output() {
    let jpeg = testdata("photos/astronaut-512.jpg");
    let source = pictures::jpeg_with_exif(&jpeg, &pictures::exif(6, true));
    assert!(source.windows(4).any(|name| name == b"Exif"));
    let all = [
        Outputs::JPEG,
        Outputs::PNG,
        Outputs::WEBP,
        Outputs { avif: true, ..Outputs::NONE },
        Outputs { gif: true, ..Outputs::NONE },
    ];
    for outputs in all {
        for metadata in [Metadata::None, Metadata::Profile] {
            let bytes = rendered(&source, &Transform { outputs, metadata, ..Transform::of(Fit::square(64)) });
            let holds = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
            assert!(!holds(b"Exif") && !holds(b"eXIf") && !holds(b"EXIF") && !holds(b"GPS"), "{outputs:?}");
        }
    }
}

#[test]
fn rotation_comes_after_the_crop_and_before_the_fit() {
    let source = testdata("photos/rocket.jpg");
    let crop = Some(Crop { x: 100, y: 50, width: 200, height: 100 });
    let size = |transform: Transform| {
        let facts = inspect(Cursor::new(rendered(&source, &transform)), &Limits::default()).expect("whole");
        (facts.width, facts.height)
    };
    let turned = Transform { crop, rotation: Rotation::Right, ..Transform::of(Fit::Inside(60, 60)) };
    assert_eq!(size(turned), (30, 60));
    assert_eq!(size(Transform { rotation: Rotation::None, ..turned }), (60, 30));
}

#[test]
fn a_look_is_a_few_bytes_that_resemble_the_picture() {
    let seen = look(&testdata("photos/hubble_deep_field.jpg"), &Limits::default()).expect("looks");
    assert!(seen.dominant.iter().all(|part| *part < 40), "the sky is dark: {:?}", seen.dominant);
    assert!((10..40).contains(&seen.thumbhash.len()));
    let red = image::RgbImage::from_pixel(300, 200, image::Rgb([200, 10, 20]));
    let seen = look(&pictures::encoded(&red.into(), image::ImageFormat::Png), &Limits::default()).expect("looks");
    assert_eq!(seen.dominant, [200, 10, 20]);
    let (red, green, blue, _) = thumbhash::thumb_hash_to_average_rgba(&seen.thumbhash).expect("hash");
    assert!(red > 0.6 && green < 0.2 && blue < 0.2);
}

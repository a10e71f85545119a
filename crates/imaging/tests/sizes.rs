//! How many bytes renderings have, beside those of their sources, and that they still show the same.

mod pictures;

use std::io::Cursor;

use image::codecs::gif::GifDecoder;
use image::{AnimationDecoder as _, DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use imagewell_imaging::render::render;
use imagewell_imaging::transform::{Fit, Gravity, Metadata, Outputs, Transform};
use imagewell_imaging::{Error, Format, Limits, inspect};
use pictures::{encoded, exif, gradient, jpeg_with_exif};

const GIF: Outputs = Outputs { gif: true, ..Outputs::NONE };
const MODERN: Outputs = Outputs { webp: true, ..Outputs::CLASSIC };

fn testdata(name: &str) -> Vec<u8> {
    let path = format!("{}/../../testdata/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn rendered(source: &[u8], transform: &Transform) -> Vec<u8> {
    render(source, transform, &Limits::default()).expect("renders")
}

fn as_it_is(outputs: Outputs) -> Transform {
    Transform { outputs, animate: true, ..Transform::of(Fit::Original) }
}

fn format(bytes: &[u8]) -> Format {
    Format::sniff(bytes).expect("known")
}

fn canvases(gif: &[u8]) -> Vec<RgbaImage> {
    let frames = GifDecoder::new(Cursor::new(gif)).expect("opens").into_frames();
    frames.map(|frame| frame.expect("decodes").into_buffer()).collect()
}

/// A recording of a screen: a page of many colours, and a square that moves over it. Every frame is whole, with a palette of its own.
fn recording(frames: u32) -> Vec<u8> {
    let page = RgbaImage::from_fn(240, 180, |x, y| {
        let level = ((x / 8 * 7 + y / 8 * 13) % 60) as u8;
        Rgba([level * 4, 90, 255 - level * 4, 255])
    });
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for frame in 0..frames {
        let mut canvas = page.clone();
        (0..12).for_each(|x| (0..12).for_each(|y| canvas.put_pixel(frame * 6 % 220 + x, 60 + y, Rgba([255, 255, 255, 255]))));
        encoder.encode_frame(image::Frame::new(canvas)).expect("encodes");
    }
    drop(encoder);
    bytes
}

#[test]
fn an_animated_gif_has_of_each_frame_what_changes() {
    let source = recording(30);
    let gif = rendered(&source, &as_it_is(GIF));
    let first = rendered(&source, &Transform { animate: false, ..as_it_is(GIF) });
    assert!(gif.len() < first.len() * 2, "{} bytes, and the first frame alone has {}", gif.len(), first.len());
    assert!(gif.len() * 10 < source.len(), "{} of {}", gif.len(), source.len());
    assert_eq!(canvases(&gif), canvases(&source));
    let smaller = Transform { fit: Fit::Width(120), ..as_it_is(GIF) };
    let (gif, first) = (rendered(&source, &smaller), rendered(&source, &Transform { animate: false, ..smaller }));
    assert!(gif.len() < first.len() * 3, "{} bytes, and the first frame alone has {}", gif.len(), first.len());
}

#[test]
fn soft_edges_of_a_still_gif_are_seen_or_not() {
    let soft = RgbaImage::from_fn(64, 8, |x, _| Rgba([200, 10, 10, (x * 4) as u8]));
    let gif = rendered(&encoded(&soft.into(), ImageFormat::Png), &as_it_is(GIF));
    let canvas = &canvases(&gif)[0];
    let seen: Vec<bool> = (0..64).map(|x| canvas.get_pixel(x, 0).0 == [200, 10, 10, 255]).collect();
    assert_eq!(seen, (0..64).map(|x| x >= 32).collect::<Vec<_>>());
}

/// A page as a scanner makes it: black on white, and gray along the edges of letters.
fn scan(bilevel: bool) -> DynamicImage {
    let page = GrayImage::from_fn(600, 800, |x, y| {
        let ink = (x % 40 < 22 && y % 30 < 12 && (x * y) % 7 < 3) || (x / 3 % 50 == 0);
        let paper = if bilevel { 255 } else { 255 - (x % 3 * u32::from(y % 16 == 0) * 20) as u8 };
        Luma([if ink { 0 } else { paper }])
    });
    page.into()
}

#[test]
fn pages_in_gray_are_drawings_and_photographs_in_gray_are_not() {
    let lossless = |webp: &[u8]| webp.windows(4).any(|name| name == b"VP8L");
    for bilevel in [true, false] {
        let source = encoded(&scan(bilevel), ImageFormat::Png);
        let webp = rendered(&source, &as_it_is(Outputs::WEBP));
        assert!(lossless(&webp), "bilevel: {bilevel}");
        assert!(webp.len() <= source.len(), "{} of {}", webp.len(), source.len());
        assert_eq!(image::load_from_memory(&webp).expect("decodes").into_luma8(), scan(bilevel).into_luma8());
    }
    let photograph = image::load_from_memory(&testdata("photos/chelsea.png")).expect("decodes").into_luma8();
    let webp = rendered(&encoded(&photograph.into(), ImageFormat::Png), &as_it_is(Outputs::WEBP));
    assert!(!lossless(&webp));
}

/// A drawing in nine colours, as programs for charts write it.
fn chart() -> Vec<u8> {
    let colours = [[255, 255, 255], [0, 0, 0], [31, 111, 235], [220, 50, 47], [133, 153, 0], [181, 137, 0], [42, 161, 152]];
    let drawing = RgbImage::from_fn(500, 400, |x, y| {
        let bar = (x / 60) as usize;
        let inside = x % 60 > 10 && 400 - y < 40 + (bar as u32 * 37) % 300;
        Rgb(if y % 50 == 0 {
            colours[1]
        } else if inside {
            colours[2 + bar % 5]
        } else {
            colours[0]
        })
    });
    rendered(&encoded(&drawing.into(), ImageFormat::Png), &as_it_is(Outputs::PNG))
}

#[test]
fn a_png_with_a_palette_stays_one() {
    let source = chart();
    assert_eq!((source[24], source[25]), (4, 3), "bits and kind");
    let same = rendered(&source, &as_it_is(Outputs::PNG));
    assert!(same.len() <= source.len(), "{} of {}", same.len(), source.len());
    let smaller = rendered(&source, &Transform { fit: Fit::Width(333), ..as_it_is(Outputs::PNG) });
    assert_eq!((smaller[24], smaller[25]), (8, 3));
    let whole = rendered(&source, &Transform { fit: Fit::Width(333), lossless: true, ..as_it_is(Outputs::PNG) });
    assert!(smaller.len() <= whole.len(), "{} and {}", smaller.len(), whole.len());
    let (near, exact) = (image::load_from_memory(&smaller), image::load_from_memory(&whole));
    let (near, exact) = (near.expect("decodes").into_rgb8(), exact.expect("decodes").into_rgb8());
    let sum: u64 = near.as_raw().iter().zip(exact.as_raw()).map(|(one, other)| u64::from(one.abs_diff(*other))).sum();
    assert!((sum as f64) < 2.0 * near.as_raw().len() as f64, "{sum}");
}

fn jpeg_of(quality: u8) -> Vec<u8> {
    let photograph = image::load_from_memory(&testdata("photos/chelsea.png")).expect("decodes");
    let mut bytes = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality);
    photograph.write_with_encoder(encoder).expect("encodes");
    bytes
}

/// Sources that others have made smaller than our encoders would.
fn small_sources() -> Vec<(&'static str, Vec<u8>, Outputs)> {
    let upright = jpeg_with_exif(&jpeg_of(20), &exif(1, true));
    let webp = rendered(&jpeg_of(90), &Transform { quality: Some(20), ..as_it_is(Outputs::WEBP) });
    let webp = pictures::webp_with_exif(&webp, 451, 300, &exif(1, false));
    let gif = rendered(&recording(3), &as_it_is(GIF));
    let comment = [&[0x21, 0xFE, 5][..], b"hello", &[0]].concat();
    let gif = [&gif[..gif.len() - 1], &comment, &gif[gif.len() - 1..]].concat();
    vec![
        ("JPEG", upright, Outputs::CLASSIC),
        ("JPEG for clients that read WebP", jpeg_of(20), MODERN),
        ("PNG", pictures::indexed_png_with_note(), Outputs::PNG),
        ("WebP", webp, MODERN),
        ("GIF", gif, Outputs::CLASSIC),
        ("animated WebP", testdata("formats/animated.webp"), MODERN),
    ]
}

#[test]
fn a_rendering_without_a_change_is_never_larger_than_its_source_and_has_no_metadata() {
    for (name, source, outputs) in small_sources() {
        for fit in [Fit::Original, Fit::Inside(5000, 5000), Fit::Width(3000)] {
            let same = rendered(&source, &Transform { enlarge: false, fit, ..as_it_is(outputs) });
            assert!(same.len() <= source.len(), "{name}: {} of {}", same.len(), source.len());
            for metadata in [&b"Exif"[..], b"EXIF", b"II*\0", b"MM\0*", b"hello", b"tEXt"] {
                assert!(!same.windows(metadata.len()).any(|bytes| bytes == metadata), "{name}: {metadata:?}");
            }
            let facts = |bytes: &[u8]| inspect(Cursor::new(bytes), &Limits::default()).expect("whole");
            let (before, after) = (facts(&source), facts(&same));
            assert_eq!((before.width, before.height, before.frames), (after.width, after.height, after.frames), "{name}");
        }
    }
}

#[test]
fn whoever_asks_for_another_rendering_gets_it() {
    let source = jpeg_of(20);
    let plain = rendered(&source, &as_it_is(Outputs::JPEG));
    assert_eq!(plain, source);
    let asked = [
        Transform { quality: Some(95), ..as_it_is(Outputs::JPEG) },
        Transform { sharpen: Some(10), ..as_it_is(Outputs::JPEG) },
        as_it_is(Outputs { progressive: true, ..Outputs::JPEG }),
        as_it_is(Outputs::PNG),
    ];
    for transform in asked {
        assert_ne!(rendered(&source, &transform), source, "{transform}");
    }
    let turned = jpeg_with_exif(&source, &exif(6, true));
    let upright = image::load_from_memory(&rendered(&turned, &as_it_is(Outputs::JPEG))).expect("decodes");
    assert_eq!((upright.width(), upright.height()), (300, 451));
    let still = Transform { animate: false, ..as_it_is(MODERN) };
    let first = rendered(&testdata("formats/animated.webp"), &still);
    assert_eq!(inspect(Cursor::new(first), &Limits::default()).expect("whole").frames, 1);
    // In sRGB, whatever it costs.
    let wide = pictures::wide_gamut(&testdata("photos/chelsea.png"));
    assert!(!rendered(&wide, &as_it_is(Outputs::PNG)).windows(4).any(|name| name == b"iCCP"));
}

#[test]
fn a_format_that_cannot_be_so_large_is_passed_over() {
    let long: DynamicImage = GrayImage::from_fn(3, 16_384, |x, y| Luma([(x * 80 + y / 70) as u8])).into();
    let source = encoded(&long, ImageFormat::Png);
    let of = |outputs| format(&rendered(&source, &Transform { sharpen: Some(1), ..as_it_is(outputs) }));
    assert_eq!((of(MODERN), of(Outputs::CLASSIC), of(Outputs::WEBP)), (Format::Jpeg, Format::Jpeg, Format::Jpeg));
    let fits = Transform { fit: Fit::Height(16_383), ..as_it_is(MODERN) };
    assert_eq!(format(&rendered(&source, &fits)), Format::WebP);
}

/// The subject stands left in even frames and right in odd ones.
fn jumping() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for frame in 0..6_u32 {
        let canvas = RgbaImage::from_fn(300, 100, |x, y| {
            let begin = if frame % 2 == 0 { 10 } else { 210 };
            let inside = (begin..begin + 80).contains(&x) && (x / 8 + y / 8) % 2 == 0;
            Rgba(if inside { [230, 120, 90, 255] } else { [128, 128, 128, 255] })
        });
        encoder.encode_frame(image::Frame::new(canvas)).expect("encodes");
    }
    drop(encoder);
    bytes
}

#[test]
fn the_window_on_an_animation_does_not_jump() {
    for gravity in [Gravity::Attention, Gravity::Entropy] {
        let transform = Transform { gravity, animate: true, outputs: GIF, ..Transform::of(Fit::Cover(100, 100)) };
        let shown: Vec<bool> = canvases(&rendered(&jumping(), &transform))
            .iter()
            .map(|canvas| canvas.pixels().any(|pixel| pixel.0[0] > 200))
            .collect();
        assert_eq!(
            shown,
            [true, false, true, false, true, false],
            "{gravity:?}: the window stays where it was in the first frame"
        );
    }
}

/// A gray picture whose numbers mean something much darker than in sRGB.
fn gray_with_profile() -> Vec<u8> {
    let profile = moxcms::ColorProfile::new_gray_with_gamma(1.0).encode().expect("profile");
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    image::ImageEncoder::set_icc_profile(&mut encoder, profile).expect("takes a profile");
    GrayImage::from_pixel(60, 40, Luma([115])).write_with_encoder(encoder).expect("encodes");
    bytes
}

#[test]
fn a_profile_is_followed_where_its_numbers_are_no_longer_of_its_kind() {
    let source = gray_with_profile();
    let of = |metadata, fit| {
        let bytes = rendered(&source, &Transform { metadata, outputs: Outputs::PNG, ..Transform::of(fit) });
        let kept = bytes.windows(4).any(|name| name == b"iCCP");
        let picture = image::load_from_memory(&bytes).expect("decodes").into_luma8();
        (kept, picture.get_pixel(picture.width() / 2, picture.height() / 2).0[0])
    };
    let followed = of(Metadata::None, Fit::Inside(30, 30));
    assert!(!followed.0 && followed.1 > 150, "{followed:?}");
    assert_eq!(of(Metadata::Profile, Fit::Inside(30, 30)), (true, 115), "kept with the numbers that it explains");
    assert_eq!(of(Metadata::Profile, Fit::Contain(50, 50)), followed, "transparent edges make it another kind of picture");
}

#[test]
fn one_side_alone_bounds_nothing_else() {
    let tall = encoded(&gradient(40, 6000), ImageFormat::Png);
    let size = |fit| {
        let facts = inspect(Cursor::new(rendered(&tall, &Transform::of(fit))), &Limits::default()).expect("whole");
        (facts.width, facts.height)
    };
    assert_eq!((size(Fit::Width(30)), size(Fit::Height(3000))), ((30, 4500), (20, 3000)));
    let limits = Limits { output_pixels_max: 30 * 4500 - 1, ..Limits::default() };
    let error = render(&tall, &Transform::of(Fit::Width(30)), &limits).expect_err("refused");
    assert!(matches!(error, Error::OverLimit { actual: 135_000, .. }), "{error:?}");
}

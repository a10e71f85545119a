//! What `render` makes of pictures.

mod pictures;

use image::{GenericImageView as _, ImageFormat};
use imagewell_imaging::render::render;
use imagewell_imaging::transform::{Fit, Transform};
use imagewell_imaging::{Error, Format, Limits};
use pictures::{encoded, exif, gradient, jpeg_with_exif, png_claiming, whole_files};

fn rendered(bytes: &[u8], fit: Fit) -> image::DynamicImage {
    let bytes = render(bytes, &Transform::of(fit), &Limits::default()).expect("renders");
    image::load_from_memory(&bytes).expect("decodes")
}

#[test]
fn pictures_are_fitted_and_never_enlarged() {
    for (name, bytes, (width, height)) in whole_files() {
        assert_eq!(rendered(&bytes, Fit::Original).dimensions(), (width, height), "{name}");
        assert_eq!(rendered(&bytes, Fit::Inside(5000, 5000)).dimensions(), (width, height), "{name}");
        let small = rendered(&bytes, Fit::Inside(10, 10));
        assert_eq!(small.width().max(small.height()), 10, "{name}");
    }
}

/// Rows F8 and F9: each of the eight orientations ends upright, and the metadata is gone.
#[test]
fn every_orientation_ends_upright_without_metadata() {
    // Bright top left, dark elsewhere: after turning, the bright corner tells where up is.
    let mut picture = image::RgbImage::from_pixel(48, 32, image::Rgb([10, 10, 10]));
    (0..16).for_each(|x| (0..16).for_each(|y| picture.put_pixel(x, y, image::Rgb([250, 250, 250]))));
    let jpeg = encoded(&picture.into(), ImageFormat::Jpeg);
    // Where the stored top left corner ends up on the upright picture, as (right, bottom).
    let corners = [
        (1, false, false),
        (2, true, false),
        (3, true, true),
        (4, false, true),
        (5, false, false),
        (6, true, false),
        (7, true, true),
        (8, false, true),
    ];
    for (orientation, right, bottom) in corners {
        let source = jpeg_with_exif(&jpeg, &exif(orientation, true));
        let bytes = render(&source, &Transform::of(Fit::Original), &Limits::default()).expect("renders");
        assert!(!bytes.windows(4).any(|window| window == b"Exif"), "{orientation}: metadata is left");
        let upright = image::load_from_memory(&bytes).expect("decodes").into_luma8();
        let swapped = orientation >= 5;
        assert_eq!(upright.dimensions(), if swapped { (32, 48) } else { (48, 32) }, "{orientation}");
        let x = if right { upright.width() - 4 } else { 4 };
        let y = if bottom { upright.height() - 4 } else { 4 };
        assert!(upright.get_pixel(x, y).0[0] > 200, "{orientation}: the bright corner is not at {x},{y}");
    }
}

#[test]
fn transparency_survives_and_opaque_pictures_become_jpeg() {
    let mut picture = gradient(20, 20).into_rgba8();
    picture.put_pixel(3, 3, image::Rgba([0, 0, 0, 0]));
    let bytes =
        render(&encoded(&picture.into(), ImageFormat::Png), &Transform::of(Fit::Original), &Limits::default()).expect("renders");
    assert_eq!(Format::sniff(&bytes).expect("known"), Format::Png);
    assert_eq!(image::load_from_memory(&bytes).expect("decodes").get_pixel(3, 3).0[3], 0);
    let opaque = render(&encoded(&gradient(20, 20), ImageFormat::Png), &Transform::of(Fit::Inside(10, 10)), &Limits::default())
        .expect("renders");
    assert_eq!(Format::sniff(&opaque).expect("known"), Format::Jpeg);
}

#[test]
fn bombs_and_broken_pixels_are_refused() {
    let refused = |bytes: &[u8]| render(bytes, &Transform::of(Fit::Original), &Limits::default()).expect_err("refused");
    assert!(matches!(refused(&png_claiming(20_000, 20_000, &[])), Error::OverLimit { .. }));
    assert!(matches!(refused(&png_claiming(40, 30, &[])), Error::Render { .. }), "whole in structure, broken in the pixels");
}

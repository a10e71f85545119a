//! Resizing, from outside: tests inside the crate would compile its libraries' code once more.

use fast_image_resize::ResizeOptions;
use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};
use imagewell_pixels::resize;

#[test]
fn each_kind_of_pixels_keeps_its_colour_and_its_kind() {
    let options = ResizeOptions::new();
    let pictures = [
        DynamicImage::ImageLuma8(GrayImage::from_pixel(8, 6, image::Luma([90]))),
        DynamicImage::ImageRgb8(RgbImage::from_pixel(8, 6, image::Rgb([90, 10, 200]))),
        DynamicImage::ImageRgba8(RgbaImage::from_pixel(8, 6, image::Rgba([90, 10, 200, 255]))),
    ];
    for picture in pictures {
        let resized = resize(&picture, (4, 3), &options).expect("resizes");
        assert_eq!((resized.width(), resized.height(), resized.color()), (4, 3, picture.color()));
        assert_eq!(resized.to_rgba8().get_pixel(2, 1), picture.to_rgba8().get_pixel(2, 1));
    }
    let deep = DynamicImage::new_rgb16(8, 6);
    assert_eq!(resize(&deep, (4, 3), &options).expect("resizes").color(), image::ColorType::Rgba8);
}

#[test]
fn a_part_outside_the_picture_is_an_error() {
    let options = ResizeOptions::new().crop(4.0, 4.0, 8.0, 8.0);
    assert!(resize(&DynamicImage::new_rgb8(8, 6), (4, 3), &options).is_err());
}

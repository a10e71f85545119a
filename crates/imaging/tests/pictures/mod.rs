//! Pictures made by code: whole ones in every format, and parts to make hostile ones from.
#![allow(dead_code, reason = "each test file uses some of these")]

pub mod shown;
pub mod tiff;

use std::io::{Cursor, Write as _};

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

/// A picture in which no two rows are alike.
pub fn gradient(width: u32, height: u32) -> DynamicImage {
    DynamicImage::ImageRgb8(RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, (x ^ y) as u8])))
}

pub fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).expect("encodes");
    bytes.into_inner()
}

pub fn animated_gif(frames: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for index in 0..frames {
        let frame = image::Frame::new(gradient(20 + index % 2, 10).crop_imm(0, 0, 20, 10).into_rgba8());
        encoder.encode_frame(frame).expect("encodes");
    }
    drop(encoder);
    bytes
}

/// A PNG chunk with its checksum.
pub fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(kind);
    crc.update(data);
    [&(data.len() as u32).to_be_bytes()[..], kind, data, &crc.finalize().to_be_bytes()].concat()
}

/// A PNG of this size with as little data as passes for whole.
pub fn png_claiming(width: u32, height: u32, extra: &[Vec<u8>]) -> Vec<u8> {
    png_of_colour_type(0, width, height, extra)
}

/// The same, whose pixels are numbers of colours.
pub fn indexed_png(palette: &[u8]) -> Vec<u8> {
    png_of_colour_type(3, 8, 7, &[png_chunk(b"PLTE", palette)])
}

/// Sixteen colours in stripes, compressed as well as can be, with a note that is of interest to nobody.
pub fn indexed_png_with_note() -> Vec<u8> {
    let (width, height) = (640_u32, 480_u32);
    let palette: Vec<u8> = (0..16_u8).flat_map(|number| [number * 17, 255 - number * 17, number * 3]).collect();
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[4, 3, 0, 0, 0]].concat();
    let line = [&[0][..], &(0..width / 2).map(|x| (x / 20 % 16 * 17) as u8).collect::<Vec<_>>()].concat();
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    zlib.write_all(&line.repeat(height as usize)).expect("compresses");
    let data = zlib.finish().expect("compresses");
    let chunks = [
        png_chunk(b"IHDR", &header),
        png_chunk(b"PLTE", &palette),
        png_chunk(b"tEXt", b"Comment\0hello"),
        png_chunk(b"IDAT", &data),
        png_chunk(b"IEND", b""),
    ];
    [b"\x89PNG\r\n\x1A\n".to_vec(), chunks.concat()].concat()
}

fn png_of_colour_type(colour_type: u8, width: u32, height: u32, extra: &[Vec<u8>]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, colour_type, 0, 0, 0]].concat();
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zlib.write_all(&[0; 64]).expect("compresses");
    let data = zlib.finish().expect("compresses");
    let mut bytes = b"\x89PNG\r\n\x1A\n".to_vec();
    bytes.extend(png_chunk(b"IHDR", &header));
    extra.iter().for_each(|chunk| bytes.extend(chunk));
    bytes.extend(png_chunk(b"IDAT", &data));
    bytes.extend(png_chunk(b"IEND", b""));
    bytes
}

/// A minimal EXIF block: one directory with the orientation.
pub fn exif(orientation: u16, big_endian: bool) -> Vec<u8> {
    let u16b = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let u32b = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let mark: &[u8] = if big_endian { b"MM" } else { b"II" };
    let entry = [&u16b(0x0112)[..], &u16b(3), &u32b(1), &u16b(orientation), &u16b(0)].concat();
    [mark, &u16b(42), &u32b(8), &u16b(1), &entry, &u32b(0)].concat()
}

/// The JPEG with an EXIF segment right after its start.
pub fn jpeg_with_exif(jpeg: &[u8], exif: &[u8]) -> Vec<u8> {
    let len = (exif.len() + 8) as u16;
    [&jpeg[..2], &[0xFF, 0xE1], &len.to_be_bytes(), b"Exif\0\0", exif, &jpeg[2..]].concat()
}

/// A lossless WebP wrapped in the extended form, with an EXIF chunk.
pub fn webp_with_exif(webp: &[u8], width: u32, height: u32, exif: &[u8]) -> Vec<u8> {
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let mut bytes = [kind, &(data.len() as u32).to_le_bytes()[..], data].concat();
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        bytes
    };
    let u24 = |value: u32| value.to_le_bytes()[..3].to_vec();
    let extended = [vec![0x08, 0, 0, 0], u24(width - 1), u24(height - 1)].concat();
    let chunks = [chunk(b"VP8X", &extended), webp[12..].to_vec(), chunk(b"EXIF", exif)].concat();
    [b"RIFF".as_slice(), &(chunks.len() as u32 + 4).to_le_bytes(), b"WEBP", &chunks].concat()
}

/// A whole file of every format with its true size.
pub fn whole_files() -> Vec<(&'static str, Vec<u8>, (u32, u32))> {
    let picture = gradient(40, 30);
    let read = |name: &str| {
        let path = format!("{}/../../testdata/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    vec![
        ("jpeg", encoded(&picture, ImageFormat::Jpeg), (40, 30)),
        ("jpeg photograph", read("photos/rocket.jpg"), (640, 427)),
        ("png", encoded(&picture, ImageFormat::Png), (40, 30)),
        ("png photograph", read("photos/chelsea.png"), (451, 300)),
        ("gif", encoded(&picture, ImageFormat::Gif), (40, 30)),
        ("animated gif", animated_gif(3), (20, 10)),
        ("webp", encoded(&picture, ImageFormat::WebP), (40, 30)),
        ("bmp", encoded(&picture, ImageFormat::Bmp), (40, 30)),
        ("tiff", encoded(&picture, ImageFormat::Tiff), (40, 30)),
        ("ico", encoded(&DynamicImage::ImageRgba8(picture.to_rgba8()), ImageFormat::Ico), (40, 30)),
        ("progressive jpeg with restarts", read("formats/progressive.jpg"), (96, 64)),
        ("cmyk jpeg", read("formats/cmyk.jpg"), (96, 64)),
        ("lossy webp", read("formats/lossy.webp"), (96, 64)),
        ("animated webp", read("formats/animated.webp"), (96, 64)),
        ("run-length bmp", read("formats/rle.bmp"), (96, 64)),
        ("tiled tiff", read("formats/tiled.tiff"), (96, 64)),
        ("icon of three sizes", read("formats/icon.ico"), (64, 64)),
        ("avif", read("formats/small.avif"), (96, 64)),
        ("heic", read("formats/small.heic"), (96, 64)),
        ("jxl", read("formats/small.jxl"), (96, 64)),
        ("boxed jxl", read("formats/boxed.jxl"), (96, 64)),
        ("animated jxl", read("formats/animated.jxl"), (96, 64)),
    ]
}

/// The same colours written down in Display P3, as phones do.
pub fn wide_gamut(photograph: &[u8]) -> Vec<u8> {
    use moxcms::{ColorProfile, Layout, TransformOptions};
    let (srgb, p3) = (ColorProfile::new_srgb(), ColorProfile::new_display_p3());
    let picture = image::load_from_memory(photograph).expect("decodes").into_rgb8();
    let to_p3 = srgb.create_transform_8bit(Layout::Rgb, &p3, Layout::Rgb, TransformOptions::default()).expect("transform");
    let mut pixels = vec![0; picture.as_raw().len()];
    to_p3.transform(picture.as_raw(), &mut pixels).expect("transforms");
    let picture = RgbImage::from_raw(picture.width(), picture.height(), pixels).expect("pixels");
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    image::ImageEncoder::set_icc_profile(&mut encoder, p3.encode().expect("profile")).expect("takes a profile");
    picture.write_with_encoder(encoder).expect("encodes");
    bytes
}

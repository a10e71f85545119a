//! What others show is shown: files as phones, editors, scanners and old programs write them, and each beside the picture that it is.

mod pictures;

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgba, RgbaImage};
use imagewell_imaging::render::render;
use imagewell_imaging::transform::{Fit, Outputs, Transform};
use imagewell_imaging::{Error, Limits, inspect, inspect_closely};
use pictures::shown::{SIZE, assert_shown, distance, scene, shown};
use pictures::tiff::{page, tags};
use pictures::{encoded, exif, jpeg_with_exif, png_chunk, webp_with_exif};

fn turned(picture: &DynamicImage) -> DynamicImage {
    picture.rotate90()
}

/// Where the data of the only scan of a baseline JPEG begins and where its end marker is.
fn jpeg() -> Vec<u8> {
    encoded(&scene(), ImageFormat::Jpeg)
}

#[test]
fn a_jpeg_is_shown_whatever_stands_around_its_pixels() {
    let whole = jpeg();
    let cut = &whole[..whole.len() - 2];
    // A trailer with bytes like those of markers, as panoramas of phones have with a film.
    let film: Vec<u8> = (0..5000_u32).flat_map(|n| [0xFF, (n % 7 + 7) as u8, (n * 37) as u8, (n >> 3) as u8]).collect();
    let tables = whole.windows(2).position(|two| two == [0xFF, 0xDB]).expect("tables");
    let stray = [&whole[..tables], &[0; 18], &whole[tables..]].concat();
    for (name, bytes) in [
        ("no end marker", cut.to_vec()),
        ("zeros instead", [cut, &[0; 400]].concat()),
        ("a film instead", [cut, &film].concat()),
        ("a film behind it", [&whole, &film[..]].concat()),
        ("stray bytes before a marker", stray),
    ] {
        assert_shown(name, &bytes, &scene());
        let doubtful = inspect_closely(Cursor::new(&bytes), &Limits::default()).expect("whole").doubtful;
        assert_eq!(doubtful, name.contains("instead") || name.contains("no end"), "{name}");
    }
    // What lacks pixels is refused, by its structure or by its decoder.
    for len in (whole.len() / 3..whole.len() - 40).step_by(7) {
        let refused = shown(&whole[..len]).expect_err("lacks pixels");
        assert!(matches!(refused, Error::Truncated { .. } | Error::Corrupt { .. }), "{len}: {refused:?}");
    }
}

#[test]
fn a_progressive_jpeg_may_lack_its_end_marker_but_none_of_its_scans() {
    let transform = Transform { outputs: Outputs { progressive: true, ..Outputs::JPEG }, ..Transform::of(Fit::Original) };
    let whole = render(&jpeg(), &transform, &Limits::default()).expect("renders");
    let scans: Vec<usize> = whole.windows(2).enumerate().filter(|(_, two)| *two == [0xFF, 0xDA]).map(|(at, _)| at).collect();
    assert!(scans.len() > 3, "it comes in scans");
    assert_shown("no end marker", &whole[..whole.len() - 2], &scene());
    for scan in &scans[1..] {
        assert!(matches!(shown(&whole[..*scan]), Err(Error::Truncated { .. })), "cut before the scan at {scan}");
    }
}

#[test]
fn the_first_exif_block_counts_in_the_record_and_in_the_rendering() {
    let picture = jpeg();
    let two = jpeg_with_exif(&jpeg_with_exif(&picture, &exif(8, true)), &exif(6, false));
    assert_shown("two blocks", &two, &turned(&scene()));
    let webp = encoded(&scene(), ImageFormat::WebP);
    let prefixed = [b"Exif\0\0".as_slice(), &exif(6, true)].concat();
    assert_shown("a prefix in WebP", &webp_with_exif(&webp, SIZE.0, SIZE.1, &prefixed), &turned(&scene()));
    let large = [exif(6, false), vec![0x55; 300_000]].concat();
    assert_shown("a large block in WebP", &webp_with_exif(&webp, SIZE.0, SIZE.1, &large), &turned(&scene()));
    let png = encoded(&scene(), ImageFormat::Png);
    let (before, end) = png.split_at(png.len() - 12);
    assert_shown("a block behind the pixels", &[before, &png_chunk(b"eXIf", &exif(6, true)), end].concat(), &turned(&scene()));
    let header = 33;
    let early = [&png[..header], &png_chunk(b"eXIf", &large), &png[header..]].concat();
    assert_shown("a large block in PNG", &early, &turned(&scene()));
}

#[test]
fn a_png_needs_no_end_and_may_carry_megabytes_of_metadata() {
    let whole = encoded(&scene(), ImageFormat::Png);
    let pixels_end = whole.len() - 12;
    let mut wrong = whole.clone();
    *wrong.last_mut().expect("bytes") ^= 1;
    assert_shown("a wrong checksum at the end", &wrong, &scene());
    for len in pixels_end..whole.len() {
        assert_shown("an end that is cut", &whole[..len], &scene());
    }
    assert_shown("junk at the end", &[&whole[..pixels_end], &[0; 40]].concat(), &scene());
    let text = [b"Comment\0".as_slice(), &vec![b'x'; 9_000_000]].concat();
    let header = 33;
    assert_shown("a long text", &[&whole[..header], &png_chunk(b"tEXt", &text), &whole[header..]].concat(), &scene());
    let unknown = png_chunk(b"prVt", &vec![7; 9_000_000]);
    assert_shown("a large private chunk", &[&whole[..header], &unknown, &whole[header..]].concat(), &scene());
    // Whole chunks, but too few pixels.
    let data = whole.windows(4).position(|kind| kind == b"IDAT").expect("pixels");
    let part = png_chunk(b"IDAT", &whole[data + 4..pixels_end - 40]);
    let cut = [&whole[..data - 4], &part].concat();
    assert!(matches!(shown(&cut), Err(Error::Render { .. })), "{:?}", shown(&cut));
}

/// A GIF of two frames: the scene, and a band upon it.
fn gif() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for picture in [scene(), scene().fliph()] {
        let delay = image::Delay::from_numer_denom_ms(100, 1);
        encoder.encode_frame(image::Frame::from_parts(picture.into_rgba8(), 0, 0, delay)).expect("encodes");
    }
    drop(encoder);
    bytes
}

#[test]
fn a_gif_is_shown_without_its_trailer_its_last_frame_or_its_canvas() {
    let whole = gif();
    let frames = |bytes: &[u8]| inspect(Cursor::new(bytes), &Limits::default()).expect("whole").frames;
    let near = |bytes: &[u8], name: &str| {
        let off = distance(&shown(bytes).unwrap_or_else(|error| panic!("{name}: {error:?}")), &scene());
        assert!(off < 12.0, "{name} is off by {off:.1}");
    };
    let no_trailer = &whole[..whole.len() - 1];
    let cut = &whole[..whole.len() - 200];
    let mut no_canvas = whole.clone();
    no_canvas[6..10].fill(0);
    for (name, bytes, count) in [
        ("no trailer", no_trailer.to_vec(), 2),
        ("junk instead", [no_trailer, &[0, 0, 7]].concat(), 2),
        ("the last frame cut", cut.to_vec(), 1),
        ("no canvas", no_canvas, 2),
    ] {
        near(&bytes, name);
        assert_eq!(frames(&bytes), count, "{name}");
        let moving = Transform { animate: true, outputs: Outputs::WEBP, ..Transform::of(Fit::Original) };
        let moving = render(&bytes, &moving, &Limits::default()).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(frames(&moving), count, "{name}");
    }
    assert!(inspect(Cursor::new(&whole[..300]), &Limits::default()).is_err(), "the first frame cut");
}

#[test]
fn rows_that_a_gif_lacks_are_transparent() {
    // Two rows of two pixels of which the second row never comes: clear, 1, 0, end.
    let header = b"GIF89a\x02\0\x02\0\x80\0\0\xFF\0\0\0\0\xFF\x2C\0\0\0\0\x02\0\x02\0\0\x02";
    let codes = [0b0100_1100_u8, 0b0000_1010];
    let short = [&header[..], &[codes.len() as u8], &codes, &[0, b';']].concat();
    let picture = shown(&short).unwrap_or_else(|error| panic!("{error:?}")).into_rgba8();
    assert_eq!(picture.dimensions(), (2, 2));
    assert_eq!(picture.get_pixel(0, 1).0[3], 0, "{picture:?}");
    assert_eq!(picture.get_pixel(0, 0).0[3], 255);
}

fn bmp() -> Vec<u8> {
    encoded(&scene(), ImageFormat::Bmp)
}

#[test]
fn bitmaps_of_os2_and_bitmaps_cut_in_their_padding_are_shown() {
    let windows = bmp();
    assert_eq!(u32::from_le_bytes(windows[14..18].try_into().expect("four")), 40);
    for header_len in [16_usize, 24, 36, 64] {
        let mut header = windows[14..54].to_vec();
        header.resize(header_len, 0);
        header[..4].copy_from_slice(&(header_len as u32).to_le_bytes());
        let mut file = windows[..14].to_vec();
        file[10..14].copy_from_slice(&(14 + header_len as u32).to_le_bytes());
        assert_shown(&format!("a header of {header_len} bytes"), &[file, header, windows[54..].to_vec()].concat(), &scene());
    }
    let narrow = scene().crop_imm(0, 0, 39, 30);
    let padded = encoded(&narrow, ImageFormat::Bmp);
    for missing in 1..=3 {
        assert_shown("no padding at the end", &padded[..padded.len() - missing], &narrow);
    }
    assert!(shown(&padded[..padded.len() - 4]).is_err());
    let rle = std::fs::read(format!("{}/../../testdata/formats/rle.bmp", env!("CARGO_MANIFEST_DIR"))).expect("reads");
    let right = shown(&rle).expect("renders");
    let mut no_size = rle.clone();
    no_size[34..38].fill(0);
    assert_shown("run lengths of no size", &no_size, &right);
}

#[test]
fn kinds_without_a_decoder_are_named() {
    let mut jpeg_inside = bmp();
    jpeg_inside[30] = 4;
    let mut huffman = bmp();
    huffman[14] = 64;
    huffman[30] = 3;
    let mut lossless = jpeg();
    let frame = lossless.windows(2).position(|two| two == [0xFF, 0xC0]).expect("frame");
    lossless[frame + 1] = 0xC3;
    let old = |compression| {
        let mut tags = tags(8, 3, 6);
        tags.insert(259, (3, vec![compression]));
        page(4, 4, tags, &[0; 48])
    };
    for (name, bytes) in [
        ("a JPEG in a bitmap", jpeg_inside),
        ("Huffman compression of OS/2", huffman),
        ("lossless JPEG", lossless),
        ("old-style JPEG compression", old(6)),
        ("Zstandard compression", old(50_000)),
    ] {
        let refused = shown(&bytes).expect_err(name);
        assert!(matches!(refused, Error::Undrawable { .. }), "{name}: {refused:?}");
        let said = refused.to_string();
        assert!(said.contains(name) && said.ends_with("is not supported"), "{said}");
    }
}

/// Blue, green, red and opacity from the lowest row up, and a mask, as icons have them.
fn icon(bits: u16, palette: &[u8], rows: &[u8], mask: &[u8], side: u32) -> Vec<u8> {
    let mut header = vec![40, 0, 0, 0];
    header.extend(side.to_le_bytes());
    header.extend((side * 2).to_le_bytes());
    header.extend([1, 0]);
    header.extend(bits.to_le_bytes());
    header.resize(40, 0);
    let image = [&header, palette, rows, mask].concat();
    let entry =
        [&[side as u8, side as u8, 0, 0, 1, 0], &bits.to_le_bytes()[..], &(image.len() as u32).to_le_bytes(), &[22, 0, 0, 0]];
    [&b"\0\0\x01\0\x01\0"[..], &entry.concat(), &image].concat()
}

#[test]
fn an_icon_is_its_largest_size_with_the_transparency_that_others_see() {
    let side = 8_u32;
    let soft = RgbaImage::from_fn(side, side, |x, y| Rgba([200, (x * 20) as u8, (y * 20) as u8, (x * 36) as u8]));
    let bgra: Vec<u8> = (0..side)
        .rev()
        .flat_map(|y| (0..side).map(move |x| (x, y)))
        .flat_map(|(x, y)| {
            let Rgba([r, g, b, a]) = *soft.get_pixel(x, y);
            [b, g, r, a]
        })
        .collect();
    let hides_all = vec![0xFF; 4 * side as usize];
    assert_shown("32 bits with a mask that hides all", &icon(32, &[], &bgra, &hides_all, side), &soft.clone().into());
    let no_alpha: Vec<u8> = bgra.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2], 0]).collect();
    let left_half: Vec<u8> = [0xF0, 0, 0, 0].repeat(side as usize);
    let masked = RgbaImage::from_fn(side, side, |x, y| {
        let Rgba([r, g, b, _]) = *soft.get_pixel(x, y);
        Rgba([r, g, b, if x < 4 { 0 } else { 255 }])
    });
    assert_shown("32 bits without opacity", &icon(32, &[], &no_alpha, &left_half, side), &masked.into());
    let rows: Vec<u8> = (0..side).flat_map(|_| [0x0F, 0, 0, 0]).collect();
    let two = RgbaImage::from_fn(side, side, |x, _| if x < 4 { Rgba([255, 0, 0, 255]) } else { Rgba([0, 0, 255, 255]) });
    let palette = [0, 0, 255, 0, 255, 0, 0, 0];
    assert_shown("two colours", &icon(1, &palette, &rows, &[0; 32], side), &two.into());
    // PNGs of any kind, the largest anywhere.
    let palette_png = pictures::indexed_png(&[9, 99, 199]);
    for (name, png, right) in [
        ("RGB", encoded(&scene(), ImageFormat::Png), scene()),
        ("gray", encoded(&scene().into_luma8().into(), ImageFormat::Png), scene().into_luma8().into()),
        ("a palette", palette_png.clone(), shown(&palette_png).expect("renders")),
    ] {
        let small = encoded(&RgbaImage::new(4, 4).into(), ImageFormat::Png);
        let entry = |len: usize, at: usize| {
            [&[0, 0, 0, 0, 1, 0, 32, 0][..], &(len as u32).to_le_bytes(), &(at as u32).to_le_bytes()].concat()
        };
        let entries = [entry(small.len(), 38), entry(png.len(), 38 + small.len())].concat();
        assert_shown(name, &[&b"\0\0\x01\0\x02\0"[..], &entries, &small, &png].concat(), &right);
    }
}

#[test]
fn flags_of_a_webp_may_promise_too_much() {
    let webp = encoded(&scene(), ImageFormat::WebP);
    let mut bytes = webp_with_exif(&webp, SIZE.0, SIZE.1, &exif(1, true));
    let exif_at = bytes.windows(4).position(|kind| kind == b"EXIF").expect("EXIF");
    bytes.truncate(exif_at);
    let riff = (bytes.len() as u32 - 8).to_le_bytes();
    bytes[4..8].copy_from_slice(&riff);
    for flags in [0x08, 0x04, 0x20, 0x2C, 0x2E] {
        bytes[20] = flags;
        assert_shown("flags without chunks", &bytes, &scene());
    }
}

/// Two frames of which the first is disposed of.
#[test]
fn what_a_webp_disposes_of_is_cleared() {
    let square = |left: u32| {
        let picture = RgbaImage::from_pixel(8, 8, Rgba([200, 30, 30, 255]));
        let webp = encoded(&picture.into(), ImageFormat::WebP);
        let u24 = |value: u32| value.to_le_bytes()[..3].to_vec();
        // Disposed to background, drawn over what is there.
        let frame = [u24(left / 2), u24(0), u24(7), u24(7), u24(100), vec![1], webp[12..].to_vec()].concat();
        [&b"ANMF"[..], &(frame.len() as u32).to_le_bytes(), &frame].concat()
    };
    let u24 = |value: u32| value.to_le_bytes()[..3].to_vec();
    let extended = [&b"VP8X\x0A\0\0\0\x12\0\0\0"[..], &u24(31), &u24(7)].concat();
    let chunks = [extended, b"ANIM\x06\0\0\0\xFF\xFF\xFF\xFF\x03\0".to_vec(), square(0), square(16)].concat();
    let webp = [&b"RIFF"[..], &(chunks.len() as u32 + 4).to_le_bytes(), b"WEBP", &chunks].concat();
    let moving = Transform { animate: true, outputs: Outputs { gif: true, ..Outputs::NONE }, ..Transform::of(Fit::Original) };
    let gif = render(&webp, &moving, &Limits::default()).expect("renders");
    let frames = image::AnimationDecoder::into_frames(image::codecs::gif::GifDecoder::new(Cursor::new(gif)).expect("GIF"));
    let last = frames.map(|frame| frame.expect("frame").into_buffer()).last().expect("frames");
    assert_eq!((last.get_pixel(3, 3).0[3], last.get_pixel(19, 3).0[3]), (0, 255));
}

#[test]
fn soft_edges_become_hard_ones_in_a_gif() {
    let soft = RgbaImage::from_fn(64, 8, |x, _| Rgba([200, 20, 20, (x * 4) as u8]));
    let gif = Outputs { gif: true, ..Outputs::NONE };
    let transform = Transform { outputs: gif, ..Transform::of(Fit::Original) };
    let bytes = render(&encoded(&soft.into(), ImageFormat::Png), &transform, &Limits::default()).expect("renders");
    let picture = image::load_from_memory(&bytes).expect("decodes").into_rgba8();
    assert_eq!((picture.get_pixel(20, 4).0[3], picture.get_pixel(44, 4).0[3]), (0, 255));
    let Rgba([red, ..]) = *picture.get_pixel(40, 4);
    assert!(red > 150, "no other colour shines through");
}

/// The mean colour of 16×16 pixels around a place.
fn around(picture: &DynamicImage, x: u32, y: u32) -> [u8; 3] {
    let part = picture.crop_imm(x - 8, y - 8, 16, 16).into_rgb8();
    [0, 1, 2].map(|channel| {
        let sum: u64 = part.pixels().map(|pixel| u64::from(pixel.0[channel])).sum();
        u8::try_from(sum / 256).expect("a mean")
    })
}

#[test]
fn grids_and_sequences_of_avif_are_shown_under_any_major_brand() {
    let read = |name: &str| std::fs::read(format!("{}/../../testdata/shown/{name}", env!("CARGO_MANIFEST_DIR"))).expect("reads");
    let grid = [(64, 38, [255, 0, 0]), (576, 38, [0, 255, 0]), (320, 192, [174, 135, 116]), (576, 345, [138, 112, 104])];
    let first = [(32, 24, [255, 0, 0]), (160, 120, [153, 111, 90]), (32, 216, [0, 0, 255]), (288, 216, [255, 255, 0])];
    for (name, size, places) in [("grid.avif", (640, 384), grid), ("sequence.avif", (320, 240), first)] {
        let mut bytes = read(name);
        for brand in [*b"avif", *b"mif1", *b"msf1"] {
            bytes[8..12].copy_from_slice(&brand);
            for trailer in [&b""[..], b"no box stands here"] {
                let bytes = [&bytes, trailer].concat();
                let facts = inspect(Cursor::new(&bytes), &Limits::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
                let picture = shown(&bytes).unwrap_or_else(|error| panic!("{name}: {error:?}"));
                assert_eq!(((facts.width, facts.height), (picture.width(), picture.height())), (size, size), "{name}");
                for (x, y, right) in places {
                    let found = around(&picture, x, y);
                    let near = found.iter().zip(right).all(|(one, other)| one.abs_diff(other) < 12);
                    assert!(near, "{name} at {x}, {y}: {found:?} where {right:?} is right");
                }
            }
        }
    }
}

#[test]
fn the_codestream_alone_says_how_a_jpeg_xl_is_turned() {
    let path = format!("{}/../../testdata/shown/transcoded-o6.jxl", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).expect("reads");
    let facts = inspect(Cursor::new(&bytes), &Limits::default()).expect("whole");
    assert_eq!((facts.width, facts.height, facts.orientation.exif()), (240, 320, 6), "as stored");
    let picture = shown(&bytes).expect("renders");
    assert_eq!((picture.width(), picture.height()), (320, 240));
    for (x, y, right) in [(32, 24, [255, 0, 0]), (288, 24, [0, 255, 0]), (32, 216, [0, 0, 255]), (288, 216, [255, 255, 0])] {
        let found = around(&picture, x, y);
        assert!(found.iter().zip(right).all(|(one, other)| one.abs_diff(other) < 12), "at {x}, {y}: {found:?}");
    }
}

#[test]
fn a_profile_over_its_limit_is_not_followed_and_the_picture_is_shown() {
    let wide = pictures::wide_gamut(&encoded(&scene(), ImageFormat::Png));
    let transform = Transform { outputs: Outputs::PNG, ..Transform::of(Fit::Original) };
    let with = |metadata_bytes_max| {
        let limits = Limits { metadata_bytes_max, ..Limits::default() };
        image::load_from_memory(&render(&wide, &transform, &limits).expect("renders")).expect("decodes")
    };
    assert!(distance(&with(1 << 20), &scene()) < 4.0, "it is followed");
    for small in [0, 100] {
        assert!(distance(&with(small), &scene()) > distance(&with(1 << 20), &scene()) + 0.5, "{small}: it is not");
    }
}

#[test]
fn code_points_of_a_png_say_what_its_numbers_mean() {
    let png = encoded(&scene(), ImageFormat::Png);
    let header = 33;
    // Display P3 with the curve of sRGB.
    let named = [&png[..header], &png_chunk(b"cICP", &[12, 13, 0, 1]), &png[header..]].concat();
    let (followed, plain) = (shown(&named).expect("renders"), shown(&png).expect("renders"));
    assert!(distance(&followed, &plain) > 1.0, "Display P3 is followed");
    let srgb = [&png[..header], &png_chunk(b"cICP", &[1, 13, 0, 1]), &png[header..]].concat();
    assert_shown("sRGB by its code points", &srgb, &scene());
}

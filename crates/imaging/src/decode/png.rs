//! PNG and its animations, by the png crate. The frames are put together here, in eight bits.

use std::borrow::Cow;
use std::io::Cursor;

use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage};
use png::{BlendOp, ColorType, Decoder, DisposeOp, Reader, Transformations};

use super::canvas::{Canvas, Disposal, Patch};
use super::frames::{Frame, Moving};
use super::{DECODED_BYTES_MAX, Decoded, broken, check_decoded, decoded};
use crate::facts::check_size;
use crate::{Error, Facts, Format, Limits};

/// Signature, and what stands around the data of a chunk (PNG third edition §5.2, §5.3).
const SIGNATURE_BYTES: usize = 8;
const CHUNK_FRAME_BYTES: usize = 12;
const END: &[u8] = b"\0\0\0\0IEND\xAE\x42\x60\x82";
/// All that pixels and their colours depend on.
const NEEDED: [&[u8; 4]; 13] =
    [b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"iCCP", b"cICP", b"sRGB", b"gAMA", b"cHRM", b"acTL", b"fcTL", b"fdAT", b"sBIT"];
/// Texts and whatever else pixels don't depend on is kept from the decoder where it is more than this.
const OTHER_BYTES_MAX: usize = 64 * 1024;

/// The picture that is not part of an animation, or its first frame.
pub(super) fn still(source: &[u8], facts: &Facts, limits: &Limits) -> Result<Decoded, Error> {
    let source = tidied(source);
    let mut reader = reader(&source, facts.format, limits)?;
    let (picture, _, _) = next(&mut reader, facts.format)?;
    let profile = profile(&reader);
    Ok(decoded(picture, profile, facts.orientation))
}

/// All frames; see [`super::frames::animation`].
pub(super) fn animation<'a>(source: &'a [u8], facts: &Facts, limits: &Limits) -> Result<Moving<'a>, Error> {
    let mut reader = owned_reader(tidied(source), limits)?;
    let plays = reader.info().animation_control.map_or(0, |control| control.num_plays);
    let profile = profile(&reader);
    if reader.info().frame_control.is_none() {
        // The picture for programs that can't show animations is not part of this one.
        next(&mut reader, Format::Png)?;
    }
    let mut canvas = Canvas::new(facts.width, facts.height);
    let mut next = move || -> Result<Frame, Error> {
        let (pixels, left, top) = next(&mut reader, Format::Png)?;
        let control = reader.info().frame_control.ok_or_else(|| broken(Format::Png, "a frame has no header"))?;
        let disposal = match control.dispose_op {
            DisposeOp::None => Disposal::Keep,
            DisposeOp::Background => Disposal::Clear,
            DisposeOp::Previous => Disposal::Restore,
        };
        let pixels = pixels.into_rgba8();
        let patch = Patch { left, top, pixels, blends: control.blend_op == BlendOp::Over, disposal };
        // A denominator of 0 means hundredths (PNG third edition §11.3.6.2).
        let per_second = if control.delay_den == 0 { 100 } else { u32::from(control.delay_den) };
        Ok(Frame { canvas: canvas.draw(&patch), milliseconds: u32::from(control.delay_num) * 1000 / per_second })
    };
    let frames = (0..facts.frames).map(move |_| next());
    Ok(Moving { frames: Box::new(frames), profile, plays })
}

/// The file for the decoder: borrowed as it is or, where its end is missing or much of it is no picture, only what the picture needs.
fn tidied(source: &[u8]) -> Cow<'_, [u8]> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let (mut at, mut other, mut has_end) = (SIGNATURE_BYTES, 0, false);
    while let Some(head) = source.get(at..at + 8) {
        let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(chunk) = source.get(at..at + CHUNK_FRAME_BYTES + len) else { break };
        at += chunk.len();
        if chunk == END {
            has_end = true;
            break;
        }
        if NEEDED.iter().any(|kind| &head[4..] == *kind) {
            kept.push(chunk);
        } else {
            other += chunk.len();
        }
    }
    if has_end && other <= OTHER_BYTES_MAX {
        return source.into();
    }
    let signature = &source[..SIGNATURE_BYTES.min(source.len())];
    [&[signature][..], &kept, &[END]].concat().concat().into()
}

type Bytes<'a> = Cursor<Cow<'a, [u8]>>;

fn reader<'a>(source: &'a [u8], format: Format, limits: &Limits) -> Result<Reader<Bytes<'a>>, Error> {
    open(source.into(), format, limits)
}

fn owned_reader<'a>(source: Cow<'a, [u8]>, limits: &Limits) -> Result<Reader<Bytes<'a>>, Error> {
    open(source, Format::Png, limits)
}

/// Reads up to the first pixels. A profile that is broken or larger than allowed is no reason to refuse a picture.
fn open<'a>(source: Cow<'a, [u8]>, format: Format, limits: &Limits) -> Result<Reader<Bytes<'a>>, Error> {
    let open = |ignores_profile: bool, source: Cow<'a, [u8]>| {
        // Lines of pixels count too, which is no reason to refuse a picture either.
        let bytes = if ignores_profile { DECODED_BYTES_MAX } else { limits.metadata_bytes_max };
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut decoder = Decoder::new_with_limits(Cursor::new(source), png::Limits { bytes });
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(ignores_profile);
        decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
        let (width, height) = {
            let info = decoder.read_header_info().map_err(|error| broken(format, error))?;
            (info.width, info.height)
        };
        check_size(format, width, height, limits)?;
        // The pixels, and a line of them that the decoder holds.
        check_decoded(u64::from(width) * u64::from(height) * 4)?;
        decoder.read_info().map_err(|error| broken(format, error))
    };
    open(false, source.clone()).or_else(|_| open(true, source))
}

/// The next frame in eight bits, and where its left upper corner is.
fn next<R: std::io::BufRead + std::io::Seek>(reader: &mut Reader<R>, format: Format) -> Result<(DynamicImage, u32, u32), Error> {
    let failed = |error: png::DecodingError| broken(format, error);
    let bytes = reader.output_buffer_size().filter(|bytes| *bytes as u64 <= DECODED_BYTES_MAX);
    let mut pixels = vec![0; bytes.ok_or_else(|| broken(format, "it has too many pixels"))?];
    let found = reader.next_frame(&mut pixels).map_err(failed)?;
    pixels.truncate(found.buffer_size());
    let (width, height) = (found.width, found.height);
    let picture = match found.color_type {
        ColorType::Grayscale => GrayImage::from_raw(width, height, pixels).map(DynamicImage::from),
        ColorType::GrayscaleAlpha => GrayAlphaImage::from_raw(width, height, pixels).map(DynamicImage::from),
        ColorType::Rgba => RgbaImage::from_raw(width, height, pixels).map(DynamicImage::from),
        _ => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
    };
    let picture = picture.ok_or_else(|| broken(format, "its pixels are not as many as it says"))?;
    let corner = reader.info().frame_control.map_or((0, 0), |control| (control.x_offset, control.y_offset));
    Ok((picture, corner.0, corner.1))
}

/// What the numbers mean: code points count more than a profile, and both more than what sRGB is described by (§4.3).
fn profile<R: std::io::BufRead + std::io::Seek>(reader: &Reader<R>) -> Option<Vec<u8>> {
    let info = reader.info();
    if let Some(points) = info.coding_independent_code_points {
        return super::avif::wide_profile(points.color_primaries.into());
    }
    info.icc_profile.as_ref().map(|profile| profile.to_vec())
}

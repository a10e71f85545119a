//! WebP, by image-webp.

use std::borrow::Cow;
use std::io::Cursor;

use image::codecs::webp::WebPDecoder;
use image::metadata::LoopCount;
use image::{AnimationDecoder as _, DynamicImage, ImageDecoder as _, ImageError, Rgba};

use super::frames::{Frame, Moving};
use super::{DECODED_BYTES_MAX, Decoded, bounds, broken, check_decoded, decoded};
use crate::{Error, Facts, Format, Limits};

/// Of the extended header: where its flags are, and what they promise (RFC 9649 §2.7).
const FLAGS_AT: usize = 20;
const FLAG_EXIF: u8 = 0x08;
const FLAG_XMP: u8 = 0x04;
const FLAG_ANIMATION: u8 = 0x02;
const FIRST_CHUNK_AT: usize = 12;

/// The picture, or the first frame.
pub(super) fn still(source: &[u8], facts: &Facts, limits: &Limits) -> Result<Decoded, Error> {
    let mut decoder = open(honest(source), limits)?;
    check_decoded(decoder.total_bytes())?;
    let profile = decoder.icc_profile().unwrap_or_default();
    let picture = DynamicImage::from_decoder(decoder).map_err(failed)?;
    Ok(decoded(picture, profile, facts.orientation))
}

/// All frames; see [`super::frames::animation`].
pub(super) fn animation<'a>(source: &'a [u8], limits: &Limits) -> Result<Moving<'a>, Error> {
    let mut decoder = open(honest(source), limits)?;
    let plays = match decoder.loop_count() {
        LoopCount::Infinite => 0,
        LoopCount::Finite(plays) => plays.get(),
    };
    // Without a colour of its own the decoder never clears what is disposed of.
    decoder.set_background_color(Rgba([0; 4])).map_err(failed)?;
    let profile = decoder.icc_profile().unwrap_or_default();
    let frames = decoder.into_frames().map(|frame| {
        let frame = frame.map_err(failed)?;
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        Ok(Frame { canvas: frame.into_buffer(), milliseconds: numerator / denominator.max(1) })
    });
    Ok(Moving { frames: Box::new(frames), profile, plays })
}

fn open<'a>(source: Cow<'a, [u8]>, limits: &Limits) -> Result<WebPDecoder<Cursor<Cow<'a, [u8]>>>, Error> {
    let mut decoder = WebPDecoder::new(Cursor::new(source)).map_err(failed)?;
    let (width, height) = decoder.dimensions();
    crate::facts::check_size(Format::WebP, width, height, limits)?;
    decoder.set_limits(bounds(limits, DECODED_BYTES_MAX * 2)).map_err(failed)?;
    Ok(decoder)
}

fn failed(error: ImageError) -> Error {
    broken(Format::WebP, error)
}

/// The file for the decoder: flags that promise chunks which are not there are taken back. Tools that strip metadata leave them.
fn honest(source: &[u8]) -> Cow<'_, [u8]> {
    if source.get(FIRST_CHUNK_AT..FIRST_CHUNK_AT + 4) != Some(b"VP8X") || source.len() <= FLAGS_AT {
        return source.into();
    }
    let (mut at, mut kept) = (FIRST_CHUNK_AT, !(FLAG_EXIF | FLAG_XMP | FLAG_ANIMATION));
    while let Some(head) = source.get(at..at + 8) {
        kept |= match &head[..4] {
            b"EXIF" => FLAG_EXIF,
            b"XMP " => FLAG_XMP,
            b"ANMF" => FLAG_ANIMATION,
            _ => 0,
        };
        let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        at = at.saturating_add(8 + len + len % 2);
    }
    let flags = source[FLAGS_AT] & kept;
    if flags == source[FLAGS_AT] {
        return source.into();
    }
    let mut honest = source.to_vec();
    honest[FLAGS_AT] = flags;
    honest.into()
}

use std::io::{BufRead, Seek};

use super::exif;
use super::source::Source;
use crate::facts::{check_frames, check_size};
use crate::{Error, Facts, Limits, Orientation};

/// Walks the RIFF chunks of a WebP (RFC 9649 §2).
pub(super) fn inspect<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Facts, Error> {
    source.skip(4)?;
    let end = u64::from(source.u32_le()?) + 8;
    source.require(0, end)?;
    source.skip(4)?;
    let mut size: Option<(u32, u32)> = None;
    let (mut has_data, mut frames, mut frame_pixels) = (false, 0_u32, 0_u64);
    let mut orientation: Option<Orientation> = None;
    while source.position() + 8 <= end {
        let kind: [u8; 4] = source.bytes()?;
        let len = u64::from(source.u32_le()?);
        let next = source.position() + len + (len & 1);
        if source.position() + len > end {
            return Err(source.corrupt("a chunk reaches past the end"));
        }
        if size.is_none() && !matches!(&kind, b"VP8X" | b"VP8 " | b"VP8L") {
            return Err(source.corrupt("it doesn't start with its image header"));
        }
        let sized = match &kind {
            b"VP8X" => Some(extended_size(source)?),
            b"VP8 " => Some(lossy_size(source)?),
            b"VP8L" => Some(lossless_size(source)?),
            b"ANMF" if len >= 16 => {
                source.skip(6)?;
                let (width, height) = (u24_plus_one(source)?, u24_plus_one(source)?);
                frames += 1;
                frame_pixels += u64::from(width) * u64::from(height);
                check_frames(frames, frame_pixels, limits)?;
                has_data = true;
                None
            }
            b"EXIF" => {
                let block = source.vec(usize::try_from(len).unwrap_or_default().min(exif::READ_BYTES_MAX))?;
                orientation.get_or_insert(exif::orientation(&block));
                None
            }
            _ => None,
        };
        if let Some((width, height)) = sized {
            check_size(source.format(), width, height, limits)?;
            has_data |= &kind != b"VP8X";
            size.get_or_insert((width, height));
        }
        // The last chunk's padding byte is missing in some files; nothing follows it anyway.
        source.seek(next.min(source.len()))?;
    }
    let (width, height) = size.ok_or_else(|| source.corrupt("it has no image header"))?;
    if !has_data {
        return Err(source.corrupt("it has no image data"));
    }
    Ok(Facts {
        frames: frames.max(1),
        orientation: orientation.unwrap_or_default(),
        ..Facts::still(source.format(), width, height, limits)?
    })
}

fn u24_plus_one<R: BufRead + Seek>(source: &mut Source<R>) -> Result<u32, Error> {
    let [low, middle, high] = source.bytes()?;
    Ok(u32::from_le_bytes([low, middle, high, 0]) + 1)
}

fn extended_size<R: BufRead + Seek>(source: &mut Source<R>) -> Result<(u32, u32), Error> {
    source.skip(4)?;
    Ok((u24_plus_one(source)?, u24_plus_one(source)?))
}

/// The frame header of VP8 (RFC 6386 §9.1).
fn lossy_size<R: BufRead + Seek>(source: &mut Source<R>) -> Result<(u32, u32), Error> {
    let [tag, _, _] = source.bytes()?;
    if tag & 1 != 0 || source.bytes()? != [0x9D, 0x01, 0x2A] {
        return Err(source.corrupt("its lossy image data doesn't start with a key frame"));
    }
    Ok((u32::from(source.u16_le()? & 0x3FFF), u32::from(source.u16_le()? & 0x3FFF)))
}

/// The header of VP8L (RFC 9649 §3.4).
fn lossless_size<R: BufRead + Seek>(source: &mut Source<R>) -> Result<(u32, u32), Error> {
    if source.u8()? != 0x2F {
        return Err(source.corrupt("its lossless image data has no signature"));
    }
    let bits = source.u32_le()?;
    Ok(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
}

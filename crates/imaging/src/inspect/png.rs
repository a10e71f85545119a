use std::io::{BufRead, Seek};

use super::exif;
use super::source::Source;
use crate::facts::check_frames;
use crate::{Error, Facts, Limits, Orientation};

/// Walks the chunks of a PNG up to IEND and checks the CRC of every critical one (PNG third edition §5). Once there are pixels,
/// IEND may be missing or wrong: then only decoding shows whether the pixels are whole.
pub(super) fn inspect<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Facts, Error> {
    source.skip(8)?;
    let mut facts = None;
    let (mut needs_palette, mut has_data) = (false, false);
    let mut frames = 1;
    let mut orientation: Option<Orientation> = None;
    loop {
        if has_data && !source.has(8) {
            source.note_doubt();
            break;
        }
        let len = source.u32_be()?;
        let kind: [u8; 4] = source.bytes()?;
        if has_data && !kind.iter().all(u8::is_ascii_alphabetic) {
            source.note_doubt();
            break;
        }
        if len > i32::MAX as u32 || !kind.iter().all(u8::is_ascii_alphabetic) {
            return Err(source.corrupt("a chunk header makes no sense"));
        }
        if facts.is_none() && &kind != b"IHDR" {
            return Err(source.corrupt("it doesn't start with its header chunk"));
        }
        match &kind {
            b"IHDR" if facts.is_some() => return Err(source.corrupt("a second header chunk")),
            b"IHDR" => {
                let (found, indexed) = header(source, len, limits)?;
                (facts, needs_palette) = (Some(found), indexed);
            }
            // Where pixels aren't numbers of colours, it only suggests some.
            b"PLTE" if needs_palette => {
                if !(3..=256 * 3).contains(&len) || len % 3 != 0 {
                    return Err(source.corrupt("its palette has the wrong length"));
                }
                checked_chunk(source, kind, len)?;
                needs_palette = false;
            }
            b"IDAT" if needs_palette => return Err(source.corrupt("it has no palette before its pixels")),
            b"IEND" => {
                if !has_data || checked_chunk(source, kind, len).is_err() {
                    source.note_doubt();
                }
                break;
            }
            b"IDAT" => {
                has_data = true;
                checked_chunk(source, kind, len)?;
            }
            b"acTL" if len == 8 && !has_data => {
                frames = source.u32_be()?;
                source.skip(4 + 4)?;
            }
            b"eXIf" => {
                let end = source.position() + u64::from(len) + 4;
                let block = source.vec(exif::READ_BYTES_MAX.min(len as usize))?;
                orientation.get_or_insert(exif::orientation(&block));
                source.seek(end)?;
            }
            [first, ..] if first.is_ascii_uppercase() => checked_chunk(source, kind, len)?,
            _ => source.skip(u64::from(len) + 4)?,
        }
    }
    let facts = facts.ok_or_else(|| source.corrupt("it has no header chunk"))?;
    if !has_data {
        return Err(source.corrupt("it has no image data"));
    }
    if frames == 0 {
        return Err(source.corrupt("its animation has no frames"));
    }
    check_frames(frames, u64::from(frames) * u64::from(facts.width) * u64::from(facts.height), limits)?;
    Ok(Facts { frames, orientation: orientation.unwrap_or_default(), ..facts })
}

/// The facts, and whether pixels are numbers of colours in a palette.
fn header<R: BufRead + Seek>(source: &mut Source<R>, len: u32, limits: &Limits) -> Result<(Facts, bool), Error> {
    if len != 13 {
        return Err(source.corrupt("its header chunk has the wrong length"));
    }
    let header: [u8; 13] = source.bytes()?;
    let [w3, w2, w1, w0, h3, h2, h1, h0, depth, colour, compression, filter, interlace] = header;
    let depth_fits = match colour {
        0 => matches!(depth, 1 | 2 | 4 | 8 | 16),
        3 => matches!(depth, 1 | 2 | 4 | 8),
        2 | 4 | 6 => matches!(depth, 8 | 16),
        _ => false,
    };
    if !depth_fits || compression != 0 || filter != 0 || interlace > 1 {
        return Err(source.corrupt("its header names a kind of pixel that PNG doesn't have"));
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(b"IHDR");
    crc.update(&header);
    if source.u32_be()? != crc.finalize() {
        return Err(source.corrupt("a chunk's checksum is wrong"));
    }
    let (width, height) = (u32::from_be_bytes([w3, w2, w1, w0]), u32::from_be_bytes([h3, h2, h1, h0]));
    Ok((Facts::still(source.format(), width, height, limits)?, colour == 3))
}

fn checked_chunk<R: BufRead + Seek>(source: &mut Source<R>, kind: [u8; 4], len: u32) -> Result<(), Error> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&kind);
    let mut left = len as usize;
    while left > 0 {
        let buffer = source.buffered()?;
        if buffer.is_empty() {
            return Err(source.truncated());
        }
        let take = buffer.len().min(left);
        crc.update(&buffer[..take]);
        source.consume(take);
        left -= take;
    }
    if source.u32_be()? == crc.finalize() { Ok(()) } else { Err(source.corrupt("a chunk's checksum is wrong")) }
}

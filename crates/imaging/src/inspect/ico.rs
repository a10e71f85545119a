use std::io::{BufRead, Seek};

use super::source::Source;
use crate::{Error, Facts, Limits};

const PNG_SIGNATURE: [u8; 8] = [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A];

/// One size of an icon: the one that stands for it.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) facts: Facts,
    /// Where its bytes are.
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) is_png: bool,
    pub(crate) bits: u16,
}

/// The facts of the largest size; see [`largest`].
pub(super) fn inspect<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Facts, Error> {
    Ok(largest(source, limits)?.facts)
}

/// Reads the directory of an icon and the header of every size in it. The size with most pixels is the icon's and, of two alike,
/// the one with more colours.
pub(super) fn largest<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Entry, Error> {
    source.skip(4)?;
    let count = source.u16_le()?;
    let mut largest: Option<Entry> = None;
    for index in 0..u64::from(count) {
        source.seek(6 + index * 16)?;
        source.skip(8)?;
        let (len, offset) = (u64::from(source.u32_le()?), u64::from(source.u32_le()?));
        if offset < 6 + u64::from(count) * 16 {
            return Err(source.corrupt("an image overlaps the directory"));
        }
        source.require(offset, len)?;
        source.seek(offset)?;
        let (width, height, is_png, bits) = image_header(source, len)?;
        let entry = Entry { facts: Facts::still(source.format(), width, height, limits)?, offset, len, is_png, bits };
        let rank = |entry: &Entry| (u64::from(entry.facts.width) * u64::from(entry.facts.height), entry.bits);
        if largest.is_none_or(|other| rank(&entry) > rank(&other)) {
            largest = Some(entry);
        }
    }
    largest.ok_or_else(|| source.corrupt("it has no images"))
}

/// Width, height, whether it is a PNG, and bits of a pixel.
fn image_header<R: BufRead + Seek>(source: &mut Source<R>, len: u64) -> Result<(u32, u32, bool, u16), Error> {
    if len < 40 {
        return Err(source.corrupt("an image is too short for its header"));
    }
    let start: [u8; 8] = source.bytes()?;
    if start == PNG_SIGNATURE {
        source.skip(8)?;
        return Ok((source.u32_be()?, source.u32_be()?, true, 32));
    }
    let [40, 0, 0, 0, w0, w1, w2, w3] = start else {
        return Err(source.corrupt("an image is neither a bitmap nor a PNG"));
    };
    // The bitmap's height counts its mask too (Windows icon format).
    let height = source.u32_le()? / 2;
    source.skip(2)?;
    let bits = source.u16_le()?;
    let width = u32::from_le_bytes([w0, w1, w2, w3]);
    let row_len = (u64::from(width) * u64::from(bits)).div_ceil(32) * 4;
    if row_len.saturating_mul(u64::from(height)) > len {
        return Err(source.corrupt("an image is shorter than its rows"));
    }
    Ok((width, height, false, bits))
}

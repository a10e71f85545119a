use std::io::{BufRead, Seek};

use super::source::Source;
use crate::{Error, Facts, Limits, Undrawable};

/// Bytes of the file header.
pub(crate) const FILE_HEADER_BYTES: u32 = 14;
/// Bytes that a row's padding has at most; writers forget those of the last row.
const PADDING_BYTES_MAX: u64 = 3;

/// What the headers of a bitmap say.
pub(crate) struct Outline {
    pub(crate) facts: Facts,
    pub(crate) header_len: u32,
    pub(crate) bits: u16,
    pub(crate) compression: u32,
    /// Whether the header is one of OS/2 2.x: longer or shorter than Windows', and with compressions of its own.
    pub(crate) is_os2: bool,
}

/// The facts; see [`outline`].
pub(super) fn inspect<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Facts, Error> {
    Ok(outline(source, limits)?.facts)
}

/// Reads the headers of a Windows or OS/2 bitmap and checks that its rows are all there.
pub(super) fn outline<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Outline, Error> {
    source.skip(10)?;
    let data_offset = u64::from(source.u32_le()?);
    let header_len = source.u32_le()?;
    let is_os2 = matches!(header_len, 16..=39 | 41..=51 | 53..=55 | 57..=64);
    let (width, height, bits, compression, data_len) = match header_len {
        12 => {
            let (width, height) = (source.u16_le()?, source.u16_le()?);
            source.skip(2)?;
            (u32::from(width), u32::from(height), source.u16_le()?, 0, 0)
        }
        16..=64 | 108 | 124 => {
            // A negative height means rows from the top; both are two's complement.
            let (width, height) = (source.u32_le()?.cast_signed(), source.u32_le()?.cast_signed());
            if width < 0 {
                return Err(source.corrupt("its width is negative"));
            }
            source.skip(2)?;
            let bits = source.u16_le()?;
            // What a short header of OS/2 leaves out is zero.
            let compression = if header_len >= 20 { source.u32_le()? } else { 0 };
            let data_len = if header_len >= 24 { source.u32_le()? } else { 0 };
            (width.unsigned_abs(), height.unsigned_abs(), bits, compression, data_len)
        }
        _ => return Err(source.corrupt("its header has an unknown length")),
    };
    let facts = Facts::still(source.format(), width, height, limits)?;
    if let Some(kind) = undrawable(compression, is_os2) {
        return Err(Error::Undrawable { kind });
    }
    if !matches!(bits, 1 | 2 | 4 | 8 | 16 | 24 | 32) {
        return Err(source.corrupt("its number of bits per pixel doesn't exist"));
    }
    if data_offset < u64::from(FILE_HEADER_BYTES) + u64::from(header_len) {
        return Err(source.corrupt("its pixels overlap its header"));
    }
    let row_len = (u64::from(width) * u64::from(bits)).div_ceil(32) * 4;
    match compression {
        0 | 3 | 6 => source.require(data_offset, (row_len * u64::from(height)).saturating_sub(PADDING_BYTES_MAX))?,
        // Where no length is said, decoding shows whether the rows are all there.
        1 | 2 => source.require(data_offset, u64::from(data_len.max(1)))?,
        _ => return Err(source.corrupt("its compression is unknown")),
    }
    Ok(Outline { facts, header_len, bits, compression, is_os2 })
}

/// Compressions that exist and that no decoder here reads.
fn undrawable(compression: u32, is_os2: bool) -> Option<Undrawable> {
    match compression {
        3 if is_os2 => Some(Undrawable::Os2Huffman),
        4 if is_os2 => Some(Undrawable::Os2RunLengths),
        4 => Some(Undrawable::BitmapOfJpeg),
        5 => Some(Undrawable::BitmapOfPng),
        11..=13 => Some(Undrawable::BitmapOfInks),
        _ => None,
    }
}

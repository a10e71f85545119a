use std::io::{BufRead, Seek};

use super::source::Source;
use crate::{Error, Facts, Limits};

/// Reads the headers of a Windows bitmap and checks that its rows are all there.
pub(super) fn inspect<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Facts, Error> {
    source.skip(10)?;
    let data_offset = u64::from(source.u32_le()?);
    let header_len = source.u32_le()?;
    let (width, height, bits, compression, data_len) = match header_len {
        12 => {
            let (width, height) = (source.u16_le()?, source.u16_le()?);
            source.skip(2)?;
            (u32::from(width), u32::from(height), source.u16_le()?, 0, 0)
        }
        40 | 52 | 56 | 64 | 108 | 124 => {
            // A negative height means rows from the top; both are two's complement.
            let (width, height) = (source.u32_le()?.cast_signed(), source.u32_le()?.cast_signed());
            if width < 0 {
                return Err(source.corrupt("its width is negative"));
            }
            source.skip(2)?;
            let bits = source.u16_le()?;
            (width.unsigned_abs(), height.unsigned_abs(), bits, source.u32_le()?, source.u32_le()?)
        }
        _ => return Err(source.corrupt("its header has an unknown length")),
    };
    let facts = Facts::still(source.format(), width, height, limits)?;
    if !matches!(bits, 1 | 2 | 4 | 8 | 16 | 24 | 32) {
        return Err(source.corrupt("its number of bits per pixel doesn't exist"));
    }
    if data_offset < 14 + u64::from(header_len) {
        return Err(source.corrupt("its pixels overlap its header"));
    }
    let row_len = (u64::from(width) * u64::from(bits)).div_ceil(32) * 4;
    match compression {
        0 | 3 | 6 => source.require(data_offset, row_len * u64::from(height))?,
        1 | 2 if data_len > 0 => source.require(data_offset, u64::from(data_len))?,
        _ => return Err(source.corrupt("its compression is unknown")),
    }
    Ok(facts)
}

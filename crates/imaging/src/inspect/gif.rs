use std::io::{BufRead, Seek};

use super::source::Source;
use crate::facts::check_frames;
use crate::{Error, Facts, Limits};

/// Walks the blocks of a GIF up to its trailer and counts the images (GIF89a specification §12–27).
pub(super) fn inspect<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Facts, Error> {
    source.skip(6)?;
    let (width, height) = (source.u16_le()?, source.u16_le()?);
    let facts = Facts::still(source.format(), u32::from(width), u32::from(height), limits)?;
    let flags = source.u8()?;
    source.skip(2)?;
    skip_colour_table(source, flags)?;
    let (mut frames, mut frame_pixels) = (0_u32, 0_u64);
    loop {
        match source.u8()? {
            0x3B => break,
            0x21 => {
                source.skip(1)?;
                skip_sub_blocks(source)?;
            }
            0x2C => {
                source.skip(4)?;
                let (width, height) = (source.u16_le()?, source.u16_le()?);
                frames += 1;
                frame_pixels += u64::from(width) * u64::from(height);
                check_frames(frames, frame_pixels, limits)?;
                let flags = source.u8()?;
                skip_colour_table(source, flags)?;
                if !(1..=11).contains(&source.u8()?) {
                    return Err(source.corrupt("an image starts with an impossible code size"));
                }
                skip_sub_blocks(source)?;
            }
            _ => return Err(source.corrupt("a block of an unknown kind")),
        }
    }
    if frames == 0 {
        return Err(source.corrupt("it has no image data"));
    }
    Ok(Facts { frames, ..facts })
}

fn skip_colour_table<R: BufRead + Seek>(source: &mut Source<R>, flags: u8) -> Result<(), Error> {
    if flags & 0x80 == 0 { Ok(()) } else { source.skip(3 << ((flags & 0x07) + 1)) }
}

fn skip_sub_blocks<R: BufRead + Seek>(source: &mut Source<R>) -> Result<(), Error> {
    loop {
        match source.u8()? {
            0 => return Ok(()),
            len => source.skip(u64::from(len))?,
        }
    }
}

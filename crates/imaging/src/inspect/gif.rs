use std::io::{BufRead, Seek};

use super::source::Source;
use crate::facts::{check_frames, check_size};
use crate::{Error, Facts, Limits};

/// What a walk over the blocks of a GIF found.
pub(crate) struct Outline {
    pub(crate) facts: Facts,
    /// Where the last whole block ends.
    pub(crate) end: u64,
}

/// The facts; see [`outline`].
pub(super) fn inspect<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Facts, Error> {
    Ok(outline(source, limits)?.facts)
}

/// Walks the blocks of a GIF and counts the images (GIF89a specification §12–27). The trailer may be missing, junk may stand in
/// its place, and the last frame may be cut: then the frames before it are the picture. A canvas of nothing is as large as the
/// first frame, as in browsers.
pub(super) fn outline<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Outline, Error> {
    source.skip(6)?;
    let (width, height) = (u32::from(source.u16_le()?), u32::from(source.u16_le()?));
    let mut size = (width > 0 && height > 0).then_some((width, height));
    let flags = source.u8()?;
    source.skip(2)?;
    skip_colour_table(source, flags)?;
    if let Some((width, height)) = size {
        check_size(source.format(), width, height, limits)?;
    }
    let (mut frames, mut frame_pixels, mut end) = (0_u32, 0_u64, source.position());
    loop {
        match block(source) {
            Ok(Block::Trailer) => break,
            Ok(Block::Extension) => {}
            Ok(Block::Image(width, height)) => {
                size.get_or_insert((width, height));
                frames += 1;
                frame_pixels += u64::from(width) * u64::from(height);
                check_frames(frames, frame_pixels, limits)?;
            }
            Err(Error::Io(error)) => return Err(Error::Io(error)),
            Err(_) if frames > 0 => {
                source.note_doubt();
                break;
            }
            Err(error) => return Err(error),
        }
        end = source.position();
    }
    let Some((width, height)) = size.filter(|_| frames > 0) else { return Err(source.corrupt("it has no image data")) };
    Ok(Outline { facts: Facts { frames, ..Facts::still(source.format(), width, height, limits)? }, end })
}

enum Block {
    Trailer,
    Extension,
    /// Width and height.
    Image(u32, u32),
}

fn block<R: BufRead + Seek>(source: &mut Source<R>) -> Result<Block, Error> {
    match source.u8()? {
        0x3B => Ok(Block::Trailer),
        0x21 => {
            source.skip(1)?;
            skip_sub_blocks(source)?;
            Ok(Block::Extension)
        }
        0x2C => {
            source.skip(4)?;
            let (width, height) = (source.u16_le()?, source.u16_le()?);
            let flags = source.u8()?;
            skip_colour_table(source, flags)?;
            if !(1..=11).contains(&source.u8()?) {
                return Err(source.corrupt("an image starts with an impossible code size"));
            }
            skip_sub_blocks(source)?;
            Ok(Block::Image(u32::from(width), u32::from(height)))
        }
        _ => Err(source.corrupt("a block of an unknown kind")),
    }
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

use std::collections::HashSet;
use std::io::{BufRead, Seek};

use super::source::Source;
use crate::facts::{check_frames, check_size};
use crate::{Error, Facts, Limits, Orientation};

const TAG_WIDTH: u16 = 256;
const TAG_HEIGHT: u16 = 257;
const TAG_STRIP_OFFSETS: u16 = 273;
const TAG_ORIENTATION: u16 = 274;
const TAG_STRIP_BYTES: u16 = 279;
const TAG_TILE_WIDTH: u16 = 322;
const TAG_TILE_HEIGHT: u16 = 323;
const TAG_TILE_OFFSETS: u16 = 324;
const TAG_TILE_BYTES: u16 = 325;

/// A page cut into more pieces than this is refused: each piece costs two reads.
const PIECES_MAX: u32 = 200_000;

/// Walks the chain of image file directories and checks that every strip and tile lies inside the file (TIFF 6.0 §2).
pub(super) fn inspect<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Facts, Error> {
    let order = ByteOrder::read(source)?;
    source.skip(2)?;
    let mut next = order.u32(source)?;
    let mut first: Option<Facts> = None;
    let (mut frames, mut frame_pixels) = (0_u32, 0_u64);
    let mut seen = HashSet::new();
    while next != 0 {
        if !seen.insert(next) {
            return Err(source.corrupt("its pages follow each other in a circle"));
        }
        frames += 1;
        let page = Directory::read(source, order, next)?;
        let (Some(width), Some(height)) = (page.width, page.height) else {
            return Err(source.corrupt("a page has no size"));
        };
        check_size(source.format(), width, height, limits)?;
        page.check_tiles(source, limits)?;
        frame_pixels += u64::from(width) * u64::from(height);
        check_frames(frames, frame_pixels, limits)?;
        page.check_pieces(source, order)?;
        if first.is_none() {
            first = Some(Facts { orientation: page.orientation, ..Facts::still(source.format(), width, height, limits)? });
        }
        next = page.next.ok_or_else(|| source.truncated())?;
    }
    let first = first.ok_or_else(|| source.corrupt("it has no pages"))?;
    Ok(Facts { frames, ..first })
}

#[derive(Clone, Copy)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    fn read<R: BufRead + Seek>(source: &mut Source<R>) -> Result<Self, Error> {
        match &source.bytes::<2>()? {
            b"II" => Ok(Self::Little),
            b"MM" => Ok(Self::Big),
            _ => Err(source.corrupt("its byte order is unknown")),
        }
    }

    fn u16<R: BufRead + Seek>(self, source: &mut Source<R>) -> Result<u16, Error> {
        match self {
            Self::Little => source.u16_le(),
            Self::Big => source.u16_be(),
        }
    }

    fn u32<R: BufRead + Seek>(self, source: &mut Source<R>) -> Result<u32, Error> {
        match self {
            Self::Little => source.u32_le(),
            Self::Big => source.u32_be(),
        }
    }
}

/// A list of numbers that stands in the directory or, when it is too long for that, elsewhere in the file.
#[derive(Clone, Copy)]
struct Numbers {
    offset: u64,
    count: u32,
    wide: bool,
}

impl Numbers {
    fn read<R: BufRead + Seek>(&self, source: &mut Source<R>, order: ByteOrder) -> Result<Vec<u32>, Error> {
        source.seek(self.offset)?;
        (0..self.count).map(|_| if self.wide { order.u32(source) } else { order.u16(source).map(u32::from) }).collect()
    }
}

struct Directory {
    width: Option<u32>,
    height: Option<u32>,
    orientation: Orientation,
    /// Of a page that is cut into tiles (TIFF 6.0 §15).
    tile_width: Option<u32>,
    tile_height: Option<u32>,
    offsets: Option<Numbers>,
    lengths: Option<Numbers>,
    /// None when the file ends where the offset of the next directory should stand.
    next: Option<u32>,
}

impl Directory {
    fn read<R: BufRead + Seek>(source: &mut Source<R>, order: ByteOrder, offset: u32) -> Result<Self, Error> {
        source.seek(u64::from(offset))?;
        let entries = order.u16(source)?;
        let mut directory = Self {
            width: None,
            height: None,
            orientation: Orientation::UPRIGHT,
            tile_width: None,
            tile_height: None,
            offsets: None,
            lengths: None,
            next: None,
        };
        for _ in 0..entries {
            let end = source.position() + 12;
            let (tag, kind, count) = (order.u16(source)?, order.u16(source)?, order.u32(source)?);
            match tag {
                TAG_WIDTH | TAG_HEIGHT | TAG_ORIENTATION | TAG_TILE_WIDTH | TAG_TILE_HEIGHT => {
                    let value = if kind == 3 { u32::from(order.u16(source)?) } else { order.u32(source)? };
                    match tag {
                        TAG_WIDTH => directory.width = Some(value),
                        TAG_HEIGHT => directory.height = Some(value),
                        TAG_TILE_WIDTH => directory.tile_width = Some(value),
                        TAG_TILE_HEIGHT => directory.tile_height = Some(value),
                        _ => directory.orientation = Orientation::from_exif(u16::try_from(value).unwrap_or(0)),
                    }
                }
                TAG_STRIP_OFFSETS | TAG_TILE_OFFSETS => directory.offsets = Some(numbers(source, order, kind, count)?),
                TAG_STRIP_BYTES | TAG_TILE_BYTES => directory.lengths = Some(numbers(source, order, kind, count)?),
                // Nothing else decides about the pixels, wherever it points.
                _ => {}
            }
            source.seek(end)?;
        }
        // An EXIF block may end with its last entry.
        directory.next = if source.remaining() >= 4 { Some(order.u32(source)?) } else { None };
        Ok(directory)
    }

    /// A decoder holds a whole tile, however little of it shows. A tile may reach over the page's edge, but is never larger than
    /// an image may be.
    fn check_tiles<R: BufRead + Seek>(&self, source: &Source<R>, limits: &Limits) -> Result<(), Error> {
        let (Some(width), Some(height)) = (self.tile_width, self.tile_height) else { return Ok(()) };
        let pixels = u64::from(width) * u64::from(height);
        if pixels == 0 || pixels > limits.pixels_max {
            return Err(source.corrupt("its tiles have no pixels, or more than an image may have"));
        }
        Ok(())
    }

    /// Checks that every piece begins inside the file. Writers say too long lengths, and some say none: whether the pixels are
    /// whole is judged by decoding them.
    fn check_pieces<R: BufRead + Seek>(&self, source: &mut Source<R>, order: ByteOrder) -> Result<(), Error> {
        let Some(offsets) = self.offsets else { return Err(source.corrupt("a page has no image data")) };
        let count = self.lengths.map_or(1, |lengths| lengths.count);
        if offsets.count == 0 || offsets.count != count {
            return Err(source.corrupt("a page's pieces don't match their lengths"));
        }
        let lengths = match self.lengths {
            Some(lengths) => lengths.read(source, order)?,
            None => vec![1],
        };
        let offsets = offsets.read(source, order)?;
        offsets.iter().zip(&lengths).try_for_each(|(offset, len)| source.require(u64::from(*offset), u64::from((*len).min(1))))
    }
}

fn numbers<R: BufRead + Seek>(source: &mut Source<R>, order: ByteOrder, kind: u16, count: u32) -> Result<Numbers, Error> {
    let wide = match kind {
        3 => false,
        4 => true,
        _ => return Err(source.corrupt("a list of offsets has the wrong type")),
    };
    if count > PIECES_MAX {
        return Err(source.corrupt("a page has too many pieces"));
    }
    let len = u64::from(count) * if wide { 4 } else { 2 };
    let offset = if len <= 4 { source.position() } else { u64::from(order.u32(source)?) };
    source.require(offset, len)?;
    Ok(Numbers { offset, count, wide })
}

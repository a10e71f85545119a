//! JPEG XL: a bare codestream or one in boxes (ISO/IEC 18181-1, -2). The headers are read by the crates of jxl-oxide;
//! group data is stepped over by the sizes in each frame's table of contents.

use std::io::{BufRead, Seek};
use std::sync::Arc;

use jxl_bitstream::Bitstream;
use jxl_frame::{Frame, FrameContext};
use jxl_image::ImageHeader;
use jxl_oxide_common::Bundle;

use super::heif::box_header;
use super::source::Source;
use crate::facts::check_frames;
use crate::{Error, Facts, Limits, Orientation};

/// Image and frame headers fit in this; a colour profile may be part of them.
const HEADER_BYTES_MAX: u64 = 1024 * 1024;
/// The encoded colour profile; unpacked while reading, hence a bound of its own.
const ICC_BYTES_MAX: u64 = 4 * 1024 * 1024;

pub(super) fn inspect<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Facts, Error> {
    let mut codestream = Codestream::locate(source)?;
    let head = codestream.read(source, 0)?;
    let mut bits = Bitstream::new(&head);
    let header = ImageHeader::parse(&mut bits, ()).map_err(|error| refuse(source, error.unexpected_eof()))?;
    let facts = Facts::still(source.format(), header.size.width, header.size.height, limits)?;
    if header.metadata.colour_encoding.want_icc() {
        let icc_len = bits.clone().read_u64().map_err(|error| refuse(source, error.unexpected_eof()))?;
        if icc_len > ICC_BYTES_MAX {
            return Err(source.corrupt("its colour profile is too large"));
        }
        jxl_color::icc::read_icc(&mut bits).map_err(|error| refuse(source, error.unexpected_eof()))?;
    }
    let mut position = bits.num_read_bits().div_ceil(8) as u64;
    let orientation = Orientation::from_exif(u16::try_from(header.metadata.orientation).unwrap_or(1));
    let animated = header.metadata.animation.is_some();
    if header.metadata.preview.is_some() {
        return Err(source.corrupt("it carries a preview frame, which is not supported"));
    }
    let header = Arc::new(header);
    let (mut shown, mut read) = (0_u32, 0_u32);
    loop {
        let (last, visible, len) = frame(source, &mut codestream, position, &header)?;
        position += len;
        read += 1;
        shown += u32::from(visible);
        check_frames(read, u64::from(shown) * u64::from(facts.width) * u64::from(facts.height), limits)?;
        if position > codestream.len {
            return Err(source.truncated());
        }
        if last {
            break;
        }
    }
    Ok(Facts { frames: if animated { shown.max(1) } else { 1 }, orientation, ..facts })
}

/// Whether the frame at `position` is the last and is shown, and its length with header and data.
fn frame<R: BufRead + Seek>(
    source: &mut Source<R>,
    codestream: &mut Codestream,
    position: u64,
    header: &Arc<ImageHeader>,
) -> Result<(bool, bool, u64), Error> {
    let bytes = codestream.read(source, position)?;
    let mut bits = Bitstream::new(&bytes);
    let context = FrameContext { image_header: Arc::clone(header), tracker: None, pool: jxl_threadpool::JxlThreadPool::none() };
    let frame = Frame::parse(&mut bits, context).map_err(|error| refuse(source, error.unexpected_eof()))?;
    let header_len = bits.num_read_bits().div_ceil(8) as u64;
    Ok((frame.header().is_last, frame.header().is_keyframe(), header_len + frame.toc().total_byte_size() as u64))
}

fn refuse<R: BufRead + Seek>(source: &Source<R>, ended: bool) -> Error {
    if ended { source.truncated() } else { source.corrupt("its headers make no sense") }
}

/// Where the parts of the codestream lie in the file.
struct Codestream {
    parts: Vec<(u64, u64)>,
    len: u64,
}

impl Codestream {
    fn locate<R: BufRead + Seek>(source: &mut Source<R>) -> Result<Self, Error> {
        if source.peek(2)? == [0xFF, 0x0A] {
            return Ok(Self { parts: vec![(0, source.len())], len: source.len() });
        }
        let mut parts = Vec::new();
        let mut finished = false;
        while source.remaining() > 0 {
            let (kind, len) = box_header(source)?;
            let start = source.position();
            match &kind {
                b"jxlc" => {
                    parts.push((start, len));
                    finished = true;
                }
                b"jxlp" if len >= 4 => {
                    // The high bit of the index marks the last part (18181-2 §9.5).
                    finished |= source.u32_be()? >> 31 == 1;
                    parts.push((start + 4, len - 4));
                }
                _ => {}
            }
            source.seek(start + len)?;
        }
        if !finished {
            return Err(source.truncated());
        }
        let len = parts.iter().map(|(_, len)| len).sum();
        Ok(Self { parts, len })
    }

    /// Up to [`HEADER_BYTES_MAX`] bytes of the codestream from `position` on.
    fn read<R: BufRead + Seek>(&mut self, source: &mut Source<R>, position: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let mut skip = position;
        for (offset, len) in &self.parts {
            source.step()?;
            if skip >= *len {
                skip -= len;
                continue;
            }
            let take = (len - skip).min(HEADER_BYTES_MAX - bytes.len() as u64);
            source.seek(offset + skip)?;
            bytes.extend(source.vec(usize::try_from(take).unwrap_or_default())?);
            skip = 0;
            if bytes.len() as u64 == HEADER_BYTES_MAX {
                break;
            }
        }
        Ok(bytes)
    }
}

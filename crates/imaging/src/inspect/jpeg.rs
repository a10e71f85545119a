use std::io::{BufRead, Seek};

use super::source::Source;
use super::tiff::exif_orientation;
use crate::{Error, Facts, Limits, Orientation};

const EXIF_HEADER: &[u8] = b"Exif\0\0";

/// Walks the marker segments and scans of a JPEG up to its end-of-image marker (ITU-T T.81 annex B).
/// What stands after that marker (previews of phones, for one) is not looked at.
pub(super) fn inspect<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Facts, Error> {
    source.skip(2)?;
    let mut facts: Option<Facts> = None;
    let mut orientation = Orientation::UPRIGHT;
    let mut scans = 0_u32;
    loop {
        match marker(source)? {
            0xD9 => break,
            0xD8 => return Err(source.corrupt("a second start-of-image marker")),
            0x01 | 0xD0..=0xD7 => {}
            0xDA => {
                if facts.is_none() {
                    return Err(source.corrupt("a scan stands before the frame header"));
                }
                scans += 1;
                segment(source)?;
                skip_entropy_coded(source)?;
            }
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                if facts.is_some() {
                    return Err(source.corrupt("a second frame header"));
                }
                facts = Some(frame_header(source, limits)?);
            }
            0xE1 => {
                let len = segment_len(source)?;
                let segment = source.vec(len)?;
                if let Some(exif) = segment.strip_prefix(EXIF_HEADER) {
                    orientation = exif_orientation(exif);
                }
            }
            _ => segment(source)?,
        }
    }
    let facts = facts.ok_or_else(|| source.corrupt("it has no frame header"))?;
    if scans == 0 {
        return Err(source.corrupt("it has no image data"));
    }
    Ok(Facts { orientation, ..facts })
}

/// The code of the next marker; any number of 0xFF may fill the space before it (T.81 B.1.1.2).
fn marker<R: BufRead + Seek>(source: &mut Source<R>) -> Result<u8, Error> {
    if source.u8()? != 0xFF {
        return Err(source.corrupt("a marker is missing between segments"));
    }
    loop {
        match source.u8()? {
            0xFF => {}
            0x00 => return Err(source.corrupt("a marker is missing between segments")),
            code => return Ok(code),
        }
    }
}

fn segment_len<R: BufRead + Seek>(source: &mut Source<R>) -> Result<usize, Error> {
    match source.u16_be()?.checked_sub(2) {
        Some(len) => Ok(usize::from(len)),
        None => Err(source.corrupt("a segment is shorter than its own length field")),
    }
}

fn segment<R: BufRead + Seek>(source: &mut Source<R>) -> Result<(), Error> {
    let len = segment_len(source)?;
    source.skip(len as u64)
}

fn frame_header<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Facts, Error> {
    let len = segment_len(source)?;
    let header = source.vec(len)?;
    let [_precision, h1, h0, w1, w0, components, rest @ ..] = header.as_slice() else {
        return Err(source.corrupt("its frame header is too short"));
    };
    if *components == 0 || rest.len() != usize::from(*components) * 3 {
        return Err(source.corrupt("its frame header doesn't match its number of components"));
    }
    let (width, height) = (u16::from_be_bytes([*w1, *w0]), u16::from_be_bytes([*h1, *h0]));
    Facts::still(source.format(), u32::from(width), u32::from(height), limits)
}

/// Stands on the next marker that is neither a stuffed byte nor a restart.
fn skip_entropy_coded<R: BufRead + Seek>(source: &mut Source<R>) -> Result<(), Error> {
    let mut after_ff = false;
    loop {
        let buffer = source.buffered()?;
        if buffer.is_empty() {
            return Err(source.truncated());
        }
        if after_ff {
            match buffer[0] {
                0x00 | 0xD0..=0xD7 => after_ff = false,
                0xFF => {}
                _ => {
                    let back = source.position() - 1;
                    return source.seek(back);
                }
            }
            source.consume(1);
            continue;
        }
        let len = buffer.len();
        match memchr::memchr(0xFF, buffer) {
            Some(at) => {
                after_ff = true;
                source.consume(at + 1);
            }
            None => source.consume(len),
        }
    }
}

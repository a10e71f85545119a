use std::io::{BufRead, Seek};

use super::exif;
use super::source::Source;
use crate::{Error, Facts, Limits, Orientation};

/// What a walk over the segments of a JPEG found.
pub(crate) struct Outline {
    pub(crate) facts: Facts,
    /// Where the picture ends: behind its end-of-image marker or, where that is missing, behind the last thing that can belong to it.
    pub(crate) end: u64,
    /// Whether there is an end-of-image marker.
    pub(crate) has_end: bool,
    pub(crate) process: Process,
    /// Bits of a sample.
    pub(crate) precision: u8,
}

/// How pixels are coded (T.81 table B.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Process {
    Sequential,
    Progressive,
    Lossless,
    Hierarchical,
}

/// The facts; see [`outline`].
pub(super) fn inspect<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Facts, Error> {
    Ok(outline(source, limits)?.facts)
}

/// Walks the marker segments and scans of a JPEG up to its end-of-image marker (ITU-T T.81 annex B). What stands after that marker
/// (previews of phones, for one) is not looked at.
///
/// Stray bytes before a marker are passed over, as decoders do. Behind the last scan the end-of-image marker may be missing, or
/// something else may stand in its place: then only decoding shows whether the pixels are whole.
pub(super) fn outline<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Outline, Error> {
    source.skip(2)?;
    let mut found = Found::default();
    loop {
        let begin = source.position();
        match segment(source, limits, &mut found) {
            Ok(Step::End) => return found.outline(source, source.position(), true),
            Ok(Step::Next) => {}
            Err(Error::Io(error)) => return Err(Error::Io(error)),
            Err(error @ Error::OverLimit { .. }) => return Err(error),
            Err(error) => {
                if !found.is_complete() {
                    return Err(error);
                }
                source.note_doubt();
                let end = if found.scan_is_open { source.position() } else { begin };
                return found.outline(source, end, false);
            }
        }
    }
}

enum Step {
    Next,
    End,
}

#[derive(Default)]
struct Found {
    facts: Option<Facts>,
    frame: Option<Frame>,
    orientation: Option<Orientation>,
    scans: u32,
    /// The file ended within a scan's data.
    scan_is_open: bool,
    /// Of each component, which of its coefficients have come with all of their bits.
    finished: Vec<u64>,
}

struct Frame {
    process: Process,
    precision: u8,
    components: Vec<u8>,
}

impl Found {
    /// Whether every component has had all of its scans, of which the last may be cut.
    fn is_complete(&self) -> bool {
        self.scans > 0 && self.finished.iter().all(|coefficients| *coefficients == u64::MAX)
    }

    fn outline<R: BufRead + Seek>(self, source: &Source<R>, end: u64, has_end: bool) -> Result<Outline, Error> {
        let (Some(facts), Some(frame)) = (self.facts, self.frame) else {
            return Err(source.corrupt("it has no frame header"));
        };
        if self.scans == 0 {
            return Err(source.corrupt("it has no image data"));
        }
        let facts = Facts { orientation: self.orientation.unwrap_or_default(), ..facts };
        Ok(Outline { facts, end, has_end, process: frame.process, precision: frame.precision })
    }
}

fn segment<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits, found: &mut Found) -> Result<Step, Error> {
    match marker(source)? {
        0xD9 => return Ok(Step::End),
        0xD8 => return Err(source.corrupt("a second start-of-image marker")),
        0x01 | 0xD0..=0xD7 => {}
        0x02..=0xBF if found.scans > 0 => return Err(source.corrupt("a marker of an unknown kind")),
        0xDA => {
            if found.facts.is_none() {
                return Err(source.corrupt("a scan stands before the frame header"));
            }
            let len = segment_len(source)?;
            let header = source.vec(len)?;
            found.scans += 1;
            note_scan(found, &header);
            found.scan_is_open = true;
            skip_entropy_coded(source)?;
            found.scan_is_open = false;
        }
        code @ (0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF) => {
            if found.facts.is_some() {
                return Err(source.corrupt("a second frame header"));
            }
            frame_header(source, code, limits, found)?;
        }
        0xE1 => {
            let len = segment_len(source)?;
            let segment = source.vec(len)?;
            if segment.starts_with(exif::PREFIX) {
                found.orientation.get_or_insert(exif::orientation(&segment));
            }
        }
        _ => {
            let len = segment_len(source)?;
            source.skip(len as u64)?;
        }
    }
    Ok(Step::Next)
}

/// The code of the next marker; any number of 0xFF may fill the space before it (T.81 B.1.1.2), and galleries of phones leave zeros.
fn marker<R: BufRead + Seek>(source: &mut Source<R>) -> Result<u8, Error> {
    loop {
        while source.u8()? != 0xFF {}
        loop {
            match source.u8()? {
                0xFF => {}
                0x00 => break,
                code => return Ok(code),
            }
        }
    }
}

fn segment_len<R: BufRead + Seek>(source: &mut Source<R>) -> Result<usize, Error> {
    match source.u16_be()?.checked_sub(2) {
        Some(len) => Ok(usize::from(len)),
        None => Err(source.corrupt("a segment is shorter than its own length field")),
    }
}

fn frame_header<R: BufRead + Seek>(source: &mut Source<R>, code: u8, limits: &Limits, found: &mut Found) -> Result<(), Error> {
    let len = segment_len(source)?;
    let header = source.vec(len)?;
    let [precision, h1, h0, w1, w0, count, rest @ ..] = header.as_slice() else {
        return Err(source.corrupt("its frame header is too short"));
    };
    if *count == 0 || rest.len() != usize::from(*count) * 3 {
        return Err(source.corrupt("its frame header doesn't match its number of components"));
    }
    let process = match code {
        0xC0 | 0xC1 | 0xC9 => Process::Sequential,
        0xC2 | 0xCA => Process::Progressive,
        0xC3 | 0xCB => Process::Lossless,
        _ => Process::Hierarchical,
    };
    let components: Vec<u8> = rest.chunks_exact(3).map(|component| component[0]).collect();
    let (width, height) = (u16::from_be_bytes([*w1, *w0]), u16::from_be_bytes([*h1, *h0]));
    found.facts = Some(Facts::still(source.format(), u32::from(width), u32::from(height), limits)?);
    found.finished = vec![0; components.len()];
    found.frame = Some(Frame { process, precision: *precision, components });
    Ok(())
}

/// Notes which coefficients of which components a scan finishes (T.81 B.2.3).
fn note_scan(found: &mut Found, header: &[u8]) {
    let Some(frame) = &found.frame else { return };
    let [count, rest @ ..] = header else { return };
    let Some((components, [first, last, bits, ..])) = rest.split_at_checked(usize::from(*count) * 2) else { return };
    let coefficients = match frame.process {
        // The low bits of the point transform come in later scans.
        Process::Progressive if bits & 15 != 0 => 0,
        Process::Progressive => (*first..=(*last).min(63)).fold(0, |set, at| set | 1 << at),
        _ => u64::MAX,
    };
    for component in components.chunks_exact(2) {
        let index = frame.components.iter().position(|known| *known == component[0]);
        if let Some(finished) = index.and_then(|index| found.finished.get_mut(index)) {
            *finished |= coefficients;
        }
    }
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

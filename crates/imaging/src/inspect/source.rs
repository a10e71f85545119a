use std::io::{BufRead, Seek, SeekFrom};

use crate::{Error, Format};

/// Steps (see [`Source::step`]) that every file has. A whole one takes fewer than one a byte.
const STEPS_MIN: u64 = 10_000;
const STEPS_PER_BYTE: u64 = 2;

/// A buffered reader that knows its length and turns every read past the end into [`Error::Truncated`]. What takes far more steps to
/// read than it has bytes is [`Error::Corrupt`]: structures that overlap, point back or hold nothing, over and over.
pub(super) struct Source<R> {
    reader: R,
    position: u64,
    len: u64,
    steps_left: u64,
    format: Format,
    doubtful: bool,
}

impl<R: BufRead + Seek> Source<R> {
    pub(super) fn new(mut reader: R) -> Result<Self, Error> {
        let len = reader.seek(SeekFrom::End(0)).map_err(Error::Io)?;
        reader.seek(SeekFrom::Start(0)).map_err(Error::Io)?;
        let steps_left = STEPS_MIN.saturating_add(len.saturating_mul(STEPS_PER_BYTE));
        Ok(Self { reader, position: 0, len, steps_left, format: Format::Jpeg, doubtful: false })
    }

    /// Names the format that errors speak of.
    pub(super) fn announce(&mut self, format: Format) {
        self.format = format;
    }

    /// Notes that the structure has no proper end, so that only a decoder can tell whether the pixels are whole.
    pub(super) fn note_doubt(&mut self) {
        self.doubtful = true;
    }

    /// See [`Source::note_doubt`].
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// Whether so many bytes are left.
    pub(super) fn has(&self, count: u64) -> bool {
        self.remaining() >= count
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn remaining(&self) -> u64 {
        self.len - self.position
    }

    pub(super) fn truncated(&self) -> Error {
        Error::Truncated { format: self.format }
    }

    pub(super) fn corrupt(&self, detail: &'static str) -> Error {
        Error::Corrupt { format: self.format, detail }
    }

    /// Counts one read, jump or round, so that the work is linear in the file's length whatever the file says. Every loop over what a file
    /// declares passes here: by its reads, or by a call of its own where a round reads nothing.
    pub(super) fn step(&mut self) -> Result<(), Error> {
        self.steps_left =
            self.steps_left.checked_sub(1).ok_or_else(|| self.corrupt("its parts overlap or hold nothing, over and over"))?;
        Ok(())
    }

    /// The next bytes without taking them: up to `count`, fewer at the end of the file.
    pub(super) fn peek(&mut self, count: usize) -> Result<&[u8], Error> {
        let buffer = self.reader.fill_buf().map_err(Error::Io)?;
        Ok(&buffer[..buffer.len().min(count)])
    }

    /// Whatever the buffer holds now; empty only at the end of the file.
    pub(super) fn buffered(&mut self) -> Result<&[u8], Error> {
        self.reader.fill_buf().map_err(Error::Io)
    }

    /// Takes `count` bytes that [`Source::buffered`] showed.
    pub(super) fn consume(&mut self, count: usize) {
        self.reader.consume(count);
        self.position += count as u64;
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A short run of bytes. The caller bounds `count`; it is checked against the file's length before it is allocated.
    pub(super) fn vec(&mut self, count: usize) -> Result<Vec<u8>, Error> {
        if count as u64 > self.remaining() {
            return Err(self.truncated());
        }
        let mut bytes = vec![0; count];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.step()?;
        if bytes.len() as u64 > self.remaining() {
            return Err(self.truncated());
        }
        self.reader.read_exact(bytes).map_err(Error::Io)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn skip(&mut self, count: u64) -> Result<(), Error> {
        self.step()?;
        if count > self.remaining() {
            return Err(self.truncated());
        }
        let step = i64::try_from(count).map_err(|_| self.truncated())?;
        self.reader.seek_relative(step).map_err(Error::Io)?;
        self.position += count;
        Ok(())
    }

    pub(super) fn seek(&mut self, position: u64) -> Result<(), Error> {
        self.step()?;
        if position > self.len {
            return Err(self.truncated());
        }
        let step = i128::from(position) - i128::from(self.position);
        let step = i64::try_from(step).map_err(|_| self.truncated())?;
        self.reader.seek_relative(step).map_err(Error::Io)?;
        self.position = position;
        Ok(())
    }

    /// Checks that the file holds `count` bytes from `offset` on.
    pub(super) fn require(&self, offset: u64, count: u64) -> Result<(), Error> {
        match offset.checked_add(count) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(self.truncated()),
        }
    }

    pub(super) fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.bytes::<1>()?[0])
    }

    pub(super) fn u16_be(&mut self) -> Result<u16, Error> {
        self.bytes().map(u16::from_be_bytes)
    }

    pub(super) fn u32_be(&mut self) -> Result<u32, Error> {
        self.bytes().map(u32::from_be_bytes)
    }

    pub(super) fn u16_le(&mut self) -> Result<u16, Error> {
        self.bytes().map(u16::from_le_bytes)
    }

    pub(super) fn u32_le(&mut self) -> Result<u32, Error> {
        self.bytes().map(u32::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn work_ends_by_its_steps() {
        let mut source = Source::new(Cursor::new([0; 100])).expect("reads");
        let steps = (0..).take_while(|_| source.step().is_ok()).count();
        assert_eq!(steps, 10_200);
    }
}

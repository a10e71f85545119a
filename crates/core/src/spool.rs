//! From a stream of chunks to counted, hashed bytes: in memory while they are few, else in a file without a name, which the
//! kernel frees however the process ends.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Error;
use crate::model::Digest;

/// Bytes that [`Spool::head`] keeps.
pub const HEAD_BYTES: usize = 32 * 1024;

/// See [`Spool::hold_little`].
const LITTLE_BYTES: usize = 64 * 1024;

/// Bytes that usually come at a time.
const CHUNK_BYTES: usize = 32 * 1024;

/// Memory that spools share; a spool that finds none left goes through its file.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Semaphore>);

impl Memory {
    /// Memory is counted in units of so many bytes.
    const UNIT_BYTES: usize = 64 * 1024;

    /// So many bytes for all who share it, rounded up to 64 KiB.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes_max.div_ceil(Self::UNIT_BYTES).min(Semaphore::MAX_PERMITS))))
    }

    /// Makes what is held enough for so many bytes; false when there is not enough left.
    fn grow(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> bool {
        let before = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let units = bytes.div_ceil(Self::UNIT_BYTES).saturating_sub(before);
        let Ok(units @ 1..) = u32::try_from(units) else { return units == 0 };
        let Ok(more) = Arc::clone(&self.0).try_acquire_many_owned(units) else { return false };
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        true
    }
}

/// Takes chunks.
#[derive(Debug)]
pub struct Spool {
    /// The first bytes, once they are in the file.
    head: Vec<u8>,
    buffer: Vec<u8>,
    file: Option<Arc<File>>,
    flushed: u64,
    hasher: Sha256,
    memory_bytes_max: usize,
    bytes_max: u64,
    folder: std::path::PathBuf,
    /// Where the buffer's memory comes from, and how much of it this one has.
    memory: Option<Memory>,
    held: Option<OwnedSemaphorePermit>,
}

/// What a spool took, whole.
#[derive(Debug)]
pub struct Spooled {
    /// The bytes.
    pub content: Content,
    /// Their sha-256.
    pub digest: Digest,
    /// The shared memory that they take.
    pub(crate) _held: Option<OwnedSemaphorePermit>,
}

/// Bytes that can be read from any place, any number of times.
#[derive(Debug, Clone)]
pub enum Content {
    /// Few.
    Memory(Bytes),
    /// Many.
    File {
        /// Open for reading; its name may be gone.
        file: Arc<File>,
        /// Where it ends.
        len: u64,
    },
}

impl Spool {
    /// At most `memory_bytes_max` are held in memory. Reaching `bytes_max` is an error: a file of exactly that size is
    /// already refused. `folder` holds what doesn't fit in memory.
    #[must_use]
    pub fn new(folder: &Path, memory_bytes_max: usize, bytes_max: u64) -> Self {
        let folder = folder.to_path_buf();
        let (head, buffer) = (Vec::new(), Vec::new());
        let (hasher, memory, held) = (Sha256::new(), None, None);
        Self { head, buffer, file: None, flushed: 0, hasher, memory_bytes_max, bytes_max, folder, memory, held }
    }

    /// Takes its memory from what others take theirs from.
    #[must_use]
    pub fn sharing(self, memory: Memory) -> Self {
        Self { memory: Some(memory), ..self }
    }

    /// Holds little in memory from now on: for one that fills slowly.
    pub fn hold_little(&mut self) {
        self.memory_bytes_max = self.memory_bytes_max.min(LITTLE_BYTES);
    }

    /// Makes room for as many bytes as are announced, within what may be held in memory.
    #[must_use]
    pub fn expecting(mut self, bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // What doesn't fit goes into the file once there is more than that, by at most a chunk.
        self.buffer.reserve_exact(bytes.min(self.memory_bytes_max + CHUNK_BYTES));
        self
    }

    /// How many bytes came so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    /// Whether nothing came so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first bytes, up to [`HEAD_BYTES`], wherever the rest has gone.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        if self.file.is_some() { &self.head } else { &self.buffer[..self.buffer.len().min(HEAD_BYTES)] }
    }

    /// Takes a chunk.
    ///
    /// # Errors
    /// [`Error::TooLarge`] at the limit, [`Error::NoSpace`] when the folder's disk is full.
    pub async fn write(&mut self, chunk: &[u8]) -> Result<(), Error> {
        if self.take(chunk)? { self.flush().await } else { Ok(()) }
    }

    /// Takes a chunk into memory. Says whether [`Spool::flush`] must be called before the next one.
    ///
    /// # Errors
    /// [`Error::TooLarge`] at the limit.
    pub fn take(&mut self, chunk: &[u8]) -> Result<bool, Error> {
        if self.len() + chunk.len() as u64 >= self.bytes_max {
            return Err(Error::TooLarge { bytes_max: self.bytes_max });
        }
        self.hasher.update(chunk);
        self.buffer.extend_from_slice(chunk);
        let fits = self.buffer.len() <= self.memory_bytes_max;
        Ok(!fits || !self.memory.as_ref().is_none_or(|memory| memory.grow(&mut self.held, self.buffer.len())))
    }

    /// Whether what came goes through the file.
    #[must_use]
    pub fn is_on_disk(&self) -> bool {
        self.file.is_some()
    }

    /// Writes what is in memory to the file.
    ///
    /// # Errors
    /// [`Error::NoSpace`] when the folder's disk is full.
    pub async fn flush(&mut self) -> Result<(), Error> {
        if self.file.is_none() {
            self.head = self.head().to_vec();
        }
        let buffer = std::mem::take(&mut self.buffer);
        let (file, folder, offset) = (self.file.clone(), self.folder.clone(), self.flushed);
        let written = tokio::task::spawn_blocking(move || {
            let file = match file {
                Some(file) => file,
                None => Arc::new(tempfile::tempfile_in(folder)?),
            };
            file.write_all_at(&buffer, offset)?;
            Ok::<_, io::Error>((file, buffer))
        })
        .await
        .map_err(|error| Error::internal("spooling an upload", &error))?;
        let (file, mut buffer) = written.map_err(|error| spool_failed(&error))?;
        self.flushed += buffer.len() as u64;
        buffer.clear();
        let keeps = |memory: &Memory| memory.grow(&mut self.held, buffer.capacity());
        if buffer.capacity() > self.memory_bytes_max + CHUNK_BYTES || !self.memory.as_ref().is_none_or(keeps) {
            (buffer, self.held) = (Vec::new(), None);
        }
        self.buffer = buffer;
        self.file = Some(file);
        Ok(())
    }

    /// No more is coming.
    ///
    /// # Errors
    /// [`Error::NoSpace`] when the last bytes don't fit on the disk.
    pub async fn finish(mut self) -> Result<Spooled, Error> {
        if self.file.is_some() && !self.buffer.is_empty() {
            self.flush().await?;
        }
        let digest = Digest(self.hasher.finalize().into());
        let (content, held) = match self.file {
            Some(file) => (Content::File { file, len: self.flushed }, None),
            None => (Content::Memory(self.buffer.into()), self.held),
        };
        Ok(Spooled { content, digest, _held: held })
    }
}

fn spool_failed(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace,
        _ => Error::internal("spooling an upload", error),
    }
}

impl Content {
    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A reader of its own, for blocking code.
    #[must_use]
    pub fn reader(&self) -> ContentReader {
        ContentReader { content: self.clone(), position: 0 }
    }

    /// Up to `count` bytes from `offset`; none at the end.
    ///
    /// # Errors
    /// When the file can't be read.
    pub async fn read_at(&self, offset: u64, count: usize) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(start..bytes.len().min(start + count)))
            }
            Self::File { file, len } => {
                let count = count.min(usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX));
                let file = Arc::clone(file);
                let read = move || {
                    let mut chunk = vec![0; count];
                    file.read_exact_at(&mut chunk, offset)?;
                    Ok(Bytes::from(chunk))
                };
                if count == 0 { Ok(Bytes::new()) } else { tokio::task::spawn_blocking(read).await.map_err(io::Error::other)? }
            }
        }
    }
}

/// Reads a [`Content`] from the start.
#[derive(Debug)]
pub struct ContentReader {
    content: Content,
    position: u64,
}

impl Read for ContentReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.content.len().saturating_sub(self.position);
        let count = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match &self.content {
            Content::Memory(bytes) => {
                let start = usize::try_from(self.position).unwrap_or(usize::MAX).min(bytes.len());
                into[..count].copy_from_slice(&bytes[start..start + count]);
            }
            Content::File { file, .. } => file.read_exact_at(&mut into[..count], self.position)?,
        }
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for ContentReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.content.len().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit is reached at exactly its size; one byte less passes, in memory and in a file.
    #[tokio::test]
    async fn bytes_come_back_whole_and_the_limit_is_exact() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for (memory, chunk) in [(10, 1), (10, 7), (1000, 7), (10, 4096)] {
            let bytes: Vec<u8> = (0..99).collect();
            let mut spool = Spool::new(folder.path(), memory, 100);
            for chunk in bytes.chunks(chunk) {
                spool.write(chunk).await.expect("fits");
            }
            assert_eq!(spool.len(), 99);
            let spooled = spool.finish().await.expect("finishes");
            assert_eq!(spooled.digest.0, <[u8; 32]>::from(Sha256::digest(&bytes)));
            let mut read = Vec::new();
            spooled.content.reader().read_to_end(&mut read).expect("reads");
            assert_eq!(read, bytes);
            assert_eq!(spooled.content.read_at(90, 50).await.expect("reads"), bytes[90..]);
        }
        let mut spool = Spool::new(folder.path(), 10, 100);
        assert!(matches!(spool.write(&[0; 100]).await, Err(Error::TooLarge { bytes_max: 100 })));
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0, "spool files have no name");
    }

    /// What doesn't fit into the memory of all goes through files, whole, and memory comes back.
    #[tokio::test]
    async fn memory_is_bounded_in_sum() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let memory = Memory::new(3 * Memory::UNIT_BYTES);
        let chunk = [7; Memory::UNIT_BYTES];
        let mut spools = Vec::new();
        for _ in 0..5 {
            let mut spool = Spool::new(folder.path(), 1 << 20, 1 << 30).sharing(memory.clone());
            for _ in 0..2 {
                spool.write(&chunk).await.expect("takes it");
            }
            spools.push(spool);
        }
        let on_disk: Vec<bool> = spools.iter().map(Spool::is_on_disk).collect();
        assert_eq!(on_disk, [false, true, true, true, true]);
        let held: usize = spools.iter().map(|spool| spool.buffer.capacity()).sum();
        assert!(held <= 4 * Memory::UNIT_BYTES, "{held}");
        for spool in spools {
            let spooled = spool.finish().await.expect("finishes");
            assert_eq!(spooled.digest.0, <[u8; 32]>::from(Sha256::digest([7; 2 * Memory::UNIT_BYTES])));
        }
        assert_eq!(memory.0.available_permits(), 3);
    }

    #[tokio::test]
    async fn one_that_fills_slowly_holds_little() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let memory = Memory::new(16 * Memory::UNIT_BYTES);
        let mut spool = Spool::new(folder.path(), 1 << 20, 1 << 30).sharing(memory.clone());
        spool.write(&[7; 500_000]).await.expect("takes it");
        assert!(!spool.is_on_disk() && memory.0.available_permits() == 8);
        spool.hold_little();
        spool.write(b"7").await.expect("takes it");
        assert!(spool.is_on_disk() && memory.0.available_permits() == 16 && spool.buffer.capacity() == 0);
    }
}

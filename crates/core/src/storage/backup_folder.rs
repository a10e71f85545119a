//! The folder of a backup.
//!
//! ```text
//! README                                  what this is; its first line says the format
//! lock                                    held by whoever writes or reads
//! blobs/{namespace}/{org}/{uuid}.{ext}    as in a store; what has its name is whole
//! snapshots/000001_2026-11-26T03-30-00Z/  database.db, blobs.sha256, manifest.toml
//! snapshots/.000002_…                     being made or removed: no part of the backup
//! ```
//!
//! Blobs never change, so snapshots share them. A snapshot gets its name in the last step of a
//! backup, and loses it in the first step of its removal.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tempfile::{NamedTempFile, TempPath};

use super::Place;
use crate::Error;
use crate::durable::{Folders, create_private, make_folder, make_private, sync_folder};
use crate::model::{BlobKey, Digest, Timestamp};

/// How the folder is laid out. A program refuses what is laid out in a way that it doesn't know.
pub(crate) const FORMAT: u32 = 1;
const README: &str = "README";
/// Of the first line of the README, before the format's number.
const SIGN: &str = "imagewell backup, format ";
const ABOUT: &str = "\n\
    imagewell restore THIS-FOLDER puts the newest snapshot into the database and the store that are configured.\n\
    sha256sum -c snapshots/NUMBER_TIME/blobs.sha256, here, compares the images of a snapshot with their digests.\n\
    The snapshots hold keys and hashes of passwords: keep this folder as secret as the service's own data.\n";
/// Read from a file at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// A folder of backups that nobody else changes while this lives.
#[derive(Debug)]
pub(crate) struct BackupFolder {
    root: PathBuf,
    #[expect(dead_code, reason = "held until dropped")]
    lock: Option<File>,
}

impl BackupFolder {
    /// Whether a folder holds a backup.
    pub(crate) fn is_at(root: &Path) -> bool {
        root.join(README).exists()
    }

    /// Opens or makes a folder to write to, and keeps everybody else out of it.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it holds something else, or is in use.
    pub(crate) fn open_to_write(root: &Path) -> Result<Self, Error> {
        let doing = |error: io::Error| Error::internal(&format!("making the backup {}", root.display()), &error);
        let is_new = !Self::is_at(root);
        if is_new && root.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::invalid(format!(
                "{} holds something else than backups of imagewell: name an empty folder, or one that does not exist",
                root.display()
            )));
        }
        make_folder(root).map_err(doing)?;
        let root = root.canonicalize().map_err(doing)?;
        let lock = root.join("lock");
        let lock = make_private(&lock, true).and_then(|()| File::open(&lock)).map_err(doing)?;
        locked(&root, lock.try_lock())?;
        if is_new {
            let text = format!("{SIGN}{FORMAT}\n{ABOUT}");
            Folders::default().write_new(&root.join(README), text.as_bytes()).map_err(doing)?;
        } else {
            check_format(&root)?;
        }
        for folder in ["blobs", "snapshots", "spool"] {
            make_folder(&root.join(folder)).map_err(doing)?;
        }
        Ok(Self { root, lock: Some(lock) })
    }

    /// Opens a folder to read from, and keeps those who write out of it. It may lie on a medium that can't be written.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is no backup, or one is being made.
    pub(crate) fn open_to_read(root: &Path) -> Result<Self, Error> {
        check_format(root)?;
        // A copy of a backup may be without it.
        let lock = File::open(root.join("lock")).ok();
        if let Some(lock) = &lock {
            locked(root, lock.try_lock_shared())?;
        }
        Ok(Self { root: root.to_owned(), lock })
    }

    /// Where the blobs are.
    pub(crate) fn blobs(&self) -> Place {
        Place::Folder(self.root.join("blobs"))
    }

    /// For blobs on their way here.
    pub(crate) fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Whether another folder lies inside it, or is it.
    pub(crate) fn holds(&self, folder: &Path) -> bool {
        is_inside(folder, &self.root)
    }

    /// Whole snapshots, the oldest first.
    pub(crate) fn snapshots(&self) -> Result<Vec<SnapshotFolder>, Error> {
        self.listed(|name| !name.starts_with('.'))
    }

    /// Snapshots that were never finished, or whose removal was not.
    pub(crate) fn unfinished(&self) -> Result<Vec<SnapshotFolder>, Error> {
        self.listed(|name| name.starts_with('.'))
    }

    fn listed(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<SnapshotFolder>, Error> {
        let parent = self.root.join("snapshots");
        let entries = parent.read_dir().and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.map_err(|error| Error::internal(&format!("listing {}", parent.display()), &error))?;
        let names = entries.iter().filter_map(|entry| entry.file_name().into_string().ok());
        let mut found: Vec<_> =
            names.filter(|name| wanted(name)).map(|name| SnapshotFolder { parent: parent.clone(), name }).collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// Begins the next snapshot. Its number counts, so that the newest one is told by it, whatever the clock does.
    pub(crate) fn begin(&self, now: Timestamp) -> Result<SnapshotFolder, Error> {
        let number = |snapshot: &SnapshotFolder| snapshot.name().split('_').next().and_then(|number| number.parse::<u32>().ok());
        let known = [self.snapshots()?, self.unfinished()?].concat();
        let next = known.iter().filter_map(number).max().unwrap_or(0) + 1;
        let time: String = now.to_rfc3339().chars().take("2026-11-26T03:30:00".len()).collect();
        let snapshot =
            SnapshotFolder { parent: self.root.join("snapshots"), name: format!(".{next:06}_{}Z", time.replace(':', "-")) };
        let made = DirBuilder::new().mode(0o700).create(snapshot.path()).and_then(|()| sync_folder(&snapshot.parent));
        made.map_err(|error| Error::internal("beginning a snapshot", &error))?;
        Ok(snapshot)
    }
}

/// Whether a path, which needn't exist, lies inside a folder, or is it.
pub(crate) fn is_inside(path: &Path, folder: &Path) -> bool {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let exists = path.ancestors().find_map(|above| above.canonicalize().ok().map(|real| (above, real)));
    let real = exists.and_then(|(above, real)| path.strip_prefix(above).ok().map(|rest| real.join(rest)));
    folder.canonicalize().is_ok_and(|folder| real.is_some_and(|real| real.starts_with(folder)))
}

fn locked(root: &Path, lock: Result<(), TryLockError>) -> Result<(), Error> {
    match lock {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(Error::invalid(format!("{} is in use by another `imagewell backup` or `restore`", root.display())))
        }
        Err(TryLockError::Error(error)) => Err(Error::internal(&format!("locking {}", root.display()), &error)),
    }
}

fn check_format(root: &Path) -> Result<(), Error> {
    let text = std::fs::read_to_string(root.join(README)).unwrap_or_default();
    let format = text.lines().next().and_then(|line| line.strip_prefix(SIGN)).and_then(|number| number.parse::<u32>().ok());
    match format {
        Some(FORMAT) => Ok(()),
        Some(newer) => Err(Error::invalid(format!(
            "{} was laid out by a newer imagewell (format {newer}; this one has {FORMAT})",
            root.display()
        ))),
        None => Err(Error::invalid(format!("{} is no backup of imagewell: its README does not say so", root.display()))),
    }
}

/// The folder of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotFolder {
    parent: PathBuf,
    name: String,
}

impl SnapshotFolder {
    /// As in `000001_2026-11-26T03-30-00Z`.
    pub(crate) fn name(&self) -> &str {
        self.name.trim_start_matches('.')
    }

    fn path(&self) -> PathBuf {
        self.parent.join(&self.name)
    }

    /// The rows, as an SQLite file.
    pub(crate) fn database(&self) -> PathBuf {
        self.path().join("database.db")
    }

    fn list(&self) -> PathBuf {
        self.path().join("blobs.sha256")
    }

    fn manifest(&self) -> PathBuf {
        self.path().join("manifest.toml")
    }

    pub(crate) fn read_manifest(&self) -> Result<String, Error> {
        std::fs::read_to_string(self.manifest()).map_err(|error| self.failed("reading the manifest of", &error))
    }

    /// Begins the list of its blobs. Until it is finished the one before stays: a run that is cut off is cleared up by it.
    pub(crate) fn write_list(&self) -> Result<ListWriter, Error> {
        let staged = self.path().join("blobs.sha256.new");
        let file = create_private(&staged).map_err(|error| self.failed("listing the blobs of", &error))?;
        Ok(ListWriter { file: BufWriter::new(file), hasher: Sha256::new(), staged, list: self.list() })
    }

    /// The keys in the list of its blobs, in order; empty where there is none yet.
    pub(crate) fn read_list(&self) -> Result<impl Iterator<Item = io::Result<String>> + use<>, Error> {
        let lines: Box<dyn Iterator<Item = io::Result<String>> + Send> = match File::open(self.list()) {
            Ok(file) => Box::new(BufReader::new(file).lines()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Box::new(std::iter::empty()),
            Err(error) => return Err(self.failed("reading the list of", &error)),
        };
        let key = |line: String| {
            let key = line.split_once("  blobs/").map(|(_, key)| key.to_owned());
            // The last line of one that was cut off.
            key.filter(|key| BlobKey::is_well_formed(key))
        };
        Ok(lines.filter_map(move |line| line.map(key).transpose()))
    }

    /// Bytes and digest of the rows.
    pub(crate) async fn digest_of_database(&self) -> Result<(u64, Digest), Error> {
        self.digest(self.database()).await
    }

    /// Digest of the list of blobs.
    pub(crate) async fn digest_of_list(&self) -> Result<Digest, Error> {
        self.digest(self.list()).await.map(|(_, digest)| digest)
    }

    async fn digest(&self, file: PathBuf) -> Result<(u64, Digest), Error> {
        let read = tokio::task::spawn_blocking(move || copy_hashing(File::open(file)?, io::sink())).await;
        read.map_err(io::Error::other).flatten().map_err(|error| self.failed("reading", &error))
    }

    /// Copies the rows into a new private file; their bytes and digest.
    pub(crate) async fn copy_database(&self, to: PathBuf) -> Result<(u64, Digest), Error> {
        let from = self.database();
        let copied = tokio::task::spawn_blocking(move || copy_hashing(File::open(from)?, create_private(&to)?)).await;
        copied.map_err(io::Error::other).flatten().map_err(|error| self.failed("copying the database of", &error))
    }

    /// Writes the manifest, and with its name makes the snapshot a part of the backup.
    pub(crate) fn finish(self, manifest: &str) -> Result<Self, Error> {
        let finished = Self { parent: self.parent.clone(), name: self.name().to_owned() };
        let named = Folders::default().write_new(&self.manifest(), manifest.as_bytes()).and_then(|()| {
            File::open(self.database())?.sync_all()?;
            sync_folder(&self.path())?;
            std::fs::rename(self.path(), finished.path())?;
            sync_folder(&self.parent)
        });
        named.map_err(|error| self.failed("finishing", &error)).map(|()| finished)
    }

    /// From now on it is no part of the backup, and its blobs may go.
    pub(crate) fn retire(self) -> Result<Self, Error> {
        let retired = Self { parent: self.parent.clone(), name: format!(".{}", self.name()) };
        let hidden = std::fs::rename(self.path(), retired.path()).and_then(|()| sync_folder(&self.parent));
        hidden.map_err(|error| self.failed("removing", &error)).map(|()| retired)
    }

    /// Removes what is left of it, once its blobs are gone.
    pub(crate) fn remove(self) -> Result<(), Error> {
        std::fs::remove_dir_all(self.path()).map_err(|error| self.failed("removing", &error))
    }

    fn failed(&self, doing: &str, error: &io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace,
            _ => Error::internal(&format!("{doing} the snapshot {}", self.path().display()), error),
        }
    }
}

/// A file for a while, named as the spool names its own, so that a sweep takes what a crash leaves of it.
#[derive(Debug)]
pub(crate) struct Scratch(TempPath);

impl Scratch {
    pub(crate) fn in_spool(spool: &Path) -> Result<Self, Error> {
        let made = make_folder(spool).and_then(|()| NamedTempFile::new_in(spool));
        let failed = |error: io::Error| Error::internal(&format!("making a file in {}", spool.display()), &error);
        made.map(|file| Self(file.into_temp_path())).map_err(failed)
    }

    /// In the system's folder of temporary files.
    pub(crate) fn among_temporary_files() -> Result<Self, Error> {
        let failed = |error: io::Error| Error::internal("making a temporary file", &error);
        NamedTempFile::new().map(|file| Self(file.into_temp_path())).map_err(failed)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.to_path_buf()
    }
}

/// Writes the list of a snapshot's blobs in the format of `sha256sum`.
#[derive(Debug)]
pub(crate) struct ListWriter {
    file: BufWriter<File>,
    hasher: Sha256,
    staged: PathBuf,
    list: PathBuf,
}

impl ListWriter {
    /// Adds a blob; they come in the order of their keys.
    pub(crate) fn add(&mut self, key: &BlobKey, digest: Digest) -> Result<(), Error> {
        let line = format!("{digest}  blobs/{}\n", key.as_str());
        self.hasher.update(line.as_bytes());
        self.file.write_all(line.as_bytes()).map_err(|error| list_failed(&error))
    }

    /// Makes it durable under its name, and says its digest.
    pub(crate) fn finish(self) -> Result<Digest, Error> {
        let file = self.file.into_inner().map_err(|error| list_failed(error.error()))?;
        let named = file.sync_all().and_then(|()| std::fs::rename(&self.staged, &self.list));
        named.map_err(|error| list_failed(&error))?;
        Ok(Digest(self.hasher.finalize().into()))
    }
}

fn list_failed(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace,
        _ => Error::internal("listing the blobs of a snapshot", error),
    }
}

fn copy_hashing(mut from: File, mut to: impl io::Write) -> io::Result<(u64, Digest)> {
    let (mut hasher, mut chunk, mut bytes) = (Sha256::new(), vec![0; CHUNK_BYTES], 0);
    loop {
        let read = from.read(&mut chunk)?;
        if read == 0 {
            to.flush()?;
            return Ok((bytes, Digest(hasher.finalize().into())));
        }
        hasher.update(&chunk[..read]);
        to.write_all(&chunk[..read])?;
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_was_not_finished_leaves_the_one_before() {
        let root = tempfile::tempdir().expect("temporary folder");
        let folder = BackupFolder::open_to_write(&root.path().join("backup")).expect("opens");
        let snapshot = folder.begin(Timestamp::now()).expect("begins");
        let key = |digit: u8| BlobKey::from_stored(format!("rewards/1/0d5a2b1c-5f6e-4a3b-8c9d-0123456789{digit:02}.png"));
        let write = |keys: &[u8]| {
            let mut list = snapshot.write_list().expect("begins");
            for digit in keys {
                list.add(&key(*digit), Digest([*digit; 32])).expect("adds");
            }
            list
        };
        let read = || {
            let keys = snapshot.read_list().expect("opens").collect::<io::Result<Vec<_>>>();
            keys.expect("reads")
        };
        assert!(read().is_empty());
        write(&[1, 2]).finish().expect("finishes");
        drop(write(&[1]));
        assert_eq!(read(), [key(1).as_str(), key(2).as_str()]);
        write(&[2]).finish().expect("finishes");
        assert_eq!(read(), [key(2).as_str()]);
    }
}

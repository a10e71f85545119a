//! Blobs in a folder of the local disk.
//!
//! A put is durable when it returns. A blob is written, or what was spooled gets its name, and file and directory are synced
//! (see [`crate::durable`]): its key is fresh, and nobody looks for it before its row is there. A rendering's key may be known, so
//! its bytes go to a staging file first, which is synced and renamed (`object_store` with fsync on). Failed deletes and what a
//! crash leaves are harmless; `sweep` takes them.

use std::error::Error as StdError;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use object_store::{GetOptions, GetRange, GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload};

use super::identity::IDENTITY;
use super::root::Root;
use crate::Error;
use crate::durable::{self, Folders, RenameFailed, make_folder};
use crate::halt::Halt;
use crate::model::{BlobKey, Timestamp};
use crate::spool::Content;

/// What is written at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// What is read at a time: every answer that is streamed holds two such chunks.
const READ_BYTES: usize = 64 * 1024;

/// A folder of blobs. After a failed write or sync it trips the halt.
#[derive(Debug)]
pub(super) struct LocalDisk {
    pub(super) store: Arc<LocalFileSystem>,
    folders: Arc<Folders>,
    root: Arc<Root>,
    halt: Arc<Halt>,
}

/// A staging file that a crash left behind.
#[derive(Debug)]
pub(crate) struct Leftover {
    pub(crate) path: PathBuf,
    pub(crate) size_bytes: u64,
}

impl LocalDisk {
    /// Opens or makes the folder.
    pub(super) fn open(root: &Path, halt: Arc<Halt>) -> Result<Self, Error> {
        make_folder(root).map_err(|error| Error::internal(&format!("making the folder {}", root.display()), &error))?;
        Self::look(root, halt)
    }

    /// Opens a folder that is there.
    pub(super) fn look(root: &Path, halt: Arc<Halt>) -> Result<Self, Error> {
        if !root.is_dir() {
            let detail = format!("there is no folder {}: are data_dir and storage_url right?", root.display());
            return Err(Error::Internal { detail });
        }
        let store = LocalFileSystem::new_with_prefix(root)
            .map_err(|error| Error::internal(&format!("opening the store {}", root.display()), &error))?
            .with_fsync(true);
        let root = Root::open(root).map_err(|error| Error::internal(&format!("opening the store {}", root.display()), &error))?;
        Ok(Self { store: Arc::new(store), folders: Arc::default(), root: Arc::new(root), halt })
    }

    pub(super) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(super) fn is_on_file_system_of(&self, folder: &Path) -> bool {
        self.root.is_on_file_system_of(folder)
    }

    /// Stores bytes durably under a fresh key, which nobody knows before this returns.
    ///
    /// # Errors
    /// [`Error::NoSpace`]; any other failure of a write or sync trips the halt, and so does a volume that is not mounted any more.
    pub(super) async fn put(&self, key: &BlobKey, content: &Content) -> Result<(), Error> {
        let path = StorePath::from(key.as_str());
        let file = self.store.path_to_filesystem(&path).map_err(|error| Error::internal("naming a blob", &error))?;
        let (folders, whole, root) = (Arc::clone(&self.folders), content.clone(), Arc::clone(&self.root));
        let written = tokio::task::spawn_blocking(move || {
            root.check()?;
            match whole {
                Content::Memory(bytes) => folders.write_new(&file, &bytes),
                Content::File { file: unnamed, .. } => folders.name_file(&unnamed, &file),
            }?;
            root.expect(&file)
        })
        .await
        .map_err(|error| Error::internal("storing a blob", &error))?;
        match (written, content) {
            (Ok(()), _) => Ok(()),
            // The spool stands on another file system, or its files are of a kind that can't get a name: then a copy does it.
            (Err(error), Content::File { .. }) if is_unnameable(&error) => {
                self.put_in_parts(&path, content).await.map_err(|error| self.put_failed(&error))?;
                self.expect_root(&path)
            }
            (Err(error), _) => Err(self.put_failed(&generic(error))),
        }
    }

    fn check_root(&self) -> Result<(), Error> {
        self.root.check().map_err(|error| self.put_failed(&generic(error)))
    }

    fn expect_root(&self, path: &StorePath) -> Result<(), Error> {
        let file = self.store.path_to_filesystem(path).map_err(|error| Error::internal("naming a blob", &error))?;
        self.root.expect(&file).map_err(|error| self.put_failed(&generic(error)))
    }

    /// Stores bytes durably under a key that may be known already; nobody ever sees half of them.
    ///
    /// # Errors
    /// As [`Storage::put`].
    pub(super) async fn replace(&self, key: &BlobKey, bytes: Bytes) -> Result<(), Error> {
        let path = StorePath::from(key.as_str());
        self.check_root()?;
        let put = self.store.put(&path, PutPayload::from_bytes(bytes)).await;
        put.map_err(|error| match io_kind(&error) {
            // Something else stands where it would: the disk is as good as before, and nothing is lost.
            Some(
                io::ErrorKind::IsADirectory
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::DirectoryNotEmpty
                | io::ErrorKind::PermissionDenied,
            ) => Error::internal("storing a rendering", &error),
            _ => self.put_failed(&error),
        })?;
        let file = self.store.path_to_filesystem(&path).map_err(|error| Error::internal("naming a blob", &error))?;
        self.root.expect_known(&file).map_err(|error| self.put_failed(&generic(error)))
    }

    /// Removes the folder of something that was deleted, if that was the last one in it.
    pub(super) async fn remove_folder_of(&self, key: &BlobKey) {
        let path = self.store.path_to_filesystem(&StorePath::from(key.as_str()));
        if let Some(folder) = path.ok().as_deref().and_then(Path::parent) {
            // Mostly others are in it.
            let _ = tokio::fs::remove_dir(folder).await;
        }
    }

    /// As [`LocalDisk::replace`], for what lies in a file without a name.
    pub(super) async fn replace_with(&self, key: &BlobKey, file: &Arc<File>, content: &Content) -> Result<(), Error> {
        let path = StorePath::from(key.as_str());
        let target = self.store.path_to_filesystem(&path).map_err(|error| Error::internal("naming a blob", &error))?;
        let (folders, unnamed, root) = (Arc::clone(&self.folders), Arc::clone(file), Arc::clone(&self.root));
        let written = tokio::task::spawn_blocking(move || {
            root.check()?;
            folders.replace_file(&unnamed, &target)?;
            root.expect_known(&target)
        });
        match written.await.map_err(|error| Error::internal("storing a blob", &error))? {
            Ok(()) => Ok(()),
            Err(error) if is_unnameable(&error) => {
                self.put_in_parts(&path, content).await.map_err(|error| self.put_failed(&error))
            }
            Err(error) => Err(self.put_failed(&generic(error))),
        }
    }

    /// Gives a file another name in the same store, durably. False when it isn't there.
    ///
    /// # Errors
    /// [`Error::Internal`] when it can't be renamed; a failed sync trips the halt.
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<bool, Error> {
        let (from, to) = (self.root().join(from), self.root().join(to));
        let renamed = tokio::task::spawn_blocking(move || durable::rename(&from, &to)).await;
        match renamed.map_err(|error| Error::internal("renaming a blob", &error))? {
            Ok(()) => Ok(true),
            Err(RenameFailed::NotDone(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(RenameFailed::NotDone(error)) => Err(Error::internal("renaming a blob", &error)),
            Err(RenameFailed::NotSynced(error)) => {
                self.halt.trip(&format!("syncing a folder after a renaming failed: {error}"));
                Err(Error::internal("syncing a folder", &error))
            }
        }
    }

    /// Removes the folders of a file that is gone, as far as they are empty, up to this folder of the root and without it.
    pub(super) async fn remove_empty_folders(&self, file: &str, below: &str) {
        let (file, below) = (self.root().join(file), self.root().join(below));
        let removed = tokio::task::spawn_blocking(move || {
            for folder in file.ancestors().skip(1).take_while(|folder| folder.starts_with(&below) && *folder != below) {
                // Not empty, as a rule.
                if std::fs::remove_dir(folder).is_err() {
                    return;
                }
            }
        });
        let _ = removed.await;
    }

    async fn put_in_parts(&self, path: &StorePath, content: &Content) -> object_store::Result<()> {
        let mut upload = self.store.put_multipart(path).await?;
        let stored = async {
            let mut offset = 0;
            loop {
                let chunk = content.read_at(offset, CHUNK_BYTES).await.map_err(generic)?;
                if chunk.is_empty() {
                    return upload.complete().await.map(|_| ());
                }
                offset += chunk.len() as u64;
                upload.put_part(PutPayload::from_bytes(chunk)).await?;
            }
        }
        .await;
        if stored.is_err() {
            let _ = upload.abort().await;
        }
        stored
    }

    fn put_failed(&self, error: &object_store::Error) -> Error {
        match io_kind(error) {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Error::NoSpace,
            kind => {
                let out_of_files = io_code(error).is_some_and(|code| matches!(code, 23 | 24));
                if !out_of_files {
                    self.halt.trip(&format!("storing a blob failed ({kind:?}): {error}"));
                }
                Error::internal("storing a blob", error)
            }
        }
    }

    /// Reads all of a small blob.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it isn't there.
    pub(super) async fn read(&self, key: &BlobKey) -> Result<Bytes, Error> {
        let path = StorePath::from(key.as_str());
        if let Ok(file) = self.store.path_to_filesystem(&path)
            && let Some(bytes) = durable::read_what_the_kernel_holds(&file)
        {
            return Ok(bytes.into());
        }
        let result = self.store.get(&path).await.map_err(|error| read_failed(&error))?;
        result.bytes().await.map_err(|error| read_failed(&error))
    }

    /// Reads a range of a blob in chunks.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it isn't there.
    pub(super) async fn stream(
        &self,
        key: &BlobKey,
        range: std::ops::Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let path = StorePath::from(key.as_str());
        let result = self.store.get_opts(&path, options).await.map_err(|error| read_failed(&error))?;
        let range = result.range.clone();
        match result.payload {
            // The store's own stream reads 8 KiB at a time.
            GetResultPayload::File(file, _) => {
                let content = Content::File { file: Arc::new(file), len: range.end };
                Ok(futures_util::stream::try_unfold(range.start, move |offset| {
                    let content = content.clone();
                    async move {
                        let chunk = content
                            .read_at(offset, READ_BYTES)
                            .await
                            .map_err(|error| Error::internal("reading a blob", &error))?;
                        let next = offset + chunk.len() as u64;
                        Ok(if chunk.is_empty() { None } else { Some((chunk, next)) })
                    }
                })
                .boxed())
            }
            payload @ GetResultPayload::Stream(_) => {
                let GetResultPayload::Stream(stream) = payload else { return Err(Error::NotFound) };
                Ok(stream.map_err(|error| read_failed(&error)).boxed())
            }
        }
    }
}

/// Staging files below the root, and what was left in the spool, when last changed before a moment. The store's own listing hides them,
/// hence the walk.
pub(super) async fn leftovers(root: Option<PathBuf>, spool: PathBuf, before: Timestamp) -> Result<Vec<Leftover>, Error> {
    tokio::task::spawn_blocking(move || {
        let mut found = Vec::new();
        if let Some(root) = root {
            walk(&root, &mut |path| is_staging_file(&root, path), before, &mut found)?;
        }
        walk(&spool, &mut |path| is_spool_file(&spool, path), before, &mut found)?;
        Ok::<_, io::Error>(found)
    })
    .await
    .map_err(|error| Error::internal("walking the store", &error))?
    .map_err(|error| Error::internal("walking the store", &error))
}

/// Whether `object_store` made this file to rename it later: it has the name of a blob or of a rendering, then `#` and a number. Neither
/// has a `#` in its own name, so such a file is never one that a row points at. The folders above the root don't count.
fn is_staging_file(root: &Path, path: &Path) -> bool {
    let Some((name, number)) = path.strip_prefix(root).ok().and_then(Path::to_str).and_then(|name| name.rsplit_once('#')) else {
        return false;
    };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number && (BlobKey::is_well_formed(name) || is_rendering(name) || name == IDENTITY)
}

/// Whether a file has the name of a blob.
pub(super) fn is_blob(root: &Path, path: &Path) -> bool {
    path.strip_prefix(root).ok().and_then(Path::to_str).is_some_and(BlobKey::is_well_formed)
}

fn is_rendering(name: &str) -> bool {
    let mut parts = name.split('/');
    parts.next() == Some("variants")
        && parts.next().is_some_and(|version| !version.is_empty())
        && parts.next().is_some()
        && !name.contains('#')
}

/// Whether the spool made this file, which is named only where the file system can't make files without a name.
fn is_spool_file(spool: &Path, path: &Path) -> bool {
    path.parent() == Some(spool) && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".tmp"))
}

/// Removes what is empty of the folders inside a folder, when last changed before a moment. Whoever puts something into one at this
/// moment makes it again.
pub(super) async fn remove_empty_folders(folder: PathBuf, before: Timestamp) -> Result<(), Error> {
    let remove = move || {
        let entries = match std::fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() && Timestamp::from(meta.modified()?) <= before {
                // One that holds something is refused.
                let _ = std::fs::remove_dir(entry.path());
            }
        }
        Ok::<_, io::Error>(())
    };
    let removed = tokio::task::spawn_blocking(remove).await.map_err(|error| Error::internal("walking the store", &error))?;
    removed.map_err(|error| Error::internal("walking the store", &error))
}

pub(super) async fn remove_leftover(leftover: &Leftover) -> Result<(), Error> {
    match tokio::fs::remove_file(&leftover.path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::internal("removing a staging file", &error)),
        _ => Ok(()),
    }
}

/// Refuses when `incoming_bytes` more would eat into the reserve.
pub(super) fn check_space(folder: &Path, incoming_bytes: u64, reserve: super::Reserve) -> Result<(), Error> {
    let stat = rustix::fs::statvfs(folder).map_err(|error| Error::internal("asking for free space", &io::Error::from(error)))?;
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    // File systems without a fixed number of inodes report 0 of 0.
    let inodes_left = stat.f_files == 0 || stat.f_favail >= reserve.inodes_min;
    if free_bytes < reserve.bytes_min.saturating_add(incoming_bytes) || !inodes_left { Err(Error::NoSpace) } else { Ok(()) }
}

fn walk(folder: &Path, wanted: &mut impl FnMut(&Path) -> bool, before: Timestamp, found: &mut Vec<Leftover>) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        // Nothing was ever spooled, or somebody has just removed an empty folder.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            walk(&entry.path(), wanted, before, found)?;
        } else if wanted(&entry.path()) && Timestamp::from(meta.modified()?) <= before {
            found.push(Leftover { path: entry.path(), size_bytes: meta.len() });
        }
    }
    Ok(())
}

/// EXDEV and ENOENT of linkat(2).
fn is_unnameable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::CrossesDevices | io::ErrorKind::NotFound)
}

pub(super) fn generic(error: io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "spool", source: Box::new(error) }
}

fn read_failed(error: &object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { .. } => Error::NotFound,
        _ => Error::internal("reading a blob", error),
    }
}

fn io_error(error: &object_store::Error) -> Option<&io::Error> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

fn io_kind(error: &object_store::Error) -> Option<io::ErrorKind> {
    io_error(error).map(io::Error::kind)
}

/// The operating system's number: 23 is ENFILE, 24 is EMFILE.
fn io_code(error: &object_store::Error) -> Option<i32> {
    io_error(error).and_then(io::Error::raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_store_staged_is_a_leftover() {
        let root = Path::new("/srv/disk#2/blobs");
        let key = "opsportal-images/100606/0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png";
        let rendering = "variants/0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab/inside-4x4_png";
        for (name, expected) in [
            (format!("{key}#1"), true),
            (format!("{key}#17"), true),
            (format!("{rendering}#1"), true),
            (".imagewell#1".to_owned(), true),
            (".imagewell".to_owned(), false),
            (key.to_owned(), false),
            (rendering.to_owned(), false),
            (format!("{key}#"), false),
            (format!("{key}#1a"), false),
            (format!("{key}#1/other"), false),
            ("notes#1".to_owned(), false),
            ("opsportal-images/100606/notes.txt#1".to_owned(), false),
        ] {
            assert_eq!(is_staging_file(root, &root.join(&name)), expected, "{name}");
        }
        assert!(!is_staging_file(root, Path::new("/srv/disk#2")));
    }

    #[test]
    fn what_an_operator_put_into_the_spool_stays() {
        let spool = Path::new("/srv/data/spool");
        assert!(is_spool_file(spool, &spool.join(".tmpAbC123")));
        assert!(!is_spool_file(spool, &spool.join("notes.txt")));
        assert!(!is_spool_file(spool, &spool.join("kept/.tmpAbC123")));
    }
}

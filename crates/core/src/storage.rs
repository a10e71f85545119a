//! Blobs on the local disk, and the only place that knows paths.
//!
//! A put is durable when it returns. A blob is written, or what was spooled gets its name, and file and directory are synced
//! (see [`crate::durable`]): its key is fresh, and nobody looks for it before its row is there. A rendering's key may be known, so
//! its bytes go to a staging file first, which is synced and renamed (`object_store` with fsync on). Failed deletes and what a
//! crash leaves are harmless; `sweep` takes them.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use object_store::{GetOptions, GetRange, GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload};

use crate::Error;
use crate::durable::{self, Folders, make_folder};
use crate::halt::Halt;
use crate::model::{BlobKey, Timestamp};
use crate::spool::Content;

/// What is written, and read from disk, at a time.
const CHUNK_BYTES: usize = 256 * 1024;
/// Variants stand beside the namespaces; no namespace may have this name.
const VARIANTS: &str = "variants";

/// The store, with the reserve that it keeps free.
#[derive(Debug)]
pub struct Storage {
    store: Arc<LocalFileSystem>,
    folders: Arc<Folders>,
    root: PathBuf,
    spool: PathBuf,
    halt: Arc<Halt>,
    free_bytes_min: u64,
    free_inodes_min: u64,
}

/// A blob as the store lists it.
#[derive(Debug)]
pub(crate) struct StoredBlob {
    pub(crate) key: BlobKey,
    pub(crate) size_bytes: u64,
    pub(crate) modified: Timestamp,
}

/// A staging file that a crash left behind.
#[derive(Debug)]
pub(crate) struct Leftover {
    pub(crate) path: PathBuf,
    pub(crate) size_bytes: u64,
}

impl Storage {
    /// Opens or makes the folders of the blobs and of uploads on their way.
    ///
    /// # Errors
    /// [`Error::Internal`] when that fails.
    pub fn open(
        root: PathBuf,
        spool: PathBuf,
        halt: Arc<Halt>,
        free_bytes_min: u64,
        free_inodes_min: u64,
    ) -> Result<Self, Error> {
        for folder in [&root, &spool] {
            make_folder(folder).map_err(|error| Error::internal(&format!("making the folder {}", folder.display()), &error))?;
        }
        let store = LocalFileSystem::new_with_prefix(&root)
            .map_err(|error| Error::internal(&format!("opening the store {}", root.display()), &error))?
            .with_fsync(true);
        Ok(Self { store: Arc::new(store), folders: Arc::default(), root, spool, halt, free_bytes_min, free_inodes_min })
    }

    /// Where uploads too large for memory wait, as files without a name.
    pub(crate) fn spool_folder(&self) -> &Path {
        &self.spool
    }

    /// Refuses when `incoming_bytes` more would eat into the reserve that keeps logins and the database going.
    ///
    /// # Errors
    /// [`Error::NoSpace`]; [`Error::Internal`] when the file system can't be asked.
    pub fn check_space(&self, incoming_bytes: u64) -> Result<(), Error> {
        let stat =
            rustix::fs::statvfs(&self.root).map_err(|error| Error::internal("asking for free space", &io::Error::from(error)))?;
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        // File systems without a fixed number of inodes report 0 of 0.
        let inodes_left = stat.f_files == 0 || stat.f_favail >= self.free_inodes_min;
        if free_bytes < self.free_bytes_min.saturating_add(incoming_bytes) || !inodes_left { Err(Error::NoSpace) } else { Ok(()) }
    }

    /// Stores bytes durably under a fresh key, which nobody knows before this returns.
    ///
    /// # Errors
    /// [`Error::NoSpace`]; any other failure of a write or sync trips the halt.
    pub async fn put(&self, key: &BlobKey, content: &Content) -> Result<(), Error> {
        let path = StorePath::from(key.as_str());
        let file = self.store.path_to_filesystem(&path).map_err(|error| Error::internal("naming a blob", &error))?;
        let (folders, whole) = (Arc::clone(&self.folders), content.clone());
        let written = tokio::task::spawn_blocking(move || match whole {
            Content::Memory(bytes) => folders.write_new(&file, &bytes),
            Content::File { file: unnamed, .. } => folders.name_file(&unnamed, &file),
        })
        .await
        .map_err(|error| Error::internal("storing a blob", &error))?;
        match (written, content) {
            (Ok(()), _) => Ok(()),
            // The spool stands on another file system, or its files are of a kind that can't get a name: then a copy does it.
            (Err(error), Content::File { .. }) if is_unnameable(&error) => {
                self.put_in_parts(&path, content).await.map_err(|error| self.put_failed(&error))
            }
            (Err(error), _) => Err(self.put_failed(&generic(error))),
        }
    }

    /// Stores bytes durably under a key that may be known already; nobody ever sees half of them.
    ///
    /// # Errors
    /// As [`Storage::put`].
    pub async fn replace(&self, key: &BlobKey, bytes: Bytes) -> Result<(), Error> {
        let path = StorePath::from(key.as_str());
        self.store.put(&path, PutPayload::from_bytes(bytes)).await.map(|_| ()).map_err(|error| self.put_failed(&error))
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
    pub async fn read(&self, key: &BlobKey) -> Result<Bytes, Error> {
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
    pub async fn stream(
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
                            .read_at(offset, CHUNK_BYTES)
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

    /// Removes a blob; one that is gone already is no error.
    ///
    /// # Errors
    /// [`Error::Internal`] when it can't be removed.
    pub async fn delete(&self, key: &BlobKey) -> Result<(), Error> {
        match self.store.delete(&StorePath::from(key.as_str())).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(Error::internal("deleting a blob", &error)),
        }
    }

    /// Removes the renderings of a version; they can be made again.
    ///
    /// # Errors
    /// [`Error::Internal`] when one can't be removed.
    pub(crate) async fn delete_variants(&self, version: &BlobKey) -> Result<(), Error> {
        let key = Self::variant_key(version, "");
        let folder = StorePath::from(key.as_str().trim_end_matches('/'));
        let mut variants = self.store.list(Some(&folder));
        while let Some(variant) = variants.next().await {
            let variant = variant.map_err(|error| Error::internal("listing renderings", &error))?;
            self.delete(&BlobKey::from_stored(variant.location.to_string())).await?;
        }
        Ok(())
    }

    /// All blobs of the namespaces, variants excepted.
    pub(crate) fn list(&self) -> BoxStream<'_, Result<StoredBlob, Error>> {
        self.listed(None, false)
    }

    /// All renderings.
    pub(crate) fn list_variants(&self) -> BoxStream<'_, Result<StoredBlob, Error>> {
        self.listed(Some(&StorePath::from(VARIANTS)), true)
    }

    fn listed(&self, below: Option<&StorePath>, variants: bool) -> BoxStream<'_, Result<StoredBlob, Error>> {
        self.store
            .list(below)
            .map_err(|error| Error::internal("listing the store", &error))
            .try_filter(move |meta| {
                let namespace = meta.location.as_ref().split('/').next();
                std::future::ready((namespace == Some(VARIANTS)) == variants)
            })
            .map_ok(|meta| StoredBlob {
                key: BlobKey::from_stored(meta.location.to_string()),
                size_bytes: meta.size,
                modified: Timestamp(meta.last_modified.timestamp_micros()),
            })
            .boxed()
    }

    /// Staging files older than the grace period. The store's own listing hides them, hence the walk.
    pub(crate) async fn leftovers(&self, grace: Duration) -> Result<Vec<Leftover>, Error> {
        let roots = [self.root.clone(), self.spool.clone()];
        tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            let [root, spool] = roots;
            walk(&root, &mut |path| path.to_string_lossy().rsplit_once('#').is_some(), grace, &mut found)?;
            walk(&spool, &mut |_| true, grace, &mut found)?;
            Ok::<_, io::Error>(found)
        })
        .await
        .map_err(|error| Error::internal("walking the store", &error))?
        .map_err(|error| Error::internal("walking the store", &error))
    }

    pub(crate) async fn remove_leftover(&self, leftover: &Leftover) -> Result<(), Error> {
        match tokio::fs::remove_file(&leftover.path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::internal("removing a staging file", &error)),
            _ => Ok(()),
        }
    }

    /// Writes, reads and removes a few bytes.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn probe(&self) -> Result<(), Error> {
        self.check_space(0)?;
        let key = BlobKey::from_stored(format!("{VARIANTS}/probe-{}", uuid::Uuid::now_v7()));
        self.replace(&key, Bytes::from_static(b"probe")).await?;
        let read = self.read(&key).await;
        self.delete(&key).await?;
        if read? == "probe" { Ok(()) } else { Err(Error::Internal { detail: "the store gave back other bytes".into() }) }
    }

    /// The key of a rendering. Deterministic, unlike a blob's: it is a cache.
    pub(crate) fn variant_key(version: &BlobKey, transform: &str) -> BlobKey {
        let stem = version.as_str().rsplit('/').next().unwrap_or_default();
        BlobKey::from_stored(format!("{VARIANTS}/{}/{transform}", stem.split('.').next().unwrap_or_default()))
    }
}

fn walk(folder: &Path, wanted: &mut impl FnMut(&Path) -> bool, grace: Duration, found: &mut Vec<Leftover>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            walk(&entry.path(), wanted, grace, found)?;
        } else if wanted(&entry.path()) {
            let age = SystemTime::now().duration_since(meta.modified()?).unwrap_or_default();
            if age >= grace {
                found.push(Leftover { path: entry.path(), size_bytes: meta.len() });
            }
        }
    }
    Ok(())
}

/// EXDEV and ENOENT of linkat(2).
fn is_unnameable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::CrossesDevices | io::ErrorKind::NotFound)
}

fn generic(error: io::Error) -> object_store::Error {
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

//! Blobs: in a folder of the local disk, or in a bucket of a store that speaks the S3 protocol, Google Cloud Storage or Azure. The only place,
//! beside the spool, that knows paths and keys.
//!
//! A put is durable when it returns, as far as the store says so. Failed deletes and what a crash leaves are harmless; `sweep` takes them.

pub(crate) mod backup_folder;
mod bucket;
mod identity;
pub(crate) mod known_folders;
mod listing;
mod local;
mod resuming;
mod root;
mod trash;
mod unfinished;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt as _};

use self::bucket::Bucket;
pub use self::bucket::{BucketPlace, StoreHttp};
pub(crate) use self::identity::StoreIdentity;
pub(crate) use self::listing::{Stored, StoredBlob};
pub(crate) use self::local::Leftover;
use self::local::LocalDisk;
pub(crate) use self::trash::Trashed;
use crate::Error;
use crate::durable::make_folder;
use crate::halt::Halt;
use crate::model::{BlobKey, Timestamp, Version};
use crate::spool::Content;

/// Variants stand beside the namespaces; no namespace may have this name.
const VARIANTS: &str = "variants";

/// Where the blobs are.
#[derive(Debug, Clone)]
pub enum Place {
    /// A folder, made when absent.
    Folder(PathBuf),
    /// A bucket that exists.
    Bucket(Box<BucketPlace>),
}

impl Place {
    /// Whether its folder is there. A bucket is not asked.
    pub(crate) fn is_there(&self) -> bool {
        match self {
            Self::Folder(root) => root.exists(),
            Self::Bucket(_) => true,
        }
    }

    /// Removes its folder, if nothing is in it.
    pub(crate) fn remove_if_empty(&self) {
        if let Self::Folder(root) = self {
            // Else something has been put into it meanwhile.
            let _ = std::fs::remove_dir(root);
        }
    }
}

/// What uploads leave free of the local disk, so that logins and an embedded database go on.
#[derive(Debug, Clone, Copy)]
pub struct Reserve {
    /// Bytes.
    pub bytes_min: u64,
    /// Inodes.
    pub inodes_min: u64,
}

/// The store.
#[derive(Debug)]
pub struct Storage {
    backend: ArcSwap<Backend>,
    spool: PathBuf,
    reserve: Reserve,
}

#[derive(Debug)]
enum Backend {
    Local(LocalDisk),
    Bucket(Bucket),
}

impl Backend {
    fn open(place: &Place, halt: Arc<Halt>) -> Result<Self, Error> {
        match place {
            Place::Folder(root) => LocalDisk::open(root, halt).map(Self::Local),
            Place::Bucket(place) => Bucket::open(place).map(Self::Bucket),
        }
    }

    fn store(&self) -> &dyn ObjectStore {
        match self {
            Self::Local(disk) => &*disk.store,
            Self::Bucket(bucket) => bucket.store(),
        }
    }
}

impl Storage {
    /// Opens the store and makes the folder of uploads on their way.
    ///
    /// # Errors
    /// [`Error::Internal`] when that fails. A bucket is not asked for: see [`Storage::probe`].
    pub fn open(place: &Place, spool: PathBuf, halt: Arc<Halt>, reserve: Reserve) -> Result<Self, Error> {
        make_folder(&spool).map_err(|error| Error::internal(&format!("making the folder {}", spool.display()), &error))?;
        Ok(Self { backend: ArcSwap::from_pointee(Backend::open(place, halt)?), spool, reserve })
    }

    /// Opens a store that is there and makes no folder.
    ///
    /// # Errors
    /// [`Error::Internal`] when its folder isn't there. A bucket is not asked for.
    pub fn look(place: &Place, spool: PathBuf, halt: Arc<Halt>, reserve: Reserve) -> Result<Self, Error> {
        let backend = match place {
            Place::Folder(root) => Backend::Local(LocalDisk::look(root, halt)?),
            Place::Bucket(_) => Backend::open(place, halt)?,
        };
        Ok(Self { backend: ArcSwap::from_pointee(backend), spool, reserve })
    }

    fn backend(&self) -> Arc<Backend> {
        self.backend.load_full()
    }

    /// Where uploads too large for memory wait, as files without a name.
    pub(crate) fn spool_folder(&self) -> &Path {
        &self.spool
    }

    /// Refuses when `incoming_bytes` more would eat into the reserve.
    ///
    /// # Errors
    /// [`Error::NoSpace`]; [`Error::Internal`] when the file system can't be asked.
    pub fn check_space(&self, incoming_bytes: u64) -> Result<(), Error> {
        match &*self.backend() {
            Backend::Local(disk) => local::check_space(disk.root(), incoming_bytes, self.reserve),
            // Only what waits in the spool is here.
            Backend::Bucket(_) => local::check_space(&self.spool, incoming_bytes, self.reserve),
        }
    }

    /// As [`Storage::check_space`], for bytes that were received. Those that lie in a file of the spool take room already, and need more only
    /// where the store is on another file system.
    pub(crate) fn check_space_for(&self, content: &Content) -> Result<(), Error> {
        let more = match (&*self.backend(), content) {
            (_, Content::Memory(bytes)) => bytes.len() as u64,
            (Backend::Local(disk), Content::File { len, .. }) if !disk.is_on_file_system_of(&self.spool) => *len,
            (_, Content::File { .. }) => 0,
        };
        self.check_space(more)
    }

    /// Stores the bytes of a version durably under its key, which is fresh: nobody knows it before this returns.
    ///
    /// # Errors
    /// [`Error::NoSpace`]; [`Error::Busy`] when the store can't be reached. On the local disk, any other failure of a write or sync trips the
    /// halt.
    pub async fn put(&self, version: &Version, content: &Content) -> Result<(), Error> {
        self.put_as(&version.blob, content, &version.content_type, version.facts.is_some()).await
    }

    /// As [`Storage::put`], by what a version's row says.
    pub(crate) async fn put_as(
        &self,
        key: &BlobKey,
        content: &Content,
        content_type: &str,
        inspected: bool,
    ) -> Result<(), Error> {
        match &*self.backend() {
            Backend::Local(disk) => disk.put(key, content).await,
            Backend::Bucket(bucket) => bucket.put(key, content, content_type, inspected).await,
        }
    }

    /// From now on this is another store.
    pub(crate) fn switch_to(&self, place: &Place, halt: Arc<Halt>) -> Result<(), Error> {
        self.backend.store(Arc::new(Backend::open(place, halt)?));
        Ok(())
    }

    /// Stores bytes durably under a key that may be known already; nobody ever sees half of them. For what can be made again: a failure
    /// of the disk trips the halt, a name that can't be written doesn't.
    ///
    /// # Errors
    /// As [`Storage::put`].
    pub async fn replace(&self, key: &BlobKey, bytes: Bytes) -> Result<(), Error> {
        match &*self.backend() {
            Backend::Local(disk) => disk.replace(key, bytes).await,
            Backend::Bucket(bucket) => bucket.put(key, &Content::Memory(bytes), "application/octet-stream", false).await,
        }
    }

    /// As [`Storage::put_as`], under a key that may be known already: whoever reads it finds what was there, or all that is now.
    pub(crate) async fn replace_as(
        &self,
        key: &BlobKey,
        content: &Content,
        content_type: &str,
        inspected: bool,
    ) -> Result<(), Error> {
        match (&*self.backend(), content) {
            (Backend::Local(disk), Content::Memory(bytes)) => disk.replace(key, bytes.clone()).await,
            (Backend::Local(disk), Content::File { file, .. }) => disk.replace_with(key, file, content).await,
            (Backend::Bucket(bucket), _) => bucket.put(key, content, content_type, inspected).await,
        }
    }

    /// How many bytes lie under a key; none when nothing does.
    ///
    /// # Errors
    /// As [`Storage::delete`].
    pub(crate) async fn size_of(&self, key: &BlobKey) -> Result<Option<u64>, Error> {
        match self.backend().store().head(&StorePath::from(key.as_str())).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("asking for a blob", &error)),
        }
    }

    /// Reads all of a small blob.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it isn't there; [`Error::Busy`] when the store can't be reached.
    pub async fn read(&self, key: &BlobKey) -> Result<Bytes, Error> {
        match &*self.backend() {
            Backend::Local(disk) => disk.read(key).await,
            Backend::Bucket(bucket) => bucket.read(key).await,
        }
    }

    /// Reads a range of a blob in chunks.
    ///
    /// # Errors
    /// As [`Storage::read`].
    pub async fn stream(
        &self,
        key: &BlobKey,
        range: std::ops::Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        match &*self.backend() {
            Backend::Local(disk) => disk.stream(key, range).await,
            Backend::Bucket(bucket) => bucket.stream(key, range).await,
        }
    }

    /// How many bytes the store has under a key.
    ///
    /// # Errors
    /// As [`Storage::read`].
    pub(crate) async fn size(&self, key: &BlobKey) -> Result<u64, Error> {
        match self.backend().store().head(&StorePath::from(key.as_str())).await {
            Ok(meta) => Ok(meta.size),
            Err(object_store::Error::NotFound { .. }) => Err(Error::NotFound),
            Err(error) => Err(self.failed("looking for a blob", &error)),
        }
    }

    /// Removes a blob; one that is gone already is no error.
    ///
    /// # Errors
    /// [`Error::Internal`] when it can't be removed; [`Error::Busy`] when the store can't be reached.
    pub async fn delete(&self, key: &BlobKey) -> Result<(), Error> {
        let backend = self.backend();
        match backend.store().delete(&StorePath::from(key.as_str())).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(self.failed("deleting a blob", &error)),
        }
        if let (Backend::Local(disk), Some((VARIANTS, _))) = (&*backend, key.as_str().split_once('/')) {
            disk.remove_folder_of(key).await;
        }
        Ok(())
    }

    /// Removes the folders of renderings that hold none and were last changed before a moment. A bucket has no folders.
    ///
    /// # Errors
    /// [`Error::Internal`] when they can't be listed.
    pub(crate) async fn remove_empty_variant_folders(&self, before: Timestamp) -> Result<(), Error> {
        match &*self.backend() {
            Backend::Local(disk) => local::remove_empty_folders(disk.root().join(VARIANTS), before).await,
            Backend::Bucket(_) => Ok(()),
        }
    }

    fn failed(&self, doing: &str, error: &object_store::Error) -> Error {
        match &*self.backend() {
            Backend::Local(_) => Error::internal(doing, error),
            Backend::Bucket(_) => bucket::failed(doing, error),
        }
    }

    /// The address at which a bucket knows the bytes, as in `s3://bucket/key`; none for a folder.
    #[must_use]
    pub fn address(&self, key: &BlobKey) -> Option<String> {
        match &*self.backend() {
            Backend::Local(_) => None,
            Backend::Bucket(bucket) => Some(bucket.address(key)),
        }
    }

    /// A link of the bucket's own that opens for so long; none for a folder.
    ///
    /// # Errors
    /// [`Error::Internal`] when it can't be signed.
    pub async fn presign(&self, key: &BlobKey, lifetime: Duration) -> Result<Option<String>, Error> {
        match &*self.backend() {
            Backend::Local(_) => Ok(None),
            Backend::Bucket(bucket) => bucket.presign(key, lifetime).await.map(Some),
        }
    }

    /// Removes the renderings of a version; they can be made again.
    ///
    /// # Errors
    /// As [`Storage::delete`].
    pub(crate) async fn delete_variants(&self, version: &BlobKey) -> Result<(), Error> {
        let key = Self::variant_key(version, "");
        let folder = StorePath::from(key.as_str().trim_end_matches('/'));
        let backend = self.backend();
        let mut variants = backend.store().list(Some(&folder));
        while let Some(variant) = variants.next().await {
            let variant = variant.map_err(|error| self.failed("listing renderings", &error))?;
            self.delete(&BlobKey::from_stored(variant.location.to_string())).await?;
        }
        Ok(())
    }

    /// Staging files that a crash left behind, last changed before a moment. A bucket's are removed by its own lifecycle rule.
    pub(crate) async fn leftovers(&self, before: Timestamp) -> Result<Vec<Leftover>, Error> {
        let root = match &*self.backend() {
            Backend::Local(disk) => Some(disk.root().to_owned()),
            Backend::Bucket(_) => None,
        };
        local::leftovers(root, self.spool.clone(), before).await
    }

    pub(crate) async fn remove_leftover(&self, leftover: &Leftover) -> Result<(), Error> {
        local::remove_leftover(leftover).await
    }

    /// Tries all that is ever asked of the store, with a few bytes, and says what it can't do.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn probe(&self) -> Result<(), Error> {
        self.check_space(0)?;
        let key = BlobKey::from_stored(format!("{VARIANTS}/probe-{}/a", uuid::Uuid::now_v7()));
        if let Backend::Bucket(bucket) = &*self.backend() {
            return bucket.probe(&key).await;
        }
        self.replace(&key, Bytes::from_static(b"probe")).await?;
        let read = self.read(&key).await;
        self.delete(&key).await?;
        if read? == "probe" { Ok(()) } else { Err(Error::Internal { detail: "the store gave back other bytes".into() }) }
    }

    /// Whether it is a bucket, which other processes may use too.
    #[must_use]
    pub fn is_bucket(&self) -> bool {
        matches!(&*self.backend(), Backend::Bucket(_))
    }

    /// Whether the store answers now.
    ///
    /// # Errors
    /// [`Error::Busy`] when it doesn't.
    pub async fn ping(&self) -> Result<(), Error> {
        match &*self.backend() {
            Backend::Local(_) => Ok(()),
            Backend::Bucket(bucket) => bucket.ping(&BlobKey::from_stored(format!("{VARIANTS}/ping"))).await,
        }
    }

    /// The key of a rendering. Deterministic, unlike a blob's: it is a cache.
    pub(crate) fn variant_key(version: &BlobKey, transform: &str) -> BlobKey {
        let stem = version.as_str().rsplit('/').next().unwrap_or_default();
        BlobKey::from_stored(format!("{VARIANTS}/{}/{transform}", stem.split('.').next().unwrap_or_default()))
    }
}

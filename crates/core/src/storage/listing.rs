//! What is in the store, as the store lists it.

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectMeta;
use object_store::path::Path as StorePath;

use super::identity::IDENTITY;
use super::trash::TRASH;
use super::{Storage, VARIANTS};
use crate::Error;
use crate::model::{BlobKey, Timestamp};

/// A blob or a rendering as the store lists it.
#[derive(Debug)]
pub(crate) struct StoredBlob {
    pub(crate) key: BlobKey,
    pub(crate) size_bytes: u64,
    /// By the store's clock.
    pub(crate) modified: Timestamp,
}

/// What is listed beside renderings.
#[derive(Debug)]
pub(crate) enum Stored {
    /// Its key has the form of ours.
    Blob(StoredBlob),
    /// Somebody else put it there; it is left alone.
    Foreign(String),
}

impl From<ObjectMeta> for StoredBlob {
    fn from(meta: ObjectMeta) -> Self {
        Self {
            key: BlobKey::from_stored(meta.location.to_string()),
            size_bytes: meta.size,
            modified: Timestamp(meta.last_modified.timestamp_micros()),
        }
    }
}

impl Storage {
    /// Everything but renderings and what the store keeps for itself.
    pub(crate) fn list(&self) -> BoxStream<'_, Result<Stored, Error>> {
        let listed = self.list_below(None);
        listed
            .try_filter_map(|meta| {
                let key = meta.location.as_ref();
                let folder = key.split('/').next();
                let kept_apart = key == IDENTITY || folder == Some(VARIANTS) || folder == Some(TRASH);
                let stored = if kept_apart {
                    None
                } else if BlobKey::is_well_formed(key) {
                    Some(Stored::Blob(meta.into()))
                } else {
                    Some(Stored::Foreign(key.to_owned()))
                };
                std::future::ready(Ok(stored))
            })
            .boxed()
    }

    /// All renderings.
    pub(crate) fn list_variants(&self) -> BoxStream<'_, Result<StoredBlob, Error>> {
        self.list_below(Some(VARIANTS)).map_ok(StoredBlob::from).boxed()
    }

    pub(super) fn list_below(&self, prefix: Option<&str>) -> BoxStream<'_, Result<ObjectMeta, Error>> {
        let prefix = prefix.map(StorePath::from);
        let listed = self.backend().store().list(prefix.as_ref());
        listed.map_err(|error| self.failed("listing the store", &error)).boxed()
    }
}

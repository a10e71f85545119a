//! The identity that a store bears: a small file or object that says which database it belongs to.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path as StorePath;

use super::{Backend, Place, Storage, VARIANTS, local};
use crate::Error;
use crate::model::{BlobKey, Timestamp};

/// The key of the identity. No namespace begins with a dot.
pub(super) const IDENTITY: &str = ".imagewell";
/// The first line of its text.
const TITLE: &str = "# This store belongs to the imagewell database with the same id. Don't remove or copy this file.";

/// What a store says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreIdentity {
    /// The id of its database.
    pub(crate) id: String,
    /// The mark of the latest sweep, if there was one.
    pub(crate) sweep: Option<String>,
}

impl StoreIdentity {
    fn to_text(&self) -> String {
        let sweep = self.sweep.as_ref().map(|mark| format!("sweep = {mark}\n")).unwrap_or_default();
        format!("{TITLE}\nid = {}\n{sweep}", self.id)
    }

    /// None when the text is not one of ours.
    fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let lines = text.lines().filter_map(|line| line.split_once('='));
            lines.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned()).next()
        };
        Some(Self { id: value("id").filter(|id| !id.is_empty())?, sweep: value("sweep") })
    }
}

impl Place {
    /// Whether both are one and the same store, as far as their addresses say so. See [`Storage::is_same`].
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Folder(one), Self::Folder(other)) => {
                let whole = |folder: &Path| fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
                whole(one) == whole(other)
            }
            (Self::Bucket(one), Self::Bucket(other)) => one.url == other.url && one.endpoint == other.endpoint,
            _ => false,
        }
    }
}

impl Storage {
    /// The store's address, for messages.
    pub(crate) fn name(&self) -> String {
        match &*self.backend() {
            Backend::Local(disk) => disk.root().display().to_string(),
            Backend::Bucket(bucket) => bucket.url().to_owned(),
        }
    }

    /// The identity that the store bears; none when it bears none.
    ///
    /// # Errors
    /// [`Error::Busy`] when the store can't be reached; [`Error::Invalid`] when the identity is not one of ours.
    pub(crate) async fn identity(&self) -> Result<Option<StoreIdentity>, Error> {
        let bytes = match self.read(&BlobKey::from_stored(IDENTITY.into())).await {
            Ok(bytes) => bytes,
            Err(Error::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        let identity = std::str::from_utf8(&bytes).ok().and_then(StoreIdentity::parse);
        let unreadable = || {
            Error::invalid(format!(
                "{IDENTITY} in the store {} has no line `id = …`: put the right one back, or let `imagewell adopt --confirm` write it anew",
                self.name()
            ))
        };
        identity.map(Some).ok_or_else(unreadable)
    }

    /// Whether this and another one are the same store, whatever their addresses say: they bear the same identity, and what is written
    /// here is there. A copy of a store bears its identity, too.
    ///
    /// # Errors
    /// [`Error::Busy`] when one of them can't be reached; [`Error::Invalid`] when an identity is not one of ours.
    pub(crate) async fn is_same(&self, other: &Self) -> Result<bool, Error> {
        let (Some(one), Some(other_one)) = (self.identity().await?, other.identity().await?) else { return Ok(false) };
        if one.id != other_one.id {
            return Ok(false);
        }
        // As a rendering, which the sweep removes should this be cut off.
        let key = BlobKey::from_stored(format!("{VARIANTS}/same-{}/a", uuid::Uuid::now_v7()));
        self.replace(&key, Bytes::from_static(b"same")).await?;
        let found = other.has(&key).await;
        self.delete(&key).await?;
        found
    }

    /// Writes the identity durably.
    ///
    /// # Errors
    /// As [`Storage::put`].
    pub(crate) async fn set_identity(&self, identity: &StoreIdentity) -> Result<(), Error> {
        self.replace(&BlobKey::from_stored(IDENTITY.into()), Bytes::from(identity.to_text())).await
    }

    /// When the identity was written, by the store's clock. A store may leave out fractions of a second, so it is the end of that second.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it isn't there; [`Error::Busy`] when the store can't be reached.
    pub(crate) async fn identity_written(&self) -> Result<Timestamp, Error> {
        let meta = self.backend().store().head(&StorePath::from(IDENTITY)).await;
        let meta = meta.map_err(|error| self.failed("asking for the identity", &error))?;
        Ok(Timestamp(meta.last_modified.timestamp_micros()).plus(Duration::from_secs(1)))
    }

    /// Whether a blob is in the store; in a bucket, whether any object is but the identity and renderings, which can be made again. Looks at
    /// as little as it can.
    ///
    /// # Errors
    /// [`Error::Busy`] when the store can't be reached; [`Error::Internal`] when it can't be listed.
    pub(crate) async fn holds_anything(&self) -> Result<bool, Error> {
        let backend = self.backend();
        let root = match &*backend {
            Backend::Local(disk) => disk.root().to_owned(),
            Backend::Bucket(bucket) => {
                let mut listed = bucket.store().list(None);
                while let Some(object) = listed.next().await {
                    let object = object.map_err(|error| self.failed("listing the store", &error))?;
                    let key = object.location.as_ref();
                    if key != IDENTITY && key.split('/').next() != Some(VARIANTS) {
                        return Ok(true);
                    }
                }
                return Ok(false);
            }
        };
        tokio::task::spawn_blocking(move || holds_blobs(&root, &root, 3))
            .await
            .map_err(|error| Error::internal("looking into the store", &error))?
            .map_err(|error| Error::internal("looking into the store", &error))
    }

    /// Whether a blob is in the store.
    ///
    /// # Errors
    /// [`Error::Busy`] when the store can't be reached.
    pub(crate) async fn has(&self, key: &BlobKey) -> Result<bool, Error> {
        match self.backend().store().head(&StorePath::from(key.as_str())).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.failed("asking for a blob", &error)),
        }
    }
}

/// Whether a blob is below a folder. Folders that may not be entered are others', as `lost+found` is.
fn holds_blobs(root: &Path, folder: &Path, depth: u32) -> io::Result<bool> {
    let entries = match fs::read_dir(folder) {
        Err(error) if folder != root && error.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if depth > 1 && holds_blobs(root, &path, depth - 1)? {
                return Ok(true);
            }
        } else if local::is_blob(root, &path) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_an_identity_is_read_back() {
        for sweep in [None, Some("0194".to_owned())] {
            let identity = StoreIdentity { id: "0193-ab".into(), sweep };
            assert_eq!(StoreIdentity::parse(&identity.to_text()), Some(identity));
        }
        for foreign in ["", "id =", "sweep = 1", "\0\0\0"] {
            assert_eq!(StoreIdentity::parse(foreign), None, "{foreign:?}");
        }
    }
}

//! The trash: blobs without a row wait there before they are removed for good. A blob keeps its key, below the moment (in seconds
//! since 1970) at which it was put there.

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStoreExt as _;
use object_store::path::Path as StorePath;

use super::{Backend, Storage};
use crate::Error;
use crate::model::{BlobKey, Timestamp};

/// Beside the namespaces, none of which begins with a dot.
pub(super) const TRASH: &str = ".trash";

/// A blob in the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trashed {
    /// The key that it had, and gets again when it is brought back.
    pub(crate) key: BlobKey,
    pub(crate) size_bytes: u64,
    /// When it was put there, to the second.
    pub(crate) since: Timestamp,
}

impl Trashed {
    fn place(&self) -> String {
        format!("{TRASH}/{}/{}", self.since.0.div_euclid(1_000_000), self.key.as_str())
    }

    /// None for what we did not put there.
    fn parse(place: &str, size_bytes: u64) -> Option<Self> {
        let (seconds, key) = place.strip_prefix(TRASH)?.strip_prefix('/')?.split_once('/')?;
        let since = Timestamp(seconds.parse::<i64>().ok()?.checked_mul(1_000_000)?);
        BlobKey::is_well_formed(key).then(|| Self { key: BlobKey::from_stored(key.to_owned()), size_bytes, since })
    }
}

impl Storage {
    /// Everything in the trash.
    pub(crate) fn list_trash(&self) -> BoxStream<'_, Result<Trashed, Error>> {
        self.list_below(Some(TRASH))
            .try_filter_map(|meta| std::future::ready(Ok(Trashed::parse(meta.location.as_ref(), meta.size))))
            .boxed()
    }

    /// Moves a blob to the trash. False when it is gone.
    ///
    /// # Errors
    /// [`Error::Internal`] when it can't be moved; [`Error::Busy`] when the store can't be reached. Either way no byte is lost.
    pub(crate) async fn put_in_trash(&self, blob: &Trashed) -> Result<bool, Error> {
        self.rename(blob.key.as_str(), &blob.place(), blob.size_bytes).await
    }

    /// Gives a blob of the trash its key again. False when there is one under that key, or it is gone from the trash.
    ///
    /// # Errors
    /// As [`Storage::put_in_trash`].
    pub(crate) async fn bring_back(&self, blob: &Trashed) -> Result<bool, Error> {
        Ok(!self.has(&blob.key).await? && self.rename(&blob.place(), blob.key.as_str(), blob.size_bytes).await?)
    }

    /// Removes a blob of the trash for good; one that is gone already is no error.
    ///
    /// # Errors
    /// As [`Storage::delete`].
    pub(crate) async fn delete_trashed(&self, blob: &Trashed) -> Result<(), Error> {
        let place = blob.place();
        self.delete(&BlobKey::from_stored(place.clone())).await?;
        if let Backend::Local(disk) = &*self.backend() {
            disk.remove_empty_folders(&place, TRASH).await;
        }
        Ok(())
    }

    async fn rename(&self, from: &str, to: &str, size_bytes: u64) -> Result<bool, Error> {
        match &*self.backend() {
            Backend::Local(disk) => {
                let renamed = disk.rename(from, to).await?;
                disk.remove_empty_folders(from, TRASH).await;
                Ok(renamed)
            }
            Backend::Bucket(bucket) => {
                let (old, new) = (StorePath::from(from), StorePath::from(to));
                match bucket.store().copy(&old, &new).await {
                    Err(object_store::Error::NotFound { .. }) => return Ok(false),
                    copied => copied.map_err(|error| self.failed("copying a blob", &error))?,
                }
                let copy = bucket.store().head(&new).await.map_err(|error| self.failed("asking for a copied blob", &error))?;
                if copy.size != size_bytes {
                    let detail = format!("{to} has {} bytes instead of {size_bytes}", copy.size);
                    return Err(Error::Internal { detail });
                }
                self.delete(&BlobKey::from_stored(from.to_owned())).await.map(|()| true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_trash_tells_key_and_time() {
        let key = "rewards/7/0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png";
        let trashed = Trashed { key: BlobKey::from_stored(key.into()), size_bytes: 5, since: Timestamp(1_764_000_000_000_000) };
        assert_eq!(trashed.place(), format!(".trash/1764000000/{key}"));
        assert_eq!(Trashed::parse(&trashed.place(), 5), Some(trashed));
        for foreign in [".trash/notes.txt", ".trash/x/rewards/7/a.png", ".trash/1/rewards/7/a.png", key] {
            assert_eq!(Trashed::parse(foreign, 5), None, "{foreign}");
        }
    }
}

//! Renderings that are kept in the store: sealed with their digest, counted by a row each, bounded, disposable. What was used longest
//! ago goes first.
//!
//! They are a cache. Whatever is wrong with one, it is removed and made again; no read fails for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use imagewell_imaging::inspect;
use sha2::{Digest as _, Sha256};

use crate::app::App;
use crate::model::{BlobKey, ImageId, Timestamp};
use crate::{Error, db, leases};

/// Uses that are noted at a time; more in between are not, which only makes a rendering look older than it is.
const USES_NOTED_MAX: usize = 100_000;
/// Who gets it counts all renderings.
const COUNT_LEASE: &str = "count";
/// In a cluster, where others add renderings too, they are counted this often.
const COUNTED_EVERY: Duration = Duration::from_secs(60);
/// Renderings of versions that are gone, of which so many go at a time.
const PAGE: u32 = 256;
/// Renderings that are evicted at a time. Finding them looks at all.
const EVICTED_AT_ONCE: u32 = 2048;
/// Eviction makes so much room beyond what it must, in parts of the bound, that it is rare.
const ROOM_PART: u64 = 64;
/// As long as nothing has to be evicted, a use is written down only when the last one that was is so old.
const COARSE: Duration = Duration::from_secs(60);
/// The last bytes of a sealed rendering.
const SEAL: &[u8; 8] = b"iwSEAL1\n";
/// Bytes of a sha-256.
const DIGEST_BYTES: usize = 32;
/// Bytes behind a rendering: its digest and the [`SEAL`].
const SEAL_BYTES: usize = DIGEST_BYTES + SEAL.len();
/// Larger ones are hashed by a thread that nobody waits for.
const HASHED_AT_ONCE_BYTES_MAX: usize = 1024 * 1024;

/// Renderings that were used since the last time that it was written down, and how many bytes there are at most.
#[derive(Debug)]
pub(crate) struct Uses {
    /// With the time of the last use: those of one interval are told apart by it when some must go.
    keys: Mutex<HashMap<BlobKey, Timestamp>>,
    /// What was counted, and what was added since then. Counting looks at all rows, so it is done only when this is over the bound.
    bytes_at_most: AtomicU64,
}

impl Default for Uses {
    /// Not counted yet.
    fn default() -> Self {
        Self { keys: Mutex::default(), bytes_at_most: AtomicU64::new(u64::MAX) }
    }
}

impl Uses {
    fn added(&self, bytes: u64) {
        let add = |before: u64| Some(before.saturating_add(bytes));
        // It always succeeds: there is always a new value.
        let _ = self.bytes_at_most.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add);
    }

    pub(crate) fn note(&self, key: &BlobKey, now: Timestamp) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = keys.get_mut(key) {
            *last = now;
        } else if keys.len() < USES_NOTED_MAX {
            keys.insert(key.clone(), now);
        }
    }

    /// In the order of the keys, as they are written.
    fn take(&self) -> BTreeMap<BlobKey, Timestamp> {
        std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }
}

/// What lies under a rendering's key.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// The rendering.
    Whole(Bytes),
    /// Bytes without a seal: of an earlier version of imagewell, or cut off.
    Unsealed,
    /// Other bytes than were written.
    Damaged,
}

/// A rendering as it is stored.
fn sealed(bytes: &Bytes) -> Bytes {
    let mut sealed = Vec::with_capacity(bytes.len() + SEAL_BYTES);
    sealed.extend_from_slice(bytes);
    sealed.extend_from_slice(&Sha256::digest(bytes));
    sealed.extend_from_slice(SEAL);
    sealed.into()
}

/// The reverse of [`sealed`].
fn unsealed(stored: &Bytes) -> Found {
    let Some(len) = stored.len().checked_sub(SEAL_BYTES).filter(|_| stored.ends_with(SEAL)) else { return Found::Unsealed };
    let digest = Sha256::digest(&stored[..len]);
    if digest[..] == stored[len..len + DIGEST_BYTES] { Found::Whole(stored.slice(..len)) } else { Found::Damaged }
}

/// Reads a rendering of a version, if it is there and whole. What is not is removed.
pub(crate) async fn read(app: &App, key: &BlobKey, version: &BlobKey) -> Option<Bytes> {
    let fault = match app.storage.read(key).await {
        Err(Error::NotFound) => return None,
        Err(busy @ Error::Busy { .. }) => {
            tracing::warn!(error = %busy, key = key.as_str(), "a kept rendering can't be read now");
            return None;
        }
        Err(error) => format!("{error:?}"),
        Ok(stored) => match beside(stored.len() > HASHED_AT_ONCE_BYTES_MAX, {
            let stored = stored.clone();
            move || unsealed(&stored)
        })
        .await
        {
            Some(Found::Whole(bytes)) => return Some(bytes),
            Some(Found::Unsealed) => match seal(app, key, version, stored).await {
                Some(bytes) => return Some(bytes),
                None => "it is cut off, or was before it was stored".to_owned(),
            },
            _ => "its digest is another one".to_owned(),
        },
    };
    tracing::warn!(fault, key = key.as_str(), "a kept rendering is damaged: it is made again");
    metrics::counter!("imagewell_variants_damaged_total").increment(1);
    if let Err(error) = remove(app, vec![key.clone()]).await {
        tracing::warn!(?error, key = key.as_str(), "a damaged rendering can't be removed");
    }
    None
}

/// Renderings of an earlier version of imagewell have no seal. One that is as long as its row says and complete in its structure gets
/// one.
async fn seal(app: &App, key: &BlobKey, version: &BlobKey, stored: Bytes) -> Option<Bytes> {
    if db::variants::size_bytes(&app.database, key).await.ok()? != Some(stored.len() as u64) {
        return None;
    }
    let limits = app.options.limits;
    let looked_at = stored.clone();
    let whole = beside(true, move || inspect(std::io::Cursor::new(&looked_at), &limits).is_ok()).await?;
    if !whole {
        return None;
    }
    store(app, key, version, &stored).await;
    Some(stored)
}

/// Runs it here, or on a thread of its own where it takes long. None when it panics.
async fn beside<T: Send + 'static>(long: bool, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if long { tokio::task::spawn_blocking(work).await.ok() } else { Some(work()) }
}

/// Keeps a rendering, unless there is no room for it or its version is gone by now. It is served in any case.
pub(crate) async fn store(app: &App, key: &BlobKey, version: &BlobKey, bytes: &Bytes) {
    if let Err(error) = try_store(app, key, version, bytes).await {
        tracing::warn!(?error, key = key.as_str(), "a rendering is not kept");
    }
}

/// Bytes first: a row never points at missing ones, and what a crash leaves in between is removed by the sweep.
async fn try_store(app: &App, key: &BlobKey, version: &BlobKey, bytes: &Bytes) -> Result<(), Error> {
    let len = (bytes.len() + SEAL_BYTES) as u64;
    if len > app.options.variant_bytes_max || app.storage.check_space(len).is_err() {
        return Ok(());
    }
    app.storage.replace(key, sealed(bytes)).await?;
    app.variant_uses.added(len);
    let (row, version, now) = (key.clone(), version.clone(), app.database.now());
    let kept = app
        .database
        .write(move |connection| Box::pin(async move { db::variants::insert(connection, &row, &version, len, now).await }))
        .await?;
    if kept { Ok(()) } else { app.storage.delete(key).await }
}

/// Removes every rendering of an image, of all its versions; they are made again when somebody asks. Returns how many were kept.
///
/// # Errors
/// [`Error::Internal`] when one can't be removed.
pub(crate) async fn purge(app: &App, image: ImageId) -> Result<usize, Error> {
    let keys = db::variants::of_image(&app.database, image).await?;
    let count = keys.len();
    remove(app, keys).await?;
    Ok(count)
}

/// Removes the renderings of bytes that go.
pub(crate) async fn remove_of_version(app: &App, version: &BlobKey) -> Result<(), Error> {
    remove(app, db::variants::of_version(&app.database, version).await?).await?;
    // Those of a time before they were noted.
    app.storage.delete_variants(version).await
}

/// Removes what is kept of versions that are gone: somebody was cut off who removed them. Returns how many.
pub(crate) async fn remove_of_missing_versions(app: &App) -> Result<u64, Error> {
    let mut count = 0;
    loop {
        let keys = db::variants::of_missing_versions(&app.database, PAGE).await?;
        if keys.is_empty() {
            return Ok(count);
        }
        count += keys.len() as u64;
        remove(app, keys).await?;
    }
}

/// The rows first: what a crash leaves in between has no row, and is removed by the sweep. The copy in memory last, or a reader in
/// between would put it back. One that can't be removed doesn't keep the others.
async fn remove(app: &App, keys: Vec<BlobKey>) -> Result<(), Error> {
    db::variants::delete(&app.database, &keys).await?;
    let mut outcome = Ok(());
    for key in &keys {
        let deleted = app.storage.delete(key).await;
        app.blobs.remove(key);
        outcome = outcome.and(deleted);
    }
    outcome
}

/// Writes down what was used, and removes what was used longest ago until the rest is within the bound.
///
/// # Errors
/// [`Error::Internal`] when the database or the store fails.
pub(crate) async fn tend(app: &App) -> Result<(), Error> {
    let used = app.variant_uses.take();
    if used.is_empty() {
        return Ok(());
    }
    let within = app.variant_uses.bytes_at_most.load(Ordering::SeqCst) <= app.options.variant_bytes_max;
    db::variants::touch(&app.database, used, if within { COARSE } else { Duration::ZERO }).await?;
    let due = app.database.is_shared() && leases::take_free(app, COUNT_LEASE.to_owned(), COUNTED_EVERY).await?.is_some();
    if within && !due {
        return Ok(());
    }
    // What is added from here on counts on top of what is counted.
    app.variant_uses.bytes_at_most.store(0, Ordering::SeqCst);
    let counted = evict(app).await;
    app.variant_uses.added(counted.as_ref().copied().unwrap_or(u64::MAX));
    counted.map(|_| ())
}

/// Removes what was used longest ago, and says how many bytes are left.
async fn evict(app: &App) -> Result<u64, Error> {
    let mut total = db::variants::total_bytes(&app.database).await?;
    let bound = app.options.variant_bytes_max;
    let left = if total > bound { bound - bound / ROOM_PART } else { total };
    while total > left {
        let mut going = Vec::new();
        for (key, size_bytes) in db::variants::oldest(&app.database, EVICTED_AT_ONCE).await? {
            if total <= left {
                break;
            }
            total = total.saturating_sub(size_bytes);
            going.push(key);
        }
        if going.is_empty() {
            break;
        }
        metrics::counter!("imagewell_variants_evicted_total").increment(going.len() as u64);
        remove(app, going).await?;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_shows_every_byte_that_was_changed_or_is_missing() {
        let bytes = Bytes::from_static(b"a rendering");
        let stored = sealed(&bytes);
        assert_eq!(unsealed(&stored), Found::Whole(bytes));
        for len in 0..stored.len() {
            assert_eq!(unsealed(&stored.slice(..len)), Found::Unsealed, "cut off after {len}");
        }
        for place in 0..stored.len() {
            let mut changed = stored.to_vec();
            changed[place] ^= 1;
            assert!(!matches!(unsealed(&changed.into()), Found::Whole(_)), "changed at {place}");
        }
        assert_eq!(unsealed(&sealed(&Bytes::new())), Found::Whole(Bytes::new()), "the seal alone");
    }
}

//! Compares what the database says with what the store has, in both directions, without reading the bytes themselves.

use futures_util::StreamExt as _;

use crate::app::App;
use crate::model::BlobKey;
use crate::storage::Stored;
use crate::{Error, db};

const PAGE: u32 = 500;
/// Blobs that are asked for at once.
const ASKED_AT_ONCE: usize = 16;
/// Keys of each kind that are kept; more are only counted.
const KEPT_MAX: usize = 100;

/// How many there are, and the first of them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Found {
    /// All of them.
    pub count: u64,
    /// The first hundred, by key.
    pub keys: Vec<String>,
}

impl Found {
    fn add(&mut self, key: &BlobKey) {
        self.count += 1;
        if self.keys.len() < KEPT_MAX {
            self.keys.push(key.as_str().to_owned());
        }
    }
}

/// What there is.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// Rows of versions.
    pub rows: u64,
    /// Bytes of these versions, as their rows say.
    pub bytes: u64,
    /// Rows whose bytes are not in the store.
    pub gone: Found,
    /// Rows whose bytes are fewer or more in the store.
    pub resized: Found,
    /// Blobs in the store.
    pub blobs: u64,
    /// Blobs without a row that are older than `sweep.grace_seconds`. Younger ones may be on their way to a row.
    pub orphans: Found,
}

/// Counts and compares. `progress` is told of rows and blobs that were looked at so far.
///
/// # Errors
/// [`Error::Internal`] when the database or the store can't be read, [`Error::Busy`] when it is away.
pub async fn take(app: &App, mut progress: impl FnMut(&Inventory) + Send) -> Result<Inventory, Error> {
    let mut inventory = Inventory::default();
    rows(app, &mut inventory, &mut progress).await?;
    blobs(app, &mut inventory, &mut progress).await?;
    Ok(inventory)
}

async fn rows(app: &App, inventory: &mut Inventory, progress: &mut (impl FnMut(&Inventory) + Send)) -> Result<(), Error> {
    let mut after = String::new();
    loop {
        let page = db::images::blobs_after(&app.database, &after, PAGE).await?;
        let Some((last, ..)) = page.last() else { return Ok(()) };
        last.as_str().clone_into(&mut after);
        let asking = page.into_iter().map(async |(key, size, _)| {
            let found = app.storage.size(&key).await;
            (key, size, found)
        });
        let mut asking = futures_util::stream::iter(asking).buffered(ASKED_AT_ONCE);
        while let Some((key, size, found)) = asking.next().await {
            inventory.rows += 1;
            inventory.bytes += size;
            let wrong = match found {
                Ok(found) if found == size => continue,
                Ok(_) => &mut inventory.resized,
                Err(Error::NotFound) => &mut inventory.gone,
                Err(error) => return Err(error),
            };
            // It may have been deleted for good since.
            if db::images::blob_is_used(&app.database, &key).await? {
                wrong.add(&key);
            }
        }
        progress(inventory);
    }
}

async fn blobs(app: &App, inventory: &mut Inventory, progress: &mut (impl FnMut(&Inventory) + Send)) -> Result<(), Error> {
    let old_enough = app.database.now().minus(app.options.sweep.grace);
    let mut listed = app.storage.list();
    while let Some(stored) = listed.next().await {
        let Stored::Blob(stored) = stored? else { continue };
        inventory.blobs += 1;
        if stored.modified <= old_enough && !db::images::blob_is_used(&app.database, &stored.key).await? {
            inventory.orphans.add(&stored.key);
        }
        if inventory.blobs.is_multiple_of(u64::from(PAGE)) {
            progress(inventory);
        }
    }
    Ok(())
}

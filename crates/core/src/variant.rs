//! Renderings of originals: made in a worker, stored beside the blobs, disposable. What is kept is bounded; what was used longest ago
//! goes first.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use imagewell_imaging::Format;
use imagewell_imaging::transform::{Crop, Fit, Gravity, Transform};

use crate::app::App;
use crate::fetch::{self, Body};
use crate::model::{BlobKey, Image, ImageId, Timestamp, Version};
use crate::spool::{Content, Spool};
use crate::storage::Storage;
use crate::{Error, db, leases};

/// Uses that are noted at a time; more in between are not, which only makes a rendering look older than it is.
const USES_NOTED_MAX: usize = 100_000;
/// A node that waits for another one's rendering asks for it so often.
const ASKED_FOR_EVERY: Duration = Duration::from_millis(100);
/// Who gets it counts all renderings.
const COUNT_LEASE: &str = "count";
/// In a cluster, where others add renderings too, they are counted this often.
const COUNTED_EVERY: Duration = Duration::from_secs(60);
/// Renderings that go at a time.
const PAGE: u32 = 256;

/// A rendering with the format it came out in.
#[derive(Debug, Clone)]
pub struct Variant {
    /// Encoded.
    pub bytes: Bytes,
    /// As which format.
    pub format: Format,
}

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

    fn note(&self, key: &BlobKey) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = keys.get_mut(key) {
            *last = Timestamp::now();
        } else if keys.len() < USES_NOTED_MAX {
            keys.insert(key.clone(), Timestamp::now());
        }
    }

    fn take(&self) -> HashMap<BlobKey, Timestamp> {
        std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a transform comes to for a certain image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OfImage(Transform);

impl fmt::Display for OfImage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// What a transform comes to for an image: its own crop frames the one that is asked for, and its own focal point is the gravity of
/// whoever asks for no other.
#[must_use]
pub fn of_image(image: &Image, transform: &Transform) -> OfImage {
    let crop = match (image.crop, transform.crop) {
        (Some(own), Some(asked)) => Some(own.within(asked)),
        (own, asked) => own.or(asked),
    };
    let gravity = match (transform.gravity, image.focus) {
        (Gravity::Focus, Some(focus)) if depends_on_focus(transform) => {
            let (x, y) = focus_within(image, crop, focus);
            Gravity::Point(x, y)
        }
        (gravity, _) => gravity,
    };
    OfImage(Transform { crop, gravity, ..*transform })
}

/// Whether a rendering changes with the focal point of its image.
#[must_use]
pub fn depends_on_focus(transform: &Transform) -> bool {
    matches!((transform.fit, transform.gravity), (Fit::Cover(..), Gravity::Focus))
}

/// A place on the whole picture, as one on its crop.
fn focus_within(image: &Image, crop: Option<Crop>, (x, y): (u16, u16)) -> (u16, u16) {
    let (Some(crop), Some(facts)) = (crop, image.version.facts) else { return (x, y) };
    let (width, height) = if facts.orientation.swaps_sides() { (facts.height, facts.width) } else { (facts.width, facts.height) };
    let part = |thousandths: u16, side: u32, begin: u32, length: u32| {
        let place = u64::from(thousandths) * u64::from(side) / 1000;
        let inside = place.saturating_sub(begin.into()).min(length.into());
        u16::try_from(inside * 1000 / u64::from(length.max(1))).unwrap_or(1000)
    };
    (part(x, width, crop.x, crop.width), part(y, height, crop.y, crop.height))
}

/// Takes the rendering from the cache or makes it, once however many ask.
///
/// # Errors
/// [`Error::Invalid`] when the image can't be rendered, [`Error::Busy`] and [`Error::TooMany`] when no worker is free.
pub async fn open_or_render(app: &App, image: &Image, transform: &OfImage) -> Result<Variant, Error> {
    let key = Storage::variant_key(&image.version.blob, &transform.to_string());
    let bytes = app
        .blobs
        .get_or_insert_async(&key, async {
            match app.storage.read(&key).await {
                Ok(bytes) => return Ok(bytes),
                Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
            match turn(app, &key).await? {
                Turn::Made(bytes) => Ok(bytes),
                Turn::Ours => {
                    let rendered = render(app, image, transform, &key).await;
                    leases::give_back(app, lease(&key)).await;
                    rendered
                }
            }
        })
        .await?;
    app.variant_uses.note(&key);
    let format = Format::sniff(&bytes).map_err(|error| Error::internal("recognising a rendering", &error))?;
    Ok(Variant { bytes, format })
}

async fn render(app: &App, image: &Image, transform: &OfImage, key: &BlobKey) -> Result<Bytes, Error> {
    let source = content(app, &image.version).await?;
    let bytes = app.workers.render(image.org, &source, image.version.facts.as_ref(), &transform.0).await?;
    metrics::counter!("imagewell_renderings_total").increment(1);
    keep(app, key, &image.version.blob, &bytes).await?;
    Ok(bytes)
}

/// Who makes a rendering that isn't there.
enum Turn {
    /// This node.
    Ours,
    /// Another one has just done it.
    Made(Bytes),
}

/// Who has it makes the rendering.
fn lease(key: &BlobKey) -> String {
    format!("render:{}", key.as_str())
}

/// Waits until another node has made it, or it is this node's turn. Within a process the cache of blobs sees to that.
async fn turn(app: &App, key: &BlobKey) -> Result<Turn, Error> {
    if !app.database.is_shared() {
        return Ok(Turn::Ours);
    }
    let limits = app.options.workers;
    let lasts = limits.wait_max + limits.time_max;
    let until = tokio::time::Instant::now() + lasts;
    loop {
        let ours = leases::take(app, lease(key), lasts).await?;
        // Also with the lease: whoever had it before may have done it in between.
        match app.storage.read(key).await {
            Ok(bytes) => {
                if ours {
                    leases::give_back(app, lease(key)).await;
                }
                return Ok(Turn::Made(bytes));
            }
            Err(Error::NotFound) if ours => return Ok(Turn::Ours),
            Err(Error::NotFound) if tokio::time::Instant::now() < until => tokio::time::sleep(ASKED_FOR_EVERY).await,
            Err(Error::NotFound) => return Err(Error::Busy { retry_after: limits.wait_max }),
            Err(error) => return Err(error),
        }
    }
}

/// Stores a rendering, bytes first, unless there is no room for it or its version is gone by now.
async fn keep(app: &App, key: &BlobKey, version: &BlobKey, bytes: &Bytes) -> Result<(), Error> {
    let len = bytes.len() as u64;
    if len > app.options.variant_bytes_max || app.storage.check_space(len).is_err() {
        return Ok(());
    }
    app.storage.replace(key, bytes.clone()).await?;
    app.variant_uses.added(len);
    let (row, version) = (key.clone(), version.clone());
    let kept = app
        .database
        .write(move |connection| {
            Box::pin(async move { db::variants::insert(connection, &row, &version, len, Timestamp::now()).await })
        })
        .await?;
    if kept { Ok(()) } else { app.storage.delete(key).await }
}

/// The original as something that can be read from any place.
pub(crate) async fn content(app: &App, version: &Version) -> Result<Content, Error> {
    match fetch::open(app, version, None).await? {
        Body::Memory(bytes) => Ok(Content::Memory(bytes)),
        Body::Stream(mut chunks) => {
            let memory_bytes_max = app.options.upload_memory_bytes_max;
            let mut spool = Spool::new(app.storage.spool_folder(), memory_bytes_max, u64::MAX);
            while let Some(chunk) = futures_util::StreamExt::next(&mut chunks).await {
                spool.write(&chunk?).await?;
            }
            Ok(spool.finish().await?.content)
        }
    }
}

/// Removes every rendering of an image, of all its versions; they are made again when somebody asks. Returns how many were kept.
///
/// # Errors
/// [`Error::Internal`] when one can't be removed.
pub async fn purge(app: &App, image: ImageId) -> Result<usize, Error> {
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

/// The rows first: what a crash leaves in between is removed by the sweep.
async fn remove(app: &App, keys: Vec<BlobKey>) -> Result<(), Error> {
    let rows = keys.clone();
    app.database
        .write(move |connection| {
            Box::pin(async move {
                for key in &rows {
                    db::variants::delete(connection, key).await?;
                }
                Ok(())
            })
        })
        .await?;
    for key in &keys {
        app.blobs.remove(key);
        app.storage.delete(key).await?;
    }
    Ok(())
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
    app.database
        .write(move |connection| {
            Box::pin(async move {
                for (key, when) in &used {
                    db::variants::touch(connection, key, *when).await?;
                }
                Ok(())
            })
        })
        .await?;
    let within = app.variant_uses.bytes_at_most.load(Ordering::SeqCst) <= app.options.variant_bytes_max;
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
    while total > app.options.variant_bytes_max {
        let mut going = Vec::new();
        for (key, size_bytes) in db::variants::oldest(&app.database, PAGE).await? {
            if total <= app.options.variant_bytes_max {
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
    fn the_images_own_crop_and_focus_count_unless_others_are_asked_for() {
        let mut image = crate::access::tests::image(1, "crew.view");
        let facts = imagewell_imaging::Facts {
            format: Format::Jpeg,
            width: 400,
            height: 200,
            frames: 1,
            orientation: imagewell_imaging::Orientation::UPRIGHT,
        };
        image.version.facts = Some(facts);
        let cover = Transform::of(Fit::square(50));
        assert_eq!(of_image(&image, &cover).0, cover);
        image.focus = Some((750, 500));
        assert_eq!(of_image(&image, &cover).0.gravity, Gravity::Point(750, 500));
        let asked = Transform { gravity: Gravity::Centre, ..cover };
        assert_eq!(of_image(&image, &asked).0, asked);
        let inside = Transform::of(Fit::Inside(9, 9));
        assert_eq!(of_image(&image, &inside).0, inside, "nothing is cut off");
        image.crop = Some(Crop { x: 200, y: 0, width: 200, height: 200 });
        assert_eq!(of_image(&image, &cover).0.gravity, Gravity::Point(500, 500));
        let corner = Transform { crop: Some(Crop { x: 0, y: 0, width: 10, height: 10 }), ..inside };
        assert_eq!(of_image(&image, &corner).0.crop, Some(Crop { x: 200, y: 0, width: 10, height: 10 }));
    }
}

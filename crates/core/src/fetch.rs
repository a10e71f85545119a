//! The straight line of a fetch: found → allowed → bytes, from memory where they are hot.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use imagewell_imaging::Facts;
use sha2::{Digest as _, Sha256};

use crate::app::App;
use crate::model::{Actor, AppKey, BlobKey, Digest, Image, ImageId, Namespace, OrgId, State, Version};
use crate::workers::{Chunks, Source};
use crate::{Error, access, db};

/// How an image is named by a reader, and which of the checks the operator has left on.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Which.
    pub id: ImageId,
    /// In which part of the store.
    pub namespace: &'a Namespace,
    /// Under which application; `None` where the operator has switched the check off.
    pub app_key: Option<&'a str>,
    /// Off only where the operator has switched the check off.
    pub check_permission: bool,
}

/// Bytes on their way out.
pub enum Body {
    /// All of them.
    Memory(Bytes),
    /// In chunks. A whole read whose digest turns out wrong ends in an error before its last chunk.
    Stream(BoxStream<'static, Result<Bytes, Error>>),
}

/// Finds an image that the caller may see. A warm one touches no database.
///
/// # Errors
/// [`Error::NotFound`] for what isn't there, is another org's, or stands under another application; [`Error::Forbidden`].
pub async fn find(app: &App, actor: &Actor, wanted: Wanted<'_>) -> Result<Arc<Image>, Error> {
    let image = called(app, actor.org, wanted.id).await?;
    let held = image.app_key.as_ref().map(AppKey::as_str);
    let named_right = wanted.app_key.is_none_or(|app_key| Some(app_key) == held);
    if image.namespace != *wanted.namespace || image.org != actor.org || !named_right {
        return Err(Error::NotFound);
    }
    let action = if wanted.check_permission { access::Action::View(&image) } else { access::Action::ViewAsMember(&image) };
    access::check(actor, action).inspect_err(|_| {
        tracing::warn!(target: "audit", login = actor.login, image = %image.id, "view denied");
    })?;
    Ok(image)
}

/// The image that an org calls by this id: one of that id, or one for which it has chosen the id. A warm one touches no database.
pub(crate) async fn called(app: &App, org: OrgId, id: ImageId) -> Result<Arc<Image>, Error> {
    match app.images.get(&id) {
        Some(image) if image.org == org => Ok(image),
        // Boxed, as everything that most reads don't need.
        _ => Box::pin(called_or_chosen(app, org, id)).await,
    }
}

async fn called_or_chosen(app: &App, org: OrgId, id: ImageId) -> Result<Arc<Image>, Error> {
    let chosen = id.chosen_by(org);
    if let Some(image) = app.images.get(&chosen) {
        return Ok(image);
    }
    match by_id(app, id).await {
        Ok(image) if image.org == org => Ok(image),
        Ok(_) | Err(Error::NotFound) => by_id(app, chosen).await,
        Err(error) => Err(error),
    }
}

/// An image with its newest version, whoever may see it. A change removes it from the cache after its commit, also while it is
/// being read here: then what was read is not kept.
pub(crate) async fn by_id(app: &App, id: ImageId) -> Result<Arc<Image>, Error> {
    if let Some(image) = app.images.get(&id) {
        return Ok(image);
    }
    let asked = Instant::now();
    let read = app.images.get_or_insert_async(
        &id,
        app.absent_images
            .share(id, asked, async { db::images::find(&app.database, id).await?.map(Arc::new).ok_or(Error::NotFound) }),
    );
    Box::pin(read).await
}

/// Finds an image of any API, for whoever may see it: a caller by right, a stranger because it is public, or by a link, which `linked` is
/// asked for. Temporary images are seen by their ticket alone.
///
/// # Errors
/// [`Error::NotFound`] for what isn't there or is another org's, and to strangers for whatever isn't public; [`Error::Forbidden`].
pub async fn find_any(
    app: &App,
    actor: Option<&Actor>,
    id: ImageId,
    number: Option<u32>,
    linked: impl FnOnce(&Image) -> Option<access::Link>,
) -> Result<Arc<Image>, Error> {
    let found = match app.images.get(&id).filter(|_| number.is_none()) {
        Some(image) => Ok(image),
        None => Box::pin(read_any(app, actor, id, number)).await,
    };
    match (found, actor) {
        (Ok(image), _) if image.state == State::Temporary => Err(Error::NotFound),
        (Ok(image), _) if access::check_visitor(&image, linked(&image).as_ref()).is_ok() => Ok(image),
        (Ok(image), Some(actor)) if image.org == actor.org => access::check(actor, access::Action::View(&image)).map(|()| image),
        (Ok(_) | Err(Error::NotFound), Some(actor)) => {
            let image = Box::pin(version_of(app, id.chosen_by(actor.org), number)).await?;
            access::check(actor, access::Action::View(&image)).map(|()| image)
        }
        (Ok(_), None) => Err(Error::NotFound),
        (Err(error), _) => Err(error),
    }
}

/// An image whose record is not in memory under its own id: it may be under the one that it has since the caller's org chose this.
async fn read_any(app: &App, actor: Option<&Actor>, id: ImageId, number: Option<u32>) -> Result<Arc<Image>, Error> {
    let chosen = actor.filter(|_| number.is_none()).and_then(|actor| app.images.get(&id.chosen_by(actor.org)));
    match chosen {
        Some(image) => Ok(image),
        None => version_of(app, id, number).await,
    }
}

async fn version_of(app: &App, id: ImageId, number: Option<u32>) -> Result<Arc<Image>, Error> {
    match number {
        None => by_id(app, id).await,
        Some(number) => Ok(Arc::new(db::images::find_version(&app.database, id, number).await?.ok_or(Error::NotFound)?)),
    }
}

/// Finds an image by its bytes' key, for a caller who is nobody: the version that these bytes are.
///
/// # Errors
/// [`Error::Forbidden`] when it is neither public nor linked to, or isn't there: strangers can't tell; with a link that is
/// [`Error::NotFound`].
pub async fn find_as_visitor(app: &App, key: &BlobKey, link: Option<&access::Link>) -> Result<Arc<Image>, Error> {
    match Box::pin(by_blob(app, key)).await? {
        Some(image) => access::check_visitor(&image, link).map(|()| image),
        None if link.is_some_and(|link| link.0 == *key) => Err(Error::NotFound),
        None => Err(Error::Forbidden),
    }
}

/// The image with the version that these bytes are. Whose they are never changes, so a warm newest version touches no database.
async fn by_blob(app: &App, key: &BlobKey) -> Result<Option<Arc<Image>>, Error> {
    if let Some(id) = app.blob_owners.get(key)
        && let Ok(image) = by_id(app, id).await
        && image.version.blob == *key
    {
        return Ok(Some(image));
    }
    let Some(image) = db::images::find_by_blob(&app.database, key).await? else { return Ok(None) };
    app.blob_owners.insert(key.clone(), image.id);
    Ok(Some(Arc::new(image)))
}

/// Opens a version's bytes, all of them or a range.
///
/// # Errors
/// [`Error::Internal`] when they are gone or are not what was stored; that is an alarm, never wrong bytes.
pub async fn open(app: &App, version: &Version, range: Option<Range<u64>>) -> Result<Body, Error> {
    if version.size_bytes <= app.options.blob_cache_entry_bytes_max {
        let bytes = small(app, version).await?;
        return Ok(Body::Memory(match range {
            Some(range) => bytes.slice(to_usize(range.start)..to_usize(range.end)),
            None => bytes,
        }));
    }
    let whole = range.is_none();
    let range = range.unwrap_or(0..version.size_bytes);
    let chunks = Box::pin(app.storage.stream(&version.blob, range)).await.map_err(|error| missing(version, error))?;
    Ok(Body::Stream(if whole { verified(chunks, version.clone()) } else { chunks }))
}

/// Reads a small blob once, however many ask for it at the same time, and checks its digest.
async fn small(app: &App, version: &Version) -> Result<Bytes, Error> {
    if let Some(bytes) = app.blobs.get(&version.blob) {
        return Ok(bytes);
    }
    let asked = Instant::now();
    let read = app.absent_blobs.share(version.blob.clone(), asked, async {
        let bytes = app.storage.read(&version.blob).await.map_err(|error| missing(version, error))?;
        if Digest(Sha256::digest(&bytes).into()) == version.digest { Ok(bytes) } else { Err(rotten(version)) }
    });
    let read = app.blobs.get_or_insert_async(&version.blob, read);
    // Boxed, as everything that warm reads don't need: a future is moved through every layer around it.
    Box::pin(read).await
}

/// A version's bytes as what a worker works on. They are not copied anywhere on their way, and checked like any other whole read.
pub(crate) struct Original<'a> {
    pub(crate) app: &'a App,
    pub(crate) version: &'a Version,
}

impl Source for Original<'_> {
    fn size_bytes(&self) -> u64 {
        self.version.size_bytes
    }

    fn facts(&self) -> Option<&Facts> {
        self.version.facts.as_ref()
    }

    fn open(&self) -> BoxFuture<'_, Result<Chunks, Error>> {
        Box::pin(async {
            Ok(match open(self.app, self.version, None).await? {
                Body::Memory(bytes) => futures_util::stream::once(std::future::ready(Ok(bytes))).boxed(),
                Body::Stream(chunks) => chunks,
            })
        })
    }
}

/// Passes chunks on one behind, so that the last one leaves only when the digest is right.
fn verified(chunks: BoxStream<'static, Result<Bytes, Error>>, version: Version) -> BoxStream<'static, Result<Bytes, Error>> {
    struct Reading {
        chunks: BoxStream<'static, Result<Bytes, Error>>,
        held: Option<Bytes>,
        hasher: Sha256,
        version: Version,
    }
    let reading = Reading { chunks, held: None, hasher: Sha256::new(), version };
    futures_util::stream::try_unfold(reading, |mut reading| async move {
        loop {
            let Some(chunk) = reading.chunks.next().await else {
                let digest = Digest(std::mem::take(&mut reading.hasher).finalize().into());
                let Some(held) = reading.held.take() else { return Ok(None) };
                return if digest == reading.version.digest { Ok(Some((held, reading))) } else { Err(rotten(&reading.version)) };
            };
            let chunk = chunk?;
            reading.hasher.update(&chunk);
            if let Some(ready) = reading.held.replace(chunk) {
                return Ok(Some((ready, reading)));
            }
        }
    })
    .boxed()
}

fn rotten(version: &Version) -> Error {
    metrics::counter!("imagewell_digest_mismatches_total").increment(1);
    let detail = format!("blob {} is not what was stored: its digest is not {}", version.blob.as_str(), version.digest);
    tracing::error!(detail, "ALARM: stored bytes have changed");
    Error::Internal { detail }
}

/// A row points at bytes: their absence is a fault of ours, not a 404.
fn missing(version: &Version, error: Error) -> Error {
    match error {
        Error::NotFound => {
            let detail = format!("blob {} is gone", version.blob.as_str());
            tracing::error!(detail, "ALARM: stored bytes are missing");
            Error::Internal { detail }
        }
        other => other,
    }
}

fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

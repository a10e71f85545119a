//! The straight line of an upload: cheap refusals → bytes counted and hashed → inspected → blob synced → row committed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use imagewell_imaging::{Facts, Limits, inspect, inspect_head};
use tokio::sync::OwnedSemaphorePermit;

use crate::app::App;
use crate::model::{ActionKey, Actor, AppKey, BlobKey, Image, ImageId, Namespace, State, Timestamp, Version};
use crate::spool::{Content, HEAD_BYTES, Spool, Spooled};
use crate::{Error, access, db};

/// An upload waits this long for its turn.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// What an upload must be.
#[derive(Debug, Clone)]
pub enum Accept {
    /// An image in a known format.
    Images,
    /// Any bytes, kept unseen and handed back as a download under this cleaned name.
    AnyFile {
        /// For the download.
        name: Option<String>,
    },
}

/// What the caller wants stored, apart from the bytes.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who.
    pub actor: Arc<Actor>,
    /// Where in the store.
    pub namespace: Namespace,
    /// For which application.
    pub app_key: AppKey,
    /// What a reader must hold.
    pub permission: ActionKey,
    /// An id of the caller's choice.
    pub id: Option<ImageId>,
    /// An upload of this size is already refused.
    pub bytes_max: u64,
    /// What kind of bytes.
    pub accept: Accept,
}

/// Leave to send bytes.
#[derive(Debug)]
pub struct Admitted {
    app: Arc<App>,
    request: Request,
    permit: OwnedSemaphorePermit,
}

/// Bytes that arrived and were found good, but are not stored yet.
#[derive(Debug)]
pub struct Received {
    app: Arc<App>,
    request: Request,
    spooled: Spooled,
    facts: Option<Facts>,
    _permit: OwnedSemaphorePermit,
}

/// Everything that can be refused before the first byte is read.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::Conflict`] when the chosen id is taken, [`Error::NoSpace`], [`Error::Busy`].
pub async fn admit(app: &Arc<App>, request: Request) -> Result<Admitted, Error> {
    access::check(&request.actor, access::Action::Upload)?;
    app.halt.check()?;
    if let Some(id) = request.id
        && db::images::exists(&app.database, id).await?
    {
        return Err(Error::Conflict);
    }
    app.storage.check_space(0)?;
    match tokio::time::timeout(WAIT_MAX, Arc::clone(&app.uploads).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(Admitted { app: Arc::clone(app), request, permit }),
        _ => Err(Error::Busy { retry_after: WAIT_MAX }),
    }
}

/// Whether the caller may upload at all, for refusing before anything else of the request is read.
///
/// # Errors
/// [`Error::Forbidden`].
pub fn check_right(actor: &Actor) -> Result<(), Error> {
    access::check(actor, access::Action::Upload)
}

impl Admitted {
    /// Takes the bytes, refusing as early as possible.
    ///
    /// # Errors
    /// [`Error::Invalid`] when they are no image that is accepted, [`Error::TooLarge`], or what the stream says.
    pub async fn receive<S>(self, mut chunks: S) -> Result<Received, Error>
    where
        S: Stream<Item = Result<Bytes, Error>> + Unpin,
    {
        let Self { app, request, permit } = self;
        let images_only = matches!(request.accept, Accept::Images);
        let mut spool = Spool::new(app.storage.spool_folder(), app.options.upload_memory_bytes_max, request.bytes_max);
        let mut head_judged = !images_only;
        while let Some(chunk) = chunks.next().await {
            spool.write(&chunk?).await?;
            if !head_judged && spool.head().len() == HEAD_BYTES {
                // What is no image is refused before the rest arrives.
                head_judged = true;
                inspect_head(spool.head(), &app.options.limits)?;
            }
        }
        let spooled = spool.finish().await?;
        let facts = if images_only { Some(inspect_content(&spooled.content, app.options.limits).await?) } else { None };
        Ok(Received { app, request, spooled, facts, _permit: permit })
    }
}

/// Inspects in place when the bytes are in memory, else on a blocking thread.
async fn inspect_content(content: &Content, limits: Limits) -> Result<Facts, Error> {
    let reader = content.reader();
    let inspection = move || inspect(reader, &limits);
    let facts = tokio::task::spawn_blocking(inspection).await.map_err(|error| {
        // A panic over hostile bytes is a fault of ours, but the caller's file is what must change.
        tracing::error!(%error, "inspecting an image panicked");
        Error::invalid("the image can't be read")
    })?;
    Ok(facts?)
}

impl Received {
    /// Stores the bytes, then the row, both durably. What it returns may be acknowledged.
    ///
    /// # Errors
    /// [`Error::Conflict`], [`Error::NoSpace`], [`Error::Internal`]; nothing stays behind that a reader could see.
    pub async fn store(self) -> Result<Arc<Image>, Error> {
        let Self { app, request, spooled, facts, _permit } = self;
        app.storage.check_space(spooled.content.len())?;
        let extension = facts.map_or("bin", |facts| facts.format.extension());
        let blob = BlobKey::mint(request.namespace, request.actor.org, extension);
        app.storage.put(&blob, &spooled.content).await?;
        let now = Timestamp::now();
        let image = Arc::new(Image {
            id: request.id.unwrap_or_else(ImageId::mint),
            org: request.actor.org,
            owner: request.actor.account,
            namespace: request.namespace,
            app_key: request.app_key,
            permission: request.permission,
            state: State::Kept,
            latest: Version {
                number: 1,
                blob,
                size_bytes: spooled.content.len(),
                digest: spooled.digest,
                content_type: facts.map_or("application/octet-stream", |facts| facts.format.media_type()).to_owned(),
                file_name: match request.accept {
                    Accept::AnyFile { name } => name,
                    Accept::Images => None,
                },
                facts,
                created_by: request.actor.account,
                created: now,
            },
            created: now,
        });
        let row = Arc::clone(&image);
        let committed =
            app.database.write(move |connection| Box::pin(async move { db::images::insert(connection, &row).await })).await;
        if let Err(error) = committed {
            discard(&app, &image, &error).await;
            return Err(error);
        }
        app.halt.check()?;
        metrics::counter!("imagewell_uploads_total").increment(1);
        metrics::counter!("imagewell_upload_bytes_total").increment(image.latest.size_bytes);
        Ok(image)
    }
}

/// The row was refused, so the blob has no owner. When the commit's fate is unknown the blob stays for `sweep` to judge.
async fn discard(app: &App, image: &Image, error: &Error) {
    if matches!(error, Error::Conflict | Error::NoSpace)
        && let Err(error) = app.storage.delete(&image.latest.blob).await
    {
        tracing::warn!(%error, "the blob of a refused upload is left to the sweep");
    }
}

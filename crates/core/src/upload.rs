//! The straight line of an upload: cheap refusals → bytes counted and hashed → inspected → blob synced → row committed.

use std::io::{BufReader, Cursor};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use imagewell_imaging::svg::is_svg;
use imagewell_imaging::{Facts, Format, Inspected, Limits, inspect_closely, inspect_head};

use crate::app::App;
use crate::clock::Waiting;
use crate::db::{Open, Refusal};
use crate::filling::Filling;
pub use crate::filling::spool;
use crate::model::{
    Acl, ActionKey, Actor, AppKey, Attribution, BlobKey, FileName, Image, ImageId, Namespace, State, TicketNumber, TicketNumbers,
    Timestamp, Version,
};
pub use crate::places::Place;
use crate::spool::{Content, HEAD_BYTES, Spooled};
use crate::workers::{Failure, Given};
use crate::{Error, access, db};

/// Bytes of a file that are read at a time to inspect it.
const INSPECTED_BYTES: usize = 64 * 1024;

/// Bytes of a drawing's PNG that are spooled at a time.
const DRAWN_CHUNK_BYTES: usize = 256 * 1024;

/// For the inspection of one file on a thread: its structure alone is read.
const INSPECTION_MAX: Duration = Duration::from_secs(20);

/// Bytes in memory that are inspected at once: the work is linear in their number (see [`inspect`]), and below a millisecond.
const INSPECTED_AT_ONCE_BYTES_MAX: usize = 128 * 1024;

/// Well-formed JPEG, PNG and WebP up to this size are acknowledged without being decoded: nearly all uploads are such.
const UNDECODED_BYTES_MAX: u64 = 256 * 1024;

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
    /// An image in this format, or nothing at all: a placeholder that a later version fills.
    ImageOrNothing(Format),
    /// An image in one of these formats.
    ImagesIn(Vec<Format>),
    /// Any bytes or nothing, kept unseen and served as this format.
    Unseen(Format),
}

impl Accept {
    fn inspects(&self) -> bool {
        matches!(self, Self::Images | Self::ImagesIn(_) | Self::ImageOrNothing(_))
    }

    fn allows_nothing(&self) -> bool {
        matches!(self, Self::ImageOrNothing(_) | Self::Unseen(_))
    }

    /// Refuses an image in another format than was promised.
    fn judge(&self, found: Format) -> Result<(), Error> {
        match self {
            Self::ImageOrNothing(promised) if *promised != found => Err(Error::invalid(format!(
                "the bytes are {found} and the name says {promised}: give it a name that ends in .{}, or send {promised}",
                found.extension()
            ))),
            Self::ImagesIn(accepted) if !accepted.contains(&found) => {
                let accepted = accepted.iter().map(Format::to_string).collect::<Vec<_>>().join(", ");
                Err(Error::invalid(format!("the bytes are {found}; accepted are {accepted}")))
            }
            _ => Ok(()),
        }
    }
}

/// What the bytes become.
#[derive(Debug, Clone)]
pub enum Target {
    /// A new image of an application.
    Application {
        /// For which application.
        app_key: AppKey,
        /// What a reader must hold.
        permission: ActionKey,
        /// An id of the caller's choice, by which its org calls the image: see [`ImageId::chosen_by`].
        id: Option<ImageId>,
    },
    /// A picture in the dropbox, named by a ticket.
    Ticket {
        /// For so long, unless somebody takes it.
        lifetime: Duration,
        /// How its number is chosen.
        numbers: TicketNumbers,
    },
    /// The next version of a named file; the first one makes the name.
    Name {
        /// Inside the request's namespace.
        name: FileName,
        /// On whose behalf.
        attribution: Attribution,
    },
}

impl Target {
    fn action(&self) -> access::Action<'static> {
        match self {
            Self::Application { .. } | Self::Ticket { .. } => access::Action::Upload,
            Self::Name { .. } => access::Action::WriteFiles,
        }
    }
}

/// What the caller wants stored, apart from the bytes.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who.
    pub actor: Arc<Actor>,
    /// Where in the store.
    pub namespace: Namespace,
    /// As what.
    pub target: Target,
    /// An upload of this size is already refused.
    pub bytes_max: u64,
    /// How many bytes the client says are coming, around the file or in all; 0 when it doesn't say.
    pub bytes_announced: u64,
    /// What kind of bytes.
    pub accept: Accept,
}

/// Leave to send bytes.
#[derive(Debug)]
pub struct Admitted {
    app: Arc<App>,
    request: Request,
    place: Place,
}

/// Bytes that arrived and were found good, but are not stored yet.
#[derive(Debug)]
pub struct Received {
    app: Arc<App>,
    request: Request,
    spooled: Spooled,
    facts: Option<Facts>,
    place: Place,
}

/// Waits for a place, where there is space for another upload at all.
///
/// # Errors
/// [`Error::NoSpace`], [`Error::Busy`].
pub async fn take_place(app: &App, actor: &Actor) -> Result<Place, Error> {
    app.halt.check()?;
    app.storage.check_space(0)?;
    app.uploads.place(actor).await
}

/// Everything that can be refused before the first byte is read.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::Conflict`] when the chosen id is taken, [`Error::NoSpace`], [`Error::Busy`].
pub async fn admit(app: &Arc<App>, request: Request) -> Result<Admitted, Error> {
    check(app, &request).await?;
    let place = take_place(app, &request.actor).await?;
    Ok(Admitted { app: Arc::clone(app), request, place })
}

/// As [`admit`], for a body that had to be read before all of the request was known.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::Conflict`] when the chosen id is taken.
pub async fn admit_in_place(app: &Arc<App>, request: Request, place: Place) -> Result<Admitted, Error> {
    check(app, &request).await?;
    Ok(Admitted { app: Arc::clone(app), request, place })
}

async fn check(app: &App, request: &Request) -> Result<(), Error> {
    access::check(&request.actor, request.target.action())?;
    app.check_trust()?;
    match request.target {
        Target::Application { id: Some(id), .. } if db::images::chosen_exists(&app.database, request.actor.org, id).await? => {
            Err(Error::Conflict)
        }
        _ => Ok(()),
    }
}

/// Whether the caller may upload images of applications at all, for refusing before anything else of the request is read.
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
        let Self { app, request, place } = self;
        let mut filling = Filling::new(&app, request.actor.org, request.bytes_max, request.bytes_announced);
        let mut head_judged = !request.accept.inspects();
        while let Some(chunk) = chunks.next().await {
            filling.write(&chunk?).await?;
            let head = filling.head();
            if !head_judged && head.len() == HEAD_BYTES {
                // What is no image is refused before the rest arrives.
                head_judged = true;
                if is_drawing(&app, &request, head).await? {
                    continue;
                }
                inspect_head(head, &app.options.limits)?;
                request.accept.judge(Format::sniff(head)?)?;
            }
        }
        let drawing = is_drawing(&app, &request, filling.head()).await?;
        let mut spooled = filling.finish().await?;
        if drawing {
            let drawing = Given { content: &spooled.content, facts: None };
            let drawn = app.workers.rasterise(request.actor.org, &drawing).await?;
            // Under the bounds of the bytes that were sent, which it replaces.
            let mut filling = Filling::new(&app, request.actor.org, request.bytes_max, drawn.len() as u64);
            for chunk in drawn.chunks(DRAWN_CHUNK_BYTES) {
                filling.write(chunk).await?;
            }
            spooled = filling.finish().await?;
        }
        let is_placeholder = spooled.content.is_empty() && request.accept.allows_nothing();
        let facts = if request.accept.inspects() && !is_placeholder {
            let inspected = {
                let _turn = app.uploads.turn(request.actor.org).await?;
                inspect_content(&spooled.content, app.options.limits).await?
            };
            request.accept.judge(inspected.facts.format)?;
            check_pixels(&app, &request, &spooled.content, inspected).await?;
            Some(inspected.facts)
        } else {
            None
        };
        Ok(Received { app, request, spooled, facts, place })
    }
}

/// Whether the bytes are SVG where the org accepts it: then what it shows is stored, and that is judged.
async fn is_drawing(app: &App, request: &Request, head: &[u8]) -> Result<bool, Error> {
    Ok(request.accept.inspects() && is_svg(head) && db::accounts::accepts_svg(&app.database, request.actor.org).await?)
}

/// Inspects at once what is small and in memory, which takes microseconds, and all else on a blocking thread.
async fn inspect_content(content: &Content, limits: Limits) -> Result<Inspected, Error> {
    let inspected = match content {
        // Except for JPEG XL, whose headers are a little language.
        Content::Memory(bytes)
            if bytes.len() <= INSPECTED_AT_ONCE_BYTES_MAX && Format::sniff(bytes).ok() != Some(Format::Jxl) =>
        {
            catch_unwind(AssertUnwindSafe(|| inspect_closely(Cursor::new(bytes), &limits))).map_err(|_| None)
        }
        _ => {
            let reader = BufReader::with_capacity(INSPECTED_BYTES, content.reader());
            let inspecting = tokio::task::spawn_blocking(move || inspect_closely(reader, &limits));
            // The thread goes on for as long as the file has parts, which it counts.
            let Ok(inspected) = tokio::time::timeout(INSPECTION_MAX, inspecting).await else {
                return Err(Error::invalid("reading the structure of this file takes too long"));
            };
            inspected.map_err(Some)
        }
    };
    let inspected = inspected.map_err(|error| {
        // A panic over hostile bytes is a fault of ours, but the caller's file is what must change.
        tracing::error!(?error, "inspecting an image panicked");
        Error::invalid("the image can't be read")
    })?;
    Ok(inspected?)
}

/// Decodes the first picture before it is acknowledged, so that what is uploaded can be shown. A kind without a decoder is kept, and
/// so is what takes more than is allowed: a request for a rendering gets the reason. Small pictures in the usual formats are trusted.
///
/// # Errors
/// [`Error::Invalid`] when pixels are missing or broken; [`Error::Busy`] where only decoding shows that and there is no worker.
async fn check_pixels(app: &App, request: &Request, content: &Content, inspected: Inspected) -> Result<(), Error> {
    let Inspected { facts, doubtful } = inspected;
    let usual = matches!(facts.format, Format::Jpeg | Format::Png | Format::WebP) && content.len() <= UNDECODED_BYTES_MAX;
    if usual && !doubtful {
        return Ok(());
    }
    let source = Given { content, facts: Some(&facts) };
    match app.workers.check(request.actor.org, &source).await {
        Ok(None) => Ok(()),
        Ok(Some(reason)) => {
            tracing::info!(reason, "an image is kept that can't be shown");
            Ok(())
        }
        Err(Failure::Refused(reason)) => Err(Error::invalid(reason)),
        Err(failure) if doubtful => Err(failure.into()),
        // The structure is sound, and whoever sends it isn't kept waiting by those who look at pictures.
        Err(Failure::Overtaxed(_) | Failure::Killed | Failure::Passing(_)) => Ok(()),
    }
}

impl Received {
    /// Stores the bytes, then the row, both durably. What it returns may be acknowledged.
    ///
    /// # Errors
    /// [`Error::Conflict`], [`Error::NoSpace`], [`Error::Busy`], [`Error::Internal`]; nothing stays behind that a reader could see.
    pub async fn store(self) -> Result<Stored, Error> {
        let Self { app, request, spooled, facts, place: _place } = self;
        let mut turn = Some(app.uploads.turn(request.actor.org).await?);
        app.storage.check_space_for(&spooled.content)?;
        let image = describe(&request, &spooled, facts, app.database.now());
        let chosen = match &request.target {
            Target::Application { id, .. } => *id,
            Target::Ticket { .. } | Target::Name { .. } => None,
        };
        // The bytes and their row belong into the same place, should the data be moving elsewhere.
        let open = app.database.open_gate().await;
        let waiting = Waiting::begin(app.options.sweep.grace);
        app.storage.put(&image.version, &spooled.content).await?;
        let committed = match name_turn(&app, &image, &mut turn).await {
            Ok(_name) => commit(&app, open, image.clone(), request.target, waiting).await,
            Err(error) => Err(error),
        };
        let (image, ticket) = match committed {
            Ok(stored) => stored,
            Err(error) => {
                discard(&app, &image, &error).await;
                return Err(error);
            }
        };
        app.halt.check()?;
        app.looks.wake();
        metrics::counter!("imagewell_uploads_total").increment(1);
        metrics::counter!("imagewell_upload_bytes_total").increment(image.version.size_bytes);
        Ok(Stored { called: chosen.unwrap_or(image.id), image: Arc::new(image), ticket })
    }
}

/// What was stored, and may be acknowledged.
#[derive(Debug)]
pub struct Stored {
    /// The image with the version that was sent.
    pub image: Arc<Image>,
    /// What its org calls it: the id that the caller has chosen, or the image's own.
    pub called: ImageId,
    /// Its ticket, if it is a temporary one.
    pub ticket: Option<TicketNumber>,
}

/// The image as it will be stored. The number, and for a name that exists the identity, are told by the database.
fn describe(request: &Request, spooled: &Spooled, facts: Option<Facts>, now: Timestamp) -> Image {
    let format = facts.map(|facts| facts.format).or(match request.accept {
        Accept::ImageOrNothing(format) | Accept::Unseen(format) => Some(format),
        Accept::Images | Accept::ImagesIn(_) | Accept::AnyFile { .. } => None,
    });
    let blob = BlobKey::mint(&request.namespace, request.actor.org, format.map_or("bin", Format::extension));
    let mut image = Image {
        id: ImageId::mint(),
        org: request.actor.org,
        owner: request.actor.account,
        namespace: request.namespace.clone(),
        name: None,
        app_key: None,
        permission: ActionKey::built_in(ActionKey::FILES_READ),
        acl: Acl::Private,
        state: State::Kept,
        crop: None,
        focus: None,
        latest_number: 1,
        version: Version {
            number: 1,
            blob,
            size_bytes: spooled.content.len(),
            digest: spooled.digest,
            content_type: format.map_or("application/octet-stream", Format::media_type).to_owned(),
            file_name: match &request.accept {
                Accept::AnyFile { name } => name.clone(),
                _ => None,
            },
            facts,
            look: None,
            created_by: request.actor.account,
            attribution: Attribution::default(),
            created: now,
        },
        created: now,
    };
    match request.target.clone() {
        Target::Application { app_key, permission, id } => {
            (image.app_key, image.permission) = (Some(app_key), permission);
            image.id = id.map_or(image.id, |id| id.chosen_by(image.org));
        }
        Target::Ticket { .. } => {
            image.permission = ActionKey::built_in(ActionKey::UPLOAD);
            image.state = State::Temporary;
        }
        Target::Name { name, attribution } => {
            image.name = Some(name);
            image.version.attribution = attribution;
            image.state = State::of_latest(image.version.size_bytes);
        }
    }
    image
}

/// Waits until nobody else in this process writes to the name, if it has one. Whoever waits for that keeps no other upload waiting.
async fn name_turn<T>(app: &App, image: &Image, uploading: &mut Option<T>) -> Result<Option<db::Turn>, Error> {
    let Some(name) = image.name.clone().filter(|_| app.database.is_shared()) else { return Ok(None) };
    *uploading = None;
    let address = db::files::Address { org: image.org, namespace: image.namespace.clone(), name };
    app.database.turn(address.org, &address).await
}

/// The row, in a commit that it shares. What it says of itself may change with it: its number, and the identity of its name.
async fn commit(
    app: &App,
    open: Open,
    row: Image,
    target: Target,
    waiting: Waiting,
) -> Result<(Image, Option<TicketNumber>), Error> {
    let refusal = match target {
        Target::Application { id: None, .. } | Target::Name { .. } => Refusal::Unexpected,
        Target::Application { id: Some(_), .. } | Target::Ticket { .. } => Refusal::Expected,
    };
    let is_shared = app.database.is_shared();
    app.database
        .write_through(
            open,
            move |connection| {
                Box::pin(async move {
                    // Where nothing else sweeps, nothing has gone while this process stood still.
                    if is_shared {
                        waiting.check()?;
                    }
                    match target {
                        Target::Application { .. } => db::images::insert(connection, &row).await.map(|()| (row, None)),
                        Target::Name { .. } => db::files::add_version(connection, row).await.map(|row| (row, None)),
                        Target::Ticket { lifetime, numbers } => {
                            let expires = row.created.plus(lifetime);
                            let ticket = db::tickets::add(connection, &row, numbers, expires).await?;
                            Ok((row, Some(ticket)))
                        }
                    }
                })
            },
            refusal,
        )
        .await
}

/// The row was refused, so the blob has no owner. When the commit's fate is unknown the blob stays for `sweep` to judge.
async fn discard(app: &App, image: &Image, error: &Error) {
    if matches!(error, Error::Conflict | Error::NoSpace | Error::Busy { .. })
        && let Err(error) = app.storage.delete(&image.version.blob).await
    {
        tracing::warn!(%error, "the blob of a refused upload is left to the sweep");
    }
}

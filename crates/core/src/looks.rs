//! What nobody waits for, once an image is stored: what it looks like from afar, and renderings that are sure to be asked for.
//!
//! A version that nobody has looked at says so in its row, so nothing is lost with a process: the next one goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use imagewell_imaging::transform::Outputs;

use crate::app::App;
use crate::grammar::Asked;
use crate::model::{Image, State, Timestamp};
use crate::{Error, db, leases, presets, variant};

/// Versions that are read from the database at a time.
const PAGE: u32 = 32;

/// Between two looks while uploads are coming in: they want the processors and the database for themselves.
const BESIDE_UPLOADS: Duration = Duration::from_millis(100);

/// Longer than any look takes.
const LEASE_LASTS: Duration = Duration::from_secs(120);

/// Whether something may wait, and whether somebody is at it.
#[derive(Debug)]
pub(crate) struct Looks {
    waiting: AtomicBool,
    running: AtomicBool,
}

impl Default for Looks {
    /// What an earlier process left waits.
    fn default() -> Self {
        Self { waiting: AtomicBool::new(true), running: AtomicBool::new(false) }
    }
}

impl Looks {
    /// Something was stored.
    pub(crate) fn wake(&self) {
        self.waiting.store(true, Ordering::SeqCst);
    }
}

/// Starts to look at what waits, unless nothing does or somebody is at it.
pub(crate) fn go_on(app: &Arc<App>) {
    if !app.options.looks || app.looks.running.swap(true, Ordering::SeqCst) {
        return;
    }
    if !app.looks.waiting.swap(false, Ordering::SeqCst) {
        app.looks.running.store(false, Ordering::SeqCst);
        return;
    }
    let app = Arc::clone(app);
    tokio::spawn(async move {
        if let Err(error) = catch_up(&app).await {
            if !matches!(error, Error::Busy { .. } | Error::TooMany { .. }) {
                tracing::warn!(%error, "looking at images stopped; it is tried again");
            }
            app.looks.wake();
        }
        app.looks.running.store(false, Ordering::SeqCst);
    });
}

/// Looks at everything that waits, one after the other, so that callers' renderings have the workers. Ends when nothing waits, or the
/// service is busy.
///
/// # Errors
/// [`Error::Internal`] when the database fails; [`Error::Busy`] when there is no room.
async fn catch_up(app: &App) -> Result<(), Error> {
    loop {
        let waiting = db::looks::waiting(&app.database, PAGE).await?;
        if waiting.is_empty() {
            return Ok(());
        }
        let mut taken = 0;
        for image in waiting {
            if app.uploads.available_permits() < app.options.uploads_concurrent_max {
                tokio::time::sleep(BESIDE_UPLOADS).await;
            }
            if !leases::take(app, lease(&image), LEASE_LASTS).await? {
                continue;
            }
            // Whatever comes of it, its row then says that somebody has looked.
            let looked = look_at(app, &image).await;
            leases::give_back(app, lease(&image)).await;
            looked?;
            taken += 1;
        }
        if taken == 0 {
            // Other nodes are at all of them. Should one die, its images are found again later.
            return Ok(());
        }
    }
}

/// Who has it looks at the version.
fn lease(image: &Image) -> String {
    format!("look:{}", image.version.blob.as_str())
}

async fn look_at(app: &App, image: &Image) -> Result<(), Error> {
    let version = &image.version;
    if !db::looks::waits(&app.database, &version.blob).await? {
        // Another node was faster.
        return Ok(());
    }
    let look = match variant::content(app, version).await {
        Ok(source) => app.workers.look(image.org, &source, version.facts.as_ref()).await,
        Err(error) => Err(error),
    };
    let look = match look {
        Ok(look) => Some(look),
        Err(busy @ (Error::Busy { .. } | Error::TooMany { .. })) => return Err(busy),
        Err(error) => {
            // It stays as it is: a picture that can't be decoded is still kept and served.
            tracing::info!(image = %image.id, %error, "an image can't be looked at");
            None
        }
    };
    if look.is_some() && image.state == State::Kept {
        prewarm(app, image).await?;
    }
    let image = image.clone();
    app.database
        .write(move |connection| {
            Box::pin(async move { db::looks::set(connection, &image, look.as_ref(), Timestamp::now()).await })
        })
        .await
}

/// Makes the renderings of those presets that are to be there at once: for clients that read WebP, and for those that don't.
async fn prewarm(app: &App, image: &Image) -> Result<(), Error> {
    for preset in presets::of_org(app, image.org).await?.iter().filter(|preset| preset.prewarm) {
        let Ok(asked) = Asked::parse(&preset.steps, u32::MAX) else { continue };
        let modern = Outputs { webp: true, ..Outputs::CLASSIC };
        let clients: &[Outputs] = if asked.depends_on_accept() { &[Outputs::CLASSIC, modern] } else { &[Outputs::CLASSIC] };
        for client in clients {
            let transform = variant::of_image(image, &asked.transform(*client));
            match variant::open_or_render(app, image, &transform).await {
                Err(busy @ (Error::Busy { .. } | Error::TooMany { .. })) => return Err(busy),
                Err(error) => tracing::info!(image = %image.id, preset = preset.name, %error, "a preset can't be rendered"),
                Ok(_) => {}
            }
        }
    }
    Ok(())
}

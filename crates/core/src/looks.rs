//! What nobody waits for, once an image is stored: what it looks like from afar, and renderings that are sure to be asked for.
//!
//! A version that nobody has looked at says so in its row, so nothing is lost with a process: the next one goes on. Orgs take turns (see
//! [`turns`]). Only what a decoder refuses is looked at once; whatever else goes wrong is tried again after a pause, which grows, and a picture that ends
//! workers is given up after the third one.

mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use imagewell_imaging::look::Look;
use imagewell_imaging::transform::Outputs;

use crate::app::App;
use crate::db::looks::Tries;
use crate::fetch::Original;
use crate::looks::turns::Turns;
use crate::model::{Image, State, Timestamp};
use crate::workers::Failure;
use crate::{Error, background, db, leases, presets, variant};

/// After so long what has come in the meantime has its turn before the rest of a page.
const PAGE_LASTS: Duration = Duration::from_secs(1);

/// Between two looks while uploads are coming in: they want the processors and the database for themselves.
const BESIDE_UPLOADS: Duration = Duration::from_millis(100);

/// Longer than any look takes.
const LEASE_LASTS: Duration = Duration::from_secs(120);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(6 * 3600);

/// After a panic, which is an error in the program: others that wait have their turn all the same.
const AFTER_PANIC: Duration = Duration::from_secs(60);

/// A picture is given up after the death of so many workers.
const DEATHS_MAX: u32 = 3;

/// Versions that are gone through at a time for formats that have got a decoder.
const FORMATS_PAGE: i64 = 5000;

/// Whether something may wait, and whether somebody is at it.
#[derive(Debug)]
pub(crate) struct Looks {
    waiting: AtomicBool,
    running: AtomicBool,
    /// Whether this process has seen to formats that have got a decoder.
    knows_formats: AtomicBool,
    /// When the first of those that were put off has its turn, in microseconds since 1970.
    again_us: AtomicI64,
}

impl Default for Looks {
    /// What an earlier process left waits.
    fn default() -> Self {
        Self {
            waiting: AtomicBool::new(true),
            running: AtomicBool::new(false),
            knows_formats: AtomicBool::new(false),
            again_us: AtomicI64::new(i64::MAX),
        }
    }
}

impl Looks {
    /// Something was stored.
    pub(crate) fn wake(&self) {
        self.waiting.store(true, Ordering::SeqCst);
    }

    /// Something is to be looked at from then on.
    fn wake_at(&self, then: Timestamp) {
        self.again_us.fetch_min(then.0, Ordering::SeqCst);
    }

    /// Whether something waits whose time has come. From now on nothing does.
    fn take(&self, now: Timestamp) -> bool {
        let due = self.again_us.load(Ordering::SeqCst) <= now.0;
        if due {
            self.again_us.store(i64::MAX, Ordering::SeqCst);
        }
        self.waiting.swap(false, Ordering::SeqCst) || due
    }
}

/// Starts to look at what waits, unless nothing does or somebody is at it.
pub(crate) fn go_on(app: &Arc<App>) {
    if !app.options.looks || app.looks.running.swap(true, Ordering::SeqCst) {
        return;
    }
    if !app.looks.take(app.database.now()) {
        app.looks.running.store(false, Ordering::SeqCst);
        return;
    }
    let running = Running(Arc::clone(app));
    tokio::spawn(async move {
        let app = &running.0;
        if let Err(error) = catch_up(app).await {
            if !matches!(error, Error::Busy { .. } | Error::TooMany { .. }) {
                tracing::warn!(%error, "looking at images stopped; it is tried again");
            }
            app.looks.wake();
        }
    });
}

/// While one looks at what waits.
struct Running(Arc<App>);

impl Drop for Running {
    fn drop(&mut self) {
        let Self(app) = self;
        if std::thread::panicking() {
            background::note_panic("looks");
            app.looks.wake_at(Timestamp::now().plus(AFTER_PANIC));
        }
        app.looks.running.store(false, Ordering::SeqCst);
    }
}

/// Looks at everything that waits, one after the other, so that callers' renderings have the workers. Ends when nothing waits, or the
/// service is busy.
///
/// # Errors
/// [`Error::Internal`] when the database fails; [`Error::Busy`] when there is no room.
async fn catch_up(app: &Arc<App>) -> Result<(), Error> {
    if !app.looks.knows_formats.load(Ordering::SeqCst) {
        look_again_at_formats(app).await?;
        app.looks.knows_formats.store(true, Ordering::SeqCst);
    }
    let mut turns = Turns::default();
    loop {
        let mut waiting = turns.waiting(&app.database).await?;
        if waiting.is_empty() {
            return Ok(());
        }
        let begun = tokio::time::Instant::now();
        let mut taken = 0;
        while let Some(image) = turns.next(&mut waiting) {
            if app.uploads.are_busy() {
                tokio::time::sleep(BESIDE_UPLOADS).await;
            }
            // Who has it looks at the version.
            let lease = format!("look:{}", image.version.blob.as_str());
            let Some(lease) = leases::hold(app, lease, LEASE_LASTS).await? else { continue };
            let looked = look_at(app, &image).await;
            lease.give_back().await;
            looked?;
            taken += 1;
            if begun.elapsed() > PAGE_LASTS {
                break;
            }
        }
        if taken == 0 {
            // Other nodes are at all of them. Should one die, its images are found again later.
            return Ok(());
        }
    }
}

/// Has images looked at once more of which nothing was seen because their format had no decoder. Page by page, so that no write takes long;
/// broken off, it begins anew.
async fn look_again_at_formats(app: &Arc<App>) -> Result<(), Error> {
    for format in db::looks::formats_again(&app.database).await? {
        let mut behind = String::new();
        while let Some(end) = db::looks::page_end(&app.database, &behind, FORMATS_PAGE).await? {
            let (format, begin, last) = (format.clone(), behind, end.clone());
            app.database
                .write(move |connection| Box::pin(async move { db::looks::again(connection, &begin, &last, &format).await }))
                .await?;
            behind = end;
        }
        app.database.write(move |connection| Box::pin(async move { db::looks::format_done(connection, &format).await })).await?;
    }
    Ok(())
}

/// What came of a try.
enum Tried {
    /// It is done with, whether or not there was anything to see.
    Done(Option<Look>),
    /// Something didn't work that may work another time.
    Again { look: Option<Look>, killed_a_worker: bool },
}

async fn look_at(app: &Arc<App>, image: &Image) -> Result<(), Error> {
    let Some(tries) = db::looks::tries(&app.database, &image.version.blob).await? else {
        // Another node was faster.
        return Ok(());
    };
    let tried = tried(app, image).await?;
    let image = image.clone();
    match tried {
        Tried::Again { look, killed_a_worker } if tries.deaths + u32::from(killed_a_worker) < DEATHS_MAX => {
            let tries = Tries { failed: tries.failed + 1, deaths: tries.deaths + u32::from(killed_a_worker) };
            let again = app.database.now().plus(pause_after(app.options.looks_pause, tries.failed));
            app.looks.wake_at(again);
            app.database
                .write(move |connection| {
                    Box::pin(async move { db::looks::put_off(connection, &image, look.as_ref(), tries, again).await })
                })
                .await
        }
        Tried::Done(look) | Tried::Again { look, .. } => {
            let now = app.database.now();
            app.database
                .write(move |connection| Box::pin(async move { db::looks::set(connection, &image, look.as_ref(), now).await }))
                .await
        }
    }
}

/// Each pause is four times as long as the one before.
fn pause_after(first: Duration, failed: u32) -> Duration {
    first.saturating_mul(4_u32.saturating_pow(failed.saturating_sub(1))).min(PAUSE_MAX)
}

async fn tried(app: &Arc<App>, image: &Image) -> Result<Tried, Error> {
    let source = Original { app, version: &image.version };
    let failure = match app.workers.look(image.org, &source).await {
        Ok(look) => {
            let prewarmed = image.state != State::Kept || prewarm(app, image).await?;
            return Ok(if prewarmed {
                Tried::Done(Some(look))
            } else {
                Tried::Again { look: Some(look), killed_a_worker: false }
            });
        }
        Err(failure) => failure,
    };
    // It stays as it is: a picture that can't be decoded is still kept and served.
    tracing::info!(image = %image.id, ?failure, "an image can't be looked at");
    match failure {
        Failure::Refused(_) => Ok(Tried::Done(None)),
        Failure::Overtaxed(_) | Failure::Killed => Ok(Tried::Again { look: None, killed_a_worker: true }),
        Failure::Passing(busy @ (Error::Busy { .. } | Error::TooMany { .. })) => Err(busy),
        Failure::Passing(_) => Ok(Tried::Again { look: None, killed_a_worker: false }),
    }
}

/// Makes the renderings of those presets that are to be there at once: for clients that read WebP, and for those that don't. False when
/// one couldn't be made that may be another time.
async fn prewarm(app: &Arc<App>, image: &Image) -> Result<bool, Error> {
    let mut all = true;
    for preset in presets::of_org(app, image.org).await?.iter().filter(|preset| preset.prewarm) {
        // It was within the bounds when it was provisioned; they may have become narrower.
        let Ok(asked) = presets::asked(app, &preset.steps) else { continue };
        let modern = Outputs { webp: true, ..Outputs::CLASSIC };
        let clients: &[Outputs] = if asked.depends_on_accept() { &[Outputs::CLASSIC, modern] } else { &[Outputs::CLASSIC] };
        for client in clients {
            let transform = variant::of_image(image, &asked.transform(*client));
            if let Err(error) = variant::open_or_render(app, image, &transform).await {
                tracing::info!(image = %image.id, preset = preset.name, %error, "a preset can't be rendered");
                all &= matches!(error, Error::Invalid { .. });
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_quarter_of_a_day() {
        let seconds: Vec<u64> = [1, 2, 3, 4, 100].map(|failed| pause_after(Duration::from_secs(5), failed).as_secs()).to_vec();
        assert_eq!(seconds, [5, 20, 80, 320, 21_600]);
    }
}

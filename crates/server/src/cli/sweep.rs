use std::process::ExitCode;

use imagewell_core::sweep::{self, Finding, Mode};

use super::{Outcome, explained};
use crate::config::Settings;
use crate::serve::{Service, database_place};

/// What the flags ask for.
pub(super) fn mode(dry_run: bool, confirm: bool) -> Mode {
    match (dry_run, confirm) {
        (true, _) => Mode::DryRun,
        (false, true) => Mode::RemoveConfirmed,
        (false, false) => Mode::Remove,
    }
}

/// Sweeps once and prints each finding. Exits with 1 where orphans were left alone because they are suspiciously many.
pub(super) async fn run(settings: Settings, mode: Mode) -> Outcome {
    let program = std::env::current_exe()?;
    database_place(&settings).expect().map_err(explained)?;
    let service = match mode {
        Mode::DryRun => Service::look(settings, program).await,
        Mode::Remove | Mode::RemoveConfirmed => Service::open(settings, program).await,
    };
    let service = service.map_err(explained)?;
    let verb = if mode == Mode::DryRun { "would remove" } else { "removed" };
    let mut stopped = false;
    let summary = sweep::run(&service.app, mode, |finding| match finding {
        Finding::Suspicious { orphans, blobs } => {
            stopped = true;
            eprintln!("{}", refusal(*orphans, *blobs));
        }
        Finding::Orphan { key, size_bytes, modified } => {
            let since = httpdate::fmt_http_date(modified.to_system_time());
            let verb = if stopped || mode == Mode::DryRun { "would move" } else { "moved" };
            println!(
                "{verb} {} ({size_bytes} bytes) to the trash: no image points at it, and it is there since {since}",
                key.as_str()
            );
        }
        Finding::Deleted { key, size_bytes, since } => {
            let since = httpdate::fmt_http_date(since.to_system_time());
            println!("{verb} {} ({size_bytes} bytes) from the trash: it was there since {since}", key.as_str());
        }
        Finding::BroughtBack { key } => {
            let verb = if mode == Mode::DryRun { "would bring" } else { "brought" };
            println!("{verb} {} back from the trash: an image points at it", key.as_str());
        }
        Finding::Failed { key, why } => eprintln!("left {}: {why}", key.as_str()),
        Finding::ClockAhead(ahead) => eprintln!(
            "the clock is {} s ahead of the last time this database was in use: what has become due since then is left alone. \
             If the clock is right: imagewell sweep --confirm",
            ahead.as_secs()
        ),
        Finding::StrayVariant { key, size_bytes } => {
            println!("{verb} {} ({size_bytes} bytes): a rendering that is not counted among those that are kept", key.as_str());
        }
        Finding::Leftover { path, size_bytes } => {
            println!("{verb} {} ({size_bytes} bytes): a staging file of an upload that was cut off", path.display());
        }
        Finding::Unfinished { key } => println!("{verb} the parts of {}: its upload was never finished", key.as_str()),
        Finding::Expired { images: 0, .. } | Finding::PastUndo { versions: 0, .. } | Finding::EndedSessions(0) => {}
        Finding::Expired { images, bytes } => println!("{verb} {images} pictures ({bytes} bytes): nobody took them in time"),
        Finding::PastUndo { versions, bytes } => {
            println!("{verb} {versions} deleted versions ({bytes} bytes): they can't be restored any more");
        }
        Finding::EndedSessions(count) => println!("{verb} {count} sessions: they have ended"),
        Finding::Progress(blobs) => eprintln!("{blobs} blobs looked at"),
    })
    .await
    .map_err(explained)?;
    println!(
        "{} blobs looked at; {} others' files left alone; {verb} {} expired pictures, {} deleted versions, {} orphans (to the trash), \
         {} blobs of the trash, {} stray renderings, {} staging files, {} sessions, {} bytes",
        summary.blobs,
        summary.foreign,
        summary.expired,
        summary.versions,
        if summary.stopped { 0 } else { summary.orphans },
        summary.deleted,
        summary.variants,
        summary.leftovers,
        summary.sessions,
        summary.bytes
    );
    service.app.close().await;
    Ok(if summary.stopped { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Brings back what the trash has of images that are there.
pub(super) async fn restore_trash(settings: Settings) -> Outcome {
    database_place(&settings).expect().map_err(explained)?;
    let service = Service::open(settings, std::env::current_exe()?).await.map_err(explained)?;
    let restored = service.app.restore_trash(|key| println!("brought {} back from the trash", key.as_str())).await;
    let (brought_back, others) = restored.map_err(explained)?;
    println!("{brought_back} blobs brought back; {others} stay in the trash: no image needs them");
    service.app.close().await;
    Ok(ExitCode::SUCCESS)
}

fn refusal(orphans: u64, blobs: u64) -> String {
    format!(
        "{orphans} of {blobs} blobs have no row in this database. That is more than uploads that were cut off leave behind, so none of them \
         is moved to the trash.\nIs this the store of this database, and the newest state of it? If not, correct database_url or storage_url, or \
         restore the newer database. If it is, move them there with: imagewell sweep --confirm"
    )
}

use std::process::ExitCode;

use imagewell_core::sweep::{self, Finding, Mode};

use super::{Outcome, explained};
use crate::config::Settings;
use crate::serve::Service;

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
    let service = Service::open(settings, std::env::current_exe()?).await.map_err(explained)?;
    let verb = if mode == Mode::DryRun { "would remove" } else { "removed" };
    let mut stopped = false;
    let summary = sweep::run(&service.app, mode, |finding| match finding {
        Finding::Suspicious { orphans, blobs } => {
            stopped = true;
            eprintln!("{}", refusal(*orphans, *blobs));
        }
        Finding::Orphan { key, size_bytes, modified } => {
            let since = httpdate::fmt_http_date(modified.to_system_time());
            let verb = if stopped { "would remove" } else { verb };
            println!("{verb} {} ({size_bytes} bytes): no image points at it, and it lies there since {since}", key.as_str());
        }
        Finding::StrayVariant { key, size_bytes } => {
            println!("{verb} {} ({size_bytes} bytes): a rendering that is not counted among those that are kept", key.as_str());
        }
        Finding::Leftover { path, size_bytes } => {
            println!("{verb} {} ({size_bytes} bytes): a staging file of an upload that was cut off", path.display());
        }
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
        "{} blobs looked at; {verb} {} expired pictures, {} deleted versions, {} orphans, {} stray renderings, {} staging files, {} sessions, {} bytes",
        summary.blobs,
        summary.expired,
        summary.versions,
        if summary.stopped { 0 } else { summary.orphans },
        summary.variants,
        summary.leftovers,
        summary.sessions,
        summary.bytes
    );
    service.app.close().await;
    Ok(if summary.stopped { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn refusal(orphans: u64, blobs: u64) -> String {
    format!(
        "{orphans} of {blobs} blobs have no row in this database. That is more than uploads that were cut off leave behind, so none of them \
         is removed.\nIs this the store of this database, and the newest state of it? If not, correct database_url or storage_url, or \
         restore the newer database. If it is, remove them with: imagewell sweep --confirm"
    )
}

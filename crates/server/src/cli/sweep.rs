use std::process::ExitCode;

use imagewell_core::sweep::{self, Finding, Mode};

use super::{Outcome, explained};
use crate::config::Settings;
use crate::serve::Service;

pub(super) async fn run(settings: Settings, dry_run: bool) -> Outcome {
    let service = Service::open(settings, std::env::current_exe()?).await.map_err(explained)?;
    let (mode, verb) = if dry_run { (Mode::DryRun, "would remove") } else { (Mode::Remove, "removed") };
    let summary = sweep::run(&service.app, mode, |finding| match finding {
        Finding::Orphan { key, size_bytes, modified } => {
            let since = httpdate::fmt_http_date(modified.to_system_time());
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
        summary.orphans,
        summary.variants,
        summary.leftovers,
        summary.sessions,
        summary.bytes
    );
    service.app.close().await;
    Ok(ExitCode::SUCCESS)
}

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use imagewell_core::backup::{self, Damaged, Plan, Progress, Summary};
use imagewell_core::model::Timestamp;
use imagewell_core::storage::Reserve;
use imagewell_core::{Error, Holdings};

use super::progress::{ProgressLine, megabytes};
use super::{Outcome, explained};
use crate::config::Settings;
use crate::serve::{database_place, storage_place};

/// Where to back up to.
#[derive(Args)]
#[group(skip)]
pub(super) struct Backup {
    /// The folder of the backup, on another disk: made when absent, and from then on the same for every run
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Snapshots to keep, the new one included; the oldest ones go, with the images that no other needs. 0 keeps all
    #[arg(long, value_name = "SNAPSHOTS", default_value_t = 7)]
    keep: usize,
    /// Remove old snapshots also when the new one holds less than half of what one of them does
    #[arg(long)]
    prune_anyway: bool,
    /// Take over DIR from another copy of this data, which made its newest snapshot, because this service has replaced that one
    #[arg(long)]
    take_over: bool,
    /// Begin a new backup although DIR has held one before and is empty now, as when its disk was replaced
    #[arg(long, conflicts_with = "take_over")]
    anew: bool,
    /// Bytes of images copied in a second at most, so that the service keeps its disk and network; 0 for as many as go
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    bytes_per_second_max: u64,
}

/// For a run that found its database or store away.
pub(super) const AWAY: &str = "the database or the store does not answer: give the same command again when it does; what is copied is not \
    copied again";

/// Makes a snapshot. Exits with 1 where the store could not give back everything, or old snapshots were kept against the wish.
pub(super) async fn run(settings: Settings, backup: Backup) -> Outcome {
    let plan = Plan {
        from_database: database_place(&settings),
        from_storage: storage_place(&settings),
        folder: backup.folder.clone(),
        take_over: backup.take_over,
        anew: backup.anew,
        known_folders: settings.service.data_dir.join("backup-folders"),
        reserve: Reserve { bytes_min: settings.storage.free_bytes_min, inodes_min: settings.storage.free_inodes_min },
        program: env!("CARGO_PKG_VERSION").to_owned(),
        keep: backup.keep,
        prune_anyway: backup.prune_anyway,
        bytes_per_second_max: backup.bytes_per_second_max,
    };
    let line = ProgressLine::default();
    let made = backup::run(plan, |progress| show(&line, progress)).await;
    line.end();
    let summary = made.map_err(|error| match error {
        Error::NoSpace => format!(
            "the disk of {} is full, but for what storage.free_bytes_min leaves free: earlier snapshots are as they were, and the next run \
             goes on with what is copied",
            backup.folder.display()
        )
        .into(),
        Error::Busy { .. } => AWAY.into(),
        error => explained(error),
    })?;
    print(&summary);
    if std::io::stdout().is_terminal() {
        println!("Now and then read all of it back: imagewell restore {} --dry-run", backup.folder.display());
    }
    let whole = summary.damaged.is_empty() && summary.pruned.stopped.is_none();
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn show(line: &ProgressLine, progress: Progress) {
    match progress {
        Progress::Rows(what, rows) => line.show("rows", || format!("{what}: {rows}")),
        Progress::Blobs { done, bytes, of } => line.show("blobs", || format!("blobs: {done} of {of}, {}", megabytes(bytes))),
        Progress::Pruned(blobs) => line.show("pruned", || format!("blobs that no snapshot needs any more: {blobs}")),
    }
}

fn print(summary: &Summary) {
    println!("Snapshot {}: {}.", summary.snapshot, held(summary.manifest.holdings));
    let there = summary.manifest.holdings.versions.saturating_sub(summary.copied + summary.damaged.len() as u64);
    println!(
        "Copied {} blobs ({}) and read them back; {there} were there already.",
        summary.copied,
        megabytes(summary.copied_bytes)
    );
    if summary.left_out > 0 {
        println!("Left out {} versions that the service has removed meanwhile.", summary.left_out);
    }
    for snapshot in &summary.pruned.snapshots {
        println!("Removed the old snapshot {snapshot}.");
    }
    if summary.pruned.blobs > 0 {
        println!("Removed {} blobs that no snapshot needs any more.", summary.pruned.blobs);
    }
    if let Some(reason) = &summary.not_noted {
        eprintln!("imagewell: the next backup can't tell whether the disk of this one is mounted: {reason}");
    }
    if let Some(reason) = &summary.pruned.stopped {
        eprintln!("imagewell: no old snapshot was removed: {reason}");
        if summary.damaged.is_empty() {
            eprintln!("If that is right, remove them with --prune-anyway");
        }
    }
    if !summary.damaged.is_empty() {
        eprintln!("imagewell: {} blobs are not in this backup:", summary.damaged.len());
        list(&summary.damaged);
    }
}

pub(super) fn list(damaged: &[Damaged]) {
    for Damaged { key, reason } in damaged {
        eprintln!("{}: {reason}", key.as_str());
    }
}

/// As in `3 images in 4 versions (1.2 MB), newest upload 2026-11-26T03:29:58Z`.
pub(super) fn held(holdings: Holdings) -> String {
    let newest = holdings.newest_upload.map_or("none".to_owned(), Timestamp::to_seconds);
    let Holdings { images, versions, bytes, .. } = holdings;
    format!("{images} images in {versions} versions ({}), newest upload {newest}", megabytes(bytes))
}

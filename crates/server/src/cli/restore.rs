use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use imagewell_core::Error;
use imagewell_core::backup::{self, Checked, RestorePlan, Restored};

use super::backup::{AWAY, held, list, show};
use super::progress::{ProgressLine, megabytes};
use super::{Outcome, explained, serve};
use crate::config::{Settings, Value as _};
use crate::serve::{database_place, storage_place};

/// What to restore.
#[derive(Args)]
#[group(skip)]
pub(super) struct Restore {
    /// The folder that `imagewell backup` has written to
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The snapshot to restore: a name below DIR/snapshots. Without it, the newest
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Read all of it, compare every digest, say what is here, and make and change nothing. Works while the service runs
    #[arg(long)]
    dry_run: bool,
    /// Take a store that holds blobs which the snapshot does not know; they stay, until a sweep removes them
    #[arg(long)]
    keep_store: bool,
    /// Leave out images whose bytes are damaged in the backup, instead of stopping
    #[arg(long, conflicts_with = "dry_run")]
    without_damaged: bool,
    /// Bytes of images copied, or read, in a second at most; 0 for as many as go
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    bytes_per_second_max: u64,
}

pub(super) async fn run(settings: Settings, restore: Restore) -> Outcome {
    let plan = RestorePlan {
        folder: restore.folder.clone(),
        snapshot: restore.snapshot.clone(),
        to_database: database_place(&settings),
        to_storage: storage_place(&settings),
        spool_folder: settings.service.data_dir.join("spool"),
        keep_store: restore.keep_store,
        without_damaged: restore.without_damaged,
        bytes_per_second_max: restore.bytes_per_second_max,
    };
    let line = ProgressLine::default();
    if restore.dry_run {
        let checked = backup::check(plan, |progress| show(&line, progress)).await;
        line.end();
        return Ok(report(&checked.map_err(explained)?, &settings));
    }
    // No service of this folder may run meanwhile.
    let _lock = serve::lock(&settings)?;
    let restored = backup::restore(plan, |progress| show(&line, progress)).await;
    line.end();
    let restored = restored.map_err(|error| match error {
        Error::NoSpace => {
            "the disk is full: make room, and give the same command again; no service starts on what is half there".into()
        }
        Error::Busy { .. } => AWAY.into(),
        error => explained(error),
    })?;
    print(&restored, &restore.folder);
    Ok(ExitCode::SUCCESS)
}

/// What is missing comes first: whoever reads no further has read that.
fn print(restored: &Restored, folder: &Path) {
    let left_out = restored.left_out.len();
    if left_out > 0 {
        eprintln!("imagewell: {left_out} versions were left out, because the backup does not have their bytes:");
        list(&restored.left_out);
    }
    for (what, rows) in &restored.rows {
        println!("{rows:>12} {what}");
    }
    println!("Restored the snapshot {} ({}).", restored.snapshot, held(restored.manifest.holdings));
    let digests = match left_out {
        0 => "every digest is right".to_owned(),
        _ => format!("their digests are right, and {left_out} versions of the snapshot are missing here"),
    };
    println!("Copied {} blobs and read them back; {digests}. Everybody has to log in anew.", restored.copied);
    println!(
        "The backup still belongs to the service that made it. If this one has replaced it, run once: imagewell backup {} --take-over",
        folder.display()
    );
}

/// What reading everything has shown. Exits with 1 where the backup is damaged.
fn report(checked: &Checked, settings: &Settings) -> ExitCode {
    let outlook = &checked.outlook;
    println!("Snapshot {}, of imagewell {}: {}.", outlook.snapshot, outlook.manifest.program, held(outlook.manifest.holdings));
    match outlook.here {
        Some(here) => println!("Here, in {}: {}.", settings.database_url().show(), held(here)),
        None => println!("Here, in {}: no database.", settings.database_url().show()),
    }
    match &outlook.refusal {
        Some(refusal) => println!("It would not be restored here: {refusal}."),
        None => println!("It would be restored here."),
    }
    if checked.damaged.is_empty() {
        println!("The backup is whole: {} blobs ({}) read, every digest right.", checked.blobs, megabytes(checked.bytes));
        return ExitCode::SUCCESS;
    }
    eprintln!("imagewell: {} of {} blobs of the backup are damaged:", checked.damaged.len(), checked.blobs);
    list(&checked.damaged);
    eprintln!(
        "Remove these files from the blobs folder of the backup: the next `imagewell backup` copies them anew, while the store has them"
    );
    ExitCode::FAILURE
}

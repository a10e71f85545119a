use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use imagewell_core::Error;
use imagewell_core::moving::{self, Abandoned, Damaged, Move, Plan, Progress};

use super::progress::{ProgressLine, megabytes};
use super::{Outcome, explained};
use crate::config::Settings;
use crate::moved;
use crate::serve::{database_place, storage_place};

/// What to move where.
#[derive(Args)]
#[group(skip)]
pub(super) struct Migrate {
    /// The new database: as database_url. It must be empty. With --cancel: that of the move that is given up
    #[arg(long, value_name = "URL", required_unless_present = "cancel")]
    to_database: Option<String>,
    /// The new store: as storage_url. The settings of `storage` are those of the bucket, on whichever side it is
    #[arg(long, value_name = "URL", required_unless_present = "cancel")]
    to_storage: Option<String>,
    /// Bytes of images copied in a second at most, so that the service keeps its disk and network; 0 for as many as go
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    bytes_per_second_max: u64,
    /// Move although blobs are gone or damaged in the old store: their rows move, their bytes don't, and the end lists them
    #[arg(long)]
    without_damaged: bool,
    /// Copy, but don't cut over: the same command without this goes on from there
    #[arg(long)]
    copy_only: bool,
    /// Forget a move that was begun; the service goes on as it is
    #[arg(long, conflicts_with_all = ["to_storage", "copy_only", "without_damaged"])]
    cancel: bool,
    /// With --cancel, where the new database is lost: don't ask it whether it is in use. It must never have been, and never be
    #[arg(long, requires = "cancel", conflicts_with = "to_database")]
    abandon_target: bool,
}

pub(super) async fn run(settings: Settings, migrate: Migrate) -> Outcome {
    refuse_other_user(&settings.service.data_dir)?;
    if migrate.cancel {
        return cancel(&settings, &migrate).await;
    }
    let target = target_of(&settings, &migrate)?;
    let plan = Plan {
        from_database: database_place(&settings),
        from_storage: storage_place(&settings),
        to_database: database_place(&target),
        to_storage: storage_place(&target),
        spool_folder: settings.service.data_dir.join("spool"),
        bytes_per_second_max: migrate.bytes_per_second_max,
        without_damaged: migrate.without_damaged,
    };
    let begun = Instant::now();
    let mut under_way = Move::open(plan, reporter()).await.map_err(explained)?;
    under_way.copy().await.map_err(explained)?;
    if migrate.copy_only {
        eprintln!();
        println!("Copied. The same command without --copy-only copies what has changed since then and cuts over.");
        return Ok(ExitCode::SUCCESS);
    }
    let data_dir = settings.service.data_dir.clone();
    let hand_over = || moved::write(&target, &data_dir).map_err(|error| Error::internal("writing moved.toml", &error));
    let summary = under_way.cut_over(hand_over).await.map_err(explained)?;
    eprintln!();
    for (table, rows) in &summary.rows {
        println!("{rows:>12} {table}");
    }
    println!("{:>12} blobs, {} bytes, copied and read back by this run", summary.blobs, summary.bytes);
    println!("Moved in {:.0?}: {}.", begun.elapsed(), compared(&summary.damaged));
    match (summary.nodes, summary.followed) {
        (0, _) => println!("No service was running on the old data."),
        (nodes, followed) if followed == nodes => println!("{nodes} services were running, and have gone on with the new data."),
        (nodes, followed) => println!(
            "{nodes} services were running, and {followed} of them have said that they go on with the new data; the others end, to be started with \
             the new settings."
        ),
    }
    println!("Set database_url and storage_url before the next start; {} has them.", moved::file(&data_dir).display());
    Ok(ExitCode::SUCCESS)
}

/// What holds of everything that has moved.
fn compared(damaged: &[Damaged]) -> String {
    if damaged.is_empty() {
        return "every row the same on both sides, every digest right".to_owned();
    }
    let list: Vec<_> = damaged.iter().map(|damaged| format!("\n{}: {}", damaged.key, damaged.damage)).collect();
    format!(
        "every row the same on both sides, every digest right but for {} blobs that are gone or damaged in the old store and not in the new one; keep \
         the old one until good copies of these are in the new one under the same keys:{}\nEnd of the list",
        damaged.len(),
        list.concat()
    )
}

/// The service could not read what another user's process leaves in its folder: the new settings, and files of an SQLite database.
fn refuse_other_user(data_dir: &Path) -> Result<(), String> {
    let Ok(folder) = data_dir.metadata() else { return Ok(()) };
    let (owner, user) = (folder.uid(), rustix::process::geteuid().as_raw());
    if owner == user {
        return Ok(());
    }
    Err(format!(
        "{} belongs to the user with the number {owner}, and this process runs as {user}: run it as the service's user, as in `sudo -u '#{owner}' \
         imagewell migrate …`",
        data_dir.display()
    ))
}

/// The settings of the new place.
fn target_of(settings: &Settings, migrate: &Migrate) -> Result<Settings, String> {
    let mut target = settings.clone();
    for (key, url) in [("database_url", &migrate.to_database), ("storage_url", &migrate.to_storage)] {
        if let Some(url) = url {
            target.set(key, url).transpose().map_err(|hint| format!("--to-{}: {hint}, not {url:?}", &key[..key.len() - 4]))?;
        }
    }
    Ok(target)
}

/// Gives a move up. Where the target has to be asked, it is the one that is named, or that `moved.toml` names.
async fn cancel(settings: &Settings, migrate: &Migrate) -> Outcome {
    let data_dir = &settings.service.data_dir;
    let target = match &migrate.to_database {
        _ if migrate.abandon_target => Abandoned::Unasked,
        Some(_) => Abandoned::AskIn(Some(database_place(&target_of(settings, migrate)?))),
        None => Abandoned::AskIn(moved::read(settings).map(|moved| database_place(&moved))),
    };
    if !moving::cancel(&database_place(settings), target).await.map_err(explained)? {
        println!("No move was under way.");
        return Ok(ExitCode::SUCCESS);
    }
    moved::remove(data_dir).map_err(|error| format!("removing {}: {error}", moved::file(data_dir).display()))?;
    println!("The move is forgotten. What was copied lies in the new database and store and may be removed.");
    if migrate.abandon_target {
        println!("Never start a service on that database.");
    }
    Ok(ExitCode::SUCCESS)
}

fn reporter() -> impl Fn(Progress) + Send + Sync {
    let line = ProgressLine::default();
    move |progress| match progress {
        Progress::Rows(what, rows) => line.show("rows", || format!("{what}: {rows}")),
        Progress::Blobs { done, bytes, of } => line.show("blobs", || format!("blobs: {done} of {of}, {}", megabytes(bytes))),
        Progress::Changes(count) => line.show("changes", || format!("changes that came in meanwhile: {count}")),
        Progress::Compared(table, rows) => line.show("compared", || format!("comparing {table}: {rows}")),
        Progress::Slowed => {
            line.show("slowed", || "changes come in as fast as they are copied: writes are made to wait now and then".to_owned());
        }
        Progress::Waiting => line.show("waiting", || "writes wait while the rest is copied".to_owned()),
        Progress::Moved(waited) => line.show("moved", || format!("moved; writes waited for {:.1} s", waited.as_secs_f64())),
    }
}

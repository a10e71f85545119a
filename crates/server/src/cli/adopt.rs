use std::process::ExitCode;

use imagewell_core::adopt::{Adoption, Bears, Census};

use super::{Outcome, explained};
use crate::config::{Settings, Value as _};
use crate::serve::{database_place, storage_place};

/// Shows what database and store hold, and pairs them if everything matches or the operator insists. Exits with 1 when it doesn't.
pub(super) async fn run(settings: Settings, confirm: bool) -> Outcome {
    let spool = settings.service.data_dir.join("spool");
    let adoption = Adoption::open(&database_place(&settings), &storage_place(&settings), spool).await.map_err(explained)?;
    let census = adoption.census(|blobs| eprint!("\r{blobs} blobs looked up")).await.map_err(explained)?;
    eprintln!();
    show(&settings, &census);
    let adopts = confirm || census.matches();
    if adopts {
        let brought_back = adoption.adopt().await.map_err(explained)?;
        if brought_back > 0 {
            println!("Brought back {brought_back} blobs from the trash.");
        }
        println!("Adopted: from now on this store belongs to this database, and any other database that used it is refused.");
        println!("If it is the service that is backed up, and not a copy of it, run once: imagewell backup DIR --take-over");
    } else {
        println!(
            "Nothing is changed, because they do not match. If this is the right store all the same: imagewell adopt --confirm"
        );
    }
    adoption.close().await;
    Ok(if adopts { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(settings: &Settings, census: &Census) {
    let bears = match census.bears {
        Bears::Nothing => "bears no identity",
        Bears::This => "bears the identity of this database",
        Bears::Unreadable => "bears an identity that can't be read",
        Bears::Another => "bears the identity of another database, which will be refused from then on",
    };
    println!("database {}", settings.database_url().show());
    println!("store    {}: {bears}", settings.storage_url().show());
    for (count, what) in [
        (census.images, "images in the database"),
        (census.versions, "versions of them, each with a blob of its own"),
        (census.blobs, "blobs in the store"),
        (census.matching, "blobs that a version points at"),
        (census.missing(), "versions whose blob is missing: reading them will fail"),
        (census.in_trash, "of these are in the trash: they will be brought back"),
        (census.orphans(), "blobs without a version: sweeps will move them to the trash"),
        (census.foreign, "objects that are not imagewell's: they are left alone"),
    ] {
        println!("{count:>12} {what}");
    }
}

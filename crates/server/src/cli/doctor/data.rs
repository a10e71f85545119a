//! The database, the store, and whether they fit each other.

use std::sync::Arc;

use imagewell_core::diagnosis::{Diagnosis, SchemaState, diagnose};
use imagewell_core::inventory::{self, Found};
use imagewell_core::storage::{Reserve, Storage};
use imagewell_core::verify::{self, Summary};
use imagewell_core::{Error, provision, scrub};
use rustix::fs::{Access, access};
use tokio::signal::unix::{SignalKind, signal};

use super::super::explained;
use super::report::{Grade, Report};
use super::{Examination, proxy};
use crate::config::{Settings, StorageUrl, Value as _};
use crate::serve::{Service, database_place, storage_place};

/// Microseconds that clocks may be apart before tokens and leases suffer, and before they end too early or too late.
const CLOCK_WARNED_AT_US: u64 = 2_000_000;
const CLOCK_FAULTY_AT_US: u64 = 60_000_000;
/// Connections of PostgreSQL that only superusers get, by its default.
const RESERVED_CONNECTIONS: u32 = 3;
/// Days for which backups are commonly kept: damage should be found within that.
const PASS_DAYS_MAX: u64 = 60;
const RESTORE_KEYS: &str = "copy blobs/KEY of an `imagewell backup` to the store's KEY, as its owner, then: imagewell doctor --digests. Look at \
                            the disk (smartctl, dmesg)";
/// Keys of each kind that are printed.
const KEYS_SHOWN: usize = 20;

pub(super) async fn examine(settings: Settings, examination: &Examination, report: &mut Report) -> std::io::Result<()> {
    let found = diagnose(&database_place(&settings), !examination.quick).await;
    let is_usable = match found {
        Ok(found) => database(&settings, &found, report),
        Err(error) => {
            let remedy =
                "correct data_dir and database_url; where nothing was ever served, `imagewell serve` makes an SQLite database";
            report.fault("database", explained(error).to_string(), remedy);
            false
        }
    };
    let has_store = store(&settings, report).await;
    let is_provider_set = !settings.identity_provider.issuer.is_empty();
    if !(is_usable && has_store) {
        return Ok(());
    }
    match Service::look(settings, std::env::current_exe()?).await {
        Err(error) => report.fault("data", explained(error).to_string(), "correct database_url and storage_url"),
        Ok(service) => {
            if is_provider_set {
                provider(&service, report).await;
            }
            match service.app.verify_identity().await {
                Ok(()) => {
                    report.ok("identity", "the store belongs to this database");
                    sweeps(&service, report).await;
                }
                Err(error) => {
                    let remedy = "do that before anything else: no service starts on these two";
                    report.fault("identity", explained(error).to_string(), remedy);
                }
            }
            orgs(&service, report).await;
            scrubbed(&service, report).await;
            if !examination.quick && !examination.without_inventory {
                compared(&service, report).await;
            }
            if examination.digests {
                digests(&service, examination, report).await;
            }
            if let Some(url) = &examination.url {
                proxy::examine(&service, url, report).await;
            }
            service.app.close().await;
        }
    }
    Ok(())
}

/// Whether something stops them.
async fn sweeps(service: &Service, report: &mut Report) {
    if let Err(error) = service.app.check_sweeps().await {
        let remedy = "until then nothing is removed: neither orphans nor what was deleted or has expired";
        report.fault("sweeps", explained(error).to_string(), remedy);
    }
}

/// What the database says of itself. False where its rows can't be read by this program.
fn database(settings: &Settings, found: &Diagnosis, report: &mut Report) -> bool {
    let place = settings.database_url().show();
    for setting in found.settings.iter().filter(|setting| !setting.is_safe) {
        // The mode of a file's journal is set by each start of the service; a copy may have another one.
        let is_decided = found.connections_max.is_some() && settings.database.allow_weak_durability;
        let grade = if is_decided || setting.name == "journal_mode" { Grade::Warning } else { Grade::Fault };
        report.graded(
            grade,
            "database",
            format!(
                "{} is {} in {}: what was acknowledged may be lost when it goes down",
                setting.name, setting.value, found.engine
            ),
            format!("set it to {}", setting.wanted),
        );
    }
    if found.is_standby {
        report.fault(
            "database",
            format!("{place} is a standby that takes no writes"),
            "name the address that leads to the primary server",
        );
    }
    clock(found, report);
    connections(settings, found, report);
    match &found.damage {
        Some(lines) if !lines.is_empty() => report.fault(
            "database",
            format!("{place} is damaged: {}", lines.join("; ")),
            "stop the service, keep a copy of the file, and restore the newest backup; then run imagewell doctor --digests",
        ),
        _ => {}
    }
    match found.schema {
        SchemaState::Current => {
            let whole = if found.damage.is_some() { ", and whole" } else { "" };
            report.ok("database", format!("{place} opens and is up to date{whole} ({})", found.engine));
            true
        }
        SchemaState::Missing => {
            let remedy = "correct data_dir and database_url; where nothing was ever served, `imagewell serve` makes its tables";
            report.fault("database", format!("{place} holds no data of imagewell"), remedy);
            false
        }
        SchemaState::Older(count) => {
            let remedy =
                "make a backup and start `imagewell serve`, which makes them; rows and bytes are only looked at after that";
            report.warn("database", format!("{place} was made by an older imagewell: {count} migrations are to be made"), remedy);
            false
        }
        SchemaState::Compatible(number) => {
            let remedy = "upgrade this node as well; backups and moves need the newer program";
            report.warn(
                "database",
                format!("{place}: its schema {number} was made by a newer imagewell, with which this one works"),
                remedy,
            );
            true
        }
        SchemaState::Newer(number) => {
            let remedy = "start the newer program again, or restore a backup from before it was started";
            report.fault("database", format!("{place}: its schema {number} was made by a newer imagewell"), remedy);
            false
        }
    }
}

fn clock(found: &Diagnosis, report: &mut Report) {
    let Some(ahead) = found.clock_ahead_us else { return };
    let (apart, seconds) = (ahead.unsigned_abs(), ahead as f64 / 1e6);
    let text = format!("the database server's clock is {seconds:.1} s ahead of this machine's");
    let remedy = "let both take the time from the same servers (chrony, systemd-timesyncd)";
    if apart >= CLOCK_FAULTY_AT_US {
        report.fault("clock", text, remedy);
    } else if apart >= CLOCK_WARNED_AT_US {
        report.warn("clock", text, remedy);
    }
}

fn connections(settings: &Settings, found: &Diagnosis, report: &mut Report) {
    let ours = settings.database.connections_max.get();
    if let Some(all) = found.connections_max.filter(|all| ours > all.saturating_sub(RESERVED_CONNECTIONS)) {
        report.warn(
            "database",
            format!("one node may take {ours} connections (database.connections_max), and the server has {all} in all"),
            "raise max_connections of PostgreSQL: it must exceed those of all nodes together",
        );
    }
}

/// Whether the store is there and may be used as the service uses it.
async fn store(settings: &Settings, report: &mut Report) -> bool {
    let place = settings.storage_url().show();
    let reserve = Reserve { bytes_min: 0, inodes_min: 0 };
    let opened = Storage::look(&storage_place(settings), nearest_spool(settings), Arc::default(), reserve);
    let tried = match (opened, settings.storage_url()) {
        (Ok(_), StorageUrl::Folder(folder)) => access(&folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
            .map(|()| format!("{place} may be read and written"))
            .map_err(|error| Error::internal(&format!("{place} can't be used"), &std::io::Error::from(error))),
        (Ok(store), StorageUrl::Bucket(_)) => match store.probe().await {
            Ok(()) => Ok(format!("{place} takes, keeps and gives back bytes")),
            Err(Error::Busy { .. }) => Err(Error::Internal { detail: format!("{place} does not answer") }),
            Err(error) => Err(error),
        },
        (Err(error), _) => Err(error),
    };
    match tried {
        Ok(text) => {
            report.ok("store", text);
            true
        }
        Err(error) => {
            let remedy = "correct data_dir and storage_url, mount what is not mounted, and chown it to the service's user";
            report.fault("store", explained(error).to_string(), remedy);
            false
        }
    }
}

/// The spool, or what is there above it: only its free space is asked for.
fn nearest_spool(settings: &Settings) -> std::path::PathBuf {
    let spool = settings.service.data_dir.join("spool");
    spool.ancestors().find(|path| path.exists()).map_or_else(|| "/".into(), std::path::Path::to_owned)
}

async fn provider(service: &Service, report: &mut Report) {
    let Some(provider) = &service.provider else { return };
    match provider.fetch().await {
        Ok(keys) => report.ok("identity provider", format!("it publishes {} keys", keys.keys.len())),
        Err(detail) => {
            report.fault("identity provider", detail, "correct identity_provider.issuer or identity_provider.jwks_url");
        }
    }
}

/// A text of digits alone was once taken for an org's number.
async fn orgs(service: &Service, report: &mut Report) {
    match provision::orgs_named_by_digits(&service.app).await {
        Ok(named) => {
            for org in named {
                report.warn(
                    "orgs",
                    format!(
                        "org {} is named {:?}: clients that send a name and those that send a number may mean another one",
                        org.id.0, org.name
                    ),
                    format!("give it a name with a letter: `[[orgs]] id = {}, name = \"…\"` for `imagewell provision`", org.id.0),
                );
            }
        }
        Err(error) => report.fault("orgs", explained(error).to_string(), "see the finding on the database"),
    }
}

fn list(found: &Found) -> String {
    let mut text = found.keys.iter().take(KEYS_SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n         ");
    if found.count > KEYS_SHOWN as u64 {
        text.push_str("\n         …");
    }
    text
}

async fn compared(service: &Service, report: &mut Report) {
    let taken = inventory::take(&service.app, |inventory| {
        Report::progress(&format!("{} rows and {} blobs compared", inventory.rows, inventory.blobs));
    })
    .await;
    Report::progress("");
    let inventory = match taken {
        Ok(inventory) => inventory,
        Err(error) => {
            return report.fault("inventory", explained(error).to_string(), "see the findings on the database and the store");
        }
    };
    let (gone, resized, orphans) = (&inventory.gone, &inventory.resized, &inventory.orphans);
    if gone.count > 0 {
        let remedy = "is this the store of this database? If it is, copy blobs/KEY of an `imagewell backup` to the store's KEY, as its owner";
        report.fault(
            "inventory",
            format!("{} of {} rows have no bytes:\n         {}", gone.count, inventory.rows, list(gone)),
            remedy,
        );
    }
    if resized.count > 0 {
        let remedy = RESTORE_KEYS;
        report.fault(
            "inventory",
            format!("the bytes of {} rows have another length:\n         {}", resized.count, list(resized)),
            remedy,
        );
    }
    if service.app.leaves_orphans_alone(inventory.blobs, orphans.count) {
        let remedy = "is this the store of this database, and the newest state of it? Then move them to the trash: `imagewell sweep \
                      --confirm`; else correct database_url or storage_url, or restore the newer database";
        let text = format!(
            "{} of {} blobs have no row, which is so many that sweeps leave them alone:\n         {}",
            orphans.count,
            inventory.blobs,
            list(orphans)
        );
        report.fault("inventory", text, remedy);
    } else if orphans.count > 0 {
        let remedy =
            "is this the newest state of the database? If it is, the next sweep takes them: `imagewell sweep --dry-run` says why";
        let text = format!("{} of {} blobs have no row:\n         {}", orphans.count, inventory.blobs, list(orphans));
        report.warn("inventory", text, remedy);
    }
    if gone.count + resized.count + orphans.count == 0 {
        let (rows, blobs) = (inventory.rows, inventory.blobs);
        match blobs.saturating_sub(rows) {
            0 => report.ok("inventory", format!("{rows} rows and {blobs} blobs fit each other")),
            young if rows == 0 => report.warn(
                "inventory",
                format!("the database has no rows, and the store has {young} blobs that are younger than a sweep looks at"),
                "is this the database of this store?",
            ),
            young => report.ok("inventory", format!("{rows} rows have their blobs; {young} younger blobs have no row so far")),
        }
    }
}

/// What reading in the background has found.
async fn scrubbed(service: &Service, report: &mut Report) {
    let found = match scrub::report(&service.app).await {
        Ok(found) => found,
        Err(error) => return report.fault("scrub", explained(error).to_string(), "see the finding on the database"),
    };
    if found.damaged_count > 0 {
        let shown = found.damaged.iter().take(KEYS_SHOWN);
        let lines: Vec<_> =
            shown.map(|blob| format!("{} ({} since {})", blob.key, blob.damage, blob.found.to_rfc3339())).collect();
        let text = format!("{} blobs are not what was stored:\n         {}", found.damaged_count, lines.join("\n         "));
        report.fault("scrub", text, RESTORE_KEYS);
    }
    if found.bytes_per_second_max == 0 {
        return report.ok("scrub", "stored bytes are not read back in the background");
    }
    let (pace, progress) = (found.bytes_per_second_max, found.progress.as_ref());
    let Some(last) = progress.and_then(|progress| progress.last) else {
        let read = progress.map_or(0, |progress| progress.blobs);
        return report.ok(
            "scrub",
            match read {
                0 => "nothing was read back so far: the service begins a minute after its start".to_owned(),
                read => format!("the first pass is under way: {read} blobs read"),
            },
        );
    };
    let days = last.bytes / pace / 86_400;
    let text = format!("{} blobs were read back until {}: a pass takes {days} days", last.blobs, last.ended.to_rfc3339());
    if days > PASS_DAYS_MAX {
        report.warn(
            "scrub",
            text,
            "raise scrub.bytes_per_second_max, so that damage is found while backups still have the bytes",
        );
    } else {
        report.ok("scrub", format!("{} blobs were read back, the last one at {}", last.blobs, last.ended.to_rfc3339()));
    }
}

/// Reads all bytes, until that is done or somebody stops it.
async fn digests(service: &Service, examination: &Examination, report: &mut Report) {
    let mut summary = Summary { last: examination.after.clone().unwrap_or_default(), ..Summary::default() };
    let stopped = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            let reading = verify::run_from(&service.app, &mut summary, examination.bytes_per_second_max, |summary| {
                Report::progress(&format!("{} blobs read, {} MB", summary.versions, summary.bytes / 1_000_000));
            });
            tokio::select! {
                read = reading => Some(read),
                _ = interrupt.recv() => None,
                _ = terminate.recv() => None,
            }
        }
        (Err(error), _) | (_, Err(error)) => Some(Err(Error::internal("listening for signals", &error))),
    };
    Report::progress("");
    let Summary { images, versions, bytes, broken, last } = &summary;
    if !broken.is_empty() {
        let lines = broken.join("\n         ");
        let text = format!("{} of {versions} are gone or have changed:\n         {lines}", broken.len());
        report.fault("blobs", text, RESTORE_KEYS);
    }
    match stopped {
        None => report.warn(
            "blobs",
            format!("stopped after {versions} versions and {bytes} bytes"),
            format!("go on with: imagewell doctor --digests --after '{last}'"),
        ),
        Some(Err(error)) => report.fault(
            "blobs",
            format!("after {versions} versions: {}", explained(error)),
            format!("when it is back, go on with: imagewell doctor --digests --after '{last}'"),
        ),
        Some(Ok(())) if broken.is_empty() => {
            report.ok("blobs", format!("{images} images, {versions} versions, every digest right"));
        }
        Some(Ok(())) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_listed_up_to_a_number() {
        let keys = (0..30).map(|number| number.to_string()).collect();
        let shown = list(&Found { count: 30, keys });
        assert!(shown.ends_with('…') && shown.lines().count() == KEYS_SHOWN + 1, "{shown}");
        assert_eq!(list(&Found { count: 1, keys: vec!["a".into()] }), "a");
    }
}

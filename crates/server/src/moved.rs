//! Where the data of a folder has moved to: a file beside it, which the process that serves from there reads when it is told that the data has
//! moved.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use imagewell_core::Whither;

use crate::config::{Settings, Value as _};
use crate::serve::{database_place, storage_place};

/// Only its owner may read it: it holds the secrets of the database and the bucket.
const MODE: u32 = 0o600;

/// The file of a data folder.
#[must_use]
pub fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("moved.toml")
}

/// Writes down the settings that lead to the new database and store.
///
/// # Errors
/// When the file can't be written.
pub fn write(settings: &Settings, data_dir: &Path) -> std::io::Result<()> {
    let (database, storage) = (&settings.database, &settings.storage);
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let database_url = settings.database_url().text();
    let text = format!(
        "# The data has moved to where these settings say.\n\
         database_url = {}\nstorage_url = {}\n\n[database]\nconnections_max = {}\nwait_seconds_max = {}\ntime_seconds_max = {}\n\
         reads_connections_min = {}\ntransaction_pooling = {}\nlock_seconds_max = {}\nidle_transaction_seconds_max = {}\n\n\
         [storage]\nendpoint = {}\nregion = {}\naccess_key_id = {}\nsecret_access_key = {}\npart_bytes = {}\n",
        quoted(&database_url),
        quoted(&settings.storage_url().show()),
        database.connections_max,
        database.wait_seconds_max,
        database.time_seconds_max,
        database.reads_connections_min,
        database.transaction_pooling,
        database.lock_seconds_max,
        database.idle_transaction_seconds_max,
        quoted(&storage.endpoint),
        quoted(&storage.region),
        quoted(&storage.access_key_id),
        quoted(&storage.secret_access_key.0),
        storage.part_bytes,
    );
    let path = file(data_dir);
    remove(data_dir)?;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Removes the file of a move that is given up; one that isn't there is no error.
///
/// # Errors
/// When it can't be removed.
pub fn remove(data_dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(file(data_dir)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The settings with those of the file in their place; none where it can't be read.
#[must_use]
pub fn read(settings: &Settings) -> Option<Settings> {
    let (mut moved, file) = (settings.clone(), file(&settings.service.data_dir));
    if let Err(faults) = moved.read_file(&file) {
        tracing::warn!(%faults, file = %file.display(), "where the data has moved to can't be read");
        return None;
    }
    Some(moved)
}

/// Reads the file when it is asked.
#[must_use]
pub fn whither(settings: &Settings) -> Whither {
    let settings = settings.clone();
    Whither::new(move || read(&settings).map(|moved| (database_place(&moved), storage_place(&moved))))
}

//! The password that the first start gives to the user `admin`: in a file of the data folder that only its owner reads, because what is
//! printed under systemd or Docker stays in a journal that others read. The file goes when the password does.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use imagewell_core::model::AccountKind;
use imagewell_core::{App, Error, provision};

/// The org that the first start makes.
pub const ORG: &str = "default";
/// Its user.
pub const LOGIN: &str = "admin";
/// Only its owner may read it.
const MODE: u32 = 0o600;

/// The file of a data folder.
#[must_use]
pub fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("first-admin-password")
}

/// Writes it down, in the place of what a first start that was cut off may have left. It survives a power cut.
///
/// # Errors
/// When the file can't be written.
pub fn write(data_dir: &Path, password: &str) -> io::Result<PathBuf> {
    remove(data_dir)?;
    let path = file(data_dir);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(MODE).open(&path)?;
    writeln!(file, "{password}")?;
    file.sync_all()?;
    std::fs::File::open(data_dir)?.sync_all()?;
    std::path::absolute(path)
}

/// Removes the file, if it is there.
///
/// # Errors
/// When it can't be removed.
pub fn remove(data_dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(file(data_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the file once the password in it is no longer the admin's. Says whether it did.
///
/// # Errors
/// [`Error::Internal`] when the database can't be read or the file not removed.
pub async fn remove_if_outdated(app: &App, data_dir: &Path) -> Result<bool, Error> {
    let Ok(text) = std::fs::read_to_string(file(data_dir)) else { return Ok(false) };
    if provision::has_secret(app, ORG, AccountKind::User, LOGIN, text.trim_end()).await? {
        return Ok(false);
    }
    remove(data_dir).map_err(|error| Error::internal("removing the file of the first admin's password", &error))?;
    tracing::info!(target: "audit", "the first admin has another password: the file with the first one is removed");
    Ok(true)
}

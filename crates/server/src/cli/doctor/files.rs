//! Permissions of files and folders, space, and times that can't be.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Access, StatVfs, access, statvfs};

use super::report::{Grade, Report};
use super::system::database_file;
use crate::admin_password;
use crate::config::{DatabaseUrl, Settings, StorageUrl};
use crate::moved;

/// How far in the future the time of a file may lie: clocks are set now and then.
const CLOCK_LEEWAY: Duration = Duration::from_secs(60);
/// Below this multiple of what uploads must leave free, it is time to make room.
const SPACE_WARNED_AT: u64 = 16;
/// File systems that are reached over a network, by the numbers of statfs(2): NFS, SMB, CIFS, SMB2, and FUSE, which most often is.
const NETWORKED: [u64; 5] = [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x6573_5546];

pub(super) fn examine(settings: &Settings, settings_file: Option<&Path>, report: &mut Report) {
    let data = &settings.service.data_dir;
    match std::fs::metadata(data) {
        Ok(folder) if folder.is_dir() => {
            privacy(settings, settings_file, report);
            ownership(data, &folder, report);
            password(data, report);
        }
        Ok(_) => report.fault("files", format!("{} is no folder", data.display()), "correct data_dir"),
        Err(error) => {
            // Where database and images lie elsewhere, only uploads on their way come there.
            let holds_data = database_file(settings).is_some() || matches!(settings.storage_url(), StorageUrl::Folder(_));
            let grade = if holds_data { Grade::Fault } else { Grade::Warning };
            let remedy = "correct data_dir (--data-dir); where nothing was ever served, `imagewell serve` makes it";
            report.graded(grade, "files", format!("the data folder {}: {error}", data.display()), remedy);
        }
    }
    space(settings, report);
    clock(settings, report);
    if let Some(file) = database_file(settings).filter(|file| is_networked(file)) {
        report.fault(
            "files",
            format!("{} lies on a network file system, where SQLite's locks and log can't be relied on", file.display()),
            "put it on a local disk, or take PostgreSQL",
        );
    }
}

fn mode(file: &Metadata) -> u32 {
    file.permissions().mode() & 0o777
}

/// What holds secrets or images is its owner's alone.
fn privacy(settings: &Settings, settings_file: Option<&Path>, report: &mut Report) {
    let data = &settings.service.data_dir;
    let mut folders = vec![data.clone()];
    if let StorageUrl::Folder(folder) = settings.storage_url() {
        folders.push(folder);
    }
    let mut files = vec![data.join("imagewell.lock"), moved::file(data), admin_password::file(data)];
    if let Some(database) = database_file(settings) {
        files.extend(["", "-wal", "-shm"].map(|suffix| PathBuf::from(format!("{}{suffix}", database.display()))));
    }
    files.extend(settings.tls.private_key_file.clone());
    files.extend(settings_file.filter(|_| has_secrets(settings)).map(Path::to_owned));
    let mut open = 0;
    for (paths, allowed) in [(folders, 0o700), (files, 0o600)] {
        for path in paths {
            let Ok(found) = std::fs::metadata(&path) else { continue };
            if mode(&found) & 0o077 != 0 {
                open += 1;
                let path = path.display();
                report.warn(
                    "files",
                    format!("others may read or enter {path} (mode {:o})", mode(&found)),
                    format!("chmod {allowed:o} {path}"),
                );
            }
        }
    }
    if open == 0 {
        report.ok("files", format!("{} and what lies in it are their owner's alone", data.display()));
    }
}

fn has_secrets(settings: &Settings) -> bool {
    !settings.storage.secret_access_key.0.is_empty() || matches!(settings.database_url(), DatabaseUrl::Postgres(_))
}

/// Whether the service could write, if it ran as who asks.
fn ownership(data: &Path, folder: &Metadata, report: &mut Report) {
    let user = rustix::process::geteuid().as_raw();
    if user != 0 && user != folder.uid() {
        report.warn(
            "files",
            format!("{} belongs to user {}, and you are {user}", data.display(), folder.uid()),
            "run this as the user that runs the service, as in `sudo -u imagewell imagewell doctor`",
        );
    } else if let Err(error) = access(data, Access::WRITE_OK | Access::EXEC_OK) {
        let error = std::io::Error::from(error);
        let remedy = "mount its file system for writing (see dmesg for why it is not), and chown it to the service's user";
        report.fault("files", format!("{} can't be written: {error}", data.display()), remedy);
    }
}

/// Whoever finds the file can log in as the first admin.
fn password(data: &Path, report: &mut Report) {
    let file = admin_password::file(data);
    if file.exists() {
        report.warn(
            "first admin",
            format!("the password that the first start made lies in {}", file.display()),
            "give the user another one with `imagewell provision`, which removes the file, or keep the password elsewhere and remove the file",
        );
    }
}

/// The folder itself, or the nearest one above it that is there.
fn nearest(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| !path.as_os_str().is_empty() && path.exists()).or(Some(Path::new(".")))
}

fn space(settings: &Settings, report: &mut Report) {
    let mut places = vec![("data folder", settings.service.data_dir.clone())];
    places.extend(database_file(settings).map(|file| ("database", file)));
    if let StorageUrl::Folder(folder) = settings.storage_url() {
        places.push(("store", folder));
    }
    let mut seen = Vec::new();
    for (what, path) in places {
        let Some(path) = nearest(&path) else { continue };
        let Ok(device) = std::fs::metadata(path).map(|found| found.dev()) else { continue };
        if seen.contains(&device) {
            continue;
        }
        seen.push(device);
        if let Ok(stat) = statvfs(path) {
            space_of(what, path, &stat, settings, report);
        }
    }
}

fn space_of(what: &str, path: &Path, stat: &StatVfs, settings: &Settings, report: &mut Report) {
    let (bytes, inodes) = (stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_favail);
    let (bytes_min, inodes_min) = (settings.storage.free_bytes_min, settings.storage.free_inodes_min);
    // File systems without a fixed number of inodes report 0 of 0.
    let has_inodes = |least: u64| stat.f_files == 0 || inodes >= least;
    let left = format!("{} MiB and {inodes} inodes are free for the {what} at {}", bytes >> 20, path.display());
    let remedy = "make room: a larger disk, a lower cache.variant_bytes_max, or the images in a bucket (imagewell migrate)";
    if bytes < bytes_min || !has_inodes(inodes_min) {
        report.fault("space", format!("{left}: uploads are refused with 507"), remedy);
    } else if bytes < bytes_min.saturating_mul(SPACE_WARNED_AT) || !has_inodes(inodes_min.saturating_mul(SPACE_WARNED_AT)) {
        report.warn("space", left, remedy);
    } else {
        report.ok("space", left);
    }
}

/// A file that was written in the future says that the clock is behind, or was ahead.
fn clock(settings: &Settings, report: &mut Report) {
    let mut files = vec![settings.service.data_dir.join("imagewell.lock")];
    if let Some(database) = database_file(settings) {
        files.extend(["", "-wal"].map(|suffix| PathBuf::from(format!("{}{suffix}", database.display()))));
    }
    files.extend(std::env::current_exe());
    let now = SystemTime::now();
    let newest = files.iter().filter_map(|file| Some((std::fs::metadata(file).ok()?.modified().ok()?, file))).max();
    let Some((written, file)) = newest else { return };
    match written.duration_since(now) {
        Ok(ahead) if ahead > CLOCK_LEEWAY => report.fault(
            "clock",
            format!("{} was written {} s in the future: the clock is behind, or was ahead", file.display(), ahead.as_secs()),
            "set the clock (timedatectl, chronyc tracking) before the service starts: sessions, links and sweeps go by it",
        ),
        _ => report.ok("clock", format!("it is {}, after everything that was written", httpdate::fmt_http_date(now))),
    }
}

fn is_networked(path: &Path) -> bool {
    let Some(path) = nearest(path) else { return false };
    rustix::fs::statfs(path).is_ok_and(|found| NETWORKED.contains(&u64::try_from(found.f_type).unwrap_or_default()))
}

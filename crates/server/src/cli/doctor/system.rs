//! What the system gives: files, memory, the sandbox, the address to listen on.

use std::path::Path;
use std::time::SystemTime;

use imagewell_core::workers::Workers;
use rustix::process::{Resource, getrlimit};

use super::super::explained;
use super::report::{Grade, Report};
use crate::config::{DatabaseUrl, Settings};
use crate::serve::{open_files_needed, worker_limits};
use crate::tls::Certificates;

pub(super) async fn examine(settings: &Settings, report: &mut Report) -> Result<(), std::io::Error> {
    tls(settings, report, SystemTime::now());
    listen(settings, report).await;
    open_files(settings, report);
    memory(settings, report);
    sandbox(settings, report).await
}

fn tls(settings: &Settings, report: &mut Report, now: SystemTime) {
    let certificates = match Certificates::open(&settings.tls) {
        Ok(Some(certificates)) => certificates,
        Ok(None) => return report.ok("tls", "off"),
        Err(error) => {
            let remedy = "correct tls.certificate_file and tls.private_key_file";
            return report.fault("tls", explained(error).to_string(), remedy);
        }
    };
    let (validity, warning) = certificates.validity();
    let (left, end) = (validity.left(now), validity.end_text());
    let remedy = "renew it; a running service takes the new files up by itself";
    if !validity.has_begun(now) {
        report.fault("tls", "the certificate is not valid yet", "see whether this machine's clock is right, or wait");
    } else if left.is_zero() {
        report.fault("tls", format!("the certificate has ended: {end}"), remedy);
    } else if left <= warning {
        report.warn("tls", format!("the certificate ends soon: {end}"), remedy);
    } else {
        report.ok("tls", format!("certificate and key fit; the certificate ends {end}"));
    }
}

/// Workers that decode images lock themselves in, and try to get out again.
async fn sandbox(settings: &Settings, report: &mut Report) -> Result<(), std::io::Error> {
    let remedy = "take a kernel with landlock (5.13 or newer, with `lsm=landlock,…`) and seccomp, and a container profile that lets them through";
    let workers = Workers::new(std::env::current_exe()?, worker_limits(settings));
    match workers.sandbox().await {
        Ok(sandbox) if sandbox.holds => report.ok("sandbox", sandbox.description.clone()),
        Ok(sandbox) => {
            let grade = if settings.workers.allow_without_sandbox { Grade::Warning } else { Grade::Fault };
            let text = format!("workers that decode images are not fully locked in: {}", sandbox.description);
            report.graded(grade, "sandbox", text, remedy);
        }
        Err(error) => report.fault("sandbox", explained(error).to_string(), "see that this program may be started by its user"),
    }
    Ok(())
}

async fn listen(settings: &Settings, report: &mut Report) {
    let listen = settings.service.listen;
    match tokio::net::TcpListener::bind(listen).await {
        Ok(_) => report.ok("listen", format!("{listen} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            report.ok("listen", format!("{listen} is in use, by a running service or something else"));
        }
        Err(error) => {
            report.fault(
                "listen",
                format!("{listen}: {error}"),
                "set listen to an address of this machine and a port above 1023",
            );
        }
    }
}

/// Of the running service, where there is one and it may be asked; else of this process, which was started by somebody else.
fn open_files(settings: &Settings, report: &mut Report) {
    let needed = open_files_needed(settings);
    let (whose, allowed) = match service_limit(&settings.service.data_dir) {
        Some(limit) => ("the running service", limit),
        None => ("this shell (the service's own may differ)", getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)),
    };
    if allowed < needed {
        report.warn(
            "open files",
            format!(
                "{whose} may open {allowed} files, and {needed} may be needed: connections would be refused before their limit"
            ),
            format!("set LimitNOFILE={} in the unit or `ulimit -n`, or lower server.connections_max", needed.next_power_of_two()),
        );
    } else {
        let allowed = if allowed == u64::MAX { "any number of".to_owned() } else { allowed.to_string() };
        report.ok("open files", format!("{whose} may open {allowed} files; {needed} may be needed"));
    }
}

/// The process that holds the lock of the data folder says in /proc what it may open (proc(5)).
fn service_limit(data_dir: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let inode = std::fs::metadata(data_dir.join("imagewell.lock")).ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let holder = locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (kind, _, _, pid, file) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let locked: u64 = file.rsplit(':').next()?.parse().ok()?;
        (kind == "FLOCK" && locked == inode).then(|| pid.to_owned())
    })?;
    let limits = std::fs::read_to_string(format!("/proc/{holder}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What may be held at once, by the settings, against what the machine has.
fn memory(settings: &Settings, report: &mut Report) {
    let uploads = (settings.uploads.memory_bytes_max as u64).saturating_mul(settings.uploads.concurrent_max as u64);
    let passwords = u64::from(settings.passwords.memory_kib) * 1024 * settings.passwords.concurrent_max as u64;
    // Half of it is for the one more of an org that another one keeps out.
    let renderings = settings.workers.memory_bytes_max.saturating_mul(2);
    let needed = settings.cache.blob_bytes_max.saturating_add(renderings).saturating_add(uploads).saturating_add(passwords);
    let Some(there) = memory_bytes() else { return };
    let (needed_mib, there_mib) = (needed >> 20, there >> 20);
    if needed > there {
        report.warn(
            "memory",
            format!("caches, renderings, uploads and passwords may take {needed_mib} MiB, and there are {there_mib}"),
            "lower cache.blob_bytes_max, workers.memory_bytes_max or uploads.memory_bytes_max",
        );
    } else {
        report.ok("memory", format!("{needed_mib} MiB may be needed, {there_mib} are there"));
    }
}

/// Of the machine, or of our control group where that has less.
fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_whitespace().next()?.parse().ok()?;
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Some((kib * 1024).min(group.unwrap_or(u64::MAX)))
}

/// Where SQLite's file lies, if it is the database.
pub(super) fn database_file(settings: &Settings) -> Option<std::path::PathBuf> {
    match settings.database_url() {
        DatabaseUrl::File(file) => Some(file),
        DatabaseUrl::Postgres(_) => None,
    }
}

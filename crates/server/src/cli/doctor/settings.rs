//! Values that are valid and dangerous, and values that contradict each other without being wrong.

use ipnet::IpNet;

use super::report::Report;
use crate::config::{DatabaseUrl, Settings, StorageUrl, TicketNumbering};

const AREA: &str = "settings";
/// A network with fewer fixed bits holds strangers too.
const PREFIX_MIN: u8 = 7;
/// Of argon2id, in KiB: the least that OWASP's Password Storage Cheat Sheet names.
const PASSWORD_KIB_MIN: u32 = 7168;
/// Percent of all blobs above which the brake of sweeping brakes nothing.
const ORPHANS_PERCENT_SANE: u32 = 50;

pub(super) fn examine(settings: &Settings, report: &mut Report) {
    let mut found = Vec::new();
    network(settings, &mut found);
    removal(settings, &mut found);
    checks(settings, &mut found);
    let faults = dangers(settings);
    if found.is_empty() && faults.is_empty() {
        report.ok(AREA, "nothing contradicts, nothing is dangerous");
    }
    for (text, remedy) in faults {
        report.fault(AREA, text, remedy);
    }
    for (text, remedy) in found {
        report.warn(AREA, text, remedy);
    }
}

type Findings = Vec<(String, &'static str)>;

fn is_everybody(networks: &[IpNet]) -> bool {
    networks.iter().any(|network| network.prefix_len() <= PREFIX_MIN)
}

/// What opens the service to others, or loses data.
fn dangers(settings: &Settings) -> Findings {
    let mut found = Findings::new();
    if is_everybody(&settings.server.trusted_proxies) {
        found.push((
            "server.trusted_proxies trusts strangers: each may choose the address that it is counted by".into(),
            "name the addresses of your proxies alone",
        ));
    }
    let (grace, longest) = (settings.sweep.grace_seconds, settings.server.body_timeout_seconds);
    if grace <= longest {
        found.push((
            format!(
                "sweep.grace_seconds ({grace}) is not longer than an upload may take (server.body_timeout_seconds, {longest}): \
                 a sweep may remove the bytes of an upload before its row is there"
            ),
            "set sweep.grace_seconds to a day (86400)",
        ));
    }
    found
}

fn network(settings: &Settings, found: &mut Findings) {
    let is_local = settings.service.listen.ip().is_loopback();
    let public = settings.service.public_url.as_ref().map(|url| url.0.as_str());
    if !is_local && !settings.is_https() {
        found.push((
            format!("it listens on {} without TLS: passwords and images can be read on the way", settings.service.listen),
            "set tls.certificate_file and tls.private_key_file, or put a proxy with TLS before it and set public_url to its https address",
        ));
    }
    if !settings.server.trusted_proxies.is_empty() && public.is_none() {
        found.push((
            "there are trusted proxies but no public_url: cookies are not Secure, and links lead to whatever Host was asked for"
                .into(),
            "set public_url to the address that browsers use",
        ));
    }
    if public.is_some_and(|url| url.starts_with("http://")) && settings.tls.certificate_file.is_some() {
        found.push(("public_url says http, and TLS is on".into(), "let public_url begin with https://"));
    }
    if is_everybody(&settings.server.metrics_allow) {
        found.push(("server.metrics_allow lets everybody read /metrics".into(), "name the addresses that collect metrics"));
    }
    if settings.server.cors_origins.iter().any(|origin| origin.0.starts_with("http://") && !origin.0.contains("localhost")) {
        found.push((
            "server.cors_origins has an origin without TLS: whoever is on the way to it can read images with its users' rights"
                .into(),
            "name https origins alone",
        ));
    }
}

fn removal(settings: &Settings, found: &mut Findings) {
    let sweep = &settings.sweep;
    if sweep.orphans_percent_max >= ORPHANS_PERCENT_SANE {
        found.push((
            format!(
                "sweep.orphans_percent_max is {}: a wrong or older database may cost that share of the store",
                sweep.orphans_percent_max
            ),
            "set it to 5",
        ));
    }
    if sweep.undo_seconds == 0 {
        found.push(("sweep.undo_seconds is 0: what is deleted can't be restored".into(), "set it to a week (604800)"));
    }
    if settings.storage.free_bytes_min == 0 {
        found.push((
            "storage.free_bytes_min is 0: uploads may fill the disk that the database needs".into(),
            "set it to 64 MiB (67108864) or more",
        ));
    }
    let in_folder = matches!(settings.storage_url(), StorageUrl::Folder(_));
    if in_folder && matches!(settings.database_url(), DatabaseUrl::Postgres(_)) {
        found.push((
            "the database is PostgreSQL and the images lie in a folder: a second node would not find them".into(),
            "with more than one node set storage_url to a bucket",
        ));
    }
}

fn checks(settings: &Settings, found: &mut Findings) {
    let opsportal = &settings.opsportal;
    if !opsportal.check_permission_on_read {
        found.push((
            "opsportal.check_permission_on_read is off: every user of an org reads all of its OpsPortal images".into(),
            "switch it on unless an old portal needs it",
        ));
    }
    if !opsportal.check_app_key_on_read {
        found.push(("opsportal.check_app_key_on_read is off".into(), "switch it on unless an old portal needs it"));
    }
    let dropbox = &settings.dropbox;
    if !dropbox.csrf_on_writes {
        found.push((
            "dropbox.csrf_on_writes is off: pages of other sites can change avatars in their visitors' names".into(),
            "switch it on",
        ));
    }
    if dropbox.ticket_numbers == TicketNumbering::Series && dropbox.pictures_for_everyone {
        found.push((
            "Dropbox pictures are numbered one after the other and shown to everyone: they can be counted through".into(),
            "set dropbox.ticket_numbers to random, or dropbox.pictures_for_everyone to false",
        ));
    }
    if settings.passwords.memory_kib < PASSWORD_KIB_MIN {
        found.push((
            format!("passwords.memory_kib is {}: stolen hashes are guessed quickly", settings.passwords.memory_kib),
            "set it to 19456",
        ));
    }
}

//! Between which values a number makes sense. What would refuse everything that is asked for is refused itself, at the start, as a fault
//! of the settings.

use imagewell_core::keys::{LINK_TTL_MAX, TOKEN_TTL_MAX};

use super::Settings;

/// Above this, moments can't be computed with: a hundred years.
const SECONDS_MAX: u64 = 3_153_600_000;
/// Above this, sums of two of them may be larger than a number can be.
const NUMBER_MAX: u64 = 1_000_000_000_000_000_000;

/// The least and the most that a setting may be, with the reason where it isn't plain.
struct Bound {
    key: &'static str,
    min: u64,
    max: u64,
    why: &'static str,
}

const fn at_least(key: &'static str, min: u64) -> Bound {
    Bound { key, min, max: NUMBER_MAX, why: "" }
}

/// Settings of which 0, or little, makes no sense. What isn't here works with 0: it is then off, without bound, or not kept.
const BOUNDS: &[Bound] = &[
    at_least("server.connections_max", 1),
    at_least("server.connections_per_address_max", 1),
    at_least("server.requests_per_address_max", 1),
    at_least("server.header_timeout_seconds", 1),
    at_least("server.header_bytes_max", 8192),
    at_least("server.body_idle_timeout_seconds", 1),
    at_least("server.body_timeout_seconds", 1),
    at_least("server.response_idle_timeout_seconds", 1),
    at_least("server.idle_timeout_seconds", 1),
    at_least("server.http2_streams_max", 1),
    at_least("tls.reload_seconds", 1),
    Bound { key: "tls.expiry_warning_days", min: 0, max: 3650, why: "" },
    // A form of ours has a file, a token and a few texts.
    at_least("multipart.parts_max", 8),
    at_least("multipart.part_headers_max", 2),
    at_least("multipart.part_header_bytes_max", 1024),
    at_least("multipart.name_bytes_max", 64),
    at_least("multipart.text_bytes_max", 1024),
    at_least("uploads.memory_bytes_max", 65_536),
    at_least("uploads.concurrent_max", 1),
    at_least("uploads.open_max", 1),
    at_least("uploads.open_per_org_max", 1),
    at_least("uploads.open_per_account_max", 1),
    at_least("images.pixels_max", 1),
    at_least("images.side_px_max", 1),
    at_least("images.frames_max", 1),
    at_least("images.frame_pixels_max", 1),
    at_least("images.look_pause_seconds", 1),
    Bound { key: "images.transform_side_px_max", min: 1, max: 16_384, why: "" },
    at_least("images.transform_pixels_max", 1),
    at_least("images.transform_frame_pixels_max", 1),
    Bound { key: "storage.part_bytes", min: 5 * 1024 * 1024, max: NUMBER_MAX, why: ", as S3 has it" },
    at_least("storage.time_seconds_max", 1),
    at_least("storage.bytes_per_second_min", 1),
    at_least("database.connections_max", 5),
    at_least("database.wait_seconds_max", 1),
    at_least("database.time_seconds_max", 1),
    at_least("passwords.memory_kib", 8),
    at_least("passwords.passes", 1),
    at_least("passwords.concurrent_max", 1),
    at_least("passwords.queue_max", 1),
    at_least("passwords.queue_per_range_max", 1),
    at_least("passwords.wait_seconds_max", 1),
    at_least("sessions.idle_seconds", 1),
    at_least("sessions.absolute_seconds", 1),
    at_least("workers.concurrent_max", 1),
    at_least("workers.time_seconds_max", 1),
    at_least("workers.drawing_seconds_max", 1),
    at_least("workers.look_seconds_max", 1),
    at_least("sweep.interval_seconds", 1),
    // Below what an upload takes, sweeping would remove bytes whose row is on its way.
    at_least("sweep.grace_seconds", 3600),
    at_least("sweep.trash_seconds", 3600),
    // The last moment at which the database was in use is written down each minute.
    at_least("sweep.clock_jump_seconds_max", 120),
    at_least("sweep.clock_offset_seconds_max", 1),
    at_least("scrub.interval_seconds", 1),
    // A file of exactly so many bytes is refused.
    at_least("opsportal.upload_bytes_max", 2),
    at_least("opsportal.file_bytes_max", 2),
    at_least("file_service.upload_bytes_max", 2),
    Bound { key: "file_service.link_ttl_seconds", min: 1, max: LINK_TTL_MAX.as_secs(), why: ", as S3 has it" },
    at_least("dropbox.upload_bytes_max", 1),
    at_least("dropbox.ticket_ttl_seconds", 1),
    Bound { key: "dropbox.size_px_max", min: 1, max: 4096, why: "" },
    at_least("dropbox.session_seconds", 1),
    Bound { key: "oauth.token_ttl_seconds", min: 1, max: TOKEN_TTL_MAX.as_secs(), why: "" },
    at_least("identity_provider.jwks_ttl_seconds", 1),
    at_least("identity_provider.unknown_key_seconds", 1),
    at_least("identity_provider.timeout_seconds", 1),
];

/// Numbers that are too small or too large.
pub(super) fn faults(settings: &Settings) -> Vec<String> {
    Settings::entries().iter().filter_map(|entry| fault(settings, &entry.key)).collect()
}

fn fault(settings: &Settings, key: &str) -> Option<String> {
    let number: u64 = settings.shown(key)?.parse().ok()?;
    let bound = BOUNDS.iter().find(|bound| bound.key == key);
    let (min, own_max, why) = bound.map_or((0, NUMBER_MAX, ""), |bound| (bound.min, bound.max, bound.why));
    let max = own_max.min(if key.contains("_seconds") { SECONDS_MAX } else { NUMBER_MAX });
    if (min..=max).contains(&number) {
        return None;
    }
    Some(match own_max {
        NUMBER_MAX if number < min => format!("{key}: at least {min}{why}"),
        NUMBER_MAX => format!("{key}: at most {max}"),
        _ if min == 0 => format!("{key}: at most {max}{why}"),
        _ => format!("{key}: from {min} to {max}{why}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0 switches these off, is no bound, keeps nothing, or refuses only what would have to wait.
    const WORK_WITH_0: &[&str] = &[
        "server.body_bytes_per_second_min",
        "server.body_rate_grace_seconds",
        "server.response_bytes_per_second_min",
        "server.unread_body_bytes_max",
        "server.unread_body_idle_timeout_seconds",
        "server.unread_bodies_per_address_max",
        "server.drain_timeout_seconds",
        "server.drain_delay_seconds",
        "tls.expiry_warning_days",
        "storage.retry_seconds_max",
        "storage.free_bytes_min",
        "storage.free_inodes_min",
        "database.reads_connections_min",
        "cache.blob_bytes_max",
        "cache.blob_entry_bytes_max",
        "cache.variant_bytes_max",
        "cache.images_max",
        "images.metadata_bytes_max",
        "login.known_address_seconds",
        "workers.memory_bytes_max",
        "workers.queue_max",
        "workers.queue_per_org_max",
        "workers.wait_seconds_max",
        "workers.avif_pixels_max",
        "workers.lossless_webp_pixels_max",
        "workers.refused_seconds",
        "sweep.undo_seconds",
        "sweep.orphans_percent_max",
        "sweep.orphans_always",
        "scrub.bytes_per_second_max",
        "scrub.bucket_bytes_per_second_max",
        "delivery.private_max_age_seconds",
        "delivery.public_max_age_seconds",
        "delivery.public_stale_seconds",
        "opsportal.mobile_bytes_min",
        "identity_provider.leeway_seconds",
    ];

    fn refused(key: &str, value: u64) -> bool {
        let mut settings = Settings::default();
        let set = settings.set(key, &value.to_string()).expect("is a setting");
        set.is_err() || faults(&settings).iter().any(|fault| fault.starts_with(&format!("{key}: ")))
    }

    #[test]
    fn no_number_may_be_0_unless_everything_goes_on_with_it() {
        for entry in Settings::entries().iter().filter(|entry| entry.kind == "whole number") {
            let works = WORK_WITH_0.contains(&&*entry.key);
            assert_ne!(works, refused(&entry.key, 0), "{}: give it a bound, or say that 0 works", entry.key);
            assert!(refused(&entry.key, u64::MAX), "{}: it is added to others", entry.key);
        }
    }

    #[test]
    fn every_bound_holds_at_its_edge_and_says_what_is_right() {
        assert!(faults(&Settings::default()).is_empty());
        let entries = Settings::entries();
        for Bound { key, min, max, .. } in BOUNDS {
            let entry = entries.iter().find(|entry| entry.key == *key).expect("is a setting");
            assert!(!refused(key, *min), "{key}: {min}");
            assert!(*min == 0 || refused(key, min - 1), "{key}: one less than {min}");
            assert!(*max == NUMBER_MAX || (!refused(key, *max) && refused(key, max + 1)), "{key}: {max}");
            assert!(
                *min <= 5 || entry.doc.to_lowercase().contains(&format!("at least {min}")),
                "{key}: its documentation does not say {min}"
            );
        }
        let mut settings = Settings::default();
        for (key, value) in
            [("uploads.memory_bytes_max", "0"), ("oauth.token_ttl_seconds", "3601"), ("cache.images_max", "9999999999999999999")]
        {
            settings.set(key, value).expect("is a setting").expect("is a number");
        }
        let said = faults(&settings);
        let expected = [
            "uploads.memory_bytes_max: at least 65536",
            "cache.images_max: at most 1000000000000000000",
            "oauth.token_ttl_seconds: from 1 to 3600",
        ];
        assert_eq!(said, expected);
    }
}

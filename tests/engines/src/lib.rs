//! Real databases and object stores for tests: started when first asked for, gone with the process.

pub mod failover;
pub mod faults;
pub mod lagging;
pub mod pgbouncer;
pub mod postgres;
pub mod s3;

/// Whether the tests run on PostgreSQL and an S3 store instead of SQLite and a folder: `TEST_IMAGEWELL_ON=postgres+s3`.
///
/// # Panics
/// When the variable has another value.
#[must_use]
pub fn outgrown() -> bool {
    match std::env::var("TEST_IMAGEWELL_ON").as_deref() {
        Err(_) | Ok("" | "sqlite+disk") => false,
        Ok("postgres+s3") => true,
        Ok(other) => panic!("TEST_IMAGEWELL_ON={other}: expected sqlite+disk or postgres+s3"),
    }
}

/// A name that nothing else has.
fn fresh(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst))
}

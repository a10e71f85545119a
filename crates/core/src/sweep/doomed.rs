//! Rows whose time is over, and their bytes. Rows are the truth, so these bytes go at once and not by way of the trash.

use super::{EXPIRED_LEASE, LEASE_LASTS, Mode, PAGE};
use crate::app::App;
use crate::db::doomed::{Doomed, DoomedBytes};
use crate::db::tickets::Expired;
use crate::model::Timestamp;
use crate::{Error, kept, leases};

pub(super) async fn sweep<T: Doomed>(app: &App, mode: Mode, until: Timestamp) -> Result<(u64, u64), Error> {
    match mode {
        Mode::DryRun => T::count(&app.database, until).await,
        Mode::Remove | Mode::RemoveConfirmed => remove::<T>(app, until).await,
    }
}

/// Removes pictures that nobody took in time.
pub(crate) async fn remove_expired(app: &App) -> Result<(), Error> {
    let now = app.clock.trusted();
    if app.clock.check_offset().is_ok() && leases::take(app, EXPIRED_LEASE.to_owned(), LEASE_LASTS).await? {
        remove::<Expired>(app, now).await?;
    }
    Ok(())
}

/// The rows first, since a row never points at missing bytes; what a crash, or a store that refuses, leaves in between is an orphan. Returns
/// how many, and their bytes.
async fn remove<T: Doomed>(app: &App, until: Timestamp) -> Result<(u64, u64), Error> {
    let (mut count, mut bytes) = (0, 0);
    loop {
        let page = T::page(&app.database, until, PAGE).await?;
        if page.is_empty() {
            break;
        }
        let removed = app
            .database
            .write(move |connection| {
                Box::pin(async move {
                    let mut removed = Vec::new();
                    for doomed in page {
                        if doomed.forget(connection, until).await? {
                            removed.push(doomed);
                        }
                    }
                    Ok(removed)
                })
            })
            .await?;
        for doomed in &removed {
            let DoomedBytes { blob, size_bytes } = doomed.bytes();
            match app.storage.delete(blob).await {
                Ok(()) => {}
                // It is an orphan from now on.
                Err(Error::Internal { detail }) => tracing::warn!(key = blob.as_str(), detail, "a blob could not be removed"),
                Err(error) => return Err(error),
            }
            match kept::remove_of_version(app, blob).await {
                Ok(()) => {}
                // A sweep finds it by its version, which is gone.
                Err(Error::Internal { detail }) => tracing::warn!(key = blob.as_str(), detail, "renderings could not be removed"),
                Err(error) => return Err(error),
            }
            count += 1;
            bytes += size_bytes;
        }
    }
    if count > 0 {
        tracing::info!(target: "audit", what = T::NAME, count, bytes, "removed for good, with their bytes");
    }
    Ok((count, bytes))
}

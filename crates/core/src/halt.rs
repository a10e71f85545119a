//! Fail-stop. After a failed write or sync nobody knows what is on the disk: the kernel may have dropped the page and call
//! the next sync a success. SQLite goes on after one; imagewell does not. It stops acknowledging, turns unready and exits,
//! and the next start recovers from what is really there.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use crate::Error;

/// Set once, never cleared.
#[derive(Debug, Default)]
pub struct Halt {
    tripped: AtomicBool,
    notify: Notify,
}

impl Halt {
    /// Stops all acknowledging from now on.
    pub fn trip(&self, detail: &str) {
        if !self.tripped.swap(true, Ordering::SeqCst) {
            tracing::error!(detail, "storage can no longer be trusted: no upload is acknowledged from here on, exiting");
            self.notify.notify_waiters();
        }
    }

    /// Whether acknowledging has stopped.
    #[must_use]
    pub fn is_tripped(&self) -> bool {
        self.tripped.load(Ordering::SeqCst)
    }

    /// An error once tripped; asked before every acknowledgement.
    ///
    /// # Errors
    /// [`Error::Internal`] when tripped.
    pub fn check(&self) -> Result<(), Error> {
        if self.is_tripped() { Err(Error::Internal { detail: "halted after a storage failure".into() }) } else { Ok(()) }
    }

    /// Returns once tripped.
    pub async fn wait(&self) {
        let notified = self.notify.notified();
        if !self.is_tripped() {
            notified.await;
        }
    }
}

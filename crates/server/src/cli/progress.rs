//! How far a long command is: on a terminal one line that changes, else a line now and then.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Between two lines about the same, where nobody watches a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Writes to standard error.
#[derive(Default)]
pub(super) struct ProgressLine {
    last: Mutex<Option<(&'static str, Instant)>>,
}

impl ProgressLine {
    /// Shows a text about something. Without a terminal it is dropped if the last one about the same thing was shown shortly before.
    pub(super) fn show(&self, about: &'static str, text: impl FnOnce() -> String) {
        let terminal = std::io::stderr().is_terminal();
        let Ok(mut last) = self.last.lock() else { return };
        let due = last.is_none_or(|(before, when)| before != about || when.elapsed() > LINE_EVERY);
        if !due && !terminal {
            return;
        }
        if due {
            *last = Some((about, Instant::now()));
        }
        if terminal {
            eprint!("\r\x1b[K{}", text());
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{}", text());
        }
    }

    /// Leaves the line that changes.
    pub(super) fn end(&self) {
        let shown = self.last.lock().is_ok_and(|last| last.is_some());
        if shown && std::io::stderr().is_terminal() {
            eprintln!();
        }
    }
}

/// As in `12.3 MB`.
pub(super) fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}

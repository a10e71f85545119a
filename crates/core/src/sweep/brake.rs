//! A sweep that would take too much stops, until an operator confirms it.

use super::Options;

impl Options {
    /// Whether so many orphans among so many blobs look like another database's store rather than like what uploads leave behind.
    pub(crate) fn is_suspicious(&self, blobs: u64, orphans: u64) -> bool {
        let share = u128::from(orphans) * 100 > u128::from(blobs) * u128::from(self.orphans_percent_max);
        orphans > 0 && (orphans == blobs || orphans > self.orphans_always) && share
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_store_that_looks_like_another_ones_is_left_alone() {
        let hour = Duration::from_secs(3600);
        let options =
            Options { interval: hour, grace: hour, undo: hour, trash: hour, orphans_percent_max: 5, orphans_always: 100 };
        for (blobs, orphans, expected) in [
            (0, 0, false),
            (1000, 0, false),
            (1000, 50, false),
            (1000, 100, false),
            (1000, 101, true),
            (2020, 101, false),
            (2019, 101, true),
            (40, 39, false),
            (40, 40, true),
            (1, 1, true),
        ] {
            assert_eq!(options.is_suspicious(blobs, orphans), expected, "{orphans} of {blobs}");
        }
    }
}

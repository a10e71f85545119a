//! Whose image is looked at next. Orgs take turns, however much each has waiting and however long its looks take.
//!
//! No index finds what waits by org, so it is found in windows, by the time of upload: the oldest one, and another one that moves on
//! where it finds nobody who isn't in the oldest. So an org whose images come behind many thousands of another one's waits until the
//! window has come to it, and no query looks through more than a window.

use std::collections::{HashMap, HashSet};

use crate::Error;
use crate::db::{Database, looks};
use crate::model::{Image, OrgId, Timestamp};

/// Versions that a window has at most.
const WINDOW: u32 = 10_000;
/// Windows behind the oldest one that are looked through for one page.
const WINDOWS_AT_ONCE: u32 = 4;
/// Versions that are read from the database at a time: the oldest of as many orgs.
const PAGE: u32 = 128;
/// Orgs whose turns are remembered.
const ORGS_MAX: usize = 10_000;

/// Which orgs have had their turns, and how far the second window is.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The number of each org's latest turn.
    had: HashMap<OrgId, u64>,
    given: u64,
    further: Option<Timestamp>,
}

impl Turns {
    /// What waits, as far as it is looked through this time. Empty only when nothing waits anywhere.
    ///
    /// # Errors
    /// [`Error::Busy`] and [`Error::Internal`] when the database can't be asked.
    pub(super) async fn waiting(&mut self, database: &Database) -> Result<Vec<Image>, Error> {
        self.waiting_in(database, WINDOW).await
    }

    async fn waiting_in(&mut self, database: &Database, size: u32) -> Result<Vec<Image>, Error> {
        let now = database.now();
        let oldest = looks::window(database, Timestamp(0), size).await?;
        let mut waiting = looks::waiting(database, now, oldest, PAGE).await?;
        let Some(behind) = oldest.until else { return Ok(waiting) };
        let orgs: HashSet<OrgId> = waiting.iter().map(|image| image.org).collect();
        let mut from = self.further.take().map_or(behind, |further| further.max(behind));
        let mut looked_through = 0;
        while looked_through < WINDOWS_AT_ONCE || waiting.is_empty() {
            let window = looks::window(database, from, size).await?;
            let further = looks::waiting(database, now, window, PAGE).await?;
            looked_through += 1;
            if further.iter().any(|image| !orgs.contains(&image.org)) {
                self.further = Some(from);
                waiting.extend(further);
                return Ok(waiting);
            }
            let Some(next) = window.until else { return Ok(waiting) };
            from = next;
        }
        self.further = Some(from);
        Ok(waiting)
    }

    /// Takes the image of the org that has waited longest for a turn; of one org the first.
    pub(super) fn next(&mut self, waiting: &mut Vec<Image>) -> Option<Image> {
        let latest = |image: &Image| self.had.get(&image.org).copied().unwrap_or(0);
        let (index, _) = waiting.iter().enumerate().min_by_key(|(index, image)| (latest(image), *index))?;
        let image = waiting.remove(index);
        if self.had.len() >= ORGS_MAX {
            self.had.clear();
        }
        self.given += 1;
        self.had.insert(image.org, self.given);
        Some(image)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::db::Place;
    use crate::db::tests::{execute, insert_waiting};

    /// Of org 1 so many versions, and after them one of org 2.
    async fn many_and_one(folder: &std::path::Path, many: u32) -> Database {
        let place = Place::File { file: folder.join("a.db"), readers_max: 2 };
        let database = Database::open(&place, Arc::default()).await.expect("opens");
        insert_waiting(&database, many).await;
        database
    }

    #[tokio::test]
    async fn an_org_behind_many_windows_of_another_has_its_turn_soon_and_again() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = many_and_one(folder.path(), 30).await;
        let (mut turns, mut pages) = (Turns::default(), Vec::new());
        for _ in 0..4 {
            let mut waiting = turns.waiting_in(&database, 3).await.expect("reads");
            // One look that takes as long as a page.
            pages.push(turns.next(&mut waiting).expect("something waits").org.0);
        }
        assert_eq!(pages, [1, 1, 2, 1], "ten windows, four of them for each page, and no org twice before another that waits");
        let mut waiting = turns.waiting_in(&database, 3).await.expect("reads");
        let orgs: Vec<i64> = std::iter::from_fn(|| turns.next(&mut waiting)).map(|image| image.org.0).collect();
        assert_eq!(orgs, [2, 1, 1, 1], "the window stays where it found somebody");
    }

    #[tokio::test]
    async fn what_was_put_off_hides_nobody() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = many_and_one(folder.path(), 30).await;
        let later = database.now().0 + 1_000_000_000;
        execute(&database, vec![format!("UPDATE versions SET look_again_us = {later} WHERE number > 1")]).await;
        let mut waiting = Turns::default().waiting_in(&database, 3).await.expect("reads");
        assert_eq!(Turns::default().next(&mut waiting).map(|image| image.org.0), Some(2));
    }

    #[tokio::test]
    async fn a_row_of_a_newer_program_is_in_nobody_elses_way() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = many_and_one(folder.path(), 1).await;
        execute(&database, vec!["UPDATE images SET state = 'of a newer program' WHERE org_id = 1".to_owned()]).await;
        let waiting = Turns::default().waiting(&database).await.expect("reads");
        assert_eq!(waiting.iter().map(|image| image.org.0).collect::<Vec<_>>(), [2]);
    }
}

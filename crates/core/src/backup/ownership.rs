//! Whose a folder of backups is. It belongs to the data of one service, and of that to one copy: the one that made the newest snapshot.
//!
//! A restored database, one that was adopted anew, and one that has moved have a store identity of their own. Where the data has moved, the
//! copy before is not used any more, so the new one goes on by itself. Of the others nobody but an operator knows whether they have replaced
//! the service or are a drill, whose snapshots would push out those of the service.

use super::{Plan, pruning};
use crate::db::moves::{self, Side, Stage};
use crate::db::{self, Database};
use crate::storage::backup_folder::BackupFolder;
use crate::storage::known_folders::KnownFolders;
use crate::{Error, identity, moving};

/// Refuses a folder that has lost its backup: the disk that it is on is not mounted, and what is written would fill the one below.
pub(super) fn expect_there(plan: &Plan, known: &KnownFolders) -> Result<(), Error> {
    if BackupFolder::is_at(&plan.folder) {
        return Ok(());
    }
    let folder = plan.folder.display();
    if plan.take_over {
        return Err(Error::invalid(format!("{folder} holds no backup that could be taken over: is its disk mounted?")));
    }
    if known.has(&plan.folder)? && !plan.anew {
        return Err(Error::invalid(format!(
            "{folder} held backups of this service and holds none now: is its disk mounted? Nothing was written. To begin a new backup there \
             all the same: imagewell backup {folder} --anew"
        )));
    }
    Ok(())
}

/// Of two services that back up into one folder, each would remove the other's snapshots.
pub(super) async fn expect_own_data(source: &Database, folder: &BackupFolder) -> Result<(), Error> {
    let Some(newest) = folder.snapshots()?.pop() else { return Ok(()) };
    // A damaged one says nothing.
    let Ok(manifest) = pruning::manifest_of(&newest) else { return Ok(()) };
    if manifest.lineage == db::holdings::lineage(source).await? {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the folder holds backups of another service's data (the newest: {}): name another folder, or correct database_url",
        newest.name()
    )))
}

/// Refuses the folder of another copy of the same data, unless it is taken over. Returns the identity of this copy's store.
pub(super) async fn expect_own_copy(plan: &Plan, source: &Database, folder: &BackupFolder) -> Result<String, Error> {
    let own = identity::id_of(source).await?;
    let Some(newest) = folder.snapshots()?.pop() else { return Ok(own) };
    let made_by = pruning::manifest_of(&newest).ok().and_then(|manifest| manifest.store);
    // A damaged one says nothing, and neither does one of an earlier version.
    let Some(made_by) = made_by else { return Ok(own) };
    if made_by == own || plan.take_over || moved_from(source).await?.is_some_and(|before| before == made_by) {
        return Ok(own);
    }
    Err(Error::invalid(format!(
        "the newest snapshot ({}) is of another copy of this data: one of the two was restored from a backup or adopted. If this service is a \
         drill or a test, name a folder of its own. If it has replaced the one that made that snapshot, run once: imagewell backup {} --take-over",
        newest.name(),
        plan.folder.display()
    )))
}

/// The identity of the store that the data was moved from, if it was.
async fn moved_from(source: &Database) -> Result<Option<String>, Error> {
    let moved = moves::find(source, Side::Target).await?.filter(|moved| moved.stage == Stage::Live);
    Ok(moved.and_then(|moved| moving::source_of(&moved.id).map(ToOwned::to_owned)))
}

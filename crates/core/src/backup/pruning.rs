//! Removing old snapshots, with the blobs that no other one needs.

use std::io;
use std::iter::Peekable;

use super::manifest::Manifest;
use super::{Plan, Progress, Summary, open_store};
use crate::Error;
use crate::model::{BlobKey, Timestamp};
use crate::storage::Storage;
use crate::storage::backup_folder::{BackupFolder, SnapshotFolder};

/// Blobs between two words of how far it is.
const REPORT_EVERY: u64 = 256;

/// What became of old snapshots.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// Names of those that were removed.
    pub snapshots: Vec<String>,
    /// Blobs that were removed with them, or were left by runs that were cut off.
    pub blobs: u64,
    /// Why old snapshots were kept although there are more than wanted.
    pub stopped: Option<String>,
}

/// Removes the oldest snapshots until as many are left as wanted, and what runs that were cut off have left behind.
pub(super) async fn prune(
    plan: &Plan,
    folder: &BackupFolder,
    newest: &Summary,
    unfinished: Vec<SnapshotFolder>,
    report: &impl Fn(Progress),
) -> Result<Pruned, Error> {
    let mut kept = folder.snapshots()?;
    let surplus = if plan.keep == 0 { 0 } else { kept.len().saturating_sub(plan.keep) };
    let old: Vec<_> = kept.drain(..surplus).collect();
    let mut pruned = Pruned { stopped: reason_to_stop(plan, newest, &old, &kept).await, ..Pruned::default() };
    let mut retired = Vec::new();
    if pruned.stopped.is_some() {
        // They need their blobs.
        kept = [old, kept].concat();
    } else {
        for snapshot in old {
            pruned.snapshots.push(snapshot.name().to_owned());
            retired.push(snapshot.retire()?);
        }
    }
    let blobs = open_store(&folder.blobs(), folder.spool())?;
    if !unfinished.is_empty() {
        for leftover in blobs.leftovers(Timestamp(i64::MAX)).await? {
            blobs.remove_leftover(&leftover).await?;
        }
    }
    for snapshot in unfinished.into_iter().chain(retired) {
        remove_blobs(&blobs, &snapshot, &kept, &mut pruned.blobs, report).await?;
        snapshot.remove()?;
    }
    Ok(pruned)
}

/// The reason why no old snapshot is pruned now. After images were lost by mistake, the snapshots from before are needed.
async fn reason_to_stop(plan: &Plan, newest: &Summary, old: &[SnapshotFolder], kept: &[SnapshotFolder]) -> Option<String> {
    if old.is_empty() {
        return None;
    }
    if !newest.damaged.is_empty() {
        return Some("the store could not give back everything".into());
    }
    for snapshot in kept {
        if let Err(error) = is_listed_rightly(snapshot).await {
            return Some(error.to_string());
        }
    }
    let now = newest.manifest.holdings.versions;
    let before = old.iter().filter_map(|snapshot| manifest_of(snapshot).ok()).map(|manifest| manifest.holdings.versions).max();
    let before = before.filter(|before| now < before / 2 && !plan.prune_anyway)?;
    Some(format!("the new snapshot has {now} versions of images, and one of those before has {before}"))
}

/// Whether the list of a snapshot's blobs is what was written. By a wrong one blobs would be removed that it needs.
async fn is_listed_rightly(snapshot: &SnapshotFolder) -> Result<(), Error> {
    let manifest = manifest_of(snapshot)?;
    if snapshot.digest_of_list().await? == manifest.list_digest {
        return Ok(());
    }
    Err(Error::invalid(format!("the snapshot {} is damaged: its blobs.sha256 is not what was written", snapshot.name())))
}

pub(super) fn manifest_of(snapshot: &SnapshotFolder) -> Result<Manifest, Error> {
    Manifest::from_text(snapshot.name(), &snapshot.read_manifest()?)
}

type Keys = Box<dyn Iterator<Item = io::Result<String>> + Send>;

/// Removes the blobs of a snapshot that no kept one lists. All lists are in the order of their keys, so none has to be in memory.
async fn remove_blobs(
    blobs: &Storage,
    snapshot: &SnapshotFolder,
    kept: &[SnapshotFolder],
    removed: &mut u64,
    report: &impl Fn(Progress),
) -> Result<(), Error> {
    let list_failed = |error: io::Error| Error::internal("reading a list of blobs", &error);
    let mut others = Vec::new();
    for other in kept {
        others.push((Box::new(other.read_list()?) as Keys).peekable());
    }
    let keys: Keys = Box::new(snapshot.read_list()?);
    for key in keys {
        let key = key.map_err(list_failed)?;
        if is_listed(&mut others, &key).map_err(list_failed)? {
            continue;
        }
        blobs.delete(&BlobKey::from_stored(key)).await?;
        *removed += 1;
        if removed.is_multiple_of(REPORT_EVERY) {
            report(Progress::Pruned(*removed));
        }
    }
    Ok(())
}

/// Whether one of the lists has this key. They are read up to it.
fn is_listed(lists: &mut [Peekable<Keys>], key: &str) -> io::Result<bool> {
    for list in lists {
        loop {
            match list.peek() {
                Some(Ok(other)) if other.as_str() < key => {
                    list.next();
                }
                Some(Ok(other)) if other == key => return Ok(true),
                Some(Err(error)) => return Err(io::Error::new(error.kind(), error.to_string())),
                _ => break,
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_any_of_the_lists() {
        let list = |keys: &[&str]| {
            let keys: Vec<io::Result<String>> = keys.iter().map(|key| Ok((*key).to_owned())).collect();
            (Box::new(keys.into_iter()) as Keys).peekable()
        };
        let mut lists = [list(&["b", "d", "f"]), list(&[]), list(&["a", "d", "g"])];
        let found: Vec<_> =
            ["a", "b", "c", "d", "e", "g", "h"].into_iter().filter(|key| is_listed(&mut lists, key).expect("reads")).collect();
        assert_eq!(found, ["a", "b", "d", "g"]);
    }
}

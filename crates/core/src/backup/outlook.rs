//! What a restore would do: whether the configured database and store take a snapshot, and what would be lost. Looking changes and makes
//! nothing.

use futures_util::StreamExt as _;

use super::look_at_store;
use super::manifest::Manifest;
use super::restoring::{Opened, RestorePlan};
use crate::Error;
use crate::db::moves::{self, Side};
use crate::db::{self, Database, Holdings};
use crate::following::RESTORING;
use crate::model::Timestamp;
use crate::moving::SEEN_WITHIN;
use crate::storage::{self, Stored};

/// Which snapshot would be restored, and onto what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// The snapshot's name.
    pub snapshot: String,
    /// What it says of itself.
    pub manifest: Manifest,
    /// What the configured database holds; none where there is no database.
    pub here: Option<Holdings>,
    /// Blobs of the configured store that the snapshot does not know.
    pub unknown_blobs: u64,
    /// Why it can't be restored here.
    pub refusal: Option<String>,
}

impl Opened {
    /// Looks at the target without changing it.
    pub(super) async fn outlook(&self, plan: &RestorePlan) -> Result<Outlook, Error> {
        let (here, mut refusal) = self.look_at_database(plan).await?;
        let (unknown_blobs, newest) = self.look_at_store(plan).await?;
        if refusal.is_none() && unknown_blobs > 0 && !plan.keep_store {
            refusal = Some(format!(
                "the store holds {unknown_blobs} blobs that the snapshot does not know, the newest of {}: the images of another database, or \
                 later ones of this. Name an empty store in storage_url; or keep them with --keep-store, without rows, until a sweep \
                 removes them",
                newest.to_seconds()
            ));
        }
        if refusal.is_none() && !plan.keep_store && self.belongs_to_another(plan).await? {
            refusal = Some(
                "the store belongs to a database. Where that one is lost, take its store over with --keep-store; else it is in use: name an \
                 empty store in storage_url"
                    .into(),
            );
        }
        let (snapshot, manifest) = (self.snapshot.name().to_owned(), self.manifest.clone());
        Ok(Outlook { snapshot, manifest, here, unknown_blobs, refusal })
    }

    async fn look_at_database(&self, plan: &RestorePlan) -> Result<(Option<Holdings>, Option<String>), Error> {
        let Some((database, schema)) = Database::look_as_it_is(&plan.to_database).await? else {
            return Ok((None, None));
        };
        if schema != db::newest_schema() {
            let refusal =
                format!("the database is of another version of imagewell (schema {schema}): name an empty one in database_url");
            return Ok((None, Some(refusal)));
        }
        let here = db::holdings::count(&database).await?;
        let mark = moves::find(&database, Side::Target).await?.map(|mark| mark.id);
        let nodes = moves::nodes(&database, database.now().minus(SEEN_WITHIN)).await?.len();
        database.close().await;
        let refusal = if mark.as_deref() == Some(self.id().as_str()) {
            None
        } else if let Some(mark) = mark {
            let other = mark.strip_prefix(RESTORING).and_then(|rest| rest.split(' ').next());
            Some(match other {
                Some(other) => {
                    format!("the restore of {other} was cut off here: go on with --snapshot {other}, or name an empty database")
                }
                None => {
                    "data is being moved to this database by `imagewell migrate`: name an empty one in database_url".to_owned()
                }
            })
        } else if here.orgs > 0 || here.images > 0 {
            Some(self.what_would_be_lost(here))
        } else if nodes > 0 {
            Some(format!("{nodes} nodes serve from this database: stop them first"))
        } else {
            None
        };
        Ok((Some(here), refusal))
    }

    fn what_would_be_lost(&self, here: Holdings) -> String {
        let then = self.manifest.holdings;
        let newest = |holdings: Holdings| holdings.newest_upload.map_or("none".to_owned(), Timestamp::to_seconds);
        format!(
            "the database is in use, and nothing of it is overwritten.\n\
             It holds      {} orgs, {} accounts, {} images, {} versions; newest upload {}\n\
             The snapshot  {} orgs, {} accounts, {} images, {} versions; newest upload {}\n\
             Stop the service, and name an empty database and store in database_url and storage_url, or move these away first",
            here.orgs,
            here.accounts,
            here.images,
            here.versions,
            newest(here),
            then.orgs,
            then.accounts,
            then.images,
            then.versions,
            newest(then)
        )
    }

    /// Whether the store bears the identity of another database than the one that is configured.
    async fn belongs_to_another(&self, plan: &RestorePlan) -> Result<bool, Error> {
        if matches!(&plan.to_storage, storage::Place::Folder(store) if !store.exists()) {
            return Ok(false);
        }
        let Some(borne) = look_at_store(&plan.to_storage, plan.spool_folder.clone())?.identity().await? else {
            return Ok(false);
        };
        let Some((database, _)) = Database::look_as_it_is(&plan.to_database).await? else {
            return Ok(true);
        };
        let own = db::identity::find(&database).await?;
        database.close().await;
        Ok(own.is_none_or(|own| own.id != borne.id))
    }

    /// How many blobs the store has that the snapshot doesn't, and when the newest of them came.
    async fn look_at_store(&self, plan: &RestorePlan) -> Result<(u64, Timestamp), Error> {
        if let storage::Place::Folder(store) = &plan.to_storage {
            if !store.exists() {
                return Ok((0, Timestamp(0)));
            }
            if self.folder.holds(store) {
                return Err(Error::invalid("storage_url points into the backup: name another folder for the store"));
            }
        }
        let store = look_at_store(&plan.to_storage, plan.spool_folder.clone())?;
        let (mut unknown, mut newest, mut listed) = (0, Timestamp(0), store.list());
        while let Some(stored) = listed.next().await {
            let Stored::Blob(stored) = stored? else { continue };
            if !db::images::blob_is_used(&self.rows, &stored.key).await? {
                unknown += 1;
                newest = newest.max(stored.modified);
            }
        }
        Ok((unknown, newest))
    }
}

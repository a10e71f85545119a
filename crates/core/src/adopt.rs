//! An operator's decision that a database and a store belong together (see [`crate::identity`]).

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt as _;

use crate::db::identity as rows;
use crate::db::{self, Database};
use crate::halt::Halt;
use crate::model::BlobKey;
use crate::storage::{self, Reserve, Storage, Stored};
use crate::{Error, following, identity, sweep};

/// Keys that are looked up at a time.
const PAGE: usize = 512;

/// A database and a store that may not belong together.
#[derive(Debug)]
pub struct Adoption {
    database: Database,
    storage: Storage,
}

/// What a store bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bears {
    /// No identity.
    Nothing,
    /// The identity of this database.
    This,
    /// Another database's.
    Another,
    /// An identity that can't be read.
    Unreadable,
}

/// What both sides hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// What the store bears.
    pub bears: Bears,
    /// Images in the database.
    pub images: u64,
    /// Versions in the database, each of which has a blob.
    pub versions: u64,
    /// Blobs in the store.
    pub blobs: u64,
    /// Blobs that a version points at.
    pub matching: u64,
    /// Blobs in the trash whose versions miss them: adopting brings them back.
    pub in_trash: u64,
    /// Objects that imagewell did not make.
    pub foreign: u64,
}

impl Census {
    /// Versions whose blobs are not in the store.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.versions.saturating_sub(self.matching)
    }

    /// Blobs that no version points at.
    #[must_use]
    pub fn orphans(&self) -> u64 {
        self.blobs.saturating_sub(self.matching)
    }

    /// Whether everything matches, so that adopting can do no harm.
    #[must_use]
    pub fn matches(&self) -> bool {
        self.missing() == 0 && self.orphans() == 0 && matches!(self.bears, Bears::Nothing | Bears::This)
    }
}

impl Adoption {
    /// Opens both, which are there, and changes nothing but the database's schema.
    ///
    /// # Errors
    /// [`Error::Internal`] when one is not there or can't be opened; [`Error::Invalid`] when the data has moved elsewhere.
    pub async fn open(database: &db::Place, storage: &storage::Place, spool_folder: PathBuf) -> Result<Self, Error> {
        let halt = Arc::new(Halt::default());
        database.expect()?;
        let storage = Storage::look(storage, spool_folder, Arc::clone(&halt), Reserve { bytes_min: 0, inodes_min: 0 })?;
        let database = Database::open(database, halt).await?;
        if let Err(refused) = following::check(&database).await {
            database.close().await;
            return Err(refused);
        }
        Ok(Self { database, storage })
    }

    /// Counts what both hold. Lists the whole store, and looks each blob up.
    ///
    /// # Errors
    /// [`Error::Busy`] when one of them can't be reached.
    pub async fn census(&self, mut progress: impl FnMut(u64)) -> Result<Census, Error> {
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        let bears = match (self.storage.identity().await, rows::find(&self.database).await?) {
            (Ok(None), _) => Bears::Nothing,
            (Ok(Some(borne)), Some(own)) if borne.id == own.id => Bears::This,
            (Ok(Some(_)), _) => Bears::Another,
            (Err(Error::Invalid { .. }), _) => Bears::Unreadable,
            (Err(error), _) => return Err(error),
        };
        let images = count(db::images::total(&self.database).await?);
        let versions = count(db::images::blobs_in_all(&self.database).await?);
        let mut census = Census { bears, images, versions, blobs: 0, matching: 0, in_trash: 0, foreign: 0 };
        let mut pages = self.storage.list().chunks(PAGE);
        while let Some(page) = pages.next().await {
            let mut keys: Vec<BlobKey> = Vec::with_capacity(page.len());
            for stored in page {
                match stored? {
                    Stored::Blob(blob) => keys.push(blob.key),
                    Stored::Foreign(_) => census.foreign += 1,
                }
            }
            census.blobs += keys.len() as u64;
            census.matching += db::images::known_blobs(&self.database, &keys).await?.len() as u64;
            progress(census.blobs);
        }
        let mut pages = self.storage.list_trash().chunks(PAGE);
        while let Some(page) = pages.next().await {
            let keys = page.into_iter().map(|blob| blob.map(|blob| blob.key)).collect::<Result<Vec<_>, _>>()?;
            for key in db::images::known_blobs(&self.database, &keys).await? {
                census.in_trash += u64::from(!self.storage.has(&key).await?);
            }
        }
        Ok(census)
    }

    /// Gives both a fresh identity, so that any other database that used the store stops sweeping it and refuses to start, and brings back
    /// what the trash has of this one. Returns how many blobs.
    ///
    /// # Errors
    /// [`Error::Busy`] when one of them can't be reached; then the command can be given again.
    pub async fn adopt(&self) -> Result<u64, Error> {
        identity::pair_anew(&self.database, &self.storage).await?;
        sweep::restore(&self.database, &self.storage, |_| {}).await.map(|(brought_back, _)| brought_back)
    }

    /// Closes the database.
    pub async fn close(self) {
        self.database.close().await;
    }
}

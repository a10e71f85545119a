//! Bytes of uploads on their way in: at their sender's pace into memory, and from there, in turns, to
//! disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use crate::model::{Actor, OrgId};
use crate::spool::{Spool, Spooled};
use crate::{App, Error};

/// What takes longer than this to come in holds little in memory from then on.
const SLOW_AFTER: Duration = Duration::from_secs(2);

/// Takes bytes that come in at their sender's pace, into memory and then, in turns, to disk.
pub(crate) struct Filling {
    app: Arc<App>,
    org: OrgId,
    spool: Spool,
    began: Instant,
}

impl Filling {
    /// For bytes of an org; `bytes_announced` as in [`upload::Request`](crate::upload::Request).
    pub(crate) fn new(app: &Arc<App>, org: OrgId, bytes_max: u64, bytes_announced: u64) -> Self {
        let spool = Spool::new(app.storage.spool_folder(), app.options.upload_memory_bytes_max, bytes_max);
        Self {
            app: Arc::clone(app),
            org,
            spool: spool.sharing(app.uploads.memory()).expecting(bytes_announced),
            began: Instant::now(),
        }
    }

    /// The first bytes.
    pub(crate) fn head(&self) -> &[u8] {
        self.spool.head()
    }

    /// Takes a chunk.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::NoSpace`], [`Error::Busy`].
    pub(crate) async fn write(&mut self, chunk: &[u8]) -> Result<(), Error> {
        if self.began.elapsed() > SLOW_AFTER {
            self.spool.hold_little();
        }
        if self.spool.take(chunk)? {
            let _turn = self.app.uploads.turn(self.org).await?;
            self.app.storage.check_space(0)?;
            self.spool.flush().await?;
        }
        Ok(())
    }

    /// No more is coming.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Busy`].
    pub(crate) async fn finish(self) -> Result<Spooled, Error> {
        let _turn = if self.spool.is_on_disk() { Some(self.app.uploads.turn(self.org).await?) } else { None };
        self.spool.finish().await
    }
}

/// Takes text that is decoded before it is uploaded.
///
/// # Errors
/// [`Error::TooLarge`], [`Error::NoSpace`], [`Error::Busy`], or what the stream says.
pub async fn spool<S>(app: &Arc<App>, actor: &Actor, bytes_max: u64, mut chunks: S) -> Result<Spooled, Error>
where
    S: Stream<Item = Result<Bytes, Error>> + Unpin,
{
    let mut filling = Filling::new(app, actor.org, bytes_max, 0);
    while let Some(chunk) = chunks.next().await {
        filling.write(&chunk?).await?;
    }
    filling.finish().await
}

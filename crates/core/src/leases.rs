//! Work that one of several nodes does. A lease ends by itself, so what a dead node was at is taken up by another; all leased work may be
//! done twice without harm. A process that has its database for itself needs none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::app::App;
use crate::{Error, db};

/// Takes a lease for so long, or makes one that is held last longer. False when another node has it.
///
/// # Errors
/// [`Error::Internal`] or [`Error::Busy`] when the database can't be asked.
pub(crate) async fn take(app: &App, name: String, lasts: Duration) -> Result<bool, Error> {
    take_as(app, name, app.node.clone(), lasts).await
}

async fn take_as(app: &App, name: String, holder: String, lasts: Duration) -> Result<bool, Error> {
    if !app.database.is_shared() {
        return Ok(true);
    }
    let now = app.database.now();
    app.database
        .write(move |connection| {
            Box::pin(async move { db::leases::take(connection, &name, &holder, now.plus(lasts), now).await })
        })
        .await
}

/// A lease that this process can lose to itself: for what is to be done once in a while by anybody.
#[derive(Debug)]
pub(crate) struct Lease {
    name: String,
    holder: String,
}

/// As [`take`], but not one that this node has itself. None when anybody has it.
///
/// # Errors
/// As [`take`].
pub(crate) async fn take_free(app: &App, name: String, lasts: Duration) -> Result<Option<Lease>, Error> {
    let holder = uuid::Uuid::now_v7().to_string();
    let taken = take_as(app, name.clone(), holder.clone(), lasts).await?;
    Ok(taken.then_some(Lease { name, holder }))
}

impl Lease {
    /// Makes it last so long from now on; zero gives it back. False when somebody else has it by now.
    ///
    /// # Errors
    /// As [`take`].
    pub(crate) async fn extend(&self, app: &App, lasts: Duration) -> Result<bool, Error> {
        take_as(app, self.name.clone(), self.holder.clone(), lasts).await
    }
}

/// Makes a lease last on and on, and returns when it is lost: somebody else has it, or could have it since it could not be extended in time.
pub(crate) async fn keep<F>(lasts: Duration, extend: impl Fn() -> F)
where
    F: Future<Output = Result<bool, Error>>,
{
    let mut extended = Instant::now();
    while extended.elapsed() < lasts {
        tokio::time::sleep(lasts / 4).await;
        let asked = Instant::now();
        match tokio::time::timeout(lasts / 4, extend()).await {
            Ok(Ok(true)) => extended = asked,
            Ok(Ok(false)) => return,
            Ok(Err(error)) => tracing::warn!(%error, "a lease could not be extended"),
            Err(_) => tracing::warn!("a lease could not be extended in time"),
        }
    }
}

/// Lets others have it before its time is over.
pub(crate) async fn give_back(app: &App, name: String) {
    if !app.database.is_shared() {
        return;
    }
    let holder = app.node.clone();
    let given = app
        .database
        .write(move |connection| Box::pin(async move { db::leases::give_back(connection, &name, &holder).await }))
        .await;
    if let Err(error) = given {
        tracing::debug!(%error, "a lease is left to end by itself");
    }
}

/// A lease that is given back when it is dropped, however that comes about.
pub(crate) struct Held(Option<(Arc<App>, String)>);

/// As [`take`], as a guard. None when another node has it.
///
/// # Errors
/// As [`take`].
pub(crate) async fn hold(app: &Arc<App>, name: String, lasts: Duration) -> Result<Option<Held>, Error> {
    let taken = take(app, name.clone(), lasts).await?;
    Ok(taken.then(|| Held(app.database.is_shared().then(|| (Arc::clone(app), name)))))
}

impl Held {
    /// Gives it back now, and returns when that is done.
    pub(crate) async fn give_back(mut self) {
        if let Some((app, name)) = self.0.take() {
            give_back(&app, name).await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let (Some((app, name)), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { give_back(&app, name).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_lease_that_another_node_has_or_that_can_not_be_extended_is_given_up() {
        let lasts = Duration::from_millis(200);
        let away = || Err(Error::Busy { retry_after: lasts });
        for (name, answers) in [("taken by another", vec![Ok(true), away(), Ok(false), Ok(true)]), ("database away", vec![])] {
            let (asked, count) = (AtomicUsize::new(0), answers.len());
            let answers = std::sync::Mutex::new(answers.into_iter());
            let extend = || {
                asked.fetch_add(1, Ordering::SeqCst);
                let answer = answers.lock().expect("lock").next().unwrap_or_else(away);
                async move { answer }
            };
            tokio::time::timeout(Duration::from_secs(60), keep(lasts, extend)).await.expect(name);
            let expected = if count > 0 { 1..=3 } else { 1..=4 };
            assert!(expected.contains(&asked.load(Ordering::SeqCst)), "{name}: {asked:?}");
        }
    }
}

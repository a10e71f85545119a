//! What changed of rights and rules, here or in another process, and who is concerned.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::Accounts;
use crate::model::OrgId;
use crate::{Error, db};

/// What of everything that is held in memory may be old.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Changed {
    Everything,
    Orgs(HashSet<OrgId>),
}

impl Changed {
    pub(crate) fn concerns(&self, org: OrgId) -> bool {
        match self {
            Self::Everything => true,
            Self::Orgs(orgs) => orgs.contains(&org),
        }
    }
}

/// The counters of changes as they stand in the database: of all, and of each org.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counters {
    all: i64,
    orgs: HashMap<OrgId, i64>,
}

impl Counters {
    /// What has changed since others were read. Keys change without an org, and so may whatever an older program did.
    fn changed_since(&self, before: Option<&Self>) -> Changed {
        let Some(before) = before else { return Changed::Everything };
        let of_both = self.orgs.keys().chain(before.orgs.keys());
        let orgs: HashSet<OrgId> = of_both.filter(|org| self.orgs.get(org) != before.orgs.get(org)).copied().collect();
        if orgs.is_empty() { Changed::Everything } else { Changed::Orgs(orgs) }
    }
}

impl Accounts {
    /// What has changed since [`Accounts::applied`], if anything has.
    ///
    /// # Errors
    /// [`Error::Internal`] when the database can't be read.
    pub(crate) async fn changes(&self) -> Result<Option<(Counters, Changed)>, Error> {
        let all = db::accounts::generation(&self.database).await?;
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if applied.as_ref().is_some_and(|applied| applied.all == all) {
            return Ok(None);
        }
        let orgs = db::accounts::generations_of_orgs(&self.database).await?;
        let counters = Counters { all, orgs: orgs.into_iter().collect() };
        let changed = counters.changed_since(applied.as_ref());
        Ok(Some((counters, changed)))
    }

    /// Everything that hangs on these counters has been read again, or will be before it is used.
    pub(crate) fn applied(&self, counters: Counters) {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = Some(counters);
    }

    /// Counts how often rights and rules were forgotten: what was read between two different values may be old.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Forgets what callers may do. What is being read meanwhile is not kept, because it is counted first.
    pub(crate) fn forget_rights(&self, changed: &Changed) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.sessions.retain(|_, live| !changed.concerns(live.actor.org));
        self.machines.forget(changed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_concerns_its_org_and_one_without_an_org_concerns_all() {
        let counters =
            |all, orgs: &[(i64, i64)]| Counters { all, orgs: orgs.iter().map(|(org, count)| (OrgId(*org), *count)).collect() };
        let before = counters(4, &[(1, 1), (2, 3)]);
        let since = |after: &Counters| after.changed_since(Some(&before));
        assert_eq!(counters(5, &[(1, 1)]).changed_since(None), Changed::Everything);
        assert_eq!(since(&counters(5, &[(1, 1), (2, 4)])), Changed::Orgs(HashSet::from([OrgId(2)])));
        assert_eq!(since(&counters(6, &[(1, 1), (2, 3), (3, 0)])), Changed::Orgs(HashSet::from([OrgId(3)])));
        assert_eq!(since(&counters(6, &[(2, 3)])), Changed::Orgs(HashSet::from([OrgId(1)])));
        assert_eq!(since(&counters(5, &[(1, 1), (2, 3)])), Changed::Everything);
    }
}

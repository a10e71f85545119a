use std::collections::BTreeSet;

use super::{AccountId, ActionKey, OrgId};

/// The caller of one request, whatever it proved itself with. Everything behind authentication sees only this.
#[derive(Debug, Clone)]
pub struct Actor {
    /// The tenant it belongs to.
    pub org: OrgId,
    /// The tenant's name.
    pub org_name: String,
    /// The account it proved to be.
    pub account: AccountId,
    /// The account's login, for greeting and for the audit log.
    pub login: String,
    /// What its roles allow.
    pub actions: BTreeSet<String>,
}

impl Actor {
    /// Whether a role of the caller carries this action key. `imagewell.admin` carries all of them.
    #[must_use]
    pub fn holds(&self, action: &str) -> bool {
        self.actions.contains(action) || self.actions.contains(ActionKey::ADMIN)
    }
}

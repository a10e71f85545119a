//! Orgs, roles and accounts from a declared plan: idempotent, all or nothing, and it says what changed.

use std::collections::BTreeSet;

use md5::{Digest as _, Md5};

use crate::app::App;
use crate::db::accounts::{Account, Provisioning, find_outside, fold};
use crate::model::{AccountId, AccountKind, ActionKey, Namespace, NamespaceRules, Org, OrgId, OrgReference, Preset, Timestamp};
use crate::passwords::{Asker, PASSWORD_BYTES_MAX};
use crate::{Error, db};

/// Roles that every org has from the start.
const BUILT_IN_ROLES: &[(&str, &[&str])] = &[
    ("uploader", &[ActionKey::UPLOAD]),
    ("file-read", &[ActionKey::FILES_READ]),
    ("file-write", &[ActionKey::FILES_READ, ActionKey::FILES_WRITE]),
    ("site-admin", &[ActionKey::ADMIN]),
];
/// Namespaces that every org has from the start.
const BUILT_IN_NAMESPACES: &[&str] = &["rewards"];

/// What should be there. Whatever a plan doesn't mention stays as it is.
#[derive(Debug, Default, Clone)]
pub struct Plan {
    /// Tenants, by number.
    pub orgs: Vec<Org>,
    /// Names of orgs, and whether their uploads may be SVG.
    pub accept_svg: Vec<(String, bool)>,
    /// Roles with exactly these actions.
    pub roles: Vec<Role>,
    /// Users, tills and clients.
    pub accounts: Vec<AccountPlan>,
    /// Namespaces of the file-service API with exactly these rules.
    pub namespaces: Vec<NamespacePlan>,
    /// Transforms with a name.
    pub presets: Vec<PresetPlan>,
}

/// A role with exactly these actions.
#[derive(Debug, Clone)]
pub struct Role {
    /// The org's name.
    pub org: String,
    /// The role's name.
    pub name: String,
    /// What it allows.
    pub actions: Vec<ActionKey>,
}

/// A transform with a name.
#[derive(Debug, Clone)]
pub struct PresetPlan {
    /// The org's name.
    pub org: String,
    /// The preset. Its steps have been checked.
    pub preset: Preset,
}

/// A namespace with exactly these rules.
#[derive(Debug, Clone)]
pub struct NamespacePlan {
    /// The org's name.
    pub org: String,
    /// Which, and what is decided for it.
    pub rules: NamespaceRules,
}

/// What a caller will prove itself with.
#[derive(Debug, Clone)]
pub enum Secret {
    /// A password or an OAuth secret. Tills never send theirs but its MD5, which is what gets hashed for them.
    Plain(String),
    /// The lower-case hexadecimal MD5 of a till's password, where only that is known.
    Md5(String),
}

impl Secret {
    /// What the caller will send.
    fn as_sent(&self, kind: AccountKind) -> String {
        match self {
            Self::Plain(password) if kind == AccountKind::Till => md5_hex(password),
            Self::Plain(secret) | Self::Md5(secret) => secret.clone(),
        }
    }
}

/// In lower case, as tills send it (RFC 1321).
fn md5_hex(text: &str) -> String {
    hex::encode(Md5::digest(text.as_bytes()))
}

/// An account with exactly these roles.
#[derive(Debug, Clone)]
pub struct AccountPlan {
    /// What kind.
    pub kind: AccountKind,
    /// The org's name.
    pub org: String,
    /// Login, till id or client key.
    pub login: String,
    /// For users.
    pub email: Option<String>,
    /// Hashed before it is stored.
    pub secret: Secret,
    /// Empty means the default of the kind.
    pub roles: Vec<String>,
    /// For clients.
    pub token_ttl_seconds: Option<i64>,
    /// A disabled account can't log in and has no sessions.
    pub disabled: bool,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change(pub String);

/// Makes the plan true in one transaction. The second time nothing changes.
///
/// # Errors
/// [`Error::Invalid`] names an org or role that doesn't exist or a name that is taken; nothing is changed then.
pub async fn apply(app: &App, plan: Plan) -> Result<Vec<Change>, Error> {
    apply_unless(app, plan, |_| false).await.map(Option::unwrap_or_default)
}

/// As [`apply`], where nothing has been provisioned yet; else nothing is changed, and it returns none. Of several processes that do this at once,
/// one does it.
///
/// # Errors
/// As [`apply`].
pub async fn apply_first(app: &App, plan: Plan) -> Result<Option<Vec<Change>>, Error> {
    apply_unless(app, plan, |orgs| orgs > 0).await
}

/// As [`apply`], unless the number of orgs says that there is nothing to do.
async fn apply_unless(app: &App, plan: Plan, is_done: fn(i64) -> bool) -> Result<Option<Vec<Change>>, Error> {
    let mut accounts = Vec::with_capacity(plan.accounts.len());
    for account in plan.accounts {
        accounts.push((hashed(app, &plan.orgs, &account).await?, account));
    }
    let (orgs, roles, namespaces, presets) = (plan.orgs, plan.roles, plan.namespaces, plan.presets);
    let (accept_svg, now) = (plan.accept_svg, app.database.now());
    let changes = app
        .database
        .write(move |connection| {
            Box::pin(async move {
                let mut run = Run { rows: Provisioning(connection), now, changes: Vec::new(), concerned: BTreeSet::new() };
                // Others who provision wait here.
                run.rows.hold_generation().await?;
                if is_done(run.rows.org_count().await?) {
                    return Ok(None);
                }
                for org in &orgs {
                    run.org(org).await?;
                }
                for (org, accepts) in &accept_svg {
                    run.accept_svg(org, *accepts).await?;
                }
                for role in &roles {
                    run.role(role).await?;
                }
                for namespace in &namespaces {
                    run.namespace(namespace).await?;
                }
                for preset in &presets {
                    run.preset(preset).await?;
                }
                for (secret_hash, account) in accounts {
                    run.account(account, secret_hash).await?;
                }
                for org in &run.concerned {
                    run.rows.raise_generation_of(*org).await?;
                }
                if !run.changes.is_empty() {
                    run.rows.raise_generation().await?;
                }
                Ok(Some(run.changes))
            })
        })
        .await
        .map_err(|error| match error {
            Error::Conflict => Error::invalid("two entries claim the same name"),
            other => other,
        })?;
    app.refresh_rights().await?;
    Ok(changes)
}

/// Whether nothing has been provisioned yet.
///
/// # Errors
/// [`Error::Internal`] when the database can't be read.
pub async fn is_empty(app: &App) -> Result<bool, Error> {
    Ok(db::accounts::org_count(&app.database).await? == 0)
}

/// Whether an account is there and has this secret. No attempt is counted: it is for who has the database.
///
/// # Errors
/// [`Error::Internal`] when the database can't be read, [`Error::Busy`] when no hashing thread comes free.
pub async fn has_secret(app: &App, org: &str, kind: AccountKind, login: &str, secret: &str) -> Result<bool, Error> {
    let Some(org) = app.accounts.org(&OrgReference::Name(org.to_owned())).await? else { return Ok(false) };
    let Some(account) = find_outside(&app.database, org.id, kind, login).await? else { return Ok(false) };
    let sent = Secret::Plain(secret.to_owned()).as_sent(kind);
    app.accounts.passwords().verify(sent, Some(account.secret_hash), Asker::OURSELVES).await
}

/// Orgs whose names are of digits alone, as earlier versions took them: a client that sends such a name may mean the org of that number.
///
/// # Errors
/// [`Error::Internal`] when the database can't be read.
pub async fn orgs_named_by_digits(app: &App) -> Result<Vec<Org>, Error> {
    let orgs = db::accounts::orgs(&app.database).await?;
    Ok(orgs.into_iter().filter(|org| org.name.parse::<i64>().is_ok()).collect())
}

/// The stored hash when the secret still matches it, else a fresh one; outside the transaction, because it is slow. The org may
/// get its name by this plan: then it is known by its number.
async fn hashed(app: &App, orgs: &[Org], plan: &AccountPlan) -> Result<String, Error> {
    let passwords = app.accounts.passwords();
    let (Secret::Plain(text) | Secret::Md5(text)) = &plan.secret;
    if text.is_empty() || text.len() > PASSWORD_BYTES_MAX {
        return Err(Error::invalid(format!("{}: a password has 1 to {PASSWORD_BYTES_MAX} bytes", plan.login)));
    }
    let sent = plan.secret.as_sent(plan.kind);
    let org = match orgs.iter().find(|org| org.name == plan.org) {
        Some(org) => Some(org.id),
        None => app.accounts.org(&OrgReference::Name(plan.org.clone())).await?.map(|org| org.id),
    };
    if let Some(org) = org
        && let Some(account) = find_outside(&app.database, org, plan.kind, &plan.login).await?
        && passwords.verify(sent.clone(), Some(account.secret_hash.clone()), Asker::OURSELVES).await?
    {
        return Ok(account.secret_hash);
    }
    passwords.hash(sent).await
}

struct Run<'c> {
    rows: Provisioning<'c>,
    now: Timestamp,
    changes: Vec<Change>,
    /// Whose they are.
    concerned: BTreeSet<OrgId>,
}

impl Run<'_> {
    fn say(&mut self, org: OrgId, change: String) {
        self.concerned.insert(org);
        self.changes.push(Change(change));
    }

    async fn find_org(&mut self, name: &str) -> Result<OrgId, Error> {
        let org = self.rows.org_by_name(name).await?;
        org.map(|org| org.id).ok_or_else(|| Error::invalid(format!("there is no org {name}: declare it under [[orgs]]")))
    }

    async fn org(&mut self, org: &Org) -> Result<(), Error> {
        match self.rows.org_by_id(org.id).await? {
            Some(known) if known == *org => return Ok(()),
            Some(known) => {
                self.rows.rename_org(org).await?;
                self.say(org.id, format!("org {}: renamed from {} to {}", org.id.0, known.name, org.name));
            }
            None => {
                self.rows.insert_org(org).await?;
                self.say(org.id, format!("org {} {}: added", org.id.0, org.name));
            }
        }
        for (role, actions) in BUILT_IN_ROLES {
            if self.rows.insert_role(org.id, role).await? {
                for action in *actions {
                    self.rows.insert_role_action(org.id, role, action).await?;
                }
            }
        }
        for namespace in BUILT_IN_NAMESPACES {
            db::namespaces::insert(self.rows.0, org.id, &Namespace::parse(namespace)?).await?;
        }
        Ok(())
    }

    async fn role(&mut self, role: &Role) -> Result<(), Error> {
        let org = self.find_org(&role.org).await?;
        let added = self.rows.insert_role(org, &role.name).await?;
        let wanted: BTreeSet<String> = role.actions.iter().map(|action| action.as_str().to_owned()).collect();
        let known = self.rows.role_actions(org, &role.name).await?;
        for action in wanted.difference(&known) {
            self.rows.insert_role_action(org, &role.name, action).await?;
        }
        for action in known.difference(&wanted) {
            self.rows.delete_role_action(org, &role.name, action).await?;
        }
        if added {
            self.say(org, format!("role {}/{}: added", role.org, role.name));
        } else if wanted != known {
            self.say(org, format!("role {}/{}: now allows {}", role.org, role.name, list(&wanted)));
        }
        Ok(())
    }

    async fn namespace(&mut self, plan: &NamespacePlan) -> Result<(), Error> {
        let org = self.find_org(&plan.org).await?;
        let namespace = &plan.rules.namespace;
        let added = db::namespaces::insert(self.rows.0, org, namespace).await?;
        let known = db::namespaces::find_in(self.rows.0, org, namespace).await?;
        if known.as_ref() != Some(&plan.rules) {
            db::namespaces::update(self.rows.0, org, &plan.rules).await?;
        }
        if added {
            self.say(org, format!("namespace {}/{}: added", plan.org, namespace.as_str()));
        } else if known.as_ref() != Some(&plan.rules) {
            self.say(org, format!("namespace {}/{}: rules changed", plan.org, namespace.as_str()));
        }
        Ok(())
    }

    async fn accept_svg(&mut self, name: &str, accepts: bool) -> Result<(), Error> {
        let org = self.find_org(name).await?;
        if self.rows.set_accepts_svg(org, accepts).await? {
            self.say(org, format!("org {name}: SVG is {} accepted", if accepts { "now" } else { "no longer" }));
        }
        Ok(())
    }

    async fn preset(&mut self, plan: &PresetPlan) -> Result<(), Error> {
        let org = self.find_org(&plan.org).await?;
        let preset = &plan.preset;
        if db::presets::put(self.rows.0, org, preset).await? {
            let prewarmed = if preset.prewarm { ", prewarmed" } else { "" };
            self.say(org, format!("preset {}/{}: is now {}{prewarmed}", plan.org, preset.name, preset.steps));
        }
        Ok(())
    }

    async fn account(&mut self, plan: AccountPlan, secret_hash: String) -> Result<(), Error> {
        let org = self.find_org(&plan.org).await?;
        let label = format!("{} {}/{}", plan.kind.as_str(), plan.org, plan.login);
        let wanted = Account {
            id: AccountId::mint(),
            org,
            login: plan.login.clone(),
            email_folded: plan.email.as_deref().map(fold),
            secret_hash,
            disabled: plan.disabled,
            token_ttl_seconds: plan.token_ttl_seconds,
        };
        let id = match self.rows.find(org, plan.kind, &plan.login).await? {
            None => {
                self.rows.insert_account(plan.kind, &wanted, self.now).await?;
                self.say(org, format!("{label}: added"));
                wanted.id
            }
            Some(known) => {
                self.update(&label, &known, Account { id: known.id, ..wanted }).await?;
                known.id
            }
        };
        self.account_roles(&label, id, org, &plan).await
    }

    async fn update(&mut self, label: &str, known: &Account, wanted: Account) -> Result<(), Error> {
        let mut changed = Vec::new();
        if known.secret_hash != wanted.secret_hash {
            changed.push("password");
        }
        if known.email_folded != wanted.email_folded {
            changed.push("e-mail");
        }
        if known.disabled != wanted.disabled {
            changed.push(if wanted.disabled { "disabled" } else { "enabled" });
        }
        if known.token_ttl_seconds != wanted.token_ttl_seconds {
            changed.push("token lifetime");
        }
        if changed.is_empty() {
            return Ok(());
        }
        self.rows.update_account(&wanted).await?;
        self.say(known.org, format!("{label}: {} changed", changed.join(", ")));
        if changed.contains(&"password") || wanted.disabled {
            let ended = db::sessions::delete_of_account(self.rows.0, wanted.id).await?;
            if ended > 0 {
                self.say(known.org, format!("{label}: {ended} sessions ended"));
            }
        }
        Ok(())
    }

    async fn account_roles(&mut self, label: &str, id: AccountId, org: OrgId, plan: &AccountPlan) -> Result<(), Error> {
        let default = match plan.kind {
            AccountKind::User => "uploader",
            AccountKind::Till | AccountKind::Client | AccountKind::Outside => "file-write",
        };
        let wanted: BTreeSet<String> =
            if plan.roles.is_empty() { BTreeSet::from([default.to_owned()]) } else { plan.roles.iter().cloned().collect() };
        let known = self.rows.account_roles(id).await?;
        for role in wanted.difference(&known) {
            if !self.rows.role_exists(org, role).await? {
                return Err(Error::invalid(format!("{label}: the org has no role {role}: declare it under [[roles]]")));
            }
            self.rows.insert_account_role(id, org, role).await?;
        }
        for role in known.difference(&wanted) {
            self.rows.delete_account_role(id, role).await?;
        }
        if !known.is_empty() && wanted != known {
            self.say(org, format!("{label}: now has the roles {}", list(&wanted)));
        }
        Ok(())
    }
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

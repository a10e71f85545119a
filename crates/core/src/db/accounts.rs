use std::collections::BTreeSet;

use super::query::{On, Query, columns, query, statements};
use super::{Connection, Database};
use crate::Error;
use crate::model::{AccountId, AccountKind, Actor, Org, OrgId, OrgReference, Timestamp};
use uuid::Uuid;

statements! {
    ORG_BY_NAME = "SELECT id, name FROM orgs WHERE name = $1";
    ORG_BY_ID = "SELECT id, name FROM orgs WHERE id = $1";
    INSERT_ORG = "INSERT INTO orgs (id, name) VALUES ($1, $2)";
    RENAME_ORG = "UPDATE orgs SET name = $2 WHERE id = $1";
    SET_ACCEPTS_SVG = "UPDATE orgs SET accepts_svg = $2 WHERE id = $1 AND accepts_svg <> $2";
    ACCEPTS_SVG = "SELECT accepts_svg FROM orgs WHERE id = $1";
    ORG_COUNT = "SELECT COUNT(*) FROM orgs";
    ORGS = "SELECT id, name FROM orgs ORDER BY id";
    INSERT_ROLE = "INSERT INTO roles (org_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    ROLE_EXISTS = "SELECT COUNT(*) FROM roles WHERE org_id = $1 AND name = $2";
    ROLE_ACTIONS = "SELECT action FROM role_actions WHERE org_id = $1 AND role = $2";
    INSERT_ROLE_ACTION = "INSERT INTO role_actions (org_id, role, action) VALUES ($1, $2, $3)";
    DELETE_ROLE_ACTION = "DELETE FROM role_actions WHERE org_id = $1 AND role = $2 AND action = $3";
    FIND_ACCOUNT = "SELECT id, org_id, login, email_folded, secret_hash, disabled, token_ttl_seconds FROM accounts \
        WHERE org_id = $1 AND kind = $2 AND login_folded = $3";
    LOGIN_CANDIDATES = "SELECT a.id, a.org_id, a.login, a.email_folded, a.secret_hash, a.disabled, a.token_ttl_seconds \
        FROM accounts a JOIN orgs o ON o.id = a.org_id \
        WHERE a.kind = $3 AND (a.login_folded = $1 OR a.email_folded = $1) \
        AND (CAST($2 AS TEXT) IS NULL OR o.name = $2) LIMIT 2";
    USER_LOGIN = "SELECT login FROM accounts WHERE org_id = $1 AND kind = 'user' AND login_folded = $2";
    LOGIN_OF_USER = "SELECT login FROM accounts WHERE id = $1 AND org_id = $2 AND kind = 'user'";
    OUTSIDE = "SELECT id FROM accounts WHERE org_id = $1 AND kind = 'outside' AND login_folded = $2 AND NOT disabled";
    INSERT_OUTSIDE = "INSERT INTO accounts (id, org_id, kind, login, login_folded, secret_hash, disabled, created_us) \
        VALUES ($1, $2, 'outside', $3, $4, '', FALSE, $5) ON CONFLICT (org_id, kind, login_folded) DO NOTHING";
    INSERT_ACCOUNT = "INSERT INTO accounts (id, org_id, kind, login, login_folded, email_folded, secret_hash, disabled, \
        token_ttl_seconds, created_us) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    UPDATE_ACCOUNT = "UPDATE accounts SET email_folded = $2, secret_hash = $3, disabled = $4, token_ttl_seconds = $5 WHERE id = $1";
    CALLER = "SELECT a.org_id, o.name, a.login, a.disabled FROM accounts a JOIN orgs o ON o.id = a.org_id WHERE a.id = $1";
    TOKEN_TTL = "SELECT token_ttl_seconds FROM accounts WHERE id = $1";
    ACCOUNT_ROLES = "SELECT role FROM account_roles WHERE account_id = $1";
    INSERT_ACCOUNT_ROLE = "INSERT INTO account_roles (account_id, org_id, role) VALUES ($1, $2, $3)";
    DELETE_ACCOUNT_ROLE = "DELETE FROM account_roles WHERE account_id = $1 AND role = $2";
    ACTIONS = "SELECT DISTINCT ra.action FROM account_roles ar \
        JOIN role_actions ra ON ra.org_id = ar.org_id AND ra.role = ar.role WHERE ar.account_id = $1";
    GENERATION = "SELECT value FROM access_generation WHERE only_row = 1";
    HOLD_GENERATION = "UPDATE access_generation SET value = value WHERE only_row = 1";
    GENERATIONS_OF_ORGS = "SELECT id, generation FROM orgs";
    RAISE_GENERATION_OF_ORG = "UPDATE orgs SET generation = generation + 1 WHERE id = $1";
    RAISE_GENERATION = "UPDATE access_generation SET value = value + 1 WHERE only_row = 1";
}

columns! {
    #[derive(Debug)]
    pub(crate) struct Row {
        id: String,
        org_id: i64,
        login: String,
        email_folded: Option<String>,
        secret_hash: String,
        disabled: bool,
        token_ttl_seconds: Option<i64>,
    }
}

/// A stored account. The hash never leaves `core`.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) id: AccountId,
    pub(crate) org: OrgId,
    pub(crate) login: String,
    pub(crate) email_folded: Option<String>,
    pub(crate) secret_hash: String,
    pub(crate) disabled: bool,
    pub(crate) token_ttl_seconds: Option<i64>,
}

impl TryFrom<Row> for Account {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let id = row.id.parse().map_err(|error| Error::internal("reading an account's id", &error))?;
        Ok(Self {
            id: AccountId(id),
            org: OrgId(row.org_id),
            login: row.login,
            email_folded: row.email_folded,
            secret_hash: row.secret_hash,
            disabled: row.disabled,
            token_ttl_seconds: row.token_ttl_seconds,
        })
    }
}

/// How logins and e-mail addresses are compared.
pub(crate) fn fold(text: &str) -> String {
    text.trim().to_lowercase()
}

/// Accounts of a kind with this login, or users with this e-mail address: none, one, or two when it is ambiguous. A login may
/// name its org, as in `org/login`.
pub(crate) async fn login_candidates(database: &Database, kind: AccountKind, login: &str) -> Result<Vec<Account>, Error> {
    let (org, login) = login.split_once('/').map_or((None, login), |(org, login)| (Some(org), login));
    let rows: Vec<Row> = query(LOGIN_CANDIDATES).bind(fold(login)).bind(org).bind(kind.as_str()).fetch_all(database).await?;
    rows.into_iter().map(Account::try_from).collect()
}

/// The account as a caller, with everything its roles allow; none when it is gone or disabled.
pub(crate) async fn actor(database: &Database, id: AccountId) -> Result<Option<Actor>, Error> {
    let key = id.0.to_string();
    let row: Option<(i64, String, String, bool)> = query(CALLER).bind(&key).fetch_optional(database).await?;
    let Some((org, org_name, login, _)) = row.filter(|(.., disabled)| !disabled) else { return Ok(None) };
    let actions: Vec<String> = query(ACTIONS).bind(&key).fetch_values(database).await?;
    Ok(Some(Actor { org: OrgId(org), org_name, account: id, login, actions: actions.into_iter().collect::<BTreeSet<_>>() }))
}

/// For how long a client's tokens are to live, where that is decided.
pub(crate) async fn token_ttl_seconds(database: &Database, id: AccountId) -> Result<Option<i64>, Error> {
    let row: Option<Option<i64>> = query(TOKEN_TTL).bind(id.0.to_string()).fetch_optional_value(database).await?;
    Ok(row.flatten())
}

/// The org that is meant.
pub(crate) async fn find_org(database: &Database, reference: &OrgReference) -> Result<Option<Org>, Error> {
    let statement = match reference {
        OrgReference::Number(number) => query(ORG_BY_ID).bind(number.0),
        OrgReference::Name(name) => query(ORG_BY_NAME).bind(name.clone()),
    };
    let row = statement.fetch_optional(database).await?;
    Ok(row.map(|(id, name)| Org { id: OrgId(id), name }))
}

/// What these roles allow together; unknown ones allow nothing.
pub(crate) async fn actions_of_roles(database: &Database, org: OrgId, roles: &[String]) -> Result<BTreeSet<String>, Error> {
    let mut actions = BTreeSet::new();
    for role in roles {
        let allowed: Vec<String> = query(ROLE_ACTIONS).bind(org.0).bind(role).fetch_values(database).await?;
        actions.extend(allowed);
    }
    Ok(actions)
}

/// The account of somebody whom an outside identity provider vouches for, if there is one yet.
pub(crate) async fn find_outside_account(database: &Database, org: OrgId, key: &str) -> Result<Option<AccountId>, Error> {
    let id: Option<String> = query(OUTSIDE).bind(org.0).bind(key).fetch_optional_value(database).await?;
    id.map(|id| id.parse().map(AccountId).map_err(|error| Error::internal("reading an account's id", &error))).transpose()
}

/// The login of a user, in the case in which it is stored, by that login in any case or by the account's id.
pub(crate) async fn user_login(database: &Database, org: OrgId, named: &str) -> Result<Option<String>, Error> {
    let found: Option<(String,)> = query(USER_LOGIN).bind(org.0).bind(fold(named)).fetch_optional(database).await?;
    let found = match (found, named.parse::<Uuid>()) {
        (None, Ok(id)) => query(LOGIN_OF_USER).bind(id.to_string()).bind(org.0).fetch_optional(database).await?,
        (found, _) => found,
    };
    Ok(found.map(|(login,)| login))
}

/// Makes such an account, unless it is there. `key` is what tells it from others, `login` what people see.
pub(crate) async fn insert_outside_account(
    connection: &mut Connection,
    org: OrgId,
    key: &str,
    login: &str,
    now: Timestamp,
) -> Result<(), Error> {
    query(INSERT_OUTSIDE)
        .bind(AccountId::mint().0.to_string())
        .bind(org.0)
        .bind(login)
        .bind(key)
        .bind(now.0)
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn generation(database: &Database) -> Result<i64, Error> {
    query(GENERATION).fetch_value(On::Upkeep(database)).await
}

/// How often what hangs on each org has changed.
pub(crate) async fn generations_of_orgs(database: &Database) -> Result<Vec<(OrgId, i64)>, Error> {
    let rows: Vec<(i64, i64)> = query(GENERATIONS_OF_ORGS).fetch_all(On::Upkeep(database)).await?;
    Ok(rows.into_iter().map(|(org, generation)| (OrgId(org), generation)).collect())
}

/// Whether an org's uploads may be SVG.
pub(crate) async fn accepts_svg(database: &Database, org: OrgId) -> Result<bool, Error> {
    let accepts: Option<bool> = query(ACCEPTS_SVG).bind(org.0).fetch_optional_value(database).await?;
    Ok(accepts.unwrap_or(false))
}

pub(crate) async fn org_count(database: &Database) -> Result<i64, Error> {
    query(ORG_COUNT).fetch_value(database).await
}

/// All orgs, by number.
pub(crate) async fn orgs(database: &Database) -> Result<Vec<Org>, Error> {
    let rows: Vec<(i64, String)> = query(ORGS).fetch_all(database).await?;
    Ok(rows.into_iter().map(|(id, name)| Org { id: OrgId(id), name }).collect())
}

/// The account's stored hash, outside a write: hashing is slow and must not hold the writer.
pub(crate) async fn find_outside(
    database: &Database,
    org: OrgId,
    kind: AccountKind,
    login: &str,
) -> Result<Option<Account>, Error> {
    let row: Option<Row> = query(FIND_ACCOUNT).bind(org.0).bind(kind.as_str()).bind(fold(login)).fetch_optional(database).await?;
    row.map(Account::try_from).transpose()
}

/// The statements of provisioning, on the writing connection.
pub(crate) struct Provisioning<'c>(pub(crate) &'c mut Connection);

impl Provisioning<'_> {
    pub(crate) async fn org_by_name(&mut self, name: &str) -> Result<Option<Org>, Error> {
        let row: Option<(i64, String)> = query(ORG_BY_NAME).bind(name).fetch_optional(&mut *self.0).await?;
        Ok(row.map(|(id, name)| Org { id: OrgId(id), name }))
    }

    pub(crate) async fn org_by_id(&mut self, id: OrgId) -> Result<Option<Org>, Error> {
        let row: Option<(i64, String)> = query(ORG_BY_ID).bind(id.0).fetch_optional(&mut *self.0).await?;
        Ok(row.map(|(id, name)| Org { id: OrgId(id), name }))
    }

    pub(crate) async fn insert_org(&mut self, org: &Org) -> Result<(), Error> {
        self.run(query(INSERT_ORG).bind(org.id.0).bind(org.name.clone())).await.map(|_| ())
    }

    pub(crate) async fn rename_org(&mut self, org: &Org) -> Result<(), Error> {
        self.run(query(RENAME_ORG).bind(org.id.0).bind(org.name.clone())).await.map(|_| ())
    }

    /// Whether that changes anything.
    pub(crate) async fn set_accepts_svg(&mut self, org: OrgId, accepts: bool) -> Result<bool, Error> {
        Ok(self.run(query(SET_ACCEPTS_SVG).bind(org.0).bind(accepts)).await? > 0)
    }

    /// Whether the role is new.
    pub(crate) async fn insert_role(&mut self, org: OrgId, role: &str) -> Result<bool, Error> {
        Ok(self.run(query(INSERT_ROLE).bind(org.0).bind(role.to_owned())).await? > 0)
    }

    pub(crate) async fn role_exists(&mut self, org: OrgId, role: &str) -> Result<bool, Error> {
        let count: i64 = query(ROLE_EXISTS).bind(org.0).bind(role).fetch_value(&mut *self.0).await?;
        Ok(count > 0)
    }

    pub(crate) async fn role_actions(&mut self, org: OrgId, role: &str) -> Result<BTreeSet<String>, Error> {
        let actions: Vec<String> = query(ROLE_ACTIONS).bind(org.0).bind(role).fetch_values(&mut *self.0).await?;
        Ok(actions.into_iter().collect())
    }

    pub(crate) async fn insert_role_action(&mut self, org: OrgId, role: &str, action: &str) -> Result<(), Error> {
        let statement = query(INSERT_ROLE_ACTION).bind(org.0).bind(role.to_owned()).bind(action.to_owned());
        self.run(statement).await.map(|_| ())
    }

    pub(crate) async fn delete_role_action(&mut self, org: OrgId, role: &str, action: &str) -> Result<(), Error> {
        let statement = query(DELETE_ROLE_ACTION).bind(org.0).bind(role.to_owned()).bind(action.to_owned());
        self.run(statement).await.map(|_| ())
    }

    pub(crate) async fn find(&mut self, org: OrgId, kind: AccountKind, login: &str) -> Result<Option<Account>, Error> {
        let row: Option<Row> =
            query(FIND_ACCOUNT).bind(org.0).bind(kind.as_str()).bind(fold(login)).fetch_optional(&mut *self.0).await?;
        row.map(Account::try_from).transpose()
    }

    pub(crate) async fn insert_account(&mut self, kind: AccountKind, account: &Account, now: Timestamp) -> Result<(), Error> {
        let statement = query(INSERT_ACCOUNT)
            .bind(account.id.0.to_string())
            .bind(account.org.0)
            .bind(kind.as_str())
            .bind(account.login.clone())
            .bind(fold(&account.login))
            .bind(account.email_folded.clone())
            .bind(account.secret_hash.clone())
            .bind(account.disabled)
            .bind(account.token_ttl_seconds)
            .bind(now.0);
        self.run(statement).await.map(|_| ())
    }

    pub(crate) async fn update_account(&mut self, account: &Account) -> Result<(), Error> {
        let statement = query(UPDATE_ACCOUNT)
            .bind(account.id.0.to_string())
            .bind(account.email_folded.clone())
            .bind(account.secret_hash.clone())
            .bind(account.disabled)
            .bind(account.token_ttl_seconds);
        self.run(statement).await.map(|_| ())
    }

    pub(crate) async fn account_roles(&mut self, account: AccountId) -> Result<BTreeSet<String>, Error> {
        let roles: Vec<String> = query(ACCOUNT_ROLES).bind(account.0.to_string()).fetch_values(&mut *self.0).await?;
        Ok(roles.into_iter().collect())
    }

    pub(crate) async fn insert_account_role(&mut self, account: AccountId, org: OrgId, role: &str) -> Result<(), Error> {
        let statement = query(INSERT_ACCOUNT_ROLE).bind(account.0.to_string()).bind(org.0).bind(role.to_owned());
        self.run(statement).await.map(|_| ())
    }

    pub(crate) async fn delete_account_role(&mut self, account: AccountId, role: &str) -> Result<(), Error> {
        let statement = query(DELETE_ACCOUNT_ROLE).bind(account.0.to_string()).bind(role.to_owned());
        self.run(statement).await.map(|_| ())
    }

    /// Makes other provisioning wait until this one is committed.
    pub(crate) async fn hold_generation(&mut self) -> Result<(), Error> {
        self.run(query(HOLD_GENERATION)).await.map(|_| ())
    }

    /// How many orgs there are, seen from within.
    pub(crate) async fn org_count(&mut self) -> Result<i64, Error> {
        query(ORG_COUNT).fetch_value(&mut *self.0).await
    }

    /// Tells every process that caches rights to forget them.
    pub(crate) async fn raise_generation(&mut self) -> Result<(), Error> {
        self.run(query(RAISE_GENERATION)).await.map(|_| ())
    }

    /// Tells them whose.
    pub(crate) async fn raise_generation_of(&mut self, org: OrgId) -> Result<(), Error> {
        self.run(query(RAISE_GENERATION_OF_ORG).bind(org.0)).await.map(|_| ())
    }

    async fn run(&mut self, statement: Query<'_>) -> Result<u64, Error> {
        statement.execute(&mut *self.0).await
    }
}

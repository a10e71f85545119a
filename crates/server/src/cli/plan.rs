//! The TOML form of a provisioning plan.

use imagewell_core::model::{AccountKind, ActionKey, Org, OrgId};
use imagewell_core::provision::{AccountPlan, Plan, Role};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    orgs: Vec<OrgEntry>,
    #[serde(default)]
    roles: Vec<RoleEntry>,
    #[serde(default)]
    users: Vec<UserEntry>,
    #[serde(default)]
    tills: Vec<TillEntry>,
    #[serde(default)]
    clients: Vec<ClientEntry>,
    #[serde(default)]
    namespaces: Vec<NamespaceEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OrgEntry {
    id: i64,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleEntry {
    org: String,
    name: String,
    actions: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserEntry {
    org: String,
    login: String,
    email: Option<String>,
    password: Option<String>,
    password_file: Option<String>,
    password_env: Option<String>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    disabled: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TillEntry {
    org: String,
    id: String,
    password: Option<String>,
    password_file: Option<String>,
    password_env: Option<String>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    disabled: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientEntry {
    org: String,
    key: String,
    secret: Option<String>,
    secret_file: Option<String>,
    secret_env: Option<String>,
    token_ttl_seconds: Option<i64>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    disabled: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamespaceEntry {
    org: String,
    name: String,
}

/// A secret that stands in the file, in another file or in a variable.
struct SecretSource {
    name: &'static str,
    value: Option<String>,
    file: Option<String>,
    variable: Option<String>,
}

/// Reads a plan, reporting all of its faults at once.
pub(super) fn parse(text: &str) -> Result<Plan, Vec<String>> {
    let file: File = toml::from_str(text).map_err(|error| vec![error.to_string().trim_end().to_owned()])?;
    let mut faults = Vec::new();
    let mut plan = Plan::default();
    for org in file.orgs {
        check_name(&format!("org {}", org.id), &org.name, &mut faults);
        plan.orgs.push(Org { id: OrgId(org.id), name: org.name });
    }
    for role in file.roles {
        let label = format!("role {}/{}", role.org, role.name);
        check_name(&label, &role.name, &mut faults);
        let mut actions = Vec::new();
        for action in &role.actions {
            match ActionKey::parse(action) {
                Ok(action) => actions.push(action),
                Err(error) => faults.push(format!("{label}: {action:?}: {error}")),
            }
        }
        plan.roles.push(Role { org: role.org, name: role.name, actions });
    }
    for user in file.users {
        let secret =
            SecretSource { name: "password", value: user.password, file: user.password_file, variable: user.password_env };
        let account = account(AccountKind::User, user.org, user.login, secret, user.roles, user.disabled, &mut faults);
        plan.accounts.push(AccountPlan { email: user.email, ..account });
    }
    for till in file.tills {
        let secret =
            SecretSource { name: "password", value: till.password, file: till.password_file, variable: till.password_env };
        plan.accounts.push(account(AccountKind::Till, till.org, till.id, secret, till.roles, till.disabled, &mut faults));
    }
    for client in file.clients {
        let secret = SecretSource { name: "secret", value: client.secret, file: client.secret_file, variable: client.secret_env };
        let account = account(AccountKind::Client, client.org, client.key, secret, client.roles, client.disabled, &mut faults);
        plan.accounts.push(AccountPlan { token_ttl_seconds: client.token_ttl_seconds, ..account });
    }
    for namespace in file.namespaces {
        check_name(&format!("namespace {}/{}", namespace.org, namespace.name), &namespace.name, &mut faults);
        plan.namespaces.push((namespace.org, namespace.name));
    }
    if faults.is_empty() { Ok(plan) } else { Err(faults) }
}

fn account(
    kind: AccountKind,
    org: String,
    login: String,
    secret: SecretSource,
    roles: Vec<String>,
    disabled: bool,
    faults: &mut Vec<String>,
) -> AccountPlan {
    let label = format!("{} {org}/{login}", kind.as_str());
    if login.trim().is_empty() || login.contains('/') || login.len() > 255 || login.chars().any(char::is_control) {
        faults.push(format!("{label}: a login has 1 to 255 bytes and no slash"));
    }
    let secret = secret.read(&label).unwrap_or_else(|fault| {
        faults.push(fault);
        String::new()
    });
    AccountPlan { kind, org, login, email: None, secret, roles, token_ttl_seconds: None, disabled }
}

fn check_name(label: &str, name: &str, faults: &mut Vec<String>) {
    if ActionKey::parse(name).is_err() {
        faults.push(format!("{label}: a name has 1 to 255 letters, digits or any of . _ - :"));
    }
}

impl SecretSource {
    fn read(self, label: &str) -> Result<String, String> {
        let name = self.name;
        match (self.value, self.file, self.variable) {
            (Some(value), None, None) => Ok(value),
            (None, Some(file), None) => std::fs::read_to_string(&file)
                .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                .map_err(|error| format!("{label}: {name}_file {file} can't be read: {error}")),
            (None, None, Some(variable)) => {
                std::env::var(&variable).map_err(|_| format!("{label}: the variable {variable} is not set"))
            }
            _ => Err(format!("{label}: give exactly one of {name}, {name}_file and {name}_env")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_of_a_plan_are_reported_at_once() {
        let text = r#"
            [[orgs]]
            id = 1
            name = "a b"
            [[roles]]
            org = "x"
            name = "crew"
            actions = ["ok.view", "not ok"]
            [[users]]
            org = "x"
            login = "ada"
            [[tills]]
            org = "x"
            id = "till/01"
            password = "p"
            password_env = "P"
        "#;
        let faults = parse(text).expect_err("faulty");
        assert_eq!(faults.len(), 5, "{faults:#?}");
        let unknown = parse("[[users]]\nlogin = 'a'\norg = 'b'\npasword = 'c'").expect_err("faulty");
        assert!(unknown[0].contains("pasword"), "{unknown:?}");
    }
}

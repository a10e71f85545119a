//! The TOML form of a provisioning plan.

use imagewell_core::keys::TOKEN_TTL_MAX;
use imagewell_core::model::Preset;
use imagewell_core::model::{AccountKind, ActionKey, Namespace, NamespaceRules, Org, OrgId};
use imagewell_core::provision::{AccountPlan, NamespacePlan, Plan, PresetPlan, Role, Secret};
use imagewell_imaging::Format;
use serde::Deserialize;

use crate::config::{Value as _, Zone};
use imagewell_core::grammar::Asked;

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
    #[serde(default)]
    presets: Vec<PresetEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PresetEntry {
    org: String,
    name: String,
    transform: String,
    #[serde(default)]
    prewarm: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OrgEntry {
    id: i64,
    name: String,
    accept_svg: Option<bool>,
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
    password_md5: Option<String>,
    password_md5_file: Option<String>,
    password_md5_env: Option<String>,
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
    bytes_max: Option<u64>,
    #[serde(default)]
    formats: Vec<String>,
    #[serde(default)]
    verbatim: bool,
    time_zone: Option<String>,
}

/// A secret that stands in the file, in another file or in a variable.
struct SecretSource {
    name: &'static str,
    value: Option<String>,
    file: Option<String>,
    variable: Option<String>,
}

/// Reads a plan, reporting all of its faults at once. Presets ask for at most so many pixels a side.
pub(super) fn parse(text: &str, side_px_max: u32) -> Result<Plan, Vec<String>> {
    let file: File = toml::from_str(text).map_err(|error| vec![error.to_string().trim_end().to_owned()])?;
    let mut faults = Vec::new();
    let mut plan = Plan::default();
    for org in file.orgs {
        let label = format!("org {}", org.id);
        check_name(&label, &org.name, &mut faults);
        if org.name.parse::<i64>().is_ok() {
            faults.push(format!("{label}: a name of digits alone would be taken for an org's number: put a letter into it"));
        }
        if org.name.contains(':') {
            faults.push(format!("{label}: the name stands in names of cookies and headers, which hold no colon"));
        }
        plan.accept_svg.extend(org.accept_svg.map(|accepts| (org.name.clone(), accepts)));
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
        let account = self::till(till, &mut faults);
        plan.accounts.push(account);
    }
    for client in file.clients {
        let secret = SecretSource { name: "secret", value: client.secret, file: client.secret_file, variable: client.secret_env };
        let account = account(AccountKind::Client, client.org, client.key, secret, client.roles, client.disabled, &mut faults);
        if client.token_ttl_seconds.is_some_and(|seconds| !(1..=TOKEN_TTL_MAX.as_secs().cast_signed()).contains(&seconds)) {
            faults.push(format!("client {}: token_ttl_seconds is 1 to {}", account.login, TOKEN_TTL_MAX.as_secs()));
        }
        plan.accounts.push(AccountPlan { token_ttl_seconds: client.token_ttl_seconds, ..account });
    }
    for namespace in file.namespaces {
        plan.namespaces.extend(self::namespace(namespace, &mut faults));
    }
    for preset in file.presets {
        let label = format!("preset {}/{}", preset.org, preset.name);
        check_name(&label, &preset.name, &mut faults);
        if let Err(reason) = Asked::parse(&preset.transform, side_px_max) {
            faults.push(format!("{label}: {reason}"));
        }
        plan.presets.push(PresetPlan {
            org: preset.org,
            preset: Preset { name: preset.name, steps: preset.transform, prewarm: preset.prewarm },
        });
    }
    if faults.is_empty() { Ok(plan) } else { Err(faults) }
}

fn till(till: TillEntry, faults: &mut Vec<String>) -> AccountPlan {
    let plain = SecretSource { name: "password", value: till.password, file: till.password_file, variable: till.password_env };
    let md5 = SecretSource {
        name: "password_md5",
        value: till.password_md5,
        file: till.password_md5_file,
        variable: till.password_md5_env,
    };
    // Basic credentials end the user's name at the first colon (RFC 7617 §2).
    if till.id.contains(':') {
        faults.push(format!("till {}/{}: an id holds no colon", till.org, till.id));
    }
    let is_md5 = !md5.is_absent() && plain.is_absent();
    if !md5.is_absent() && !plain.is_absent() {
        faults.push(format!("till {}/{}: give password or password_md5, not both", till.org, till.id));
    }
    let source = if is_md5 { md5 } else { plain };
    let mut account = account(AccountKind::Till, till.org, till.id, source, till.roles, till.disabled, faults);
    if is_md5 && let Secret::Plain(digits) = account.secret {
        if digits.len() != 32 || !digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            faults.push(format!("till {}: password_md5 has 32 lower-case hexadecimal digits", account.login));
        }
        account.secret = Secret::Md5(digits);
    }
    account
}

fn namespace(entry: NamespaceEntry, faults: &mut Vec<String>) -> Option<NamespacePlan> {
    let label = format!("namespace {}/{}", entry.org, entry.name);
    let mut formats = Vec::new();
    for name in &entry.formats {
        match Format::from_extension(name) {
            Some(format) => formats.push(format),
            None => {
                let known = Format::ALL.map(Format::extension).join(", ");
                faults.push(format!("{label}: there is no format {name}, but {known}"));
            }
        }
    }
    if entry.bytes_max == Some(0) {
        faults.push(format!("{label}: bytes_max is at least 1"));
    }
    if let Some(Err(hint)) = entry.time_zone.as_deref().map(Zone::parse) {
        faults.push(format!("{label}: time_zone: {hint}"));
    }
    let namespace = Namespace::parse(&entry.name).map_err(|error| faults.push(format!("{label}: {error}"))).ok()?;
    let rules =
        NamespaceRules { namespace, bytes_max: entry.bytes_max, formats, verbatim: entry.verbatim, time_zone: entry.time_zone };
    Some(NamespacePlan { org: entry.org, rules })
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
    AccountPlan { kind, org, login, email: None, secret: Secret::Plain(secret), roles, token_ttl_seconds: None, disabled }
}

fn check_name(label: &str, name: &str, faults: &mut Vec<String>) {
    if ActionKey::parse(name).is_err() {
        faults.push(format!("{label}: a name has 1 to 255 letters, digits or any of . _ - :"));
    }
}

impl SecretSource {
    fn is_absent(&self) -> bool {
        self.value.is_none() && self.file.is_none() && self.variable.is_none()
    }

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
            [[orgs]]
            id = 2
            name = "a:b"
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
        let faults = parse(text, 4096).expect_err("faulty");
        assert_eq!(faults.len(), 6, "{faults:#?}");
        let text = r#"
            [[tills]]
            org = "x"
            id = "till:01"
            password = "p"
            password_md5 = "5f4dcc3b5aa765d61d8327deb882cf99"
            [[tills]]
            org = "x"
            id = "till02"
            password_md5 = "5F4DCC3B5AA765D61D8327DEB882CF99"
            [[clients]]
            org = "x"
            key = "k"
            secret = "s"
            token_ttl_seconds = 3601
            [[namespaces]]
            org = "x"
            name = "variants"
            formats = ["png", "svg"]
            bytes_max = 0
            time_zone = "Mars/Olympus"
            [[presets]]
            org = "x"
            name = "a card"
            transform = "w_0"
            [[presets]]
            org = "x"
            name = "wide"
            transform = "w_4097"
        "#;
        let faults = parse(text, 4096).expect_err("faulty");
        assert_eq!(faults.len(), 11, "{faults:#?}");
        assert!(faults.iter().any(|fault| fault == "preset x/wide: a side has at most 4096 pixels, dpr counted"), "{faults:#?}");
        let unknown = parse("[[users]]\nlogin = 'a'\norg = 'b'\npasword = 'c'", 4096).expect_err("faulty");
        assert!(unknown[0].contains("pasword"), "{unknown:?}");
    }
}

//! Failed attempts are bounded, and whoever has the right secret is not kept out by those of others.

use imagewell_core::model::{AccountKind, Org, OrgId};
use imagewell_core::provision::{self, AccountPlan, Plan, Secret};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::json;

use crate::app::{Answer, PASSWORD, TestApp, plan};
use crate::file_service::{FileAnswer as _, Machine};
use crate::fixtures::png;

/// So many requests are under way at once.
const AT_ONCE: usize = 60;

/// Behind a proxy that says where clients are, with so many failures for one account from one address, from one address, and for one
/// account from anywhere, within ten minutes.
async fn behind_a_proxy(account: &str, address: &str, anywhere: &str) -> TestApp {
    TestApp::with(&[
        ("server.trusted_proxies", "127.0.0.1"),
        ("login.attempts_per_account_max", account),
        ("login.attempts_per_address_max", address),
        ("login.attempts_per_account_anywhere_max", anywhere),
        ("login.window_seconds", "600"),
    ])
    .await
}

fn from(request: RequestBuilder, address: &str) -> RequestBuilder {
    request.header("x-forwarded-for", address)
}

async fn log_in(app: &TestApp, address: &str, login: &str, password: &str) -> u16 {
    let request = app.visitor().change("/site/login").await.json(&json!({ "username": login, "password": password }));
    Answer::of(from(request, address)).await.status.as_u16()
}

async fn log_in_often(app: &TestApp, address: &str, login: &str, password: &str, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(log_in(app, address, login, password).await);
    }
    statuses
}

async fn generate_token(app: &TestApp, address: &str, key: &str) -> u16 {
    let request = app.visitor().post("/v3/oauth/token/generate").json(&json!({ "key": key, "secret": PASSWORD }));
    Answer::of(from(request, address)).await.status.as_u16()
}

async fn ask(machine: &Machine, address: &str) -> u16 {
    Answer::of(from(machine.request("GET", "rewards/a.png"), address)).await.status.as_u16()
}

fn account(kind: AccountKind, org: &str, login: &str, secret: &str) -> AccountPlan {
    AccountPlan {
        kind,
        org: org.into(),
        login: login.into(),
        email: None,
        secret: Secret::Plain(secret.into()),
        roles: Vec::new(),
        token_ttl_seconds: None,
        disabled: false,
    }
}

async fn provision(app: &TestApp, orgs: Vec<Org>, accounts: Vec<AccountPlan>) {
    provision::apply(&app.service.app, Plan { orgs, accounts, ..Plan::default() }).await.expect("provisions");
}

/// A shop's tills, or a gateway that doesn't say whom it speaks for.
#[tokio::test]
async fn three_hundred_tills_behind_one_address_are_never_too_many() {
    let app = TestApp::with(&[("server.connections_per_address_max", "1000")]).await;
    let logins: Vec<String> = (0..300).map(|number| format!("shop{number}")).collect();
    let accounts = logins.iter().map(|login| account(AccountKind::Till, "acme", login, PASSWORD)).collect();
    provision(&app, Vec::new(), accounts).await;
    let tills: Vec<Machine> = logins.iter().map(|login| Machine::till(&app, login)).collect();
    let all_pass = async || {
        for some in tills.chunks(AT_ONCE) {
            for answer in futures_util::future::join_all(some.iter().map(|till| till.send("GET", "rewards/a.png"))).await {
                answer.failed(404);
            }
        }
    };
    all_pass().await;
    let third = Org { id: OrgId(3), name: "third".into() };
    provision(&app, vec![third], vec![account(AccountKind::User, "third", "somebody", PASSWORD)]).await;
    all_pass().await;
}

#[tokio::test]
async fn strangers_elsewhere_keep_nobody_out() {
    let app = behind_a_proxy("3", "1000", "6").await;
    let till = Machine::till(&app, "till01");
    assert_eq!(log_in(&app, "1.1.1.1", "ada", PASSWORD).await, 200);
    assert_eq!((ask(&till, "1.1.1.1").await, generate_token(&app, "1.1.1.1", "backoffice").await), (404, 200));
    let wrong = Machine::basic(&app, "till01", &"a".repeat(32));
    for stranger in ["9.9.9.1", "9.9.8.1"] {
        assert_eq!(log_in_often(&app, stranger, "ada", "wrong", 4).await, [400, 400, 400, 429]);
        for (guess, status) in [("1", 401), ("2", 401), ("3", 401), ("4", 429)] {
            let wrong = Machine::basic(&app, "till01", &guess.repeat(32));
            assert_eq!(ask(&wrong, stranger).await, status);
            let body = json!({ "key": "backoffice", "secret": guess });
            let generate = from(app.visitor().post("/v3/oauth/token/generate").json(&body), stranger);
            assert_eq!(Answer::of(generate).await.status.as_u16(), status);
        }
        // Nor has another address of the same range (RFC 6177: one party may own it) any guess left.
        let beside = format!("{stranger}7");
        assert_eq!((log_in(&app, &beside, "ada", "wrong").await, ask(&wrong, &beside).await), (429, 429));
    }
    // Six have failed, which is the bound for one account from anywhere: another stranger has no guess left.
    assert_eq!((log_in(&app, "9.9.7.1", "ada", "wrong").await, ask(&wrong, "9.9.7.1").await), (429, 429));
    // Cold for rights, as after a change of them, and yet nobody is kept out where it is known.
    provision(&app, vec![Org { id: OrgId(3), name: "third".into() }], Vec::new()).await;
    assert_eq!(log_in(&app, "1.1.1.1", "ada", PASSWORD).await, 200);
    assert_eq!((ask(&till, "1.1.1.1").await, generate_token(&app, "1.1.1.1", "backoffice").await), (404, 200));
    assert_eq!(log_in(&app, "9.9.9.1", "bob", PASSWORD).await, 200, "nor whoever shares an address with a stranger");
    // From where it has never been, it is told the truth.
    assert_eq!(log_in(&app, "2.2.2.2", "ada", PASSWORD).await, 429);
    // Where it is known, its own failures count.
    assert_eq!(log_in_often(&app, "1.1.1.1", "ada", "wrong", 3).await, [429, 429, 429], "others have used up what is told");
    assert_eq!(log_in(&app, "1.1.1.1", "ada", PASSWORD).await, 429, "three failures of its own");
}

/// Row A11.
#[tokio::test]
async fn spellings_of_a_login_share_a_bound_and_tell_nothing_of_accounts() {
    let app = behind_a_proxy("4", "1000", "1000").await;
    for (address, name) in [("1.1.1.1", "ada"), ("2.2.2.2", "nobody")] {
        let mut statuses = Vec::new();
        for spelling in ["{}", "acme/{}", "{}@example.com", "ACME/{}@Example.com ", "{}"] {
            statuses.push(log_in(&app, address, &spelling.replace("{}", name), "wrong").await);
        }
        assert_eq!(statuses, [400, 400, 400, 400, 429], "{name}");
        assert_eq!(log_in(&app, address, &format!("{name}@example.com"), PASSWORD).await, 429, "{name}");
    }
    // An address that doesn't resemble the login is another bound to those who can't know better; but no secret is right past the first.
    let mut other_address = account(AccountKind::User, "acme", "carol", PASSWORD);
    other_address.email = Some("front.desk@example.com".into());
    provision(&app, Vec::new(), vec![other_address]).await;
    for (address, login, email) in [("3.3.3.3", "carol", "front.desk@example.com"), ("4.4.4.4", "nobody", "no.desk@example.com")]
    {
        assert_eq!(log_in_often(&app, address, login, "wrong", 5).await, [400, 400, 400, 400, 429], "{login}");
        assert_eq!(log_in_often(&app, address, email, PASSWORD, 5).await, [400, 400, 400, 400, 429], "{email}");
    }
    assert_eq!(log_in(&app, "5.5.5.5", "front.desk@example.com", PASSWORD).await, 200);
}

/// Row A6: a remembered proof is no grant.
#[tokio::test]
async fn a_remembered_proof_ends_with_its_password_and_with_its_name() {
    let app = TestApp::start().await;
    let (short, full) = (Machine::till(&app, "till01"), Machine::till(&app, "acme/till01"));
    for till in [&short, &full] {
        till.send("GET", "rewards/a.png").await.failed(404);
    }
    // Another org gets a till of this name: the short one is ambiguous now.
    provision(&app, Vec::new(), vec![account(AccountKind::Till, "other", "till01", PASSWORD)]).await;
    short.send("GET", "rewards/a.png").await.failed(401);
    full.send("GET", "rewards/a.png").await.failed(404);
    // The orgs change names: what is called acme now is not the org that it was.
    provision(&app, vec![Org { id: OrgId(100_606), name: "acme-old".into() }], Vec::new()).await;
    full.send("GET", "rewards/a.png").await.failed(401);
    let renamed = Machine::till(&app, "acme-old/till01");
    renamed.upload("a.png", png(8, 8, 1)).await.file();
    provision(&app, vec![Org { id: OrgId(2), name: "acme".into() }], Vec::new()).await;
    full.send("GET", "rewards/a.png").await.failed(404);
    renamed.send("GET", "rewards/a.png").await.file();
    provision(&app, Vec::new(), vec![account(AccountKind::Till, "acme-old", "till01", "another")]).await;
    renamed.send("GET", "rewards/a.png").await.failed(401);
}

/// The secrets of a plan are compared with those of the org that has the number, whatever it is called.
#[tokio::test]
async fn an_org_that_gets_another_name_keeps_its_sessions() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(png(8, 8, 1)).await.uuid();
    let mut renamed = plan();
    renamed.orgs[0].name = "acme2".into();
    for org in
        renamed.accounts.iter_mut().map(|account| &mut account.org).chain(renamed.roles.iter_mut().map(|role| &mut role.org))
    {
        if org == "acme" {
            *org = "acme2".into();
        }
    }
    let changes = provision::apply(&app.service.app, renamed).await.expect("provisions");
    let texts: Vec<&str> = changes.iter().map(|change| change.0.as_str()).collect();
    assert_eq!(texts, ["org 100606: renamed from acme to acme2"]);
    assert_eq!(ada.read(&uuid).await.status, StatusCode::OK);
    assert_eq!(log_in(&app, "1.1.1.1", "acme2/ada", PASSWORD).await, 200);
}

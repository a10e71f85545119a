//! Logging in and out, CSRF tokens, and what strangers get.

use reqwest::StatusCode;
use serde_json::json;

use crate::app::{Actor, Answer, PASSWORD, TestApp, image_path};
use crate::fixtures::png;

fn cookie(answer: &Answer) -> &str {
    answer.header("set-cookie").split(';').next().unwrap_or_default()
}

#[tokio::test]
async fn users_log_in_by_login_or_e_mail_or_with_their_org() {
    let app = TestApp::start().await;
    for name in ["ada", "ADA", "ada@example.com", "acme/ada"] {
        let answer = app.visitor().log_in(name, PASSWORD).await;
        assert_eq!(
            (answer.status, answer.json()),
            (StatusCode::OK, json!({ "status": "success", "data": { "username": "ada" } })),
            "{name}"
        );
        let set = answer.header("set-cookie");
        assert!(set.contains("HttpOnly") && set.contains("SameSite=Lax") && set.contains("Path=/"), "{set}");
    }
    let visitor = app.visitor();
    let form = visitor.change("/site/login").await.form(&[("username", "ada"), ("password", PASSWORD)]);
    assert_eq!(Answer::of(form).await.status, StatusCode::OK);
}

#[tokio::test]
async fn wrong_names_and_wrong_passwords_look_alike() {
    let app = TestApp::start().await;
    let mut envelopes = Vec::new();
    for (name, password) in
        [("ada", "wrong"), ("nobody", PASSWORD), ("other/ada", PASSWORD), ("ada", &"x".repeat(5000)), ("a/b/c", "x")]
    {
        let answer = app.visitor().log_in(name, password).await;
        let envelope = answer.refused(400, "\"E_INVALIDAUTH\"");
        assert_eq!(envelope["mlKey"], "opp.auth.E_INVALIDAUTH");
        assert_eq!(cookie(&answer), "", "no session for {name}");
        envelopes.push(envelope);
    }
    assert!(envelopes.windows(2).all(|pair| pair[0] == pair[1]));
    let missing = Answer::of(app.visitor().change("/site/login").await.json(&json!({ "username": "ada" }))).await;
    assert_eq!(missing.refused(422, "\"E_MISSINGPARAM\"")["data"]["missingParams"], json!(["password"]));
}

/// PostgreSQL stores no NUL, so it is refused whatever the database.
#[tokio::test]
async fn text_with_a_nul_is_the_callers_mistake_on_every_database() {
    let app = TestApp::start().await;
    let visitor = app.visitor();
    for login in ["a\0da", "\0", "acme\0/ada", "ada@example.com\0"] {
        visitor.log_in(login, PASSWORD).await.refused(400, "\"E_INVALIDPARAMS\"");
        let portal = Answer::of(visitor.post("/api/login").json(&json!({ "email": login, "password": PASSWORD }))).await;
        let token = Answer::of(visitor.post("/v3/oauth/token/generate").json(&json!({ "key": login, "secret": PASSWORD }))).await;
        for answer in [portal, token] {
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{login:?}: {}", answer.text());
        }
    }
    assert_eq!(visitor.log_in("ada", "correct\0horse").await.status, StatusCode::BAD_REQUEST, "a wrong password");
    let ada = app.actor("ada").await;
    let till = crate::file_service::Machine::till(&app, "till01");
    for path in [
        "/opsportal/image/opstool/a%00b",
        "/i/a%00b/w_10",
        "/imagewell/a%00b",
        "/api/dropbox/pictures/a%00b?size=32",
        "/api/users/a%00b/avatar?size=32",
        "/api/apps/a%00b/avatar?size=32",
    ] {
        let answer = Answer::of(ada.get(path)).await;
        assert!(answer.status.is_client_error(), "{path}: {} {}", answer.status, answer.text());
    }
    for (method, name) in [("GET", "rewards/a%00.png"), ("DELETE", "rewards/a%00.png"), ("GET", "re%00wards/a.png")] {
        let answer = till.send(method, name).await;
        assert!(answer.status.is_client_error(), "{method} {name}: {} {}", answer.status, answer.text());
    }
    let machine = crate::file_service::Machine::basic(&app, "till\0", "x");
    assert!(machine.send("GET", "rewards/a.png").await.status.is_client_error());
}

#[tokio::test]
async fn a_login_seen_in_several_orgs_must_name_its_org() {
    let app = TestApp::start().await;
    let mut plan = crate::app::plan();
    plan.accounts.retain(|account| account.login == "ada");
    plan.accounts[0].org = "other".into();
    plan.accounts[0].email = None;
    imagewell_core::provision::apply(&app.service.app, plan).await.expect("provisions");
    app.visitor().log_in("ada", PASSWORD).await.refused(400, "\"E_INVALIDAUTH\"");
    assert_eq!(app.visitor().log_in("other/ada", PASSWORD).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_session_is_new_after_login_and_dead_after_logout() {
    let app = TestApp::start().await;
    let ada = app.visitor();
    let before = Answer::of(ada.get("/csrfToken")).await;
    let old_token = before.json()["_csrf"].as_str().expect("token").to_owned();
    let login = ada.log_in("ada", PASSWORD).await;
    assert_ne!(cookie(&before), cookie(&login), "rotated");
    let stale = ada.post("/site/logout").header("x-csrf-token", &old_token);
    Answer::of(stale).await.refused(403, "\"E_CSRF\"");
    let uuid = ada.upload(png(8, 8, 1)).await.uuid();

    // The stolen cookie of a session dies with it.
    let thief = reqwest::Client::new();
    let stolen = cookie(&login).to_owned();
    let peek = || thief.get(app.url(&image_path(&uuid))).header("cookie", &stolen);
    assert_eq!(Answer::of(peek()).await.status, StatusCode::OK);
    let token = ada.csrf().await;
    let logout = Answer::of(ada.post("/site/logout").header("x-csrf-token", &token)).await;
    assert_eq!((logout.status, logout.json()["status"].as_str()), (StatusCode::OK, Some("success")));
    Answer::of(peek()).await.refused(401, "5");
    // And so does its CSRF token: the ended session can't even pass the first gate.
    let replay = thief.post(app.url("/site/logout")).header("cookie", &stolen).header("x-csrf-token", &token);
    Answer::of(replay).await.refused(403, "\"E_CSRF\"");
}

#[tokio::test]
async fn a_fixed_cookie_gains_nothing_by_the_victims_login() {
    let app = TestApp::start().await;
    let attacker = Answer::of(app.visitor().get("/csrfToken")).await;
    let (planted, token) = (cookie(&attacker).to_owned(), attacker.json()["_csrf"].as_str().expect("token").to_owned());
    let client = reqwest::Client::new();
    let login = client.post(app.url("/site/login")).header("cookie", &planted).header("x-csrf-token", &token);
    let answer = Answer::of(login.json(&json!({ "username": "ada", "password": PASSWORD }))).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_ne!(cookie(&answer), planted);
    let probe = client.get(app.url(&image_path("0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab"))).header("cookie", &planted);
    Answer::of(probe).await.refused(401, "5");
    let change = client.post(app.url("/site/logout")).header("cookie", cookie(&answer)).header("x-csrf-token", &token);
    Answer::of(change).await.refused(403, "\"E_CSRF\"");
}

#[tokio::test]
async fn all_sessions_of_an_account_can_be_ended() {
    let app = TestApp::start().await;
    let (phone, desk, bob) = (app.actor("ada").await, app.actor("ada").await, app.actor("bob").await);
    let uuid = phone.upload(png(8, 8, 1)).await.uuid();
    assert_eq!(Answer::of(desk.change("/site/logout?everywhere=true").await).await.status, StatusCode::OK);
    phone.read(&uuid).await.refused(401, "5");
    bob.read(&uuid).await.refused(403, "\"E_NOTPERMITTED\"");
    let rows: i64 = count_sessions(&app).await;
    assert_eq!(rows, 1, "bob's");
}

async fn count_sessions(app: &TestApp) -> i64 {
    app.row::<(i64,)>("SELECT COUNT(*) FROM sessions").await.0
}

#[tokio::test]
async fn a_new_password_ends_the_sessions_of_the_old_one() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(png(8, 8, 1)).await.uuid();
    let mut plan = crate::app::plan();
    plan.accounts.retain(|account| account.login == "ada");
    plan.accounts[0].secret = imagewell_core::provision::Secret::Plain("another".into());
    let changes = imagewell_core::provision::apply(&app.service.app, plan).await.expect("provisions");
    assert!(changes.iter().any(|change| change.0.contains("1 sessions ended")), "{changes:?}");
    ada.read(&uuid).await.refused(401, "5");
    app.visitor().log_in("ada", PASSWORD).await.refused(400, "\"E_INVALIDAUTH\"");
    assert_eq!(app.visitor().log_in("ada", "another").await.status, StatusCode::OK);
}

#[tokio::test]
async fn sessions_end_when_idle_and_in_any_case_after_a_while() {
    let app = TestApp::with(&[("sessions.idle_seconds", "2"), ("sessions.absolute_seconds", "4")]).await;
    let (busy, idle) = (app.actor("ada").await, app.actor("ada").await);
    let uuid = busy.upload(png(8, 8, 1)).await.uuid();
    tokio::time::sleep(std::time::Duration::from_millis(2200)).await;
    idle.read(&uuid).await.refused(401, "5");
    let app = app.restart(&[("sessions.idle_seconds", "100"), ("sessions.absolute_seconds", "1")]).await;
    let late = app.actor("ada").await;
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    late.read(&uuid).await.refused(401, "5");
}

#[tokio::test]
async fn whoever_is_busy_stays_logged_in() {
    let app = TestApp::with(&[("sessions.idle_seconds", "2")]).await;
    let ask = async |ada: &Actor| ada.read("0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab").await.status.as_u16();
    for _ in 0..5 {
        let ada = app.actor("ada").await;
        let begun = std::time::Instant::now();
        let mut last = begun;
        // On a machine that is so slow that the pauses come near the limit, it is tried again.
        while last.elapsed().as_millis() < 1500 && begun.elapsed().as_secs() < 3 {
            last = std::time::Instant::now();
            assert_eq!(ask(&ada).await, 404, "logged in after {:?}", begun.elapsed());
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        if begun.elapsed().as_secs() >= 3 && last.elapsed().as_millis() < 1500 {
            return;
        }
    }
    panic!("this machine is too slow to tell");
}

#[tokio::test]
async fn sessions_survive_a_restart_and_only_their_hash_is_stored() {
    let app = TestApp::start().await;
    let visitor = app.visitor();
    let token = cookie(&visitor.log_in("ada", PASSWORD).await).split_once('=').expect("cookie").1[1..].to_owned();
    for entry in std::fs::read_dir(app.data_dir()).expect("folder").flatten().filter(|entry| entry.path().is_file()) {
        let bytes = std::fs::read(entry.path()).expect("file");
        for secret in [token.as_bytes(), PASSWORD.as_bytes()] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "a secret stands in {:?}", entry.path());
        }
    }
    let app = app.restart(&[]).await;
    let request = reqwest::Client::new().get(app.url("/opsportal/image/a/0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab"));
    let answer = Answer::of(request.header("cookie", format!("imagewell_session=s{token}"))).await;
    answer.refused(404, "\"E_NOTFOUND\"");
}

#[tokio::test]
async fn attempts_are_limited_per_account_and_per_address() {
    let settings =
        [("login.attempts_per_account_max", "3"), ("login.attempts_per_address_max", "8"), ("login.window_seconds", "600")];
    let app = TestApp::with(&settings).await;
    for _ in 0..3 {
        app.visitor().log_in("ada", "wrong").await.refused(400, "\"E_INVALIDAUTH\"");
    }
    let limited = app.visitor().log_in("ada", PASSWORD).await;
    limited.refused(429, "\"E_TOOMANYREQUESTS\"");
    assert!(limited.header("retry-after").parse::<u64>().expect("seconds") >= 1);
    assert_eq!(app.visitor().log_in("bob", PASSWORD).await.status, StatusCode::OK, "others are not locked out");
    for name in ["v", "w", "x", "y", "z"] {
        app.visitor().log_in(name, "wrong").await.refused(400, "\"E_INVALIDAUTH\"");
    }
    app.visitor().log_in("vera", PASSWORD).await.refused(429, "\"E_TOOMANYREQUESTS\"");
    // Nobody believes a header of a stranger.
    let visitor = app.visitor();
    let forged = visitor.change("/site/login").await.header("x-forwarded-for", "9.9.9.9");
    Answer::of(forged.json(&json!({ "username": "vera", "password": PASSWORD }))).await.refused(429, "\"E_TOOMANYREQUESTS\"");
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_clients_address_counts() {
    let settings =
        [("login.attempts_per_address_max", "1"), ("login.window_seconds", "600"), ("server.trusted_proxies", "127.0.0.1")];
    let app = TestApp::with(&settings).await;
    for (address, password, status) in [
        ("1.1.1.1", "wrong", 400),
        ("1.1.1.1", PASSWORD, 429),
        ("6.6.6.6, 1.1.1.1", PASSWORD, 429),
        ("2.2.2.2", PASSWORD, 200),
        ("2.2.2.2", PASSWORD, 200),
    ] {
        let visitor = app.visitor();
        let request = visitor.change("/site/login").await.header("x-forwarded-for", address);
        let answer = Answer::of(request.json(&json!({ "username": "ada", "password": password }))).await;
        assert_eq!(answer.status.as_u16(), status, "{address}");
    }
}

#[tokio::test]
async fn csrf_tokens_of_other_sessions_are_refused() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.actor("ada").await, app.actor("bob").await);
    let token = ada.csrf().await;
    let foreign = Answer::of(bob.post("/site/logout").header("x-csrf-token", &token)).await;
    assert!(foreign.refused(403, "\"E_CSRF\"").to_string().contains("CSRF"));
    for wrong in ["", "x", &token.replace('.', ""), &token[1..]] {
        Answer::of(ada.post("/site/logout").header("x-csrf-token", wrong)).await.refused(403, "\"E_CSRF\"");
    }
    assert_eq!(Answer::of(ada.post(&format!("/site/logout?_csrf={token}"))).await.status, StatusCode::OK, "tokens are reusable");
}

#[tokio::test]
async fn other_sites_get_nothing_useful() {
    let app = TestApp::with(&[("server.cors_origins", "https://portal.example.com")]).await;
    let ada = app.actor("ada").await;
    let read =
        Answer::of(ada.get("/csrfToken").header("origin", "https://evil.test").header("sec-fetch-site", "cross-site")).await;
    assert_eq!(read.status, StatusCode::FORBIDDEN);
    assert!(!read.text().contains("_csrf") && read.header("access-control-allow-origin").is_empty());
    let write = ada.change("/site/logout").await.header("origin", "https://evil.test").header("sec-fetch-site", "cross-site");
    let refused = Answer::of(write).await.refused(403, "\"E_FOREIGNORIGIN\"").to_string();
    // Clients that read of CSRF get another token, which would not help.
    assert!(!refused.to_ascii_lowercase().contains("csrf"), "{refused}");
    for part in ["https://evil.test", &app.url(""), "service.public_url", "server.cors_origins"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    let link = ada.get("/site/logout").header("sec-fetch-site", "cross-site");
    Answer::of(link).await.refused(403, "\"E_FOREIGNORIGIN\"");
    let allowed =
        Answer::of(ada.get("/csrfToken").header("origin", "https://portal.example.com").header("sec-fetch-site", "cross-site"))
            .await;
    assert_eq!(allowed.header("access-control-allow-origin"), "https://portal.example.com");
    assert_eq!(allowed.header("access-control-allow-credentials"), "true");
    assert!(allowed.header("vary").to_lowercase().contains("origin"));
    for origin in [
        "null",
        "https://portal.example.com.evil.test",
        "https://evil-portal.example.com",
        "http://portal.example.com",
        "https://PORTAL.example.com:444",
    ] {
        let answer = Answer::of(ada.get("/csrfToken").header("origin", origin).header("sec-fetch-site", "cross-site")).await;
        assert!(answer.header("access-control-allow-origin").is_empty(), "{origin}");
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{origin}");
    }
}

#[tokio::test]
async fn browsers_get_pages_and_redirects() {
    let app = TestApp::start().await;
    let visitor = app.visitor();
    let html = |request: reqwest::RequestBuilder| request.header("accept", "text/html,*/*");
    let home = Answer::of(html(visitor.get("/"))).await;
    assert_eq!(home.header("location"), "/site/login");
    let page = Answer::of(html(visitor.get("/site/login"))).await;
    assert!(page.header("content-type").starts_with("text/html") && page.text().contains("name=\"_csrf\""));
    assert!(page.header("content-security-policy").contains("frame-ancestors 'none'"));
    let token = page.text().split("name=\"_csrf\" value=\"").nth(1).expect("field").split('"').next().expect("value").to_owned();
    let fail = html(visitor.post("/site/login")).form(&[("_csrf", token.as_str()), ("username", "<script>"), ("password", "x")]);
    let fail = Answer::of(fail).await;
    assert_eq!(fail.status, StatusCode::BAD_REQUEST);
    assert!(fail.text().contains("Wrong name or password.") && !fail.text().contains("<script>"));
    let good = html(visitor.post("/site/login")).form(&[("_csrf", token.as_str()), ("username", "ada"), ("password", PASSWORD)]);
    let good = Answer::of(good).await;
    assert_eq!((good.status, good.header("location")), (StatusCode::SEE_OTHER, "/"));
    assert!(Answer::of(html(visitor.get("/"))).await.text().contains("ada"));
    assert_eq!(Answer::of(html(visitor.get("/site/logout"))).await.header("location"), "/site/login");
    assert_eq!(Answer::of(html(visitor.get("/"))).await.status, StatusCode::SEE_OTHER);
}

/// Portals of other origins send what our own APIs demand, and so do the pages of apps.
#[tokio::test]
async fn pages_of_listed_origins_may_send_what_the_apis_demand() {
    let app = TestApp::with(&[("server.cors_origins", "https://portal.example.com,capacitor://localhost")]).await;
    let asked_for = "x-csrf-token_acme,x-cap-api-attribution-entity-code,range,if-none-match,x-cap-api-oauth-token";
    let preflight = async |origin: &str| {
        let request = app.visitor().request("OPTIONS", "/api/dropbox/pictures").header("origin", origin);
        Answer::of(request.header("access-control-request-method", "POST").header("access-control-request-headers", asked_for))
            .await
    };
    for origin in ["https://portal.example.com", "capacitor://localhost"] {
        let answer = preflight(origin).await;
        assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, origin));
        assert_eq!(answer.header("access-control-allow-headers"), asked_for);
        assert_eq!(answer.header("access-control-max-age"), "7200");
    }
    let stranger = preflight("https://evil.test").await;
    assert!(stranger.header("access-control-allow-origin").is_empty());
}

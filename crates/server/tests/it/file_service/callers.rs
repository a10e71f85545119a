//! Who is calling: tills, clients, and everybody who only says so.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use imagewell_core::model::{AccountKind, KeyPurpose};
use imagewell_core::provision;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::{FileAnswer as _, Machine, PASSWORD_MD5, token};
use crate::app::{Answer, PASSWORD, TestApp, plan};
use crate::fixtures::png;

#[tokio::test]
async fn tills_send_the_md5_of_their_password_and_nothing_else_is_accepted() {
    let app = TestApp::start().await;
    let before = app.stored().await;
    let upper = PASSWORD_MD5.to_uppercase();
    let wrong = "0".repeat(32);
    let cases = [
        ("till01", PASSWORD),
        ("till01", &upper),
        ("till01", &wrong),
        ("till01", ""),
        ("nobody", PASSWORD_MD5),
        ("", PASSWORD_MD5),
        // Other kinds of accounts are no tills.
        ("ada", PASSWORD_MD5),
        ("backoffice", PASSWORD_MD5),
        ("other/till01", PASSWORD_MD5),
    ];
    let mut messages = std::collections::BTreeSet::new();
    for (login, secret) in cases {
        messages.insert(Machine::basic(&app, login, secret).upload("a.png", png(8, 8, 1)).await.failed(401));
    }
    assert_eq!(messages.len(), 1, "nothing is told of which was wrong: {messages:?}");
    assert!(messages.first().expect("one").contains("MD5, in 32 lower-case hexadecimal digits"));
    assert_eq!(app.stored().await, before);
    for login in ["till01", "TILL01", "acme/till01"] {
        Machine::basic(&app, login, PASSWORD_MD5).upload("a.png", png(8, 8, 1)).await.file();
    }
}

#[tokio::test]
async fn nobody_is_told_what_to_send_before_anything_else_is_looked_at() {
    let app = TestApp::start().await;
    let before = app.stored().await;
    let nobody = Machine::with(&app, None);
    for (method, path) in [
        ("POST", "rewards/a.png"),
        ("POST", "nowhere/a.exe"),
        ("GET", "rewards/a.png"),
        ("GET", "rewards/a.png/versions"),
        ("GET", "handles/x"),
        ("PUT", "rewards/a.png/acl"),
        ("DELETE", "rewards/a.png"),
        ("POST", "rewards/a.png/restore"),
    ] {
        let answer = Answer::of(nobody.request(method, path)).await;
        assert!(answer.failed(401).starts_with("Who is calling?"), "{method} {path}");
        let challenges: Vec<_> =
            answer.headers.get_all("www-authenticate").iter().map(|value| value.to_str().expect("text")).collect();
        assert_eq!(challenges, ["Basic realm=\"imagewell\", charset=\"UTF-8\"", "Bearer realm=\"imagewell\""]);
    }
    // A session of the portal is no proof here: pages of other sites could use it.
    let root = app.actor("root").await;
    Answer::of(root.post("/api_gateway/file-service/rewards/a.png").body(png(8, 8, 1))).await.failed(401);
    // Two proofs, or none that can be read.
    for (headers, status) in [
        (&[("authorization", "Bearer a.b.c"), ("x-cap-api-oauth-token", "a.b.c")][..], 400),
        (&[("authorization", "Digest username=\"x\"")], 401),
        (&[("authorization", "Basic !!!")], 401),
        (&[("authorization", "")], 401),
    ] {
        let mut request = nobody.request("POST", "rewards/a.png").body(png(8, 8, 1));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = Answer::of(request).await;
        answer.failed(status);
        assert_eq!(answer.headers.get_all("www-authenticate").iter().count(), if status == 401 { 2 } else { 0 });
    }
    assert_eq!(app.stored().await, before);
}

/// A socket that is closed with unread bytes is reset, and the answer is lost with it.
#[tokio::test]
async fn a_refusal_is_read_also_by_those_who_are_still_sending() {
    let app = TestApp::start().await;
    let before = app.stored().await;
    let large = crate::fixtures::png_of_bytes(8_000_000, 1);
    for _ in 0..5 {
        Machine::basic(&app, "till01", &"0".repeat(32)).upload("a.png", large.clone()).await.failed(401);
        Machine::till(&app, "reader").upload("a.png", large.clone()).await.failed(403);
        Machine::till(&app, "till01").upload("a.exe", large.clone()).await.failed(400);
        Machine::till(&app, "till01").upload("a.jpg", large.clone()).await.failed(400);
    }
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn access_is_none_read_or_write() {
    let app = TestApp::start().await;
    Machine::till(&app, "till01").upload("a.png", png(8, 8, 1)).await.file();
    let before = app.stored().await;
    for (machine, may_read) in [
        (Machine::till(&app, "reader"), true),
        (Machine::bearer(&app, &token(&app, "catalogue").await), true),
        (Machine::till(&app, "stranger"), false),
    ] {
        let reading = machine.send("GET", "rewards/a.png").await;
        if may_read {
            reading.file();
        } else {
            reading.failed(403);
            // Without a right it makes no difference what exists.
            machine.send("GET", "rewards/nothing.png").await.failed(403);
            machine.send("GET", "nowhere/a.png").await.failed(403);
            machine.send("GET", "handles/x").await.failed(403);
        }
        machine.upload("a.png", png(8, 8, 2)).await.failed(403);
        machine.upload("new.png", Vec::new()).await.failed(403);
        machine.send("DELETE", "rewards/a.png").await.failed(403);
        machine.send("POST", "rewards/a.png/restore").await.failed(403);
        Answer::of(machine.request("PUT", "rewards/a.png/acl").body("PUBLIC")).await.failed(403);
    }
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn a_client_gets_a_token_and_uploads_with_it_in_either_header() {
    let app = TestApp::start().await;
    let request = app.visitor().post("/v3/oauth/token/generate").json(&json!({ "key": "backoffice", "secret": PASSWORD }));
    let answer = Answer::of(request).await;
    assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (200, "no-store"));
    let body = answer.json();
    assert_eq!(body.as_object().expect("object").keys().collect::<Vec<_>>(), ["data", "errors"]);
    assert_eq!((&body["data"]["ttlSeconds"], &body["errors"]), (&json!(300), &Value::Null));
    let token = body["data"]["accessToken"].as_str().expect("token");

    let header = jsonwebtoken::decode_header(token).expect("header");
    assert_eq!(header.alg, Algorithm::RS256);
    let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(token).expect("claims");
    let names: Vec<&String> = claims.as_object().expect("object").keys().collect();
    assert_eq!(names, ["iss", "exp", "jti", "iat", "sub", "client_id", "org_id"]);
    assert_eq!(
        (&claims["iss"], &claims["client_id"], &claims["org_id"]),
        (&json!("imagewell"), &json!("backoffice"), &json!(100_606))
    );
    assert_eq!(claims["exp"].as_u64().expect("exp") - claims["iat"].as_u64().expect("iat"), 300);

    Machine::bearer(&app, token).upload("a.png", png(8, 8, 1)).await.file();
    Machine::with(&app, Some(("x-cap-api-oauth-token", token.to_owned()))).upload("a.png", png(8, 8, 2)).await.file();
    assert_ne!(super::token(&app, "backoffice").await, token, "no two tokens are the same");
}

#[tokio::test]
async fn a_wrong_key_or_secret_gets_no_token() {
    let app = TestApp::start().await;
    let cases = [
        json!({ "key": "backoffice", "secret": "wrong" }),
        json!({ "key": "nobody", "secret": PASSWORD }),
        json!({ "key": "till01", "secret": PASSWORD_MD5 }),
        json!({ "key": "ada", "secret": PASSWORD }),
    ];
    for body in cases {
        let answer = Answer::of(app.visitor().post("/v3/oauth/token/generate").json(&body)).await;
        let expected = json!({ "code": 401, "status": "false", "message": "Wrong key or secret.", "data": null,
            "errors": [{ "code": 401, "message": "Wrong key or secret." }] });
        assert_eq!((answer.status.as_u16(), answer.json()), (401, expected), "{body}");
        assert!(answer.headers.contains_key("www-authenticate"));
    }
    for body in ["", "key=backoffice", "{}", "{\"key\":\"backoffice\"}", "[]"] {
        let answer = Answer::of(app.visitor().post("/v3/oauth/token/generate").body(body)).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["data"]), (400, &Value::Null), "{body}");
    }
}

/// Row A11: tills and clients are counted as users are.
#[tokio::test]
async fn attempts_of_machines_are_limited_and_a_proof_is_counted_once() {
    let app = TestApp::with(&[("login.attempts_per_account_max", "3"), ("login.window_seconds", "600")]).await;
    let till = Machine::till(&app, "till01");
    let many = (0..40).map(|_| till.send("GET", "rewards/a.png"));
    for answer in futures_util::future::join_all(many).await {
        answer.failed(404);
    }
    for salt in 0..3 {
        Machine::basic(&app, "till01", &format!("{salt:032x}")).send("GET", "rewards/a.png").await.failed(401);
    }
    let limited = Machine::basic(&app, "till01", &"a".repeat(32)).send("GET", "rewards/a.png").await;
    limited.failed(429);
    assert!(limited.header("retry-after").parse::<u64>().expect("seconds") > 0);
    till.send("GET", "rewards/a.png").await.failed(404);
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Row A10.
#[tokio::test]
async fn tokens_that_we_did_not_sign_like_this_are_refused() {
    let app = TestApp::start().await;
    let good = token(&app, "backoffice").await;
    let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(&good).expect("claims");
    let key = app.service.app.keys.current(KeyPurpose::Tokens).expect("key");
    let own = EncodingKey::from_rsa_pem(key.secret.as_bytes()).expect("key");
    let foreign = EncodingKey::from_rsa_pem(super::outside::rsa_key().as_bytes()).expect("key");
    let kid = Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::RS256) };
    let sign = |header: &Header, key: &EncodingKey, changes: Value| {
        let mut claims = claims.clone();
        for (name, value) in changes.as_object().expect("object") {
            claims[name] = value.clone();
        }
        jsonwebtoken::encode(header, &claims, key).expect("signs")
    };
    Machine::bearer(&app, &sign(&kid, &own, json!({}))).send("GET", "rewards/a.png").await.failed(404);
    let (head, rest) = good.split_once('.').expect("dots");
    let (body, signature) = rest.split_once('.').expect("dots");
    let encode = |value: Value| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, value.to_string());
    let none = encode(json!({ "alg": "none", "typ": "JWT", "kid": key.id }));
    let public = jsonwebtoken::jwk::Jwk::from_encoding_key(&own, Algorithm::RS256).expect("jwk");
    let public = EncodingKey::from_secret(serde_json::to_string(&public).expect("json").as_bytes());
    let hmac = Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::HS256) };
    let cases = [
        ("unsigned", format!("{none}.{body}.")),
        ("unsigned, with the signature", format!("{none}.{body}.{signature}")),
        ("without its signature", format!("{head}.{body}.")),
        ("another's signature", sign(&kid, &foreign, json!({}))),
        ("an HMAC with the public key", sign(&hmac, &public, json!({}))),
        ("another algorithm", sign(&Header { alg: Algorithm::RS512, ..kid.clone() }, &own, json!({}))),
        ("no key named", sign(&Header::new(Algorithm::RS256), &own, json!({}))),
        ("an unknown key", sign(&Header { kid: Some("IWTAAAAAAAAAAAAAAAA".into()), ..kid.clone() }, &own, json!({}))),
        (
            "a link's key",
            sign(
                &Header { kid: Some(app.service.app.keys.current(KeyPurpose::Links).expect("key").id), ..kid.clone() },
                &own,
                json!({}),
            ),
        ),
        ("another type", sign(&Header { typ: Some("id+jwt".into()), ..kid.clone() }, &own, json!({}))),
        ("expired", sign(&kid, &own, json!({ "exp": now() - 1 }))),
        ("without an end", sign(&kid, &own, json!({ "exp": null }))),
        ("wrong issuer", sign(&kid, &own, json!({ "iss": "somebody" }))),
        ("with an audience", sign(&kid, &own, json!({ "aud": "somebody" }))),
        ("another org", sign(&kid, &own, json!({ "org_id": 2 }))),
        ("another account", sign(&kid, &own, json!({ "sub": "73e78929-1e07-4cc5-a738-b54470a7dc8c" }))),
        (
            "changed claims",
            format!("{head}.{}.{signature}", encode(json!({ "iss": "imagewell", "exp": now() + 60, "sub": claims["sub"] }))),
        ),
        ("too long", format!("{good}{}", "A".repeat(9000))),
        ("empty", String::new()),
        ("nonsense", "a.b.c".into()),
    ];
    let before = app.stored().await;
    for (what, token) in cases {
        let answer = Machine::bearer(&app, &token).upload("a.png", png(8, 8, 1)).await;
        let message = answer.failed(401);
        // A challenge for a password as well would open a dialog in browsers.
        let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(challenges.len(), 1, "{what}: {challenges:?}");
        let challenge = challenges[0].to_str().expect("text");
        assert!(challenge.contains("error=\"invalid_token\""), "{what}: {challenge} {message}");
    }
    assert_eq!(app.stored().await, before);
    for index in (head.len() + 1..good.len()).step_by(7) {
        let mut bent = good.clone().into_bytes();
        bent[index] = if bent[index] == b'A' { b'B' } else { b'A' };
        let bent = String::from_utf8(bent).expect("text");
        Machine::bearer(&app, &bent).send("GET", "rewards/a.png").await.failed(401);
    }
}

/// Row A6: a token says who, never what for.
#[tokio::test]
async fn a_change_of_rights_reaches_tokens_and_tills_at_once() {
    let app = TestApp::start().await;
    let bearer = Machine::bearer(&app, &token(&app, "backoffice").await);
    let till = Machine::till(&app, "till01");
    bearer.upload("a.png", png(8, 8, 1)).await.file();
    till.upload("a.png", png(8, 8, 2)).await.file();
    let change = async |role: &str, disabled: bool| {
        let mut plan = plan();
        plan.accounts.retain(|account| account.kind != AccountKind::User && account.org == "acme");
        for account in &mut plan.accounts {
            (account.roles, account.disabled) = (vec![role.to_owned()], disabled);
        }
        provision::apply(&app.service.app, plan).await.expect("applies");
    };
    change("file-read", false).await;
    for machine in [&bearer, &till] {
        machine.upload("a.png", png(8, 8, 3)).await.failed(403);
        machine.send("GET", "rewards/a.png").await.file();
    }
    change("file-write", true).await;
    for machine in [&bearer, &till] {
        machine.send("GET", "rewards/a.png").await.failed(401);
    }
}

/// It goes on asking, as machines do, and its operator must be able to see why.
#[tokio::test]
async fn a_disabled_till_is_told_so_however_often_it_asks_and_guesses_are_counted_as_ever() {
    let app = TestApp::with(&[("login.attempts_per_account_max", "3")]).await;
    let till = Machine::till(&app, "till01");
    till.send("GET", "rewards/a.png").await.failed(404);
    let mut plan = plan();
    plan.accounts.retain(|account| account.login == "till01");
    plan.accounts[0].disabled = true;
    provision::apply(&app.service.app, plan).await.expect("applies");
    for _ in 0..8 {
        till.send("GET", "rewards/a.png").await.failed(401);
    }
    let guess = Machine::basic(&app, "till01", &"a".repeat(32));
    for status in [401, 401, 401, 429] {
        guess.send("GET", "rewards/a.png").await.failed(status);
    }
}

#[tokio::test]
async fn tokens_end_and_keys_rotate_with_overlap() {
    let app = TestApp::with(&[("oauth.token_ttl_seconds", "4")]).await;
    let before = token(&app, "backoffice").await;
    let keys = &app.service.app.keys;
    keys.rotate(KeyPurpose::Tokens, false).await.expect("rotates");
    let after = token(&app, "backoffice").await;
    let kid = |token: &str| jsonwebtoken::decode_header(token).expect("header").kid.expect("kid");
    assert_ne!(kid(&before), kid(&after));
    for token in [&before, &after] {
        Machine::bearer(&app, token).send("GET", "rewards/a.png").await.failed(404);
    }
    keys.rotate(KeyPurpose::Tokens, true).await.expect("rotates");
    for token in [&before, &after] {
        Machine::bearer(&app, token).send("GET", "rewards/a.png").await.failed(401);
    }
    let newest = token(&app, "backoffice").await;
    Machine::bearer(&app, &newest).send("GET", "rewards/a.png").await.failed(404);
    tokio::time::sleep(Duration::from_millis(4100)).await;
    let message = Machine::bearer(&app, &newest).send("GET", "rewards/a.png").await.failed(401);
    assert!(message.contains("expired"), "{message}");
}

#[tokio::test]
async fn keys_are_made_once_and_tokens_survive_a_restart() {
    let app = TestApp::start().await;
    let token = token(&app, "backoffice").await;
    let link = Machine::bearer(&app, &token).upload("a.png", png(8, 8, 1)).await.link();
    let address = app.address;
    let app = app.restart(&[("public_url", &format!("http://{address}"))]).await;
    Machine::bearer(&app, &token).send("GET", "rewards/a.png").await.file();
    let moved = link.replace(&address.to_string(), &app.address.to_string());
    assert!(super::open(&moved).await.body == png(8, 8, 1), "behind another address the public one still counts");
}

/// Browsers send Basic credentials that they remember to whatever a page asks for.
#[tokio::test]
async fn pages_of_other_sites_can_not_use_a_remembered_password() {
    let app = TestApp::start().await;
    let before = app.stored().await;
    let till = Machine::till(&app, "till01");
    for header in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")] {
        Answer::of(till.request("POST", "rewards/a.png").header(header.0, header.1).body(png(8, 8, 1))).await.failed(403);
    }
    assert_eq!(app.stored().await, before);
    Answer::of(till.request("POST", "rewards/a.png").header("sec-fetch-site", "same-origin").body(png(8, 8, 1))).await.file();
}

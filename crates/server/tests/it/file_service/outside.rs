//! Bearer tokens of an outside identity provider, whose keys are fetched from a server of the test's own.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{FileAnswer as _, Machine};
use crate::app::TestApp;
use crate::fixtures::png;

/// An RSA key as an operator would make one.
pub fn rsa_key() -> String {
    let output = Command::new("openssl").args(["genrsa", "2048"]).output().expect("openssl runs");
    String::from_utf8(output.stdout).expect("PEM")
}

fn ec_key() -> String {
    let arguments = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let output = Command::new("openssl").args(arguments).output().expect("openssl runs");
    String::from_utf8(output.stdout).expect("PEM")
}

/// A key that the provider signs with.
struct Key {
    id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Key {
    fn rsa(id: &'static str) -> Self {
        Self { id, algorithm: Algorithm::RS256, key: EncodingKey::from_rsa_pem(rsa_key().as_bytes()).expect("key") }
    }

    fn ec(id: &'static str) -> Self {
        Self { id, algorithm: Algorithm::ES256, key: EncodingKey::from_ec_pem(ec_key().as_bytes()).expect("key") }
    }

    fn jwk(&self) -> Jwk {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("jwk");
        jwk.common.key_id = Some(self.id.into());
        jwk
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.into()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key).expect("signs")
    }
}

/// Answers every request with the document of its path, or with a 500 where there is none, and counts them.
struct Provider {
    url: String,
    documents: watch::Sender<Vec<(&'static str, String)>>,
    /// While it is set, whoever asks waits.
    held: watch::Sender<bool>,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    async fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let (documents, served) = watch::channel(Vec::<(&str, String)>::new());
        let (held, mut waits) = watch::channel(false);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut request = vec![0; 8192];
                let length = socket.read(&mut request).await.unwrap_or(0);
                count.fetch_add(1, Ordering::SeqCst);
                let _ = waits.wait_for(|held| !held).await;
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                let document = served.borrow().iter().find(|(known, _)| *known == path).map(|(_, text)| text.clone());
                let (status, body) = document.map_or(("500 Broken", String::new()), |body| ("200 OK", body));
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        let provider = Self { url, documents, held, asked };
        provider.publish(keys);
        provider
    }

    fn publish(&self, keys: &[&Key]) {
        let set = JwkSet { keys: keys.iter().map(|key| key.jwk()).collect() };
        let discovery = json!({ "issuer": self.url, "jwks_uri": format!("{}/jwks", self.url) }).to_string();
        let jwks = serde_json::to_string(&set).expect("json");
        self.documents.send_replace(vec![("/jwks", jwks), ("/.well-known/openid-configuration", discovery)]);
    }

    fn fall_over(&self) {
        self.documents.send_replace(Vec::new());
    }

    fn times_asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn claims(&self) -> Value {
        json!({ "iss": self.url, "aud": ["somebody", "imagewell"], "sub": "user|Ada", "exp": now() + 60, "iat": now(),
            "tenant": 100_606, "realm_access": { "roles": ["file-write", "unknown"] } })
    }

    async fn app(&self, more: &[(&str, &str)]) -> TestApp {
        let jwks_url = format!("{}/jwks", self.url);
        let base = [
            ("identity_provider.issuer", self.url.as_str()),
            ("identity_provider.audience", "imagewell"),
            ("identity_provider.jwks_url", &jwks_url),
            ("identity_provider.org_claim", "tenant"),
            ("identity_provider.roles_claim", "realm_access.roles"),
        ];
        TestApp::with(&[&base, more].concat()).await
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn changed(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[name] = value;
    claims
}

#[tokio::test]
async fn its_callers_have_the_org_and_the_roles_that_it_says() {
    let (rsa, ec) = (Key::rsa("r1"), Key::ec("e1"));
    let provider = Provider::start(&[&rsa, &ec]).await;
    let app = provider.app(&[]).await;
    let claims = provider.claims();
    for token in [rsa.sign(&claims), ec.sign(&claims), rsa.sign(&changed(&claims, "tenant", json!("acme")))] {
        let file = Machine::bearer(&app, &token).upload("a.png", png(8, 8, 1)).await.file();
        assert!(file["s3_token"].as_str().expect("key").starts_with("rewards/100606/"));
    }
    let roles = |roles: Value| rsa.sign(&changed(&claims, "realm_access", json!({ "roles": roles })));
    let reader = Machine::bearer(&app, &roles(json!("openid file-read")));
    reader.send("GET", "rewards/a.png").await.file();
    reader.upload("a.png", png(8, 8, 1)).await.failed(403);
    for none in [json!([]), json!(["unknown"]), json!(7), Value::Null] {
        Machine::bearer(&app, &roles(none)).send("GET", "rewards/a.png").await.failed(403);
    }
    let elsewhere = Machine::bearer(&app, &rsa.sign(&changed(&claims, "tenant", json!(2))));
    elsewhere.send("GET", "rewards/a.png").await.failed(404);
    Machine::bearer(&app, &rsa.sign(&changed(&claims, "tenant", json!(7)))).send("GET", "rewards/a.png").await.failed(403);
    // A text is a name, whatever it looks like: an org could be named like another's number.
    Machine::bearer(&app, &rsa.sign(&changed(&claims, "tenant", json!("100606")))).send("GET", "rewards/a.png").await.failed(403);
    assert_eq!(provider.times_asked(), 1, "its keys are kept");
    // Our own clients go on beside it.
    Machine::bearer(&app, &super::token(&app, "backoffice").await).send("GET", "rewards/a.png").await.file();
}

#[tokio::test]
async fn its_tokens_must_be_meant_for_us_and_signed_by_its_keys() {
    let (known, stranger) = (Key::rsa("r1"), Key::rsa("r1"));
    let provider = Provider::start(&[&known]).await;
    let app = provider.app(&[]).await;
    let claims = provider.claims();
    let before = app.stored().await;
    let public = serde_json::to_string(&known.jwk()).expect("json");
    let confused = Key { id: "r1", algorithm: Algorithm::HS256, key: EncodingKey::from_secret(public.as_bytes()) };
    let other_algorithm = Key { id: "r1", algorithm: Algorithm::RS512, key: known.key.clone() };
    let encode = |value: &Value| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, value.to_string());
    let cases = [
        ("another audience", known.sign(&changed(&claims, "aud", json!("somebody")))),
        ("no audience", known.sign(&changed(&claims, "aud", Value::Null))),
        ("another issuer", known.sign(&changed(&claims, "iss", json!("https://evil.example")))),
        ("expired", known.sign(&changed(&claims, "exp", json!(now() - 61)))),
        ("not valid yet", known.sign(&changed(&claims, "nbf", json!(now() + 120)))),
        ("no subject", known.sign(&changed(&claims, "sub", Value::Null))),
        ("no org", known.sign(&changed(&claims, "tenant", Value::Null))),
        ("another key", stranger.sign(&claims)),
        ("an unknown key", Key { id: "r2", ..stranger }.sign(&claims)),
        ("an HMAC with the public key", confused.sign(&claims)),
        ("another algorithm than the key's", other_algorithm.sign(&claims)),
        ("unsigned", format!("{}.{}.", encode(&json!({ "alg": "none", "kid": "r1" })), encode(&claims))),
    ];
    for (what, token) in cases {
        let answer = Machine::bearer(&app, &token).upload("a.png", png(8, 8, 1)).await;
        assert_eq!(answer.status.as_u16(), 401, "{what}: {}", answer.text());
        answer.failed(401);
    }
    assert_eq!(app.stored().await, before);
    assert_eq!(provider.times_asked(), 1, "unknown keys don't make us ask again and again");
    Machine::bearer(&app, &known.sign(&changed(&claims, "exp", json!(now() - 30))))
        .send("GET", "rewards/a.png")
        .await
        .failed(404);
}

#[tokio::test]
async fn its_keys_rotate() {
    let (old, new) = (Key::rsa("r1"), Key::rsa("r2"));
    let provider = Provider::start(&[&old]).await;
    let app = provider.app(&[("identity_provider.unknown_key_seconds", "0"), ("identity_provider.jwks_ttl_seconds", "2")]).await;
    let claims = provider.claims();
    let ask = async |key: &Key| Machine::bearer(&app, &key.sign(&claims)).send("GET", "rewards/a.png").await;
    ask(&old).await.failed(404);
    ask(&new).await.failed(401);
    provider.publish(&[&old, &new]);
    ask(&new).await.failed(404);
    ask(&old).await.failed(404);
    provider.publish(&[&new]);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    ask(&old).await.failed(401);
    ask(&new).await.failed(404);
}

#[tokio::test]
async fn when_it_can_not_be_asked_the_answer_says_so() {
    let key = Key::rsa("r1");
    let provider = Provider::start(&[&key]).await;
    let app = provider.app(&[("identity_provider.jwks_ttl_seconds", "1")]).await;
    let machine = Machine::bearer(&app, &key.sign(&provider.claims()));
    machine.upload("a.png", png(8, 8, 1)).await.file();
    let before = app.stored().await;
    provider.fall_over();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let answers = futures_util::future::join_all((0..10).map(|salt| machine.upload("a.png", png(8, 8, salt)))).await;
    for answer in answers {
        assert_eq!(answer.failed(503), "Authorization status unavailable!");
        assert_eq!((&answer.json()["errorCode"], answer.headers.contains_key("retry-after")), (&json!(4001), true));
    }
    assert!(provider.times_asked() <= 3, "it is left alone for a moment: {}", provider.times_asked());
    assert_eq!(app.stored().await, before);
    // Tills don't depend on it.
    Machine::till(&app, "till01").send("GET", "rewards/a.png").await.file();
    provider.publish(&[&key]);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    machine.send("GET", "rewards/a.png").await.file();
}

#[tokio::test]
async fn whose_key_is_held_waits_for_no_other_token() {
    let (known, unknown) = (Key::rsa("r1"), Key::rsa("r2"));
    let provider = Provider::start(&[&known]).await;
    let settings = [("identity_provider.unknown_key_seconds", "1"), ("identity_provider.timeout_seconds", "120")];
    let app = provider.app(&settings).await;
    let good = Machine::bearer(&app, &known.sign(&provider.claims()));
    let bad = Machine::bearer(&app, &unknown.sign(&provider.claims()));
    good.send("GET", "rewards/a.png").await.failed(404);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    provider.held.send_replace(true);
    let storm =
        tokio::spawn(async move { futures_util::future::join_all((0..20).map(|_| bad.send("GET", "rewards/a.png"))).await });
    while provider.times_asked() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..3 {
        let answer = tokio::time::timeout(Duration::from_secs(30), good.send("GET", "rewards/a.png")).await;
        answer.expect("the provider is still silent, and its key is held").failed(404);
    }
    assert!(!storm.is_finished());
    provider.held.send_replace(false);
    for answer in storm.await.expect("ends") {
        answer.failed(401);
    }
    assert_eq!(provider.times_asked(), 2, "all of them were one look");
}

/// Keys are asked for again before they are too old, by nobody who would have to wait.
#[tokio::test]
async fn keys_are_renewed_before_they_end() {
    let key = Key::rsa("r1");
    let provider = Provider::start(&[&key]).await;
    let app = provider.app(&[("identity_provider.jwks_ttl_seconds", "4")]).await;
    let machine = Machine::bearer(&app, &key.sign(&provider.claims()));
    machine.send("GET", "rewards/a.png").await.failed(404);
    tokio::time::sleep(Duration::from_millis(3100)).await;
    machine.send("GET", "rewards/a.png").await.failed(404);
    while provider.times_asked() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn it_may_say_itself_where_its_keys_are() {
    let key = Key::rsa("r1");
    let provider = Provider::start(&[&key]).await;
    let app = provider.app(&[("identity_provider.jwks_url", "")]).await;
    Machine::bearer(&app, &key.sign(&provider.claims())).upload("a.png", png(8, 8, 1)).await.file();
    assert_eq!(provider.times_asked(), 2);
}

//! The service under test, its actors and what it has stored.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};

use imagewell::config::{Settings, StorageUrl};
use imagewell::serve::{Ended, Service, start};
use imagewell_core::model::{AccountKind, ActionKey, Org, OrgId};
use imagewell_core::provision::{self, AccountPlan, Plan, Role, Secret};
use imagewell_engines::failover::Pair;
use imagewell_engines::faults::{Proxy, Upstream};
use imagewell_engines::s3::Bucket;
use imagewell_engines::{postgres, s3};
use reqwest::header::HeaderMap;
use reqwest::multipart::{Form, Part};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;
use sqlx::FromRow;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use tempfile::TempDir;

use crate::fixtures::{multipart, multipart_type};

pub const PERMISSION: &str = "opstool.AB_Crew.view";
pub const APP_KEY: &str = "opstool";
pub const PASSWORD: &str = "correct horse";

/// The setting of tests that are about our own links, or other things that only a folder has: blobs lie in one whatever the others run on.
pub const FOLDER: (&str, &str) = ("storage_url", "");

/// Where a service keeps its data.
pub struct Data {
    folder: TempDir,
    outgrown: Option<Outgrown>,
}

/// A database and a bucket of its own, when the tests run on PostgreSQL and an S3 store.
pub struct Outgrown {
    database_url: String,
    bucket: Bucket,
}

impl Outgrown {
    pub fn new() -> Self {
        Self { database_url: postgres::database(), bucket: s3::bucket() }
    }

    /// The database and the store behind proxies that can misbehave.
    pub fn behind_proxies() -> (Self, Proxy, Proxy) {
        let mut outgrown = Self::new();
        let (before, host) = outgrown.database_url.split_once("?host=").expect("a socket");
        let (host, name) = (host.to_owned(), before.rsplit('/').next().expect("name").to_owned());
        let database = Proxy::start(Upstream::Unix(format!("{host}/.s.PGSQL.5432")));
        let store = Proxy::start(Upstream::Tcp(outgrown.bucket.endpoint.replace("http://", "")));
        outgrown.database_url = format!("postgres://postgres@{}/{name}", database.address);
        outgrown.bucket.endpoint = format!("http://{}", store.address);
        (outgrown, database, store)
    }

    /// In this database.
    pub fn in_database(database_url: &str) -> Self {
        Self { database_url: database_url.to_owned(), bucket: s3::bucket() }
    }

    /// In the first one's database, by way of an address that can be led elsewhere.
    pub fn with_standby(pair: &Pair) -> (Self, Proxy) {
        let proxy = Proxy::start(pair.first());
        (Self { database_url: format!("postgres://postgres@{}/postgres", proxy.address), bucket: s3::bucket() }, proxy)
    }

    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("database_url", self.database_url.clone()),
            ("storage_url", format!("s3://{}", self.bucket.name)),
            ("storage.endpoint", self.bucket.endpoint.clone()),
            ("storage.region", "us-east-1".into()),
            ("storage.access_key_id", self.bucket.access_key.into()),
            ("storage.secret_access_key", self.bucket.secret_key.into()),
            // The tests' server doesn't sync.
            ("database.allow_weak_durability", "true".into()),
        ]
    }

    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// Where the objects lie as files.
    pub fn blobs(&self) -> &Path {
        &self.bucket.folder
    }
}

impl Data {
    pub fn fresh() -> Arc<Self> {
        // People have such folders, and the store's staging files have this sign in their names.
        let folder = tempfile::Builder::new().prefix("disk#2-").tempdir().expect("temporary folder");
        Arc::new(Self { folder, outgrown: imagewell_engines::outgrown().then(Outgrown::new) })
    }

    /// On PostgreSQL and in a bucket, whatever the other tests run on.
    pub fn outgrown() -> Arc<Self> {
        Arc::new(Self { folder: tempfile::tempdir().expect("temporary folder"), outgrown: Some(Outgrown::new()) })
    }

    /// On these.
    pub fn on(outgrown: Outgrown) -> Arc<Self> {
        Arc::new(Self { folder: tempfile::tempdir().expect("temporary folder"), outgrown: Some(outgrown) })
    }

    pub fn database_url(&self) -> &str {
        &self.outgrown.as_ref().expect("a database").database_url
    }

    /// The keys of uploads in parts that the bucket waits for.
    pub fn unfinished(&self) -> Vec<String> {
        self.outgrown.as_ref().expect("a bucket").bucket.unfinished()
    }

    /// Opens a service that doesn't listen.
    pub async fn open(&self, overrides: &[(&str, &str)]) -> Result<Service, imagewell_core::Error> {
        self.open_with(overrides, program()).await
    }

    async fn open_with(&self, overrides: &[(&str, &str)], workers: PathBuf) -> Result<Service, imagewell_core::Error> {
        let mut settings = Settings::default();
        let data_dir = self.folder.path().to_string_lossy().into_owned();
        // Cheap hashes: the real costs are tested where they matter.
        let base = [
            ("listen", "127.0.0.1:0"),
            ("data_dir", &data_dir),
            ("passwords.memory_kib", "8"),
            ("passwords.passes", "1"),
            ("storage.free_bytes_min", "0"),
            ("storage.free_inodes_min", "0"),
            ("workers.allow_without_sandbox", if *SANDBOXED { "false" } else { "true" }),
        ];
        let outgrown = self.outgrown.as_ref().map(Outgrown::settings).unwrap_or_default();
        let outgrown: Vec<(&str, &str)> = outgrown.iter().map(|(key, value)| (*key, value.as_str())).collect();
        for (key, value) in base.iter().chain(&outgrown).chain(overrides) {
            settings.set(key, value).unwrap_or_else(|| panic!("no setting {key}")).unwrap_or_else(|hint| panic!("{key}: {hint}"));
        }
        Service::open(settings, workers).await
    }

    /// What `data_dir` is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the blobs lie as files.
    pub fn blobs(&self) -> PathBuf {
        self.outgrown.as_ref().map_or_else(|| self.folder.path().join("blobs"), |outgrown| outgrown.blobs().to_owned())
    }

    /// The store, as another service may be told of it.
    pub fn storage_url(&self) -> String {
        let bucket = self.outgrown.as_ref().map(|outgrown| format!("s3://{}", outgrown.bucket.name));
        bucket.unwrap_or_else(|| format!("file://{}", self.blobs().display()))
    }

    /// Changes rows behind the service's back.
    pub async fn execute(&self, sql: &'static str) {
        if let Some(outgrown) = &self.outgrown {
            let pool = sqlx::PgPool::connect(&outgrown.database_url).await.expect("database");
            sqlx::query(sql).execute(&pool).await.expect("done");
            return pool.close().await;
        }
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.folder.path().join("imagewell.db"));
        let pool = sqlx::SqlitePool::connect_with(options).await.expect("database");
        sqlx::query(sql).execute(&pool).await.expect("done");
        pool.close().await;
    }
}

/// A running service on data of its own.
pub struct TestApp {
    pub address: SocketAddr,
    pub service: Service,
    data: Arc<Data>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<Ended>,
}

impl TestApp {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With settings of the test's own.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        Self::on(Data::fresh(), settings).await
    }

    pub async fn on(data: Arc<Data>, overrides: &[(&str, &str)]) -> Self {
        Self::with_workers(data, overrides, program()).await
    }

    /// With another program for its workers.
    pub async fn with_workers(data: Arc<Data>, overrides: &[(&str, &str)], workers: PathBuf) -> Self {
        let service = data.open_with(overrides, workers).await.expect("opens");
        provision::apply(&service.app, plan()).await.expect("provisions");
        let running = start(service.clone()).await.expect("starts");
        let address = running.address;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let ended = tokio::spawn(running.until(async {
            let _ = stopped.await;
        }));
        Self { address, service, data, stop: Some(stop), ended }
    }

    /// A second service on the same database and bucket.
    pub async fn another_node(&self, settings: &[(&str, &str)]) -> Self {
        Self::on(Arc::clone(&self.data), settings).await
    }

    pub fn data(&self) -> &Arc<Data> {
        &self.data
    }

    /// As SIGTERM would; returns how it ended.
    pub async fn stop(mut self) -> Ended {
        drop(self.stop.take());
        self.ended.await.expect("ends")
    }

    /// Stops, and starts again on the same folder.
    pub async fn restart(mut self, overrides: &[(&str, &str)]) -> Self {
        drop(self.stop.take());
        (&mut self.ended).await.expect("ends");
        Self::on(Arc::clone(&self.data), overrides).await
    }

    pub fn data_dir(&self) -> &Path {
        self.data.folder.path()
    }

    /// Where the blobs lie as files.
    pub fn blobs(&self) -> PathBuf {
        match (&self.data.outgrown, self.service.settings.storage_url()) {
            (Some(outgrown), StorageUrl::Bucket(_)) => outgrown.blobs().to_owned(),
            _ => self.data_dir().join("blobs"),
        }
    }

    /// What is in the trash.
    pub fn trash(&self) -> Vec<PathBuf> {
        let mut found = BTreeSet::new();
        let trash = self.blobs().join(".trash");
        if trash.exists() {
            walk(&trash, &mut found);
        }
        found.into_iter().collect()
    }

    /// What the database says of one row, behind the service's back.
    pub async fn row<T>(&self, sql: &'static str) -> T
    where
        T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        if let Some(outgrown) = &self.data.outgrown {
            let pool = sqlx::PgPool::connect(&outgrown.database_url).await.expect("database");
            let row = sqlx::query_as(sql).fetch_one(&pool).await.expect("row");
            pool.close().await;
            return row;
        }
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.data_dir().join("imagewell.db")).read_only(true);
        let pool = sqlx::SqlitePool::connect_with(options).await.expect("database");
        let row = sqlx::query_as(sql).fetch_one(&pool).await.expect("row");
        pool.close().await;
        row
    }

    /// Changes the database, behind the service's back.
    pub async fn execute(&self, statements: &[&'static str]) {
        if let Some(outgrown) = &self.data.outgrown {
            let pool = sqlx::PgPool::connect(&outgrown.database_url).await.expect("database");
            for sql in statements {
                sqlx::query(*sql).execute(&pool).await.expect("executes");
            }
            return pool.close().await;
        }
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.data_dir().join("imagewell.db"));
        let pool = sqlx::SqlitePool::connect_with(options).await.expect("database");
        for sql in statements {
            sqlx::query(*sql).execute(&pool).await.expect("executes");
        }
        pool.close().await;
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Somebody who is not logged in.
    pub fn visitor(&self) -> Actor {
        Actor::at(&format!("http://{}", self.address))
    }

    /// Somebody who has just logged in.
    pub async fn actor(&self, login: &str) -> Actor {
        let actor = self.visitor();
        let answer = actor.log_in(login, PASSWORD).await;
        assert_eq!(answer.status, StatusCode::OK, "{login}: {}", answer.text());
        actor
    }

    /// Everything that is stored: rows and files. Equal before and after means that nothing stayed behind.
    pub async fn stored(&self) -> Stored {
        let (images, versions) = self.row("SELECT (SELECT COUNT(*) FROM images), (SELECT COUNT(*) FROM versions)").await;
        Stored { images, versions, files: files_below(&self.blobs(), &self.data_dir().join("spool")) }
    }
}

/// See [`TestApp::stored`].
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Stored {
    pub images: i64,
    pub versions: i64,
    pub files: BTreeSet<PathBuf>,
}

fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("folder").flatten() {
        if entry.path().is_dir() {
            walk(&entry.path(), found);
        } else {
            found.insert(entry.path());
        }
    }
}

pub fn files_below(blobs: &Path, spool: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    walk(blobs, &mut found);
    // The store's identity, the trash, and what the S3 server keeps for itself.
    let is_hidden = |path: &Path| path.iter().any(|part| part.to_string_lossy().starts_with('.'));
    found.retain(|path| !is_hidden(path.strip_prefix(blobs).expect("below")));
    walk(spool, &mut found);
    found
}

/// Whether workers are sandboxed here. Where they are not, nothing is rendered unless a setting allows it.
pub static SANDBOXED: LazyLock<bool> = LazyLock::new(|| {
    let output = Command::new(program()).args(["render-worker", "probe"]).env_clear().output().expect("runs");
    !String::from_utf8_lossy(&output.stdout).contains("not supported")
});

/// The program that tests of processes run, and that renders in the others.
pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_imagewell"))
}

/// Two orgs, each with users and machines; ada may see the crew's images, bob may only upload, eve is as mighty as can be in the other org.
pub fn plan() -> Plan {
    let role = |org: &str, name: &str, actions: &[&str]| Role {
        org: org.into(),
        name: name.into(),
        actions: actions.iter().map(|action| ActionKey::parse(action).expect("action")).collect(),
    };
    let account = |kind, org: &str, login: &str, role: &str| AccountPlan {
        kind,
        org: org.into(),
        login: login.into(),
        email: (kind == AccountKind::User).then(|| format!("{login}@example.com")),
        secret: Secret::Plain(PASSWORD.into()),
        roles: vec![role.into()],
        token_ttl_seconds: None,
        disabled: false,
    };
    let user = |org, login, role| account(AccountKind::User, org, login, role);
    let till = |org, login, role| account(AccountKind::Till, org, login, role);
    let client = |org, login, role| account(AccountKind::Client, org, login, role);
    Plan {
        orgs: vec![Org { id: OrgId(100_606), name: "acme".into() }, Org { id: OrgId(2), name: "other".into() }],
        roles: vec![
            role("acme", "crew", &[PERMISSION, ActionKey::UPLOAD]),
            role("acme", "viewer", &[PERMISSION]),
            role("other", "crew", &[PERMISSION, ActionKey::UPLOAD]),
        ],
        accounts: vec![
            user("acme", "ada", "crew"),
            user("acme", "bob", "uploader"),
            user("acme", "vera", "viewer"),
            user("acme", "root", "site-admin"),
            user("other", "eve", "crew"),
            user("other", "oroot", "site-admin"),
            till("acme", "till01", "file-write"),
            till("acme", "reader", "file-read"),
            till("acme", "stranger", "viewer"),
            till("other", "till02", "file-write"),
            client("acme", "backoffice", "file-write"),
            client("acme", "catalogue", "file-read"),
        ],
        ..Plan::default()
    }
}

/// A client with its cookies.
#[derive(Clone)]
pub struct Actor {
    client: Client,
    base: String,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("answers");
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, body: response.bytes().await.expect("body").to_vec() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("text")).unwrap_or_default()
    }

    /// Asserts the error envelope and gives it.
    #[track_caller]
    pub fn refused(&self, status: u16, id: &str) -> Value {
        let envelope = self.json();
        assert_eq!((self.status.as_u16(), envelope["id"].to_string()), (status, id.to_owned()), "{envelope}");
        assert_eq!(envelope["status"], "error");
        assert_eq!(envelope["code"], status);
        assert!(envelope["message"].is_string() && envelope["mlKey"].is_string() && envelope["data"].is_object(), "{envelope}");
        let keys: Vec<&String> = envelope.as_object().expect("object").keys().collect();
        assert_eq!(keys, ["status", "id", "code", "message", "mlKey", "data"]);
        envelope
    }

    /// The uuid of an accepted upload.
    #[track_caller]
    pub fn uuid(&self) -> String {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self.json()["data"]["uuid"].as_str().expect("uuid").to_owned()
    }
}

impl Actor {
    /// Somebody without cookies.
    pub fn at(url: &str) -> Self {
        let client = Client::builder().cookie_store(true).redirect(reqwest::redirect::Policy::none()).build().expect("client");
        Self { client, base: url.to_owned() }
    }

    /// The same caller, with its cookies, at another node.
    pub fn at_node(&self, url: &str) -> Self {
        Self { client: self.client.clone(), base: url.to_owned() }
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.base))
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.base))
    }

    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.client.request(method.parse().expect("method"), format!("{}{path}", self.base))
    }

    pub async fn csrf(&self) -> String {
        Answer::of(self.get("/csrfToken")).await.json()["_csrf"].as_str().expect("token").to_owned()
    }

    /// A post with a fresh CSRF token.
    pub async fn change(&self, path: &str) -> RequestBuilder {
        self.post(path).header("X-CSRF-Token", self.csrf().await)
    }

    pub async fn log_in(&self, login: &str, password: &str) -> Answer {
        let body = serde_json::json!({ "username": login, "password": password });
        Answer::of(self.change("/site/login").await.json(&body)).await
    }

    /// Uploads as real clients do: parameters in the path.
    pub async fn upload(&self, bytes: Vec<u8>) -> Answer {
        let form = Form::new().part("image", Part::bytes(bytes).file_name("a.png"));
        Answer::of(self.change(&format!("/opsportal/image/{APP_KEY}/{PERMISSION}/false")).await.multipart(form)).await
    }

    /// An upload with a token that was asked for before, for many at once.
    pub fn uploading(&self, token: &str, bytes: &[u8]) -> RequestBuilder {
        self.post(&format!("/opsportal/image/{APP_KEY}/{PERMISSION}/0"))
            .header("x-csrf-token", token)
            .header("content-type", multipart_type())
            .body(multipart(&[("image", Some("a.png"), bytes)]))
    }

    pub async fn read(&self, uuid: &str) -> Answer {
        Answer::of(self.get(&image_path(uuid))).await
    }
}

pub fn image_path(uuid: &str) -> String {
    format!("/opsportal/image/{APP_KEY}/{uuid}")
}

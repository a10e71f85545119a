//! The file-service API as its callers use it.

mod callers;
mod changing;
mod links;
mod model;
mod namespaces;
mod outside;
mod records;
mod uploading;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

use crate::app::{Answer, PASSWORD, TestApp};

/// What a till sends in place of [`PASSWORD`].
pub const PASSWORD_MD5: &str = "3cb4e732631f47e6eb961f34554b7cde";
/// Where the API is.
pub const API: &str = "/api_gateway/file-service";

/// A caller that proves itself with every request.
#[derive(Clone)]
pub struct Machine {
    client: Client,
    base: String,
    header: Option<(&'static str, String)>,
}

impl Machine {
    /// A till with Basic credentials.
    pub fn till(app: &TestApp, id: &str) -> Self {
        Self::basic(app, id, PASSWORD_MD5)
    }

    pub fn basic(app: &TestApp, login: &str, secret: &str) -> Self {
        Self::basic_at(&app.url(""), login, secret)
    }

    fn basic_at(url: &str, login: &str, secret: &str) -> Self {
        let credentials = STANDARD.encode(format!("{login}:{secret}"));
        Self { client: Client::new(), base: url.to_owned(), header: Some(("authorization", format!("Basic {credentials}"))) }
    }

    /// A till of a process.
    pub fn till_at(url: &str, id: &str) -> Self {
        Self::basic_at(url, id, PASSWORD_MD5)
    }

    pub fn bearer(app: &TestApp, token: &str) -> Self {
        Self::with(app, Some(("authorization", format!("Bearer {token}"))))
    }

    /// Somebody who shows this header, or nothing.
    pub fn with(app: &TestApp, header: Option<(&'static str, String)>) -> Self {
        Self { client: Client::new(), base: app.url(""), header }
    }

    /// A request to a path behind the API's.
    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let request = self.client.request(method.parse().expect("method"), format!("{}{API}/{path}", self.base));
        match &self.header {
            Some((name, value)) => request.header(*name, value),
            None => request,
        }
    }

    pub async fn send(&self, method: &str, path: &str) -> Answer {
        Answer::of(self.request(method, path)).await
    }

    /// Uploads raw bytes to `rewards`.
    pub async fn upload(&self, name: &str, bytes: Vec<u8>) -> Answer {
        Answer::of(self.request("POST", &format!("rewards/{name}")).body(bytes)).await
    }
}

/// An answer about a file, with what is said of it.
pub trait FileAnswer {
    /// Asserts success and gives the `file` object.
    fn file(&self) -> Value;
    /// Asserts the error object and gives its message.
    fn failed(&self, status: u16) -> String;
    /// The link.
    fn link(&self) -> String;
}

impl FileAnswer for Answer {
    #[track_caller]
    fn file(&self) -> Value {
        let answer = self.json();
        assert_eq!((self.status.as_u16(), &answer["code"], &answer["status"]), (200, &json!(200), &json!("true")), "{answer}");
        answer["file"].clone()
    }

    #[track_caller]
    fn failed(&self, status: u16) -> String {
        let answer = self.json();
        assert_eq!((self.status.as_u16(), &answer["code"]), (status, &json!(status)), "{answer}");
        assert_eq!(answer["status"], "false");
        let keys: Vec<&String> = answer.as_object().expect("object").keys().collect();
        match status {
            403 => assert_eq!(keys, ["code", "status", "message", "errorCode"]),
            503 if keys.len() == 4 => assert_eq!(answer["errorCode"], 4001),
            _ => assert_eq!(keys, ["code", "status", "message"]),
        }
        if status == 403 {
            assert_eq!((&answer["message"], &answer["errorCode"]), (&json!("Not authorized. Access is denied!"), &json!(4000)));
        }
        if status == 401 {
            let challenges: Vec<_> = self.headers.get_all("www-authenticate").iter().collect();
            // Who has shown a token that failed is not asked for a password.
            let is_token = challenges.iter().any(|value| value.to_str().is_ok_and(|value| value.contains("invalid_token")));
            assert_eq!(challenges.len(), if is_token { 1 } else { 2 }, "Basic and Bearer: {challenges:?}");
        }
        answer["message"].as_str().expect("message").to_owned()
    }

    #[track_caller]
    fn link(&self) -> String {
        self.file();
        self.json()["secureFilePath"].as_str().expect("link").to_owned()
    }
}

/// A token for a client.
pub async fn token(app: &TestApp, key: &str) -> String {
    let request = app.visitor().post("/v3/oauth/token/generate").json(&json!({ "key": key, "secret": PASSWORD }));
    let answer = Answer::of(request).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    answer.json()["data"]["accessToken"].as_str().expect("token").to_owned()
}

/// What a link opens.
pub async fn open(link: &str) -> Answer {
    Answer::of(Client::new().get(link)).await
}

/// Asserts S3's error document and gives its message.
#[track_caller]
pub fn s3_error(answer: &Answer, status: u16, code: &str) -> String {
    let text = answer.text();
    assert_eq!(answer.status.as_u16(), status, "{text}");
    assert_eq!(answer.header("content-type"), "application/xml");
    assert!(text.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>"), "{text}");
    assert!(text.contains(&format!("<Error><Code>{code}</Code><Message>")), "{text}");
    text.split("<Message>").nth(1).and_then(|rest| rest.split("</Message>").next()).expect("message").to_owned()
}

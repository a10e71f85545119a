//! The Dropbox pictures API as a developer portal uses it.

mod avatars;
mod pictures;
mod sessions;
mod wrapped;

use std::collections::BTreeMap;

use reqwest::multipart::{Form, Part};
use reqwest::{Client, RequestBuilder};
use serde_json::json;

use crate::app::{Answer, PASSWORD, TestApp};

pub const PICTURES: &str = "/api/dropbox/pictures";

/// Somebody in a browser: cookies by hand, so that each can be looked at, left out and bent.
#[derive(Clone)]
pub struct Portal {
    client: Client,
    base: String,
    pub cookies: BTreeMap<String, String>,
}

impl Portal {
    pub fn visitor(app: &TestApp) -> Self {
        Self::at(&app.url(""))
    }

    pub fn at(url: &str) -> Self {
        Self { client: Client::new(), base: url.to_owned(), cookies: BTreeMap::new() }
    }

    /// Somebody who has just logged in.
    pub async fn user(app: &TestApp, login: &str) -> Self {
        let mut portal = Self::visitor(app);
        let answer = portal.log_in(login, PASSWORD).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        portal
    }

    pub async fn log_in(&mut self, email: &str, password: &str) -> Answer {
        let answer = Answer::of(self.request("POST", "/api/login").json(&json!({ "email": email, "password": password }))).await;
        self.keep_cookies(&answer);
        answer
    }

    pub fn keep_cookies(&mut self, answer: &Answer) {
        for cookie in answer.headers.get_all("set-cookie") {
            let (name, value) =
                cookie.to_str().expect("text").split(';').next().and_then(|pair| pair.split_once('=')).expect("pair");
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
    }

    /// With the cookies alone.
    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = self.client.request(method.parse().expect("method"), format!("{}{path}", self.base));
        if cookies.is_empty() { request } else { request.header("cookie", cookies.join("; ")) }
    }

    /// With the CSRF header too, as the portal's scripts make it from the cookie.
    pub fn change(&self, method: &str, path: &str) -> RequestBuilder {
        let token = self.cookies.iter().find(|(name, _)| name.starts_with("Csrf-Token_"));
        let request = self.request(method, path);
        match token {
            Some((name, value)) => request.header(format!("X-{name}"), value),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request("GET", path)).await
    }

    pub async fn add(&self, bytes: Vec<u8>) -> Answer {
        Answer::of(self.change("POST", PICTURES).multipart(form("Profile", bytes))).await
    }

    /// The id of a picture that is accepted.
    pub async fn ticket(&self, bytes: Vec<u8>) -> String {
        let answer = self.add(bytes).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        answer.text()
    }

    pub async fn crop(&self, ticket: &str, fields: &str) -> Answer {
        let request = self.change("PUT", &format!("{PICTURES}/{ticket}"));
        Answer::of(request.header("content-type", "application/x-www-form-urlencoded").body(fields.to_owned())).await
    }

    pub async fn take(&self, resource: &str, ticket: &str) -> Answer {
        Answer::of(self.change("PUT", &format!("/api/{resource}/avatar")).json(&json!({ "PictureID": ticket }))).await
    }
}

pub fn form(name: &'static str, bytes: Vec<u8>) -> Form {
    Form::new().part(name, Part::bytes(bytes).file_name("avatar.png").mime_str("image/png").expect("type"))
}

/// Asserts a refusal in plain text and gives it.
#[track_caller]
pub fn refused(answer: &Answer, status: u16) -> String {
    assert_eq!(
        (answer.status.as_u16(), answer.header("content-type")),
        (status, "text/plain; charset=utf-8"),
        "{}",
        answer.text()
    );
    answer.text()
}

/// Width, height, and one pixel of a picture.
pub fn seen(answer: &Answer, x: u32, y: u32) -> (u32, u32, [u8; 3]) {
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    let picture = image::load_from_memory(&answer.body).expect("a picture").into_rgb8();
    (picture.width(), picture.height(), picture.get_pixel(x, y).0)
}

/// Whether two colours look alike: renderings are JPEGs.
pub fn alike(one: [u8; 3], other: [u8; 3]) -> bool {
    one.iter().zip(other).all(|(one, other)| one.abs_diff(other) < 24)
}

pub const RED: [u8; 3] = [220, 30, 30];
pub const GREEN: [u8; 3] = [30, 180, 40];
pub const BLUE: [u8; 3] = [30, 40, 220];

/// Three stripes from left to right: red, green, blue.
pub fn stripes(width: u32, height: u32) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(width, height, |x, _| image::Rgb([RED, GREEN, BLUE][(x * 3 / width) as usize]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).expect("encodes");
    bytes.into_inner()
}

//! The few pages for people: home, login, demo. Text is escaped by maud; styles and scripts are files of our own.

mod transforms;

use std::fmt;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use imagewell_core::model::BlobKey;
use maud::{DOCTYPE, Markup, html};

use crate::api::problem::Problem;
use crate::auth::session::Session;
use crate::links;
use crate::router;
use crate::serve::Service;
pub use transforms::transforms;

/// Only what we serve ourselves, nothing inline, no frames.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' blob:; connect-src 'self'; form-action 'self'; \
     frame-ancestors 'none'; base-uri 'none'",
);

const STYLE: &str = include_str!("../../assets/style.css");
const ICON: &str = include_str!("../../assets/icon.svg");
const AVATAR_SCRIPT: &str = include_str!("../../assets/avatar.js");
const DEMO_SCRIPT: &str = include_str!("../../assets/demo.js");

/// What the demo shows.
pub struct DemoPage {
    /// Sample accounts: login, password, what they may do.
    pub accounts: Vec<(&'static str, String, &'static str)>,
    /// Paths of the sample images.
    pub images: Vec<String>,
    /// Sample files of the file service, shown by links.
    pub files: Vec<BlobKey>,
    /// For the uploads of the page.
    pub app_key: &'static str,
    /// For the uploads of the page.
    pub permission: &'static str,
}

impl fmt::Debug for DemoPage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The passwords stay out of logs.
        out.debug_struct("DemoPage").finish_non_exhaustive()
    }
}

fn page(title: &str, script: Option<&str>, content: &Markup) -> Response {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · imagewell" }
                link rel="stylesheet" href="/assets/style.css";
                link rel="icon" href="/assets/icon.svg";
                @if let Some(script) = script { script src=(script) defer {} }
            }
            body { main { (content) } }
        }
    };
    let mut response = Html(markup.into_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, PAGE_POLICY);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The login form.
#[must_use]
pub fn login(csrf: &str, message: Option<&str>, demo: Option<&DemoPage>) -> Response {
    page(
        "Log in",
        None,
        &html! {
            h1 { "imagewell" }
            form.card method="post" action="/site/login" {
                @if let Some(message) = message { p.error role="alert" { (message) } }
                input type="hidden" name="_csrf" value=(csrf);
                label { "Name" input name="username" autocomplete="username" required autofocus; }
                label { "Password" input name="password" type="password" autocomplete="current-password" required; }
                button type="submit" { "Log in" }
            }
            @if let Some(demo) = demo {
                p.hint { "Accounts of this demo:" }
                table {
                    @for (login, password, may) in &demo.accounts {
                        tr { td { code { (login) } } td { code { (password) } } td { (may) } }
                    }
                }
            }
        },
    )
}

/// The start page: who is logged in, and where things are.
pub async fn home(State(service): State<Service>, headers: HeaderMap) -> Response {
    let session = Session::read(&headers, &service).await;
    let Ok(actor) = session.and_then(|session| session.actor()) else { return Redirect::to("/site/login").into_response() };
    if service.demo.is_some() {
        return Redirect::to("/demo").into_response();
    }
    page(
        "Home",
        None,
        &html! {
            h1 { "imagewell" }
            p { "Logged in as " strong { (actor.login) } "." }
            p { "The portal's pages can now upload and show images. " a href="/openapi.json" { "API reference" } }
            p { a href="/site/logout" { "Log out" } }
        },
    )
}

/// The demo: upload an image and see it.
pub async fn demo(State(service): State<Service>, uri: Uri, headers: HeaderMap) -> Response {
    let session = Session::read(&headers, &service).await;
    let (Ok(actor), Some(demo)) = (session.and_then(|session| session.actor()), &service.demo) else {
        return Redirect::to("/site/login").into_response();
    };
    let base = links::base_url(&service, &uri, &headers);
    let mut linked: Vec<(String, &BlobKey)> = Vec::new();
    for blob in &demo.files {
        if let Ok(link) = links::presign(&service.app, &service.settings, &base, blob).await {
            linked.push((link, blob));
        }
    }
    page(
        "Demo",
        Some("/assets/demo.js"),
        &html! {
            h1 { "imagewell" }
            p { "Logged in as " strong { (actor.login) } " · " a href="/demo/transforms" { "Transforms" } " · " a href="/demo/avatar" { "Avatars" } " · " a href="/site/logout" { "Log out" } }
            form.card #upload data-app-key=(demo.app_key) data-permission=(demo.permission) {
                label { "An image" input type="file" name="image" accept="image/*" required; }
                button type="submit" { "Upload" }
                p #outcome role="status" {}
            }
            section.gallery #gallery {
                @for path in &demo.images { figure { img src=(path) alt="Uploaded by the demo"; figcaption { code { (path) } } } }
                @for (link, blob) in &linked {
                    figure { img src=(link) alt="A file of the demo's till"; figcaption { a href=(link) { code { (blob.as_str()) } } } }
                }
            }
        },
    )
}

/// The demo of avatars: upload, select, take.
pub async fn avatar_demo(State(service): State<Service>) -> Response {
    let Some(demo) = &service.demo else { return Redirect::to("/site/login").into_response() };
    page(
        "Avatars",
        Some("/assets/avatar.js"),
        &html! {
            h1 { "Avatars" }
            form.card #login {
                label { "Name" input name="email" value=(demo.accounts[0].0) required; }
                label { "Password" input name="password" type="password" value=(demo.accounts[0].1) required; }
                button type="submit" { "Log in" }
            }
            form.card #add hidden {
                label { "A picture" input type="file" name="Profile" accept="image/jpeg,image/png,image/gif,image/bmp" required; }
                button type="submit" { "Put it into the dropbox" }
            }
            p #outcome role="status" {}
            svg.stage #stage hidden width="512" height="512" viewBox="0 0 512 512" {
                image #picture width="512" height="512" preserveAspectRatio="xMinYMin meet" {}
                rect #selection.selection {}
            }
            form #take hidden { button type="submit" { "Take it as the avatar" } }
            div.avatars #avatars {}
        },
    )
}

/// Styles and scripts.
pub async fn asset(Path(name): Path<String>) -> Response {
    let (content_type, text) = match name.as_str() {
        "style.css" => ("text/css; charset=utf-8", STYLE),
        "icon.svg" => ("image/svg+xml", ICON),
        "avatar.js" => ("text/javascript; charset=utf-8", AVATAR_SCRIPT),
        "demo.js" => ("text/javascript; charset=utf-8", DEMO_SCRIPT),
        _ => return Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path").into_response(),
    };
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "public, max-age=300")], text).into_response()
}

/// The API reference.
pub async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], router::openapi_json()).into_response()
}

//! Logging in, staying logged in, logging out, with this API's cookies.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;

use super::caller::{Access, Caller, login_cookies, logout_cookies};
use super::error::{Refusal, Result};
use super::wire::{Form, LoggedIn, LoginBody, Plain};
use crate::auth::address::ClientAddress;
use crate::auth::fetch_metadata;
use crate::fields;
use crate::serve::Service;

const BODY_BYTES_MAX: u64 = 8 * 1024;

/// Log in
///
/// Sets `AtmoAuthToken_{fedmemberid}` and, where CSRF is on, `Csrf-Token_{fedmemberid}`; the org's name is the fedmemberid.
#[utoipa::path(post, path = "/api/login", tag = "Dropbox", request_body = LoginBody,
    responses((status = 200, body = LoggedIn), (status = "4XX", description = "Plain text", content_type = "text/plain")))]
pub async fn log_in(State(service): State<Service>, request: Request) -> Result<Response> {
    let (head, body) = request.into_parts();
    if !fetch_metadata::may_change(&head.headers, &service.settings) {
        return Err(Refusal::foreign_origin(fetch_metadata::foreign_origin(&head.headers, &service.settings)));
    }
    let address = ClientAddress::in_extensions(&head.extensions);
    let fields = fields::read(&head.headers, body, &service.settings, BODY_BYTES_MAX).await?;
    let body = LoginBody::of(&fields).ok_or_else(|| Refusal::invalid("send JSON, {\"email\":\"…\",\"password\":\"…\"}"))?;
    let before = Caller::find(&service, &head.headers).await?.map(|caller| caller.token);
    let lifetime = Duration::from_secs(service.settings.dropbox.session_seconds);
    let accounts = &service.app.accounts;
    let (token, actor) = accounts.log_in(&body.email, &body.password, address, before.as_ref(), Some(lifetime)).await?;
    Ok(logged_in(&service, &Caller { token, actor }))
}

/// Stay logged in
///
/// A new session in the place of one that is still good.
#[utoipa::path(post, path = "/api/login/renewToken", tag = "Dropbox",
    responses((status = 200, body = LoggedIn), (status = 401, description = "Plain text", content_type = "text/plain")))]
pub async fn renew(State(service): State<Service>, headers: HeaderMap) -> Result<Response> {
    let caller = Caller::read(&service, &headers, Access::Write).await?;
    let lifetime = Duration::from_secs(service.settings.dropbox.session_seconds);
    let (token, actor) = service.app.accounts.renew(&caller.token, lifetime).await?;
    Ok(logged_in(&service, &Caller { token, actor }))
}

/// Log out
#[utoipa::path(post, path = "/api/logout", tag = "Dropbox",
    responses((status = 200, description = "Plain text", content_type = "text/plain"), (status = 401)))]
pub async fn log_out(State(service): State<Service>, headers: HeaderMap) -> Result<Response> {
    let caller = Caller::read(&service, &headers, Access::Write).await?;
    service.app.accounts.log_out(&caller.token).await?;
    let response = Form::Plain.answer(Ok(Plain::text("Logged out.")));
    Ok(with_cookies(response, logout_cookies(&caller.actor, &service.settings)))
}

fn logged_in(service: &Service, caller: &Caller) -> Response {
    let answer = LoggedIn { login: caller.actor.login.clone(), fedmemberid: caller.actor.org_name.clone() };
    with_cookies(Form::Plain.answer(Ok(Plain::json(&answer))), login_cookies(caller, service.app.now(), &service.settings))
}

fn with_cookies(mut response: Response, cookies: Vec<HeaderValue>) -> Response {
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

//! The site's login, and the token that changes need.

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use imagewell_core::model::SessionToken;
use serde::Deserialize;

use super::caller::{Caller, wants_html};
use super::error::{Refusal, Result};
use super::parameters::Parameters;
use super::wire::{CsrfToken, ErrorEnvelope, LoggedIn, LoggedOut};
use crate::auth::address::ClientAddress;
use crate::auth::session::{self, Session};
use crate::auth::{csrf, fetch_metadata};
use crate::fields;
use crate::pages;
use crate::serve::Service;

/// A login form is small.
const FORM_BYTES_MAX: u64 = 64 * 1024;

/// Get a CSRF token
///
/// Bound to the session cookie, which is made if there is none. Needs no login.
#[utoipa::path(get, path = "/csrfToken", tag = "OpsPortal", responses((status = 200, body = CsrfToken)))]
pub async fn csrf_token(State(service): State<Service>, headers: HeaderMap) -> Result<Response> {
    if !fetch_metadata::may_change(&headers, &service.settings) {
        return Err(Refusal::foreign_page());
    }
    let (token, cookie) = visitor(&service, &Session::read(&headers, &service).await?)?;
    let body = Json(CsrfToken { csrf: csrf::issue(&token)? });
    Ok(with_cookie(cookie, body.into_response()))
}

/// The token that this browser has, or a fresh one with its cookie.
fn visitor(service: &Service, session: &Session) -> Result<(SessionToken, Option<HeaderValue>)> {
    if let Some(token) = session.token() {
        return Ok((token.clone(), None));
    }
    let token = SessionToken::mint()?;
    let cookie = session::visitor_cookie(&token, &service.settings);
    Ok((token, Some(cookie)))
}

fn with_cookie(cookie: Option<HeaderValue>, mut response: Response) -> Response {
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The login form
#[utoipa::path(get, path = "/site/login", tag = "OpsPortal", responses((status = 200, content_type = "text/html")))]
pub async fn login_form(State(service): State<Service>, headers: HeaderMap) -> Result<Response> {
    let session = Session::read(&headers, &service).await?;
    if session.actor().is_ok() {
        return Ok(Redirect::to("/").into_response());
    }
    form(&service, &session, StatusCode::OK, None)
}

fn form(service: &Service, session: &Session, status: StatusCode, message: Option<&str>) -> Result<Response> {
    let (token, cookie) = visitor(service, session)?;
    let page = pages::login(&csrf::issue(&token)?, message, service.demo.as_deref());
    Ok(with_cookie(cookie, (status, page).into_response()))
}

/// Log in
///
/// `username` (a login, an e-mail address, or `org/login`) and `password`, as JSON or as a form. The session cookie is new
/// afterwards, and so must the CSRF token be.
#[utoipa::path(post, path = "/site/login", tag = "OpsPortal", request_body(content = serde_json::Value, description = "`username`, `password`"),
    responses((status = 200, body = LoggedIn), (status = 400, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope),
        (status = 422, body = ErrorEnvelope), (status = 429, body = ErrorEnvelope)))]
pub async fn login(
    State(service): State<Service>,
    Extension(ClientAddress(address)): Extension<ClientAddress>,
    request: Request,
) -> Result<Response> {
    let (head, body) = request.into_parts();
    let mut parameters = Parameters::new(Vec::new(), None);
    read_form(&service, &head, body, &mut parameters).await?;
    let caller = Caller::begin(&service, &head.headers, &parameters).await?;
    let before = caller.check(&parameters)?;
    let html = wants_html(&head.headers);
    let (Some(username), Some(password)) = (parameters.get("username"), parameters.get("password")) else {
        let absent = ["username", "password"].into_iter().filter(|name| parameters.get(name).is_none());
        let refusal = Refusal::missing(&absent.collect::<Vec<_>>());
        return if html {
            form(&service, before, refusal.status(), Some("Enter your name and your password."))
        } else {
            Err(refusal)
        };
    };
    match service.app.accounts.log_in(username, password, address, before.token(), None).await {
        Ok((token, actor)) => {
            let answer =
                if html { Redirect::to("/").into_response() } else { Json(LoggedIn::new(actor.login.clone())).into_response() };
            Ok(with_cookie(Some(session::session_cookie(&token, &service.settings)), answer))
        }
        Err(error) => {
            let refusal = Refusal::of_login(error);
            if html { form(&service, before, refusal.status(), Some(refusal.message())) } else { Err(refusal) }
        }
    }
}

async fn read_form(service: &Service, head: &Parts, body: Body, parameters: &mut Parameters) -> Result<()> {
    for (name, value) in fields::read(&head.headers, body, &service.settings, FORM_BYTES_MAX).await? {
        parameters.add_from_body(name, value)?;
    }
    Ok(())
}

/// What a logout may be asked for.
#[derive(Deserialize)]
pub struct LogoutQuery {
    everywhere: Option<bool>,
}

/// Log out by link
///
/// As `POST /site/logout`, for links of our own pages; refused from other sites.
#[utoipa::path(get, path = "/site/logout", tag = "OpsPortal", params(("everywhere" = Option<bool>, Query)),
    responses((status = 200, body = LoggedOut), (status = 403, body = ErrorEnvelope)))]
pub async fn logout_by_link(
    State(service): State<Service>,
    Query(query): Query<LogoutQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    if !fetch_metadata::may_change(&headers, &service.settings) {
        return Err(Refusal::foreign_origin(fetch_metadata::foreign_origin(&headers, &service.settings)));
    }
    let session = Session::read(&headers, &service).await?;
    end(&service, &session, query, wants_html(&headers)).await
}

/// Log out
///
/// The session ends at once; with `everywhere=true` so do all others of the account.
#[utoipa::path(post, path = "/site/logout", tag = "OpsPortal", params(("everywhere" = Option<bool>, Query)),
    responses((status = 200, body = LoggedOut), (status = 403, body = ErrorEnvelope)))]
pub async fn logout(State(service): State<Service>, Query(query): Query<LogoutQuery>, request: Request) -> Result<Response> {
    let (head, body) = request.into_parts();
    let mut parameters = Parameters::new(Vec::new(), head.uri.query());
    read_form(&service, &head, body, &mut parameters).await?;
    let caller = Caller::begin(&service, &head.headers, &parameters).await?;
    let session = caller.check(&parameters)?;
    end(&service, session, query, wants_html(&head.headers)).await
}

async fn end(service: &Service, session: &Session, query: LogoutQuery, html: bool) -> Result<Response> {
    if let Session::LoggedIn(token, actor) = session {
        if query.everywhere == Some(true) {
            service.app.accounts.log_out_everywhere(actor).await?;
        }
        service.app.accounts.log_out(token).await?;
        tracing::info!(target: "audit", login = actor.login, "logged out");
    }
    let answer = if html { Redirect::to("/site/login").into_response() } else { Json(LoggedOut::new()).into_response() };
    Ok(with_cookie(Some(session::no_cookie(&service.settings)), answer))
}

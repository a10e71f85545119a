//! Who calls: a machine by its header, a person by the session's cookie, or nobody.

use std::sync::Arc;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::StatusCode;
use axum::http::request::Parts;
use imagewell_core::Error;
use imagewell_core::model::{Actor, ImageId};

use crate::api::problem::Problem;
use crate::auth::address::ClientAddress;
use crate::auth::machine::{self, Denied};
use crate::auth::session::Session;
use crate::auth::{csrf, fetch_metadata};
use crate::serve::Service;

/// Whoever the request proves, if anybody.
pub(super) async fn caller(service: &Service, head: &Parts) -> Result<Option<Arc<Actor>>, Problem> {
    if let Some(actor) = machine(service, head).await? {
        return Ok(Some(actor));
    }
    // Pages of other sites can't use a session to look at what is private.
    if !fetch_metadata::may_embed(&head.headers, &service.settings) {
        return Ok(None);
    }
    let session = Session::read(&head.headers, service).await.map_err(|error| denied(false, error))?;
    Ok(session.actor().ok())
}

/// Whoever the request proves, for looking.
pub(super) async fn reader(service: &Service, head: &Parts) -> Result<Arc<Actor>, Problem> {
    caller(service, head).await?.ok_or_else(|| denied(false, Error::NotFound))
}

/// Whoever the request proves, for changing something: a session must show its CSRF token in `X-CSRF-Token`.
pub(super) async fn writer(service: &Service, head: &Parts) -> Result<Arc<Actor>, Problem> {
    if let Some(actor) = machine(service, head).await? {
        return Ok(actor);
    }
    let forged = || Problem::new(StatusCode::FORBIDDEN, "send the session's CSRF token, from /csrfToken, in X-CSRF-Token");
    if !fetch_metadata::may_change(&head.headers, &service.settings) {
        return Err(Problem::new(StatusCode::FORBIDDEN, fetch_metadata::foreign_origin(&head.headers, &service.settings)));
    }
    let session = Session::read(&head.headers, service).await.map_err(|error| denied(false, error))?;
    let actor = session.actor().map_err(|_| denied(false, Error::NotFound))?;
    let token = head.headers.get("x-csrf-token").and_then(|value| value.to_str().ok());
    match (session.token(), token) {
        (Some(session), Some(token)) if csrf::verify(session, token) => Ok(actor),
        _ => Err(forged()),
    }
}

async fn machine(service: &Service, head: &Parts) -> Result<Option<Arc<Actor>>, Problem> {
    let address = ClientAddress::in_extensions(&head.extensions);
    match machine::caller(service, &head.headers, address).await {
        Ok(actor) => Ok(Some(actor)),
        Err(Denied::Missing) => Ok(None),
        Err(Denied::StatusUnavailable) => {
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the identity provider can't be asked now: try again"))
        }
        Err(Denied::Malformed(what)) => Err(Problem::new(StatusCode::BAD_REQUEST, what)),
        Err(Denied::Unreadable(what)) => Err(Problem::new(StatusCode::UNAUTHORIZED, what)),
        Err(Denied::Core(error)) => Err(denied(false, error)),
        Err(Denied::WrongSecret | Denied::InvalidToken(_) | Denied::ForeignPage) => {
            Err(Problem::new(StatusCode::UNAUTHORIZED, "the credentials are wrong or have ended"))
        }
    }
}

/// The id in a path.
pub(super) fn image_id(path: Result<Path<String>, PathRejection>) -> Result<ImageId, Problem> {
    path.ok().and_then(|Path(text)| ImageId::parse(&text).ok()).ok_or_else(absent)
}

pub(super) fn absent() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no such image")
}

/// Strangers are asked to log in, whatever is there or isn't.
pub(super) fn denied(known: bool, error: Error) -> Problem {
    match error {
        Error::NotFound if !known => Problem::new(StatusCode::UNAUTHORIZED, "log in, or send credentials, to see this"),
        Error::NotFound => absent(),
        Error::Forbidden => Problem::new(StatusCode::FORBIDDEN, "the image's permission is needed for this"),
        Error::Invalid { reason } => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, reason),
        Error::TooMany { retry_after } => {
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too much at once: wait a little").after(retry_after)
        }
        Error::Busy { retry_after } => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is busy: try again in a moment").after(retry_after)
        }
        Error::NoSpace => Problem::new(StatusCode::INSUFFICIENT_STORAGE, "the server has no space left: try again later"),
        other => {
            tracing::error!(error = ?other, "internal error");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong here; the log knows more")
        }
    }
}

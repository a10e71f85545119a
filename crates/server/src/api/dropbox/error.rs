//! The one page on which everything that can go wrong gets its face in this API: a status and plain text.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use imagewell_core::Error;

use super::wire::Form;

/// A refusal or fault as plain text.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    message: String,
    retry_after: Option<Duration>,
}

/// What all of this API's handlers return on the unhappy path.
pub(super) type Result<T> = std::result::Result<T, Refusal>;

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None }
    }

    /// A parameter, or the picture, can't be accepted.
    pub(super) fn invalid(reason: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, format!("Not accepted: {reason}."))
    }

    /// The login cookie is missing, wrong, or has ended.
    pub(super) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized: log in first.")
    }

    /// The CSRF header is missing, wrong, or has ended.
    pub(super) fn csrf() -> Self {
        let message = "Unauthorized: send the value of the cookie Csrf-Token_{org} as the header X-Csrf-Token_{org}.";
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    /// A page of another site wants to change something.
    pub(super) fn foreign_origin(reason: String) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, reason)
    }

    /// There is no such thing.
    pub(super) fn not_found() -> Self {
        Error::NotFound.into()
    }

    /// For what no handler wanted.
    #[must_use]
    pub fn outside(status: StatusCode, message: &str) -> Self {
        Self::new(status, message)
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn add_headers(&self, response: &mut Response) {
        let headers = response.headers_mut();
        if let Some(retry_after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, retry_after.as_secs().max(1).into());
        }
        if self.status == StatusCode::REQUEST_TIMEOUT {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid { reason } => Self::invalid(reason),
            Error::TooLarge { bytes_max } => {
                Self::invalid(format!("the picture has more than {} bytes", bytes_max.saturating_sub(1)))
            }
            Error::Unauthenticated => Self::unauthorized(),
            Error::WrongCredentials => Self::new(StatusCode::UNAUTHORIZED, "Wrong e-mail address or password."),
            Error::Forbidden => Self::new(StatusCode::FORBIDDEN, "You may not do this."),
            Error::NotFound => Self::new(StatusCode::NOT_FOUND, "There is no such picture, or its time is over."),
            Error::Conflict => Self::new(StatusCode::CONFLICT, "Somebody else was faster: try again."),
            Error::TooMany { retry_after } => {
                let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "Too many requests: wait a little and try again.");
                Self { retry_after: Some(retry_after), ..refusal }
            }
            Error::Busy { retry_after } => {
                let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, "The server is busy: try again in a moment.");
                Self { retry_after: Some(retry_after), ..refusal }
            }
            Error::NoSpace => Self::new(StatusCode::INSUFFICIENT_STORAGE, "The server has no space left: try again later."),
            Error::TooSlow => Self::new(StatusCode::REQUEST_TIMEOUT, "The request came in too slowly."),
            Error::Disconnected => Self::invalid("the request ended before it was complete"),
            Error::Internal { detail } => {
                tracing::error!(detail, "internal error");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "An error occurred processing the call.")
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        Form::Plain.answer(Err(self))
    }
}

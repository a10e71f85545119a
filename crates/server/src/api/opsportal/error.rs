//! The one page on which everything that can go wrong gets its face in this API.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use imagewell_core::Error;
use serde_json::{Value, json};

use crate::telemetry;

/// The error envelope: `{"status":"error","id":…,"code":…,"message":…,"mlKey":…,"data":…}`.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    id: Id,
    message: String,
    /// None stands for `opp.error.` and the id.
    ml_key: Option<&'static str>,
    data: Box<Value>,
    retry_after_seconds: Option<u64>,
    to_login_page: bool,
}

/// A name, or the number that clients take as the call to log in again.
#[derive(Debug, Clone, Copy)]
enum Id {
    Name(&'static str),
    Reauthenticate,
}

/// What all of this API's handlers return on the unhappy path.
pub(super) type Result<T> = std::result::Result<T, Refusal>;

impl Refusal {
    fn new(status: StatusCode, id: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            id: Id::Name(id),
            message: message.into(),
            ml_key: None,
            data: Box::new(json!({})),
            retry_after_seconds: None,
            to_login_page: false,
        }
    }

    /// Parameters are missing; `missing` is in the order appKey, permission, image.
    pub(super) fn missing(missing: &[&str]) -> Self {
        let message = format!("Missing parameters: {}. Parameters stand before the file.", missing.join(", "));
        Self {
            data: Box::new(json!({ "missingParams": missing })),
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "E_MISSINGPARAM", message)
        }
    }

    /// As [`Refusal::missing`], for a file that came as text.
    pub(super) fn missing_file_name(missing: &[&str]) -> Self {
        let file = missing.last().copied().unwrap_or_default();
        let message = format!(
            "Missing parameters: {}. The part {file} was sent without a file name: add filename=\"…\" to it.",
            missing.join(", ")
        );
        Self { message, ..Self::missing(missing) }
    }

    /// A parameter, or the file, can't be accepted.
    pub(super) fn invalid(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        let data = Box::new(json!({ "reason": reason }));
        Self { data, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "E_INVALIDPARAMS", format!("Not accepted: {reason}.")) }
    }

    /// A login failed. What can't be a name is answered with the status of a wrong one.
    pub(super) fn of_login(error: Error) -> Self {
        let is_invalid = matches!(error, Error::Invalid { .. });
        let refusal = Self::from(error);
        if is_invalid { Self { status: StatusCode::BAD_REQUEST, ..refusal } } else { refusal }
    }

    /// The CSRF token is missing or wrong. Clients look for the word in the body, fetch a token and try again.
    pub(super) fn csrf() -> Self {
        let message = "CSRF token missing or wrong: get one from /csrfToken and send it as X-CSRF-Token.";
        Self::new(StatusCode::FORBIDDEN, "E_CSRF", message)
    }

    /// A page of another site wants to change something. A new CSRF token would not mend that, so the word is not in it.
    pub(super) fn foreign_origin(reason: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, "E_FOREIGNORIGIN", reason)
    }

    /// Another site's page asked; the body must not be taken for a CSRF failure that a new token would mend.
    pub(super) fn foreign_page() -> Self {
        Self::not_permitted("This can't be read from a page of another site.")
    }

    fn not_permitted(message: &str) -> Self {
        let ml_key = Some("opp.perm.notPermitted");
        Self { ml_key, ..Self::new(StatusCode::FORBIDDEN, "E_NOTPERMITTED", message) }
    }

    /// Nobody is logged in. Browsers are sent to the login page, programs get the envelope that they key on.
    pub(super) fn reauthenticate(wants_html: bool) -> Self {
        let local = json!({ "method": "POST", "uri": "/site/login", "message": "Send username and password." });
        Self {
            id: Id::Reauthenticate,
            ml_key: Some("opp.auth.reauthenticate"),
            data: Box::new(json!({ "authType": "local", "data": { "local": local } })),
            to_login_page: wants_html,
            ..Self::new(StatusCode::UNAUTHORIZED, "", "Reauthenticate.")
        }
    }

    /// No such path.
    #[must_use]
    pub fn no_such_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "E_NOTFOUND", "Not found.")
    }

    /// A failure outside of any handler, by its status.
    #[must_use]
    pub fn outside(status: StatusCode, message: &str) -> Self {
        let id = match status {
            StatusCode::METHOD_NOT_ALLOWED => "E_METHODNOTALLOWED",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "E_UNSUPPORTEDENCODING",
            StatusCode::BAD_REQUEST => "E_BADREQUEST",
            StatusCode::TOO_MANY_REQUESTS => "E_TOOMANYREQUESTS",
            _ => return Self::internal(),
        };
        Self::new(status, id, message)
    }

    /// A fault of ours. The log has the rest under the same request id.
    #[must_use]
    pub fn internal() -> Self {
        let data = Box::new(json!({ "requestId": telemetry::request_id() }));
        Self { data, ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, "E_INTERNAL", "Something went wrong on the server.") }
    }

    /// The message, for the login page.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The HTTP status.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid { reason } => Self::invalid(reason),
            Error::TooLarge { bytes_max } => {
                let message = format!("The file is too large: it must be smaller than {bytes_max} bytes.");
                Self {
                    data: Box::new(json!({ "maxBytes": bytes_max })),
                    ..Self::new(StatusCode::PAYLOAD_TOO_LARGE, "E_TOOLARGE", message)
                }
            }
            Error::Unauthenticated => Self::reauthenticate(false),
            Error::WrongCredentials => {
                let ml_key = Some("opp.auth.E_INVALIDAUTH");
                Self { ml_key, ..Self::new(StatusCode::BAD_REQUEST, "E_INVALIDAUTH", "Wrong name or password.") }
            }
            Error::Forbidden => Self::not_permitted("You do not have permission to do this."),
            Error::NotFound => Self::no_such_route(),
            Error::Conflict => Self::new(StatusCode::CONFLICT, "E_CONFLICT", "There is an image with this uuid already."),
            Error::TooMany { retry_after } => {
                let retry_after_seconds = Some(retry_after.as_secs().max(1));
                let message = "Too many requests: wait a little and try again.";
                Self { retry_after_seconds, ..Self::new(StatusCode::TOO_MANY_REQUESTS, "E_TOOMANYREQUESTS", message) }
            }
            Error::Busy { retry_after } => {
                let retry_after_seconds = Some(retry_after.as_secs().max(1));
                let message = "The server is busy: try again in a moment.";
                Self { retry_after_seconds, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "E_BUSY", message) }
            }
            Error::NoSpace => {
                let message = "The server has no space left to store this: try again later.";
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "E_NOSPACE", message)
            }
            Error::TooSlow => Self::new(StatusCode::REQUEST_TIMEOUT, "E_TIMEOUT", "The request came in too slowly."),
            Error::Disconnected => {
                Self::new(StatusCode::BAD_REQUEST, "E_BADREQUEST", "The request ended before it was complete.")
            }
            Error::Internal { detail } => {
                tracing::error!(detail, "internal error");
                Self::internal()
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        if self.to_login_page {
            return (StatusCode::FOUND, Redirect::to("/site/login").into_response().headers().clone()).into_response();
        }
        let (id, named) = match self.id {
            Id::Name(name) => (json!(name), format!("opp.error.{name}")),
            Id::Reauthenticate => (json!(5), String::new()),
        };
        let envelope = json!({
            "status": "error",
            "id": id,
            "code": self.status.as_u16(),
            "message": self.message,
            "mlKey": self.ml_key.unwrap_or(&named),
            "data": self.data,
        });
        let mut response = (self.status, Json(envelope)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::REQUEST_TIMEOUT {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

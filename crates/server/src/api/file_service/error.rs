//! The one page on which everything that can go wrong gets its face in this API.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use imagewell_core::Error;
use serde_json::{Value, json};

use crate::auth::machine::Denied;

/// What is shown of the realm in a challenge (RFC 9110 §11.6.1).
const REALM: &str = "realm=\"imagewell\"";

/// The error object: `{"code":…,"status":"false","message":…}`, with an `errorCode` where callers key on one.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    message: String,
    error_code: Option<u16>,
    /// Parameters of the bearer challenge; a 401 without them says nothing of tokens (RFC 6750 §3.1).
    challenge: Option<String>,
    retry_after_seconds: Option<u64>,
    /// Whether the answer is that of the token endpoint, which has a shape of its own beside this one.
    for_token: bool,
}

/// What all of this API's handlers return on the unhappy path.
pub(super) type Result<T> = std::result::Result<T, Refusal>;

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), error_code: None, challenge: None, retry_after_seconds: None, for_token: false }
    }

    /// A name, a parameter or the bytes can't be accepted.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// There is no such thing, or the caller may not know of it.
    pub(super) fn not_found(message: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// For what no handler wanted.
    #[must_use]
    pub fn outside(status: StatusCode, message: &str) -> Self {
        Self::new(status, message)
    }

    /// No such path.
    #[must_use]
    pub fn no_such_route() -> Self {
        Self::not_found("There is nothing at this path.")
    }

    /// In the shape of the token endpoint's answers too.
    pub(super) fn for_token(self) -> Self {
        Self { for_token: true, ..self }
    }

    fn unauthorized(message: impl Into<String>, challenge: Option<String>) -> Self {
        Self { challenge, ..Self::new(StatusCode::UNAUTHORIZED, message) }
    }

    /// The key or the secret of a client is wrong, whichever.
    pub(super) fn wrong_client() -> Self {
        Self::unauthorized("Wrong key or secret.", None)
    }

    fn denied() -> Self {
        let refusal = Self::new(StatusCode::FORBIDDEN, "Not authorized. Access is denied!");
        Self { error_code: Some(4000), ..refusal }
    }

    fn wait(status: StatusCode, message: &str, retry_after: std::time::Duration) -> Self {
        Self { retry_after_seconds: Some(retry_after.as_secs().max(1)), ..Self::new(status, message) }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Missing => {
                let message = "Who is calling? Send Basic credentials (a till's id and the MD5 of its password) or a token as \
                               X-CAP-API-OAUTH-TOKEN.";
                Self::unauthorized(message, None)
            }
            Denied::Malformed(what) => Self::invalid(format!("{}{}.", what[..1].to_uppercase(), &what[1..])),
            Denied::Unreadable(what) => Self::unauthorized(format!("{}{}.", what[..1].to_uppercase(), &what[1..]), None),
            Denied::WrongSecret => {
                let message = "Wrong id or password. The password is sent as its MD5, in 32 lower-case hexadecimal digits.";
                Self::unauthorized(message, None)
            }
            Denied::InvalidToken(why) => {
                let challenge = format!("error=\"invalid_token\", error_description=\"{why}\"");
                Self::unauthorized(format!("The token is not good: {why}."), Some(challenge))
            }
            Denied::ForeignPage => Self::denied(),
            Denied::StatusUnavailable => {
                let refusal = Self::wait(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "Authorization status unavailable!",
                    std::time::Duration::from_secs(5),
                );
                Self { error_code: Some(4001), ..refusal }
            }
            Denied::Core(error) => error.into(),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid { reason } => Self::invalid(format!("Not accepted: {reason}.")),
            Error::TooLarge { bytes_max } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("The file is too large: it must stay below {bytes_max} bytes."))
            }
            Error::Unauthenticated => Denied::Missing.into(),
            Error::WrongCredentials => Denied::WrongSecret.into(),
            Error::Forbidden => Self::denied(),
            Error::NotFound => Self::not_found("There is no such file or version."),
            Error::Conflict => Self::new(StatusCode::CONFLICT, "It has just been changed by somebody else: try again."),
            Error::TooMany { retry_after } => {
                Self::wait(StatusCode::TOO_MANY_REQUESTS, "Too many requests: wait a little and try again.", retry_after)
            }
            Error::Busy { retry_after } => {
                Self::wait(StatusCode::SERVICE_UNAVAILABLE, "The server is busy: try again in a moment.", retry_after)
            }
            Error::NoSpace => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "The server has no space left to store this: try again later.")
            }
            Error::TooSlow => Self::new(StatusCode::REQUEST_TIMEOUT, "The request came in too slowly."),
            Error::Disconnected => Self::invalid("The request ended before it was complete."),
            Error::Internal { detail } => {
                tracing::error!(detail, "internal error");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong here; the log knows more.")
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut body = json!({ "code": self.status.as_u16(), "status": "false", "message": self.message });
        if let Some(code) = self.error_code {
            body["errorCode"] = json!(code);
        }
        if self.for_token {
            body["data"] = Value::Null;
            body["errors"] = json!([{ "code": self.status.as_u16(), "message": self.message }]);
        }
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::REQUEST_TIMEOUT {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let parameters = self.challenge.map(|challenge| format!(", {challenge}")).unwrap_or_default();
            let basic = format!("Basic {REALM}, charset=\"UTF-8\"");
            // Who has shown a token has no password for a browser to ask for.
            let basic = parameters.is_empty().then_some(basic);
            for challenge in basic.into_iter().chain([format!("Bearer {REALM}{parameters}")]) {
                if let Ok(value) = HeaderValue::from_str(&challenge) {
                    headers.append(header::WWW_AUTHENTICATE, value);
                }
            }
        }
        response
    }
}

//! The one page on which everything that can go wrong with a link gets S3's face.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use imagewell_core::Error;

use crate::links::Refused;
use crate::telemetry;

/// S3's error document (Amazon S3 API, "Error responses").
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: &'static str,
}

impl Refusal {
    /// 403, which is also what a stranger hears of things that don't exist.
    #[must_use]
    pub fn denied(message: &'static str) -> Self {
        Self { status: StatusCode::FORBIDDEN, code: "AccessDenied", message }
    }

    /// For what no handler wanted.
    #[must_use]
    pub fn outside(status: StatusCode, message: &'static str) -> Self {
        Self { status, code: "InvalidRequest", message }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Malformed(message) => Self::denied(message),
            Refused::WrongSignature => {
                Self::denied("The request signature we calculated does not match the signature you provided")
            }
            Refused::Expired => Self::denied("Request has expired"),
            Refused::Core(error) => error.into(),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound => {
                Self { status: StatusCode::NOT_FOUND, code: "NoSuchKey", message: "The specified key does not exist." }
            }
            Error::Forbidden => Self::denied("Access Denied"),
            Error::TooMany { .. } => {
                Self { status: StatusCode::TOO_MANY_REQUESTS, code: "SlowDown", message: "Please reduce your request rate." }
            }
            Error::Busy { .. } => {
                Self { status: StatusCode::SERVICE_UNAVAILABLE, code: "SlowDown", message: "Please reduce your request rate." }
            }
            other => {
                tracing::error!(error = ?other, "internal error");
                let message = "We encountered an internal error. Please try again.";
                Self { status: StatusCode::INTERNAL_SERVER_ERROR, code: "InternalError", message }
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        // Only text of ours stands in it, none of which needs escaping.
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message><RequestId>{}</RequestId></Error>\n",
            self.code,
            self.message,
            telemetry::request_id()
        );
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        response
    }
}

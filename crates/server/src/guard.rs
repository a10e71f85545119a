//! What holds for every request and every answer, whatever the route.

use std::any::Any;

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, Uri, Version, header};
use axum::response::{IntoResponse as _, Response};

use crate::api::problem::Problem;
use crate::api::{dropbox, file_service, opsportal, s3};
use crate::auth::address::TooManyRequests;
use crate::delivery::CROSS_ORIGIN_RESOURCE_POLICY;
use crate::serve::Service;

/// For answers that set no policy of their own: they are data, not documents.
const DATA_POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// Refuses what no route wants, and puts the headers on that every answer has.
pub async fn guard(service: &Service, request: Request, next: impl AsyncFnOnce(Request) -> Response) -> Response {
    let uri = request.uri().clone();
    let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let mut response = match unacceptable(&request) {
        Some((status, message)) => refused(&uri, status, message),
        None => next(request).await,
    };
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response = method_not_allowed(&uri, &response);
    }
    let headers = response.headers_mut();
    if is_chunked {
        // hyper lets Transfer-Encoding win over a Content-Length and hides that there was one (RFC 9112 §6.3). Whatever another
        // reader may have taken for a second request is never looked at when this one is the connection's last.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::REFERRER_POLICY).or_insert(HeaderValue::from_static("same-origin"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(DATA_POLICY);
    headers.entry(CROSS_ORIGIN_RESOURCE_POLICY).or_insert(HeaderValue::from_static("same-origin"));
    if service.settings.tls.certificate_file.is_some() {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    response
}

fn refused(uri: &Uri, status: StatusCode, message: &'static str) -> Response {
    let mut response = face(uri, status, message);
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Row P5: more requests than one address may have under way. Row P4: not exactly one host (RFC 9112 §3.2). Row P6: bodies that would have to be inflated.
fn unacceptable(request: &Request) -> Option<(StatusCode, &'static str)> {
    if request.extensions().get::<TooManyRequests>().is_some() {
        return Some((StatusCode::TOO_MANY_REQUESTS, "Too many requests of this address are under way: wait for some to end."));
    }
    let headers = request.headers();
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() || (host.is_none() && request.version() == Version::HTTP_11) {
        return Some((StatusCode::BAD_REQUEST, "Send one Host header."));
    }
    let mut codings =
        headers.get_all(header::CONTENT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    if !codings.all(|coding| coding.trim_ascii().is_empty() || coding.trim_ascii().eq_ignore_ascii_case(b"identity")) {
        return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, "Send the body without Content-Encoding."));
    }
    None
}

/// The API that a path belongs to.
enum Area {
    Opsportal,
    FileService,
    Dropbox,
    Links,
    Other,
}

impl Area {
    fn of(uri: &Uri) -> Self {
        let begins_with = |prefixes: &[&str]| prefixes.iter().any(|prefix| uri.path().starts_with(prefix));
        if begins_with(&["/opsportal", "/site", "/csrfToken"]) {
            Self::Opsportal
        } else if begins_with(&["/api_gateway", "/v3/oauth"]) {
            Self::FileService
        } else if begins_with(&["/api/"]) {
            Self::Dropbox
        } else if begins_with(&["/imagewell/"]) {
            Self::Links
        } else {
            Self::Other
        }
    }
}

/// An error outside of any handler, in the face of the API that the path belongs to.
fn face(uri: &Uri, status: StatusCode, message: &'static str) -> Response {
    match Area::of(uri) {
        Area::Opsportal => opsportal::Refusal::outside(status, message).into_response(),
        Area::FileService => file_service::Refusal::outside(status, message).into_response(),
        Area::Dropbox => dropbox::Refusal::outside(status, message).into_response(),
        Area::Links => s3::Refusal::outside(status, message).into_response(),
        Area::Other => Problem::new(status, message).into_response(),
    }
}

fn method_not_allowed(uri: &Uri, original: &Response) -> Response {
    let mut response = face(uri, StatusCode::METHOD_NOT_ALLOWED, "This method does nothing here.");
    // Where this is missing the router adds it further out.
    if let Some(allow) = original.headers().get(header::ALLOW) {
        response.headers_mut().insert(header::ALLOW, allow.clone());
    }
    response
}

/// No such path.
pub async fn not_found(uri: Uri) -> Response {
    match Area::of(&uri) {
        Area::Opsportal => opsportal::Refusal::no_such_route().into_response(),
        Area::FileService => file_service::Refusal::no_such_route().into_response(),
        Area::Dropbox => dropbox::Refusal::outside(StatusCode::NOT_FOUND, "There is nothing at this path.").into_response(),
        Area::Links => s3::Refusal::denied("Access Denied").into_response(),
        Area::Other => Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path").into_response(),
    }
}

/// A handler panicked: the caller gets the usual 500, the log gets the reason.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "whoever caught it hands over the box")]
pub fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response {
    let reason = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    tracing::error!(reason, "a handler panicked");
    opsportal::Refusal::internal().into_response()
}

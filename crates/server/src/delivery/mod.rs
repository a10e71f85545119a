//! Bytes on their way out: validators, conditions, ranges (RFC 9110 §13, §14) and the headers that make users' bytes inert.

mod conditions;
mod disposition;
mod rendering;

use std::ops::Range;
use std::time::SystemTime;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::TryStreamExt as _;
use imagewell_core::fetch::Body as Content;
use imagewell_core::model::Version;
use imagewell_core::{Error, fetch};

use crate::config::ResourcePolicy;
use crate::serve::Service;
use conditions::Verdict;
pub use disposition::{attachment, clean_file_name, inline};
pub use rendering::{outputs, rendering, vary_by_accept};

/// What users sent may show, play and run nothing: opened as a document it is an empty sandbox.
pub const INERT_POLICY: &str = "default-src 'none'; sandbox; frame-ancestors 'none'";

/// A year, and no questions (RFC 9111 §5.2.2, RFC 8246).
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// Which pages may embed what is sent (Fetch standard, "Cross-Origin-Resource-Policy header").
pub const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Headers of an answer with bytes: the map need not grow while they are set.
const HEADERS_EXPECTED: usize = 16;

/// What is about to be sent.
pub struct Representation {
    /// Strong validator, without its quotes.
    pub etag: String,
    /// For clients that know no ETag. None for what may show something else from one second to the next, or for a reason that has no date.
    pub modified: Option<SystemTime>,
    /// From the recognised format.
    pub content_type: String,
    /// `Content-Disposition`.
    pub disposition: HeaderValue,
    /// How many bytes all of it has.
    pub len: u64,
    /// Who gets to see it.
    pub audience: Audience,
}

/// Who gets to see it, which decides what caches and other sites' pages may do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Callers who hold a right.
    Members,
    /// Whoever has a link: the address is a secret, and any page may embed what it shows.
    LinkHolders,
    /// Anybody.
    Everybody,
    /// Anybody, at an address that never shows anything else.
    EverybodyForEver,
}

/// The part of a request that decides what is sent.
pub struct Asked<'a> {
    /// GET or HEAD.
    pub method: &'a Method,
    /// Conditions and ranges.
    pub headers: &'a HeaderMap,
}

/// Answers with a version's stored bytes: 200, 206, 304, 412 or 416.
///
/// # Errors
/// [`Error::Internal`] when the bytes can't be read.
pub async fn original(
    service: &Service,
    asked: &Asked<'_>,
    version: &Version,
    disposition: HeaderValue,
    audience: Audience,
) -> Result<Response, Error> {
    let representation = Representation {
        etag: version.digest.to_string(),
        modified: Some(version.created.to_system_time()),
        content_type: version.content_type.clone(),
        disposition,
        len: version.size_bytes,
        audience,
    };
    answer(service, asked, &representation, async |range| {
        let content = fetch::open(&service.app, version, range).await?;
        Ok(match content {
            Content::Memory(bytes) => Body::from(bytes),
            // A stream that fails half way breaks the connection off, so that nobody takes a part for the whole.
            Content::Stream(chunks) => Body::from_stream(chunks.inspect_err(|error| tracing::error!(%error, "sending stopped"))),
        })
    })
    .await
}

/// Answers with bytes that `open` gives, whole or a range of them.
///
/// # Errors
/// What `open` says.
pub async fn answer<O>(service: &Service, asked: &Asked<'_>, what: &Representation, open: O) -> Result<Response, Error>
where
    O: AsyncFnOnce(Option<Range<u64>>) -> Result<Body, Error>,
{
    let mut response = match conditions::judge(asked, what) {
        Verdict::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        Verdict::PreconditionFailed => StatusCode::PRECONDITION_FAILED.into_response(),
        Verdict::RangeNotSatisfiable => {
            let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
            set(&mut response, header::CONTENT_RANGE, &format!("bytes */{}", what.len));
            response
        }
        Verdict::Whole => body(asked, StatusCode::OK, what.len, None, open).await?,
        Verdict::Part(range) => {
            let content_range = format!("bytes {}-{}/{}", range.start, range.end - 1, what.len);
            let mut response = body(asked, StatusCode::PARTIAL_CONTENT, range.end - range.start, Some(range), open).await?;
            set(&mut response, header::CONTENT_RANGE, &content_range);
            response
        }
    };
    let has_body = matches!(response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    if has_body {
        set(&mut response, header::CONTENT_TYPE, &what.content_type);
        response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        response.headers_mut().insert(header::CONTENT_DISPOSITION, what.disposition.clone());
    }
    let headers = response.headers_mut();
    headers.insert(header::ETAG, value(["\"", &what.etag, "\""].concat()));
    if let Some(modified) = what.modified {
        headers.insert(header::LAST_MODIFIED, value(httpdate::fmt_http_date(modified)));
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(INERT_POLICY));
    address(service, &mut response, what.audience);
    Ok(response)
}

/// The headers that depend on who gets to see it.
fn address(service: &Service, response: &mut Response, audience: Audience) {
    let delivery = &service.settings.delivery;
    let (caching, policy) = match audience {
        Audience::Members => (private_caching(service), delivery.cross_origin_resource_policy),
        Audience::LinkHolders => (private_caching(service), ResourcePolicy::CrossOrigin),
        Audience::Everybody => (public_caching(service), ResourcePolicy::CrossOrigin),
        Audience::EverybodyForEver => (HeaderValue::from_static(FOR_EVER), ResourcePolicy::CrossOrigin),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, caching);
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static(policy.as_str()));
    if audience == Audience::LinkHolders {
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    }
    if matches!(audience, Audience::Everybody | Audience::EverybodyForEver) {
        // A page may also read what it may show; an origin that is listed gets its own name instead.
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
}

async fn body<O>(asked: &Asked<'_>, status: StatusCode, len: u64, range: Option<Range<u64>>, open: O) -> Result<Response, Error>
where
    O: AsyncFnOnce(Option<Range<u64>>) -> Result<Body, Error>,
{
    let body = if asked.method == Method::HEAD { Body::empty() } else { open(range).await? };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().reserve(HEADERS_EXPECTED);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    Ok(response)
}

fn private_caching(service: &Service) -> HeaderValue {
    match service.settings.delivery.private_max_age_seconds {
        0 => HeaderValue::from_static("private, no-cache"),
        seconds => value(format!("private, max-age={seconds}")),
    }
}

fn public_caching(service: &Service) -> HeaderValue {
    let delivery = &service.settings.delivery;
    value(format!(
        "public, max-age={}, stale-while-revalidate={}",
        delivery.public_max_age_seconds, delivery.public_stale_seconds
    ))
}

/// Text of ours, without a copy.
fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// Sets a header from text of ours; text that no header can hold leaves it out.
pub fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

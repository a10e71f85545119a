//! What arrives here of a request that was sent through proxies: for `imagewell doctor --url`, and for nobody else.
//!
//! The request carries, in [`HEADER`], the second at which it ends and HMAC-SHA256 (RFC 2104) over that, keyed by the key that signs
//! links: only who has the database can make one. Everybody else gets the same 404 as for any other path, before a byte of a body is read.

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use imagewell_core::keys::Keys;
use imagewell_core::model::{KeyPurpose, SigningKey, Timestamp};
use serde_json::json;
use subtle::ConstantTimeEq as _;

use crate::api::problem::Problem;
use crate::auth::address::ClientAddress;
use crate::intake::Intake;
use crate::serve::Service;
use crate::signed::sign;

/// Where the request goes.
pub const PATH: &str = "/v1/doctor";
/// Holds the proof.
pub const HEADER: HeaderName = HeaderName::from_static("x-imagewell-doctor");
/// Seconds for which a proof is good.
pub const LIFETIME_SECONDS: i64 = 60;
/// Bytes of a body that are counted.
const BODY_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// A proof that is good from now on.
#[must_use]
pub fn prove(key: &SigningKey) -> String {
    let ends = seconds_now() + LIFETIME_SECONDS;
    format!("{ends}.{}", sign(&key.secret, &signed_text(ends)))
}

/// No link is over such a text, so neither can be taken for the other.
fn signed_text(ends: i64) -> String {
    format!("imagewell doctor until {ends}")
}

fn seconds_now() -> i64 {
    Timestamp::now().0 / 1_000_000
}

fn is_proven(headers: &HeaderMap, keys: &Keys) -> bool {
    let proof = headers.get(HEADER).and_then(|value| value.to_str().ok()?.split_once('.'));
    let Some((ends, signature)) = proof else { return false };
    let Ok(seconds) = ends.parse::<i64>() else { return false };
    if !(0..=LIFETIME_SECONDS).contains(&(seconds - seconds_now())) {
        return false;
    }
    let text = signed_text(seconds);
    keys.all()
        .iter()
        .filter(|key| key.purpose == KeyPurpose::Links && key.honoured_until.is_none())
        .any(|key| bool::from(sign(&key.secret, &text).as_bytes().ct_eq(signature.as_bytes())))
}

/// What arrives of a request that was sent through proxies
///
/// For `imagewell doctor --url`, which signs its request with the service's own key. Everybody else gets 404.
#[utoipa::path(post, path = "/v1/doctor", tag = "Operation", responses(
    (status = 200, description = "Host, addresses and length of the body as they arrived", content_type = "application/json"),
    (status = 404, description = "The request is not signed")))]
pub async fn show(
    State(service): State<Service>,
    Extension(ClientAddress(address)): Extension<ClientAddress>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if !is_proven(&headers, &service.app.keys) {
        return Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path").into_response();
    }
    let mut bytes = 0;
    let mut chunks = Intake::new(body, &service.settings, BODY_BYTES_MAX, BODY_BYTES_MAX).chunks();
    while let Some(Ok(chunk)) = chunks.next().await {
        bytes += chunk.len() as u64;
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let answer = json!({
        "address": address,
        "host": text(header::HOST.as_str()),
        "forwardedFor": text("x-forwarded-for"),
        "forwardedProto": text("x-forwarded-proto"),
        "https": service.settings.is_https(),
        "publicUrl": service.settings.service.public_url.as_ref().map(|url| &url.0),
        "bytes": bytes,
        "microseconds": Timestamp::now().0,
    });
    let mut response = Json(answer).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, axum::http::HeaderValue::from_static("no-store"));
    response
}

//! Links to bytes: presigned GET requests of the S3 protocol (AWS Signature Version 4, query parameters). Whoever holds one may
//! read those very bytes until it expires. Signing, and the signature that a check compares with, are aws-sigv4's.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header, uri::Authority};
use imagewell_core::access::Link;
use imagewell_core::keys::LINK_TTL_MAX;
use imagewell_core::model::{BlobKey, KeyPurpose, SigningKey, Timestamp};
use imagewell_core::{App, Error};
use subtle::ConstantTimeEq as _;

use crate::config::Settings;
use crate::serve::Service;

/// The bucket that the local store is to S3 clients, and the first segment of its addresses.
pub const BUCKET: &str = "imagewell";
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far a signer's clock may be ahead, as S3 allows.
const AHEAD_MAX: Duration = Duration::from_secs(15 * 60);

/// Why a link doesn't open.
#[derive(Debug)]
pub enum Refused {
    /// Something is missing, doubled, added or malformed.
    Malformed(&'static str),
    /// Its signature is not that of its parts.
    WrongSignature,
    /// It was good once.
    Expired,
    /// A fault of ours.
    Core(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Core(error)
    }
}

/// Where the service is, as far as a request can tell: the public URL, or the host that the caller named.
#[must_use]
pub fn base_url(service: &Service, uri: &Uri, headers: &HeaderMap) -> String {
    if let Some(public) = &service.settings.service.public_url {
        return public.0.clone();
    }
    let scheme = if service.settings.is_https() { "https" } else { "http" };
    let host = host(uri, headers).unwrap_or_else(|| service.settings.service.listen.to_string());
    format!("{scheme}://{host}")
}

fn host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok()).or(uri.authority().map(Authority::as_str))?;
    named.parse::<Authority>().ok().filter(|host| !host.as_str().contains('@')).map(|host| host.as_str().to_owned())
}

/// The address that bytes have without a signature.
#[must_use]
pub fn plain(base: &str, blob: &BlobKey) -> String {
    format!("{base}/{BUCKET}/{}", blob.as_str())
}

/// A link that opens from now on for as long as the settings say: the bucket's own, or one of ours where the store is a folder.
///
/// # Errors
/// [`Error::Internal`] when there is no key to sign with.
pub async fn presign(app: &App, settings: &Settings, base: &str, blob: &BlobKey) -> Result<String, Error> {
    let lifetime = Duration::from_secs(settings.file_service.link_ttl_seconds);
    if let Some(link) = app.storage.presign(blob, lifetime).await? {
        return Ok(link);
    }
    let key = app.keys.current(KeyPurpose::Links)?;
    let address = plain(base, blob);
    let region = &settings.file_service.link_region;
    let parameters = signed(&key, "GET", &address, region, app.now().to_system_time(), lifetime)?;
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    Ok(format!("{address}?{query}"))
}

/// The parameters that sign a request for this address, query included, by their names.
fn signed(
    key: &SigningKey,
    method: &str,
    address: &str,
    region: &str,
    time: SystemTime,
    lifetime: Duration,
) -> Result<Vec<(&'static str, String)>, Error> {
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.expires_in = Some(lifetime);
    let identity = Credentials::new(&key.id, &key.secret, None, None, "imagewell").into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("s3")
        .time(time)
        .settings(settings)
        .build()
        .map_err(|error| Error::internal("signing a link", &error))?
        .into();
    let request = SignableRequest::new(method, address, std::iter::empty(), SignableBody::UnsignedPayload)
        .map_err(|error| Error::internal("signing a link", &error))?;
    let output = sign(request, &parameters).map_err(|error| Error::internal("signing a link", &error))?;
    let (_, parameters) = output.into_parts().0.into_parts();
    Ok(parameters.into_iter().map(|(name, value)| (name, value.into_owned())).collect())
}

/// The six parameters of a link, each of which must be there once, and what else was signed with them.
struct Parameters {
    key: String,
    scope: String,
    date: String,
    lifetime: Duration,
    signature: String,
    /// Clients sign further ones: `x-id`, `response-content-disposition`.
    others: Vec<(String, String)>,
}

impl Parameters {
    fn read(query: &str) -> Result<Self, Refused> {
        let names =
            ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"];
        let mut values: [Option<String>; 6] = Default::default();
        let mut others = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let Some(index) = names.iter().position(|known| *known == name) else {
                others.push((name.into_owned(), value.into_owned()));
                continue;
            };
            if values[index].replace(value.into_owned()).is_some() {
                return Err(Refused::Malformed("a parameter is doubled"));
            }
        }
        let [Some(algorithm), Some(credential), Some(date), Some(expires), Some(headers), Some(signature)] = values else {
            return Err(Refused::Malformed("a link has all six X-Amz parameters"));
        };
        if algorithm != ALGORITHM || headers != "host" {
            return Err(Refused::Malformed("a link is signed with AWS4-HMAC-SHA256 over the host"));
        }
        let (key, scope) = credential.split_once('/').ok_or(Refused::Malformed("X-Amz-Credential is malformed"))?;
        let seconds = expires.parse::<u64>().ok().filter(|seconds| (1..=LINK_TTL_MAX.as_secs()).contains(seconds));
        let seconds = seconds.ok_or(Refused::Malformed("X-Amz-Expires is a number of seconds from 1 to 604800"))?;
        Ok(Self { key: key.to_owned(), scope: scope.to_owned(), date, lifetime: Duration::from_secs(seconds), signature, others })
    }

    /// An address with what else is signed.
    fn signed_address(&self, address: &str) -> String {
        if self.others.is_empty() {
            return address.to_owned();
        }
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.others).finish();
        format!("{address}?{query}")
    }

    /// Basic form of ISO 8601 in UTC, and nothing else.
    fn time(&self) -> Result<SystemTime, Refused> {
        let malformed = Refused::Malformed("X-Amz-Date has the form 20240508T034059Z");
        let parsed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", &self.date).ok();
        let time = parsed.and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok()).ok_or(malformed)?;
        Ok(time.timestamp().into())
    }
}

/// What a link that is good wants its bytes to be called (S3's `response-content-disposition`). Bytes that nobody has looked at are never
/// shown in a page.
#[must_use]
pub fn signed_disposition(uri: &Uri, is_seen: bool) -> Option<HeaderValue> {
    let mut pairs = form_urlencoded::parse(uri.query()?.as_bytes());
    let value = pairs.find(|(name, _)| name == "response-content-disposition")?.1;
    let is_attachment = value.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("attachment"));
    HeaderValue::from_str(&value).ok().filter(|_| is_seen || is_attachment)
}

/// Keys are minted here and hold nothing that an address would have to escape; whatever does was never signed.
fn is_plain(blob: &BlobKey) -> bool {
    blob.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte))
}

/// Whether a query means to prove anything: others are for caches and statistics (`?v=2`, `?utm_source=…`).
fn is_signed(query: &str) -> bool {
    let mut names = form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
    names.any(|name| name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("x-amz-")))
}

/// What a request's query proves: nothing when there is none that is signed.
///
/// # Errors
/// See [`Refused`].
pub async fn verify(
    service: &Service,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    blob: &BlobKey,
) -> Result<Option<Link>, Refused> {
    let Some(query) = uri.query().filter(|query| is_signed(query)) else { return Ok(None) };
    let parameters = Parameters::read(query)?;
    let time = parameters.time()?;
    let region = &service.settings.file_service.link_region;
    if parameters.scope != format!("{}/{region}/s3/aws4_request", parameters.date.get(..8).unwrap_or_default()) {
        return Err(Refused::Malformed("X-Amz-Credential is for another day, region or service"));
    }
    if !is_plain(blob) {
        return Err(Refused::WrongSignature);
    }
    let key = service.app.keys.honoured(KeyPurpose::Links, &parameters.key).await?.ok_or(Refused::WrongSignature)?;
    let scheme = if service.settings.is_https() { "https" } else { "http" };
    // A proxy may have put a host of its own in place of the one that the link was made for.
    let bases = [host(uri, headers).map(|host| format!("{scheme}://{host}")), Some(base_url(service, uri, headers))];
    // A link to GET opens for HEAD too: there is nothing in the one that isn't in the other.
    let methods = if method == Method::HEAD { &["GET", "HEAD"][..] } else { &[method.as_str()][..] };
    let mut matches = subtle::Choice::from(0);
    for base in bases.into_iter().flatten() {
        for method in methods {
            let expected =
                signed(&key, method, &parameters.signed_address(&plain(&base, blob)), region, time, parameters.lifetime)?;
            let expected = expected.iter().find(|(name, _)| *name == "X-Amz-Signature").map_or("", |(_, value)| value);
            matches |= expected.as_bytes().ct_eq(parameters.signature.as_bytes());
        }
    }
    if !bool::from(matches) {
        return Err(Refused::WrongSignature);
    }
    let (now, time) = (service.app.now(), Timestamp::from(time));
    if now < time.minus(AHEAD_MAX) {
        return Err(Refused::Malformed("Request is not valid yet"));
    }
    if now >= time.plus(parameters.lifetime) {
        return Err(Refused::Expired);
    }
    Ok(Some(Link(blob.clone())))
}

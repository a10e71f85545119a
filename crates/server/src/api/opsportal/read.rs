//! Reading images and files back.

use std::result::Result as StdResult;
use std::sync::Arc;

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use imagewell_core::fetch::{self, Body as Content, Wanted};
use imagewell_core::model::{Image, ImageId, Namespace};
use imagewell_core::{Error, variant};
use imagewell_imaging::Format;
use imagewell_imaging::transform::{Fit, Transform};
use serde::Deserialize;

use super::caller::reader;
use super::error::{Refusal, Result};
use super::wire::ErrorEnvelope;
use crate::delivery::{self, Asked, Audience};
use crate::serve::Service;

/// What `isMobile` renders to.
const MOBILE: Fit = Fit::Inside(2000, 2000);

/// appKey and uuid in the path.
pub(super) type ReadPath = StdResult<Path<(String, String)>, PathRejection>;

/// Read an image
///
/// The raw bytes. Needs a login whose roles hold the image's permission, and no CSRF header. Supports conditions and ranges.
#[utoipa::path(get, path = "/opsportal/image/{appKey}/{uuid}", tag = "OpsPortal",
    params(("appKey" = String, Path), ("uuid" = String, Path)),
    responses((status = 200, description = "The bytes", content_type = "image/*"), (status = 206), (status = 304),
        (status = 401, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope)))]
pub async fn image(State(service): State<Service>, path: ReadPath, method: Method, headers: HeaderMap) -> Result<Response> {
    let (image, uuid) = find(&service, path, &headers, &Namespace::OPSPORTAL_IMAGES).await?;
    let asked = Asked { method: &method, headers: &headers };
    if service.settings.opsportal.serve_upright && carries_metadata(&image) {
        let stem = uuid.to_string();
        let upright = Transform::of(Fit::Original);
        return Ok(Box::pin(delivery::rendering(&service, &asked, &image, &upright, &stem, Audience::Members)).await?);
    }
    let version = &image.version;
    let disposition = delivery::inline(&format!("{uuid}.{}", extension(&image)));
    Ok(delivery::original(&service, &asked, version, disposition, Audience::Members).await?)
}

/// Read a file
///
/// The bytes as they were sent, always as a download.
#[utoipa::path(get, path = "/opsportal/file/{appKey}/{uuid}", tag = "OpsPortal",
    params(("appKey" = String, Path), ("uuid" = String, Path)),
    responses((status = 200, description = "The bytes", content_type = "application/octet-stream"), (status = 206), (status = 304),
        (status = 401, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope)))]
pub async fn file(State(service): State<Service>, path: ReadPath, method: Method, headers: HeaderMap) -> Result<Response> {
    let (image, uuid) = find(&service, path, &headers, &Namespace::OPSPORTAL_FILES).await?;
    let name = image.version.file_name.clone().unwrap_or_else(|| format!("{uuid}.bin"));
    let asked = Asked { method: &method, headers: &headers };
    Ok(delivery::original(&service, &asked, &image.version, delivery::attachment(&name), Audience::Members).await?)
}

/// What may be asked of the base64 form.
#[derive(Deserialize)]
pub struct Base64Query {
    #[serde(rename = "isMobile")]
    is_mobile: Option<String>,
}

/// Read an image as base64 text
///
/// `{"status":"success","data":{"image":"<base64>"}}`. With `isMobile=true` large originals come as a rendering that fits
/// 2000×2000 pixels.
#[utoipa::path(get, path = "/opsportal/imageBase64/{appKey}/{uuid}", tag = "OpsPortal",
    params(("appKey" = String, Path), ("uuid" = String, Path), ("isMobile" = Option<bool>, Query)),
    responses((status = 200, body = serde_json::Value), (status = 401, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope),
        (status = 404, body = ErrorEnvelope)))]
pub async fn image_base64(
    State(service): State<Service>,
    path: ReadPath,
    Query(query): Query<Base64Query>,
    headers: HeaderMap,
) -> Result<Response> {
    let (image, _) = find(&service, path, &headers, &Namespace::OPSPORTAL_IMAGES).await?;
    let settings = &service.settings.opsportal;
    let wants_mobile = query.is_mobile.as_deref() == Some("true") && image.version.size_bytes > settings.mobile_bytes_min;
    if wants_mobile {
        match variant::open_or_render(&service.app, &image, &variant::of_image(&image, &Transform::of(MOBILE))).await {
            Ok(variant) => return Ok(enveloped(variant.bytes.len() as u64, Content::Memory(variant.bytes))),
            // What can't be rendered is better shown as it is than not at all, unless it must be cleaned first.
            Err(Error::Invalid { .. }) if !settings.serve_upright => {}
            Err(error) => return Err(error.into()),
        }
    }
    if settings.serve_upright && carries_metadata(&image) {
        let variant =
            variant::open_or_render(&service.app, &image, &variant::of_image(&image, &Transform::of(Fit::Original))).await?;
        return Ok(enveloped(variant.bytes.len() as u64, Content::Memory(variant.bytes)));
    }
    let content = fetch::open(&service.app, &image.version, None).await?;
    Ok(enveloped(image.version.size_bytes, content))
}

/// The image, and what the caller calls it.
async fn find(service: &Service, path: ReadPath, headers: &HeaderMap, namespace: &Namespace) -> Result<(Arc<Image>, ImageId)> {
    let actor = reader(service, headers).await?;
    let Ok(Path((app_key, uuid))) = path else { return Err(Refusal::no_such_route()) };
    let id = ImageId::parse(&uuid).map_err(|_| Refusal::no_such_route())?;
    let settings = &service.settings.opsportal;
    let wanted = Wanted {
        id,
        namespace,
        app_key: settings.check_app_key_on_read.then_some(app_key.as_str()),
        check_permission: settings.check_permission_on_read,
    };
    Ok((fetch::find(&service.app, &actor, wanted).await?, id))
}

fn extension(image: &Image) -> &'static str {
    image.version.facts.map_or("bin", |facts| facts.format.extension())
}

/// Formats that can hold EXIF or XMP. GIF, BMP and ICO are served as they are.
fn carries_metadata(image: &Image) -> bool {
    !matches!(image.version.facts.map(|facts| facts.format), Some(Format::Gif | Format::Bmp | Format::Ico))
}

const OPENING: &str = r#"{"status":"success","data":{"image":""#;
const CLOSING: &str = r#""}}"#;

/// Wraps bytes as base64 in the success envelope, in chunks.
fn enveloped(len: u64, content: Content) -> Response {
    let chunks: BoxStream<'static, StdResult<Bytes, Error>> = match content {
        Content::Memory(bytes) => futures_util::stream::once(async { Ok(bytes) }).boxed(),
        Content::Stream(chunks) => chunks,
    };
    let constant = |text: &'static str| futures_util::stream::once(async move { Ok(Bytes::from_static(text.as_bytes())) });
    let body = constant(OPENING).chain(encoded(chunks)).chain(constant(CLOSING));
    let body = Body::from_stream(body.inspect_err(|error| tracing::error!(%error, "sending stopped")));
    let mut response = body.into_response();
    let total = len.div_ceil(3) * 4 + (OPENING.len() + CLOSING.len()) as u64;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    delivery::set(&mut response, header::CONTENT_LENGTH, &total.to_string());
    response
}

/// Encodes whole triples and carries the rest over to the next chunk.
fn encoded(chunks: BoxStream<'static, StdResult<Bytes, Error>>) -> BoxStream<'static, StdResult<Bytes, Error>> {
    let state = (chunks, BytesMut::new(), false);
    futures_util::stream::try_unfold(state, |(mut chunks, mut carried, ended)| async move {
        if ended {
            return Ok(None);
        }
        match chunks.next().await.transpose()? {
            Some(chunk) => {
                carried.extend_from_slice(&chunk);
                let whole = carried.split_to(carried.len() / 3 * 3);
                Ok(Some((Bytes::from(STANDARD.encode(whole)), (chunks, carried, false))))
            }
            None => Ok(Some((Bytes::from(STANDARD.encode(&carried)), (chunks, BytesMut::new(), true)))),
        }
    })
    .boxed()
}

//! What is known of an image, and what may be said of it.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{FromRequest as _, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use imagewell_core::model::{Acl, Image};
use imagewell_core::{Error, images, presets};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::caller::{denied, image_id, reader, writer};
use super::show::address_tag;
use crate::api::problem::Problem;
use crate::intake::Intake;
use crate::serve::Service;

/// Bytes of the body that names a place.
const FOCUS_BYTES_MAX: u64 = 1024;

/// An image.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    id: String,
    /// The part of the store that it came in through.
    namespace: String,
    /// What it is called there.
    name: Option<String>,
    /// The application that it belongs to.
    app_key: Option<String>,
    /// What a reader must hold.
    permission: String,
    /// Whether everybody may see it.
    public: bool,
    /// The part that is seen, in pixels of the upright original.
    crop: Option<CropRecord>,
    /// The place that is seen whatever is cut off.
    focus: Option<Focus>,
    /// When it was first stored (RFC 3339).
    created: String,
    /// The newest version's number.
    version: u32,
    /// Those that can be read, the newest first.
    versions: Vec<VersionRecord>,
    /// Where it is shown.
    urls: Urls,
}

#[derive(Debug, Serialize, ToSchema)]
struct CropRecord {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
}

/// A place on the upright picture, as parts of its width and height.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Focus {
    /// 0 is the left edge, 1 the right one.
    #[schema(minimum = 0.0, maximum = 1.0)]
    x: f64,
    /// 0 is the upper edge, 1 the lower one.
    #[schema(minimum = 0.0, maximum = 1.0)]
    y: f64,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct VersionRecord {
    number: u32,
    size_bytes: u64,
    sha256: String,
    content_type: String,
    /// Pixels of the upright picture.
    width: Option<u32>,
    /// Pixels of the upright picture.
    height: Option<u32>,
    /// Frames of an animation, pages of a document.
    frames: Option<u32>,
    /// As stored: the value of EXIF tag 0x0112.
    orientation: Option<u8>,
    /// The colour that most of it is near, as in `#a0522d`; soon after the upload.
    dominant_color: Option<String>,
    /// A ThumbHash in base64: a blurred picture for the time before the picture is there; soon after the upload.
    thumbhash: Option<String>,
    /// When it was stored (RFC 3339).
    created: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct Urls {
    /// The newest version as it was sent, turned upright and without metadata.
    original: String,
    /// Presets by name, of this very version: what these addresses show never changes.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    presets: serde_json::Map<String, serde_json::Value>,
}

/// Tell what is known of an image
///
/// For callers who hold the image's permission. Dominant colour and ThumbHash are made in the background, soon after the upload; a picture
/// that can't be decoded never gets them.
#[utoipa::path(get, path = "/v1/images/{id}", tag = "Images", params(("id" = String, Path)),
    responses((status = 200, body = Record), (status = 401), (status = 403), (status = 404)))]
pub async fn show(
    State(service): State<Service>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let head = request.into_parts().0;
    let actor = reader(&service, &head).await?;
    let id = image_id(id)?;
    let versions = images::versions(&service.app, &actor, id).await.map_err(|error| denied(true, error))?;
    let record = record(&service, &versions).await.map_err(|error| denied(true, error))?;
    let mut response = Json(record).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    Ok(response)
}

/// Say which place of an image is to be seen
///
/// Renderings that cut something off keep it in view, unless their transform has a gravity of its own. For the image's owner, admins, and
/// those who may change the files of its namespace. A session shows its CSRF token in `X-CSRF-Token`.
#[utoipa::path(put, path = "/v1/images/{id}/focus", tag = "Images", params(("id" = String, Path)), request_body = Focus,
    responses((status = 204), (status = 400), (status = 401), (status = 403), (status = 404), (status = 415)))]
pub async fn set_focus(
    State(service): State<Service>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<StatusCode, Problem> {
    let (head, body) = request.into_parts();
    let actor = writer(&service, &head).await?;
    let id = image_id(id)?;
    let bytes = Intake::new(body, &service.settings, FOCUS_BYTES_MAX, FOCUS_BYTES_MAX).whole().await.map_err(unread)?;
    let request = Request::from_parts(head, bytes.into());
    let Json(focus) = Json::<Focus>::from_request(request, &()).await.map_err(|error| unreadable(&error))?;
    let part = |part: f64| (0.0..=1.0).contains(&part).then(|| (part * 1000.0).round() as u16);
    let (Some(x), Some(y)) = (part(focus.x), part(focus.y)) else {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "x and y are numbers from 0 to 1"));
    };
    images::set_focus(&service.app, &actor, id, Some((x, y))).await.map_err(|error| denied(true, error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Say that no place of an image matters more than others
#[utoipa::path(delete, path = "/v1/images/{id}/focus", tag = "Images", params(("id" = String, Path)),
    responses((status = 204), (status = 401), (status = 403), (status = 404)))]
pub async fn clear_focus(
    State(service): State<Service>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<StatusCode, Problem> {
    let head = request.into_parts().0;
    let actor = writer(&service, &head).await?;
    let id = image_id(id)?;
    images::set_focus(&service.app, &actor, id, None).await.map_err(|error| denied(true, error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a purge came to.
#[derive(Debug, Serialize, ToSchema)]
pub struct Purged {
    /// Renderings that were kept and are gone.
    removed: usize,
}

/// Remove an image's renderings
///
/// Of all its versions; they are made again when somebody asks. For those who may set its focus.
#[utoipa::path(delete, path = "/v1/images/{id}/variants", tag = "Images", params(("id" = String, Path)),
    responses((status = 200, body = Purged), (status = 401), (status = 403), (status = 404)))]
pub async fn purge(
    State(service): State<Service>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let head = request.into_parts().0;
    let actor = writer(&service, &head).await?;
    let id = image_id(id)?;
    let removed = images::purge(&service.app, &actor, id).await.map_err(|error| denied(true, error))?;
    Ok(Json(Purged { removed }).into_response())
}

/// Why a body did not come in.
fn unread(error: Error) -> Problem {
    match error {
        Error::TooLarge { bytes_max } => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has at most {bytes_max} bytes"))
        }
        Error::TooSlow => Problem::new(StatusCode::REQUEST_TIMEOUT, "the request came in too slowly"),
        Error::Disconnected => Problem::new(StatusCode::BAD_REQUEST, "the request ended before it was complete"),
        other => denied(true, other),
    }
}

fn unreadable(error: &JsonRejection) -> Problem {
    let status = if error.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE { error.status() } else { StatusCode::BAD_REQUEST };
    Problem::new(status, "the body is JSON, application/json, as in {\"x\":0.5,\"y\":0.25}")
}

async fn record(service: &Service, versions: &[Image]) -> Result<Record, Error> {
    let Some(newest) = versions.first() else { return Err(Error::NotFound) };
    let address = format!("/i/{}@{}", newest.id, newest.version.number);
    let mut addresses = serde_json::Map::new();
    if newest.version.facts.is_some() {
        for preset in presets::of_org(&service.app, newest.org).await?.iter() {
            let Ok(asked) = presets::asked(&service.app, &preset.steps) else { continue };
            let url = format!("{address}/p_{}?v={}", preset.name, address_tag(newest, &asked));
            addresses.insert(preset.name.clone(), url.into());
        }
    }
    Ok(Record {
        id: newest.id.to_string(),
        namespace: newest.namespace.as_str().to_owned(),
        name: newest.name.as_ref().map(|name| name.as_str().to_owned()),
        app_key: newest.app_key.as_ref().map(|key| key.as_str().to_owned()),
        permission: newest.permission.as_str().to_owned(),
        public: newest.acl == Acl::Public,
        crop: newest.crop.map(|crop| CropRecord { x: crop.x, y: crop.y, width: crop.width, height: crop.height }),
        focus: newest.focus.map(|(x, y)| Focus { x: f64::from(x) / 1000.0, y: f64::from(y) / 1000.0 }),
        created: newest.created.to_rfc3339(),
        version: newest.version.number,
        versions: versions.iter().map(version).collect(),
        urls: Urls { original: format!("{address}/original"), presets: addresses },
    })
}

fn version(image: &Image) -> VersionRecord {
    let version = &image.version;
    let facts = version.facts;
    let size = facts.map(
        |facts| {
            if facts.orientation.swaps_sides() { (facts.height, facts.width) } else { (facts.width, facts.height) }
        },
    );
    let colour = |[red, green, blue]: [u8; 3]| format!("#{red:02x}{green:02x}{blue:02x}");
    VersionRecord {
        number: version.number,
        size_bytes: version.size_bytes,
        sha256: version.digest.to_string(),
        content_type: version.content_type.clone(),
        width: size.map(|size| size.0),
        height: size.map(|size| size.1),
        frames: facts.map(|facts| facts.frames),
        orientation: facts.map(|facts| facts.orientation.exif()),
        dominant_color: version.look.as_ref().map(|look| colour(look.dominant)),
        thumbhash: version.look.as_ref().map(|look| STANDARD.encode(&look.thumbhash)),
        created: version.created.to_rfc3339(),
    }
}

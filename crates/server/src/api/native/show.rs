//! Any image at any size.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use imagewell_core::access::{self, Link};
use imagewell_core::grammar::Asked as AskedTransform;
use imagewell_core::model::{Acl, Image, ImageId};
use imagewell_core::{Error, fetch, presets, variant};
use imagewell_imaging::cost::too_large_for;
use imagewell_imaging::transform::{Outputs, Transform};
use sha2::{Digest as _, Sha256};

use super::caller::{absent, caller, denied};
use crate::api::problem::Problem;
use crate::delivery::{self, Asked, Audience};
use crate::serve::Service;
use crate::signed::{Grant, Signature};

/// A transform that begins with this is a preset's name.
const PRESET: &str = "p_";
/// Hexadecimal digits by which an address tells what it shows.
const TAG_DIGITS: usize = 16;

/// Show an image at a size
///
/// `id` is the uuid or file_handle, with `@2` behind it for that version. The transform is `original`, or steps in any order, or `p_` and the
/// name of a preset of the image's org: see `docs/transforms.md`. The image is upright and in sRGB, it has no metadata, and its own crop and
/// focal point are obeyed. For callers who hold the image's permission, by a session, Basic credentials or a token; for everybody where
/// the image is public and the transform is `original`, a preset, or signed; and for whoever has a signature with an end.
#[utoipa::path(get, path = "/i/{id}/{transform}", tag = "Images",
    params(("id" = String, Path), ("transform" = String, Path, example = "w_300,h_200,fit_cover"),
        ("sig" = Option<String>, Query, description = "HMAC-SHA256 of the path by the org's secret, as base64url"),
        ("exp" = Option<u64>, Query, description = "When the signature ends, in seconds since 1970"),
        ("v" = Option<String>, Query, description = "What the record's addresses carry, so that they may be kept for ever")),
    responses((status = 200, description = "The image", content_type = "image/*"), (status = 206), (status = 304), (status = 400),
        (status = 401), (status = 403), (status = 404), (status = 422), (status = 429), (status = 503)))]
pub async fn show(
    State(service): State<Service>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    answer(&service, path.map(|Path((id, transform))| (id, transform)), request).await
}

/// Show an image at a size, under a name
///
/// As without a name, which is for people and for programs that look at extensions; it decides nothing, and no signature covers it.
#[utoipa::path(get, path = "/i/{id}/{transform}/{name}", tag = "Images",
    params(("id" = String, Path), ("transform" = String, Path), ("name" = String, Path, example = "product.jpg"),
        ("sig" = Option<String>, Query), ("exp" = Option<u64>, Query), ("v" = Option<String>, Query)),
    responses((status = 200, description = "The image", content_type = "image/*"), (status = 206), (status = 304), (status = 400),
        (status = 401), (status = 403), (status = 404), (status = 422), (status = 429), (status = 503)))]
pub async fn show_named(
    State(service): State<Service>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    answer(&service, path.map(|Path((id, transform, _))| (id, transform)), request).await
}

async fn answer(service: &Service, path: Result<(String, String), PathRejection>, request: Request) -> Result<Response, Problem> {
    let head = request.into_parts().0;
    let actor = caller(service, &head).await?;
    let (id, transform) = path.map_err(|_| absent())?;
    let (id, number) = identity(&id).ok_or_else(absent)?;
    let query = head.uri.query().unwrap_or_default();
    let signature = Signature::read(query).map_err(|reason| Problem::new(StatusCode::BAD_REQUEST, reason))?;
    let path = signed_path(head.uri.path());
    let mut granted = None;
    let link = |image: &Image| {
        granted =
            signature.as_ref().and_then(|signature| signature.grants(&service.app.keys, service.app.now(), image.org, path));
        (granted == Some(Grant::View)).then(|| Link(image.version.blob.clone()))
    };
    let found = fetch::find_any(&service.app, actor.as_deref(), id, number, link).await;
    let image = found.map_err(|error| denied(actor.is_some(), error))?;
    if signature.is_some() && granted.is_none() {
        return Err(Problem::new(StatusCode::FORBIDDEN, "the signature is not of this address, or it has ended"));
    }
    let preset = transform.strip_prefix(PRESET);
    let steps = match preset {
        Some(name) => self::preset(service, &image, name).await?,
        None => transform.clone(),
    };
    let asked = presets::asked(&service.app, &steps).map_err(|reason| Problem::new(StatusCode::BAD_REQUEST, reason))?;
    // A stranger's guesses may not cost renderings.
    let holds = actor.as_ref().is_some_and(|actor| access::check(actor, access::Action::View(&image)).is_ok());
    if !holds && granted.is_none() && preset.is_none() && steps != "original" {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "other sizes of a public image need a signature, or the image's permission: presets and the original don't",
        ));
    }
    let audience = match granted {
        Some(Grant::View) => Audience::LinkHolders,
        _ if image.acl != Acl::Public => Audience::Members,
        _ if number.is_some() && shows_one_thing(&image, &asked, preset.is_some(), query) => Audience::EverybodyForEver,
        _ => Audience::Everybody,
    };
    render(service, &head, &image, asked, audience).await
}

/// Whether what this address of a version shows can never change: it depends on nothing that can be set, or says what it depends on.
fn shows_one_thing(image: &Image, asked: &AskedTransform, by_preset: bool, query: &str) -> bool {
    let plain = !by_preset && image.crop.is_none() && !variant::depends_on_focus(&asked.transform(Outputs::CLASSIC));
    let tag = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "v").map(|(_, value)| value);
    plain || tag.is_some_and(|tag| tag == address_tag(image, asked))
}

/// What the address of a version must carry as `v` to be kept for ever: it changes with everything that changes what is shown, other
/// than the client's formats.
pub(super) fn address_tag(image: &Image, asked: &AskedTransform) -> String {
    let transform = variant::of_image(image, &asked.transform(Outputs::CLASSIC));
    let digest = Sha256::digest(format!("{} {transform} {}", image.version.digest, asked.depends_on_accept()));
    digest
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .take(TAG_DIGITS)
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

/// The path as far as the transform: a name behind it is decoration.
fn signed_path(path: &str) -> &str {
    path.match_indices('/').nth(3).map_or(path, |(end, _)| &path[..end])
}

async fn preset(service: &Service, image: &Image, name: &str) -> Result<String, Problem> {
    match presets::find(&service.app, image.org, name).await {
        Ok(preset) => Ok(preset.steps),
        Err(Error::NotFound) => Err(Problem::new(StatusCode::NOT_FOUND, "there is no such preset: they are provisioned")),
        Err(error) => Err(denied(true, error)),
    }
}

async fn render(
    service: &Service,
    head: &Parts,
    image: &Image,
    asked: AskedTransform,
    audience: Audience,
) -> Result<Response, Problem> {
    let transform = asked.transform(delivery::outputs(&head.headers, service.settings.delivery.auto_avif));
    check_format(image, &transform)?;
    let request = Asked { method: &head.method, headers: &head.headers };
    let stem = image.id.to_string();
    let mut response =
        delivery::rendering(service, &request, image, &transform, &stem, audience).await.map_err(|error| denied(true, error))?;
    if asked.depends_on_accept() {
        delivery::vary_by_accept(&mut response);
    }
    Ok(response)
}

/// Refuses a format that was asked for by name and can't hold the rendering. Where there is a choice, another one is taken.
fn check_format(image: &Image, transform: &Transform) -> Result<(), Problem> {
    let asked = variant::of_image(image, transform);
    let Some((format, (width, height))) = image.version.facts.and_then(|facts| too_large_for(asked.transform(), &facts)) else {
        return Ok(());
    };
    let most = format.side_px_max();
    let reason =
        format!("{format} has at most {most} pixels a side, and this would have {width}×{height}: ask for another format");
    Err(Problem::new(StatusCode::BAD_REQUEST, reason))
}

/// `{uuid}` or `{uuid}@{version}`.
fn identity(text: &str) -> Option<(ImageId, Option<u32>)> {
    match text.split_once('@') {
        None => ImageId::parse(text).ok().map(|id| (id, None)),
        Some((id, number)) => {
            let digits = number.bytes().all(|byte| byte.is_ascii_digit());
            let number = number.parse().ok().filter(|number| digits && *number > 0)?;
            Some((ImageId::parse(id).ok()?, Some(number)))
        }
    }
}

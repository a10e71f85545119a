//! Any image at any size.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use imagewell_core::model::{Acl, Actor, Image, ImageId};
use imagewell_core::{Error, access, fetch, presets};

use super::grammar::Asked as AskedTransform;
use crate::api::problem::Problem;
use crate::auth::address::ClientAddress;
use crate::auth::fetch_metadata;
use crate::auth::machine::{self, Denied};
use crate::auth::session::Session;
use crate::delivery::{self, Asked, Audience};
use crate::serve::Service;

/// A transform that begins with this is a preset's name.
const PRESET: &str = "p_";

/// Show an image at a size
///
/// `id` is the uuid or file_handle, with `@2` behind it for that version. The transform is `original` or steps in any order: `w_300`,
/// `h_200`, `fit_inside` (the default, never enlarged) or `fit_cover` (exactly that size), `dpr_2`, `q_80`, and `f_auto`, `f_jpeg`, `f_png` or
/// `f_webp`; or `p_` and the name of a preset of the image's org. The image is upright, in sRGB and without metadata, and its own crop is obeyed. For callers who hold the image's permission, by a
/// session, Basic credentials or a token, and for everybody where the image is public and the transform is `original` or a preset.
#[utoipa::path(get, path = "/i/{id}/{transform}", tag = "Images",
    params(("id" = String, Path), ("transform" = String, Path, example = "w_300,h_200,fit_cover")),
    responses((status = 200, description = "The image", content_type = "image/*"), (status = 206), (status = 304), (status = 400),
        (status = 401), (status = 403), (status = 404), (status = 503)))]
pub async fn show(
    State(service): State<Service>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    answer(&service, path.map(|Path((id, transform))| (id, transform)), request).await
}

/// Show an image at a size, under a name
///
/// As without a name, which is for people and for programs that look at extensions; it decides nothing.
#[utoipa::path(get, path = "/i/{id}/{transform}/{name}", tag = "Images",
    params(("id" = String, Path), ("transform" = String, Path), ("name" = String, Path, example = "product.jpg")),
    responses((status = 200, description = "The image", content_type = "image/*"), (status = 206), (status = 304), (status = 400),
        (status = 401), (status = 403), (status = 404), (status = 503)))]
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
    let (id, steps) = path.map_err(|_| absent())?;
    let (id, number) = identity(&id).ok_or_else(absent)?;
    let image =
        fetch::find_any(&service.app, actor.as_deref(), id, number).await.map_err(|error| denied(actor.is_some(), error))?;
    let (steps, is_preset) = match steps.strip_prefix(PRESET) {
        Some(name) => (preset(service, &image, name).await?, true),
        None => (steps, false),
    };
    let side_px_max = service.settings.images.transform_side_px_max;
    let asked = AskedTransform::parse(&steps, side_px_max).map_err(|reason| Problem::new(StatusCode::BAD_REQUEST, reason))?;
    // A stranger's guesses may not cost renderings.
    let may_transform = actor.as_ref().is_some_and(|actor| access::check(actor, access::Action::View(&image)).is_ok());
    if !may_transform && !is_preset && steps != "original" {
        return Err(Problem::new(StatusCode::FORBIDDEN, "other sizes of a public image are for callers who hold its permission"));
    }
    render(service, &head, &image, asked).await
}

async fn preset(service: &Service, image: &Image, name: &str) -> Result<String, Problem> {
    match presets::find(&service.app, image.org, name).await {
        Ok(steps) => Ok(steps.to_string()),
        Err(Error::NotFound) => Err(Problem::new(StatusCode::NOT_FOUND, "there is no such preset: they are provisioned")),
        Err(error) => Err(denied(true, error)),
    }
}

async fn render(service: &Service, head: &Parts, image: &Image, asked: AskedTransform) -> Result<Response, Problem> {
    let transform = asked.transform(delivery::outputs(&head.headers));
    let audience = if image.acl == Acl::Public { Audience::Everybody } else { Audience::Members };
    let request = Asked { method: &head.method, headers: &head.headers };
    let stem = image.id.to_string();
    let mut response =
        delivery::rendering(service, &request, image, &transform, &stem, audience).await.map_err(|error| denied(true, error))?;
    if asked.depends_on_accept() {
        delivery::vary_by_accept(&mut response);
    }
    Ok(response)
}

/// Whoever the request proves, if anybody: a machine by its header, a person by the session's cookie.
async fn caller(service: &Service, head: &Parts) -> Result<Option<Arc<Actor>>, Problem> {
    let address = ClientAddress::in_extensions(&head.extensions);
    match machine::caller(service, &head.headers, address).await {
        Ok(actor) => return Ok(Some(actor)),
        Err(Denied::Missing) => {}
        Err(Denied::StatusUnavailable) => {
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the identity provider can't be asked now: try again"));
        }
        Err(Denied::Malformed(what)) => return Err(Problem::new(StatusCode::BAD_REQUEST, what)),
        Err(Denied::Core(error)) => return Err(denied(false, error)),
        Err(Denied::WrongSecret | Denied::InvalidToken(_) | Denied::ForeignPage) => {
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "the credentials are wrong or have ended"));
        }
    }
    // Pages of other sites can't use a session to look at what is private.
    if !fetch_metadata::may_embed(&head.headers, &service.settings) {
        return Ok(None);
    }
    let session = Session::read(&head.headers, service).await.map_err(|error| denied(false, error))?;
    Ok(session.actor().ok())
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

fn absent() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no such image")
}

/// Strangers are asked to log in, whatever is there or isn't.
fn denied(known: bool, error: Error) -> Problem {
    match error {
        Error::NotFound if !known => Problem::new(StatusCode::UNAUTHORIZED, "log in, or send credentials, to see this"),
        Error::NotFound => absent(),
        Error::Forbidden => Problem::new(StatusCode::FORBIDDEN, "the image's permission is needed to see it"),
        Error::Invalid { reason } => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, reason),
        Error::TooMany { retry_after } => {
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many attempts: wait a little").after(retry_after)
        }
        Error::Busy { retry_after } => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is busy: try again in a moment").after(retry_after)
        }
        other => {
            tracing::error!(error = ?other, "internal error");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong here; the log knows more")
        }
    }
}

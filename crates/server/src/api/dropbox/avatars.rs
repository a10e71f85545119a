//! Avatars: taking a picture out of the dropbox, showing it, going back to the default.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use imagewell_core::avatars;
use imagewell_core::model::{Resource, Service as ServiceName, TicketNumber};
use imagewell_imaging::transform::Outputs;
use serde_json::Value;

use super::caller::{Access, Caller};
use super::default_avatar;
use super::error::{Refusal, Result};
use super::rendering::{rendered, size};
use super::wire::{AvatarAnswer, AvatarBody, Form, Plain};
use crate::delivery::{Audience, outputs};
use crate::intake::Intake;
use crate::serve::Service;

const BODY_BYTES_MAX: u64 = 1024;

/// The kind of the resource and its id.
type ResourcePath = std::result::Result<Path<(String, String)>, PathRejection>;

/// Take a picture
///
/// The picture leaves the dropbox and is the resource's avatar from now on, or nothing has changed. An empty id goes back to the default.
/// For the user itself, for holders of `imagewell.{service}.{ID}.edit` or `imagewell.{service}.edit`, and for site admins; and only with
/// pictures that they have uploaded.
#[utoipa::path(put, path = "/api/{service}/{ID}/avatar", tag = "Dropbox",
    params(("service" = String, Path, description = "apis, apps, groups, users or businesses"), ("ID" = String, Path)),
    request_body = AvatarBody,
    responses((status = 200, body = AvatarAnswer), (status = "4XX", description = "Why not", content_type = "text/plain")))]
pub async fn take(State(service): State<Service>, path: ResourcePath, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let (mut form, verdict) = Form::of(&head.uri, &service.settings.dropbox.document_domains);
    let outcome = async {
        verdict?;
        let caller = Caller::read_in(&service, &head.headers, Access::Write, &mut form).await?;
        let resource = resource(path)?;
        let body = Intake::new(body, &service.settings, BODY_BYTES_MAX, BODY_BYTES_MAX).whole().await?;
        let number = match ticket(&body)? {
            Some(ticket) => avatars::take(&service.app, &caller.actor, &resource, ticket).await?.to_string(),
            None => {
                avatars::drop_current(&service.app, &caller.actor, &resource).await?;
                String::new()
            }
        };
        Ok(Plain::json(&AvatarAnswer { avatar_version_id: number }))
    };
    let outcome = outcome.await;
    form.answer(outcome)
}

fn ticket(body: &[u8]) -> Result<Option<TicketNumber>> {
    let malformed = || Refusal::invalid("send JSON, {\"PictureID\":\"1001\"}, or with an empty text for none");
    let body: AvatarBody = serde_json::from_slice(body).map_err(|_| malformed())?;
    let text = match body.picture_id {
        Value::String(text) if text.is_empty() => return Ok(None),
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        _ => return Err(malformed()),
    };
    TicketNumber::parse(&text).map(Some).map_err(Refusal::invalid)
}

/// Show an avatar
///
/// The present one, or initials on a colour where there is none: a PNG, or SVG where `Accept` names it. For everybody in the org.
#[utoipa::path(get, path = "/api/{service}/{ID}/avatar", tag = "Dropbox",
    params(("service" = String, Path), ("ID" = String, Path), ("size" = Option<u32>, Query)),
    responses((status = 200, description = "The avatar", content_type = "image/*"), (status = 206), (status = 304),
        (status = "4XX", description = "Why not", content_type = "text/plain")))]
pub async fn show(State(service): State<Service>, path: ResourcePath, request: Request) -> Result<Response> {
    let head = request.into_parts().0;
    let caller = Caller::read(&service, &head.headers, Access::Read).await?;
    let resource = resource(path)?;
    let size = size(&service, &head)?;
    match avatars::find(&service.app, &caller.actor, &resource, None).await? {
        Some(image) => {
            rendered(
                &service,
                &head,
                &image,
                size,
                outputs(&head.headers, service.settings.delivery.auto_avif),
                Audience::Members,
            )
            .await
        }
        None => default_avatar::answer(&head, &caller.actor, &resource, size).await,
    }
}

/// Show an earlier avatar
#[utoipa::path(get, path = "/api/{service}/{ID}/avatars/{AvatarVersionID}", tag = "Dropbox",
    params(("service" = String, Path), ("ID" = String, Path), ("AvatarVersionID" = String, Path, example = "1.png"),
        ("size" = Option<u32>, Query)),
    responses((status = 200, description = "The avatar", content_type = "image/png"), (status = 206), (status = 304),
        (status = "4XX", description = "Why not", content_type = "text/plain")))]
pub async fn show_version(
    State(service): State<Service>,
    path: std::result::Result<Path<(String, String, String)>, PathRejection>,
    request: Request,
) -> Result<Response> {
    let head = request.into_parts().0;
    let caller = Caller::read(&service, &head.headers, Access::Read).await?;
    let Ok(Path((kind, id, version))) = path else { return Err(Refusal::not_found()) };
    let resource = resource(Ok(Path((kind, id))))?;
    let number =
        version.strip_suffix(".png").and_then(|number| TicketNumber::parse(number).ok()).ok_or_else(Refusal::not_found)?;
    let size = size(&service, &head)?;
    let image =
        avatars::find(&service.app, &caller.actor, &resource, Some(number.get())).await?.ok_or_else(Refusal::not_found)?;
    rendered(&service, &head, &image, size, Outputs::PNG, Audience::Members).await
}

/// Drop a user's avatar
///
/// Back to the default. Earlier avatars stay. For the user itself and for site admins.
#[utoipa::path(delete, path = "/api/users/{ID}/picture", tag = "Dropbox", params(("ID" = String, Path)),
    responses((status = 200, description = "Plain text", content_type = "text/plain"),
        (status = "4XX", description = "Why not", content_type = "text/plain")))]
pub async fn drop_picture(
    State(service): State<Service>,
    path: std::result::Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response> {
    let head = request.into_parts().0;
    let caller = Caller::read(&service, &head.headers, Access::Write).await?;
    let resource = resource(path.map(|Path(id)| Path((ServiceName::Users.as_str().to_owned(), id))))?;
    avatars::drop_current(&service.app, &caller.actor, &resource).await?;
    Ok(Form::Plain.answer(Ok(Plain::text("The picture is the default again."))))
}

fn resource(path: ResourcePath) -> Result<Resource> {
    let Ok(Path((kind, id))) = path else { return Err(Refusal::not_found()) };
    let service = ServiceName::parse(&kind).ok_or_else(Refusal::not_found)?;
    Resource::new(service, &id).map_err(Refusal::invalid)
}

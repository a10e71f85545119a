//! The dropbox: putting a picture in, cropping it, looking at it.

use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use imagewell_core::model::{Namespace, TicketNumber, TicketNumbers};
use imagewell_core::tickets::{self, Part as CropPart};
use imagewell_core::upload::{self, Accept, Received, Target};
use imagewell_imaging::Format;

use super::caller::{Access, Caller};
use super::error::{Refusal, Result};
use super::rendering::{rendered, size};
use super::wire::{Form, Plain};
use crate::config::TicketNumbering;
use crate::delivery::{Audience, outputs};
use crate::intake::{self, Intake};
use crate::multipart::{Multipart, Part};
use crate::serve::Service;

/// What a body may be longer than its picture: boundaries, part headers and fields.
const OVERHEAD_BYTES_MAX: u64 = 1024 * 1024;
/// A crop is four numbers.
const CROP_BYTES_MAX: u64 = 1024;
/// The crop page shows pictures in a square of so many pixels.
const CROP_PAGE_PX: f64 = 512.0;

/// A picture's id in the path.
pub(super) type PicturePath = std::result::Result<Path<String>, PathRejection>;

/// Add a picture
///
/// `multipart/form-data`; the first part with a filename is the picture, whatever it is called. The answer is its id, as plain text, and
/// nothing else. Nobody who takes it within an hour, and it is gone. `wrapInHTML=true` wraps every answer in HTML, for pages that post
/// through an iframe; the CSRF token may then stand in a field before the picture, or in the query, under the header's name.
#[utoipa::path(post, path = "/api/dropbox/pictures", tag = "Dropbox",
    params(("wrapInHTML" = Option<bool>, Query), ("document.domain" = Option<String>, Query)),
    request_body(content_type = "multipart/form-data", description = "The picture, as the first part with a filename"),
    responses((status = 200, description = "The id", content_type = "text/plain", body = String),
        (status = "4XX", description = "Why not", content_type = "text/plain"),
        (status = 500, description = "An error occurred processing the call.", content_type = "text/plain")))]
pub async fn add(State(service): State<Service>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let (mut form, verdict) = Form::of(&head.uri, &service.settings.dropbox.document_domains);
    let bytes_max = service.settings.dropbox.upload_bytes_max.saturating_add(1);
    let intake = Intake::new(body, &service.settings, bytes_max.saturating_add(OVERHEAD_BYTES_MAX), bytes_max);
    let received = match verdict {
        Ok(()) => receive(&service, &head, &mut form, &intake, bytes_max).await,
        Err(refusal) => Err(refusal),
    };
    let outcome = async { received?.store().await?.ticket.ok_or_else(Refusal::not_found) }.await;
    form.answer(outcome.map(|ticket| Plain::text(ticket.to_string())))
}

/// Reads the body to its end. Nothing is stored yet, so that a broken end leaves nothing behind.
async fn receive(service: &Service, head: &Parts, form: &mut Form, intake: &Intake, bytes_max: u64) -> Result<Received> {
    let caller = Caller::find(service, &head.headers).await?.ok_or_else(Refusal::unauthorized)?;
    // A page that posts through an iframe can set no header.
    let mut field = form.is_wrapped().then(|| query_value(head, &caller.csrf_header())).flatten();
    if !form.is_wrapped() {
        caller.check_csrf(service, &head.headers, Access::Write, form, None)?;
    }
    upload::check_right(&caller.actor)?;
    // Before the body is asked for.
    intake::check_declared_length(&head.headers, bytes_max, OVERHEAD_BYTES_MAX)?;
    let mut body = Multipart::new(&head.headers, intake.chunks(), &service.settings)?;
    let mut received = None;
    while let Some(part) = body.next().await? {
        let is_file = part.file_name.is_some();
        if received.is_some() || (!is_file && !part.name.eq_ignore_ascii_case(&caller.csrf_header())) {
            part.skip().await?;
        } else if is_file {
            caller.check_csrf(service, &head.headers, Access::Write, form, field.as_deref())?;
            received = Some(take(service, head, &caller, part, bytes_max).await?);
        } else {
            let text = part.text().await?;
            field = if form.is_wrapped() { Some(recoded(&text)) } else { field };
        }
    }
    caller.check_csrf(service, &head.headers, Access::Write, form, field.as_deref())?;
    received.ok_or_else(|| Refusal::invalid("the form holds no picture: send one as a part with a filename"))
}

async fn take(service: &Service, head: &Parts, caller: &Caller, mut part: Part, bytes_max: u64) -> Result<Received> {
    let settings = &service.settings.dropbox;
    let bytes_announced = intake::check_declared_length(&head.headers, bytes_max, OVERHEAD_BYTES_MAX)?;
    let request = upload::Request {
        actor: std::sync::Arc::clone(&caller.actor),
        namespace: Namespace::DROPBOX_PICTURES,
        target: Target::Ticket {
            lifetime: Duration::from_secs(settings.ticket_ttl_seconds),
            numbers: match settings.ticket_numbers {
                TicketNumbering::Random => TicketNumbers::Random,
                TicketNumbering::Series => TicketNumbers::Series,
            },
        },
        bytes_max,
        bytes_announced,
        accept: Accept::ImagesIn(vec![Format::Jpeg, Format::Gif, Format::Bmp, Format::Png]),
    };
    Ok(upload::admit(&service.app, request).await?.receive(part.chunks()?).await?)
}

fn query_value(head: &Parts, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes());
    pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| recoded(&value))
}

/// The token is compared as it stands in the cookie, still encoded. A query has been decoded once, and a script may have decoded the
/// cookie.
fn recoded(value: &str) -> String {
    if value.contains("%3D") { value.to_owned() } else { value.replace('=', "%3D").replace(',', "%2C") }
}

/// Crop a picture
///
/// `x`, `y`, `w` and `h` are in pixels of the picture as it fits into 512×512, its aspect kept; they may be fractions. The bytes stay
/// as they are, and every later rendering obeys. 0, 0, 512, 512 is no crop.
#[utoipa::path(put, path = "/api/dropbox/pictures/{PictureID}", tag = "Dropbox", params(("PictureID" = String, Path)),
    request_body(content_type = "application/x-www-form-urlencoded", description = "x, y, w, h"),
    responses((status = 200, description = "The id", content_type = "application/json", body = i64),
        (status = "4XX", description = "Why not", content_type = "text/plain")))]
pub async fn crop(State(service): State<Service>, path: PicturePath, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let (mut form, verdict) = Form::of(&head.uri, &service.settings.dropbox.document_domains);
    let outcome = async {
        verdict?;
        let caller = Caller::read_in(&service, &head.headers, Access::Write, &mut form).await?;
        let number = number(path)?;
        let body = Intake::new(body, &service.settings, CROP_BYTES_MAX, CROP_BYTES_MAX).whole().await?;
        let [x, y, width, height] = crop_fields(&body)?;
        let part = |pixels_wide: u32, pixels_high: u32| {
            let longer = f64::from(pixels_wide.max(pixels_high));
            let fitted = |side: u32| CROP_PAGE_PX * f64::from(side) / longer;
            let (across, down) = (fitted(pixels_wide), fitted(pixels_high));
            CropPart { left: x / across, top: y / down, right: (x + width) / across, bottom: (y + height) / down }
        };
        tickets::crop(&service.app, &caller.actor, number, part).await?;
        Ok(Plain::json(&number.get()))
    };
    let outcome = outcome.await;
    form.answer(outcome)
}

fn crop_fields(body: &[u8]) -> Result<[f64; 4]> {
    let field = |name: &str| {
        let mut fields = form_urlencoded::parse(body);
        let text = fields.find(|(key, _)| key == name).map(|(_, value)| value.trim().to_owned());
        let number = text.and_then(|text| text.parse::<f64>().ok()).filter(|number| number.is_finite());
        number.ok_or_else(|| Refusal::invalid(format!("{name} is a number of pixels; x, y, w and h are needed")))
    };
    let fields = [field("x")?, field("y")?, field("w")?, field("h")?];
    if fields[2] <= 0.0 || fields[3] <= 0.0 {
        return Err(Refusal::invalid("w and h are more than 0"));
    }
    Ok(fields)
}

/// Look at a picture
///
/// Upright and without metadata. With `size`, so many pixels wide and high: the crop, or the middle of the picture. Everybody who has the
/// id may, unless the operator says otherwise.
#[utoipa::path(get, path = "/api/dropbox/pictures/{PictureID}", tag = "Dropbox",
    params(("PictureID" = String, Path), ("size" = Option<u32>, Query)),
    responses((status = 200, description = "The picture", content_type = "image/*"), (status = 206), (status = 304),
        (status = "4XX", description = "Why not", content_type = "text/plain")))]
pub async fn show(State(service): State<Service>, path: PicturePath, request: Request) -> Result<Response> {
    let head = request.into_parts().0;
    let number = number(path)?;
    let size = size(&service, &head)?;
    let image = if service.settings.dropbox.pictures_for_everyone {
        tickets::find(&service.app, number).await?
    } else {
        let caller = Caller::read(&service, &head.headers, Access::Read).await?;
        tickets::find_own(&service.app, &caller.actor, number).await?
    };
    rendered(&service, &head, &image, size, outputs(&head.headers, service.settings.delivery.auto_avif), Audience::LinkHolders)
        .await
}

/// What is no number is no picture.
pub(super) fn number(path: PicturePath) -> Result<TicketNumber> {
    let Ok(Path(text)) = path else { return Err(Refusal::not_found()) };
    TicketNumber::parse(&text).map_err(|_| Refusal::not_found())
}

//! Pictures on their way out, at the size that was asked for.

use axum::http::request::Parts;
use axum::response::Response;
use imagewell_core::model::Image;
use imagewell_imaging::transform::{Fit, Outputs, Transform};

use super::error::{Refusal, Result};
use crate::delivery::{self, Asked, Audience};
use crate::serve::Service;

/// `size`, if it is given: so many pixels wide and high.
pub(super) fn size(service: &Service, head: &Parts) -> Result<Option<u32>> {
    let most = service.settings.dropbox.size_px_max;
    let query = form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes());
    let given = query.into_iter().find(|(name, _)| name == "size").map(|(_, value)| value.into_owned());
    let Some(text) = given else { return Ok(None) };
    let size = text.parse().ok().filter(|size| (1..=most).contains(size) && text.bytes().all(|byte| byte.is_ascii_digit()));
    size.map(Some).ok_or_else(|| Refusal::invalid(format!("size is a whole number of pixels from 1 to {most}")))
}

/// The picture, upright, cropped as its owner wants, in sRGB and without metadata.
pub(super) async fn rendered(
    service: &Service,
    head: &Parts,
    image: &Image,
    size: Option<u32>,
    outputs: Outputs,
    audience: Audience,
) -> Result<Response> {
    let transform = Transform { outputs, ..Transform::of(size.map_or(Fit::Original, Fit::square)) };
    let asked = Asked { method: &head.method, headers: &head.headers };
    let mut response = delivery::rendering(service, &asked, image, &transform, "picture", audience).await?;
    delivery::vary_by_accept(&mut response);
    Ok(response)
}

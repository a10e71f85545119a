//! Pictures on their way out, at the size that was asked for and in a format that the client reads.

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use imagewell_core::model::Image;
use imagewell_core::variant;
use imagewell_imaging::transform::{Fit, Outputs, Transform};

use super::error::{Refusal, Result};
use crate::delivery::{self, Asked, Audience, Representation};
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
    let fit = size.map_or(Fit::Original, Fit::square);
    let transform = Transform { crop: image.crop, fit, quality: None, outputs };
    let variant = variant::open_or_render(&service.app, image, &transform).await?;
    let representation = Representation {
        etag: format!("{}-{transform}", image.version.digest),
        modified: image.version.created.to_system_time(),
        content_type: variant.format.media_type().to_owned(),
        disposition: delivery::inline(&format!("picture.{}", variant.format.extension())),
        len: variant.bytes.len() as u64,
        audience,
    };
    let asked = Asked { method: &head.method, headers: &head.headers };
    let mut response = delivery::answer(service, &asked, &representation, async |range| {
        Ok(Body::from(match range {
            Some(range) => {
                let index = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
                variant.bytes.slice(index(range.start)..index(range.end))
            }
            None => variant.bytes.clone(),
        }))
    })
    .await?;
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// What the client reads (RFC 9110 §12.5.1). WebP must be named: clients that accept anything are often old ones.
pub(super) fn outputs(headers: &HeaderMap) -> Outputs {
    let ranges: Vec<String> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter(|range| !is_refused(range))
        .map(|range| range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
        .collect();
    let named = |name: &str| ranges.iter().any(|range| range == name);
    let any = named("*/*") || named("image/*");
    let outputs = Outputs { jpeg: any || named("image/jpeg"), png: any || named("image/png"), webp: named("image/webp") };
    // Somebody who asks for no image at all gets one all the same.
    if outputs.jpeg || outputs.png || outputs.webp { outputs } else { Outputs::CLASSIC }
}

/// Whether a media range has the weight 0.
fn is_refused(range: &str) -> bool {
    let weight = range.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix("q="));
    weight.and_then(|weight| weight.trim().parse::<f32>().ok()).is_some_and(|weight| weight <= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_gets_what_it_reads() {
        let read = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("header"));
            outputs(&headers)
        };
        let of = |jpeg, png, webp| Outputs { jpeg, png, webp };
        assert_eq!(outputs(&HeaderMap::new()), Outputs::CLASSIC);
        assert_eq!(read("*/*"), Outputs::CLASSIC);
        assert_eq!(read("image/avif,image/webp,image/apng,image/*,*/*;q=0.8"), of(true, true, true));
        assert_eq!(read("image/png"), Outputs::PNG);
        assert_eq!(read("image/webp;q=0, image/*"), Outputs::CLASSIC);
        assert_eq!(read("image/webp"), of(false, false, true));
        assert_eq!(read("text/html"), Outputs::CLASSIC);
    }
}

//! Renderings on their way out, in a format that the client reads.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use imagewell_core::model::Image;
use imagewell_core::{Error, variant};
use imagewell_imaging::transform::{Outputs, Transform};

use super::{Asked, Audience, Representation, answer, inline};
use crate::serve::Service;

/// Answers with a rendering, made now or kept: 200, 206, 304, 412 or 416. `stem` is what it is called when it is saved.
///
/// # Errors
/// [`Error::Invalid`] when the image can't be rendered, [`Error::Busy`] when too many renderings wait.
pub async fn rendering(
    service: &Service,
    asked: &Asked<'_>,
    image: &Image,
    transform: &Transform,
    stem: &str,
    audience: Audience,
) -> Result<Response, Error> {
    let transform = variant::of_image(image, transform);
    let variant = variant::open_or_render(&service.app, image, &transform).await?;
    let representation = Representation {
        etag: format!("{}-{transform}", image.version.digest),
        // Focal points, crops and presets change what is shown, and nothing says when. The ETag says all of it.
        modified: None,
        content_type: variant.format.media_type().to_owned(),
        disposition: inline(&format!("{stem}.{}", variant.format.extension())),
        len: variant.bytes.len() as u64,
        audience,
    };
    answer(service, asked, &representation, async |range| {
        Ok(Body::from(match range {
            Some(range) => variant.bytes.slice(to_usize(range.start)..to_usize(range.end)),
            None => variant.bytes.clone(),
        }))
    })
    .await
}

fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// Says that the answer depends on what the client reads.
pub fn vary_by_accept(response: &mut Response) {
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
}

/// What the client reads (RFC 9110 §12.5.1). WebP and AVIF must be named: clients that accept anything are often old ones. AVIF
/// only where it is wanted, because it is dear to make.
#[must_use]
pub fn outputs(headers: &HeaderMap, avif: bool) -> Outputs {
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
    let outputs = Outputs {
        jpeg: any || named("image/jpeg"),
        progressive: false,
        png: any || named("image/png"),
        webp: named("image/webp"),
        avif: avif && named("image/avif"),
        gif: any || named("image/gif"),
    };
    // Somebody who asks for no image at all gets one all the same.
    if outputs == Outputs::NONE { Outputs::CLASSIC } else { outputs }
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
            outputs(&headers, false)
        };
        let modern = Outputs { webp: true, ..Outputs::CLASSIC };
        assert_eq!(outputs(&HeaderMap::new(), true), Outputs::CLASSIC);
        assert_eq!(read("*/*"), Outputs::CLASSIC);
        assert_eq!(read("image/avif,image/webp,image/apng,image/*,*/*;q=0.8"), modern);
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, "image/avif,image/webp,image/*".parse().expect("header"));
        assert_eq!(outputs(&headers, true), Outputs { avif: true, ..modern });
        assert_eq!(read("image/png"), Outputs::PNG);
        assert_eq!(read("image/webp;q=0, image/*"), Outputs::CLASSIC);
        assert_eq!(read("image/webp"), Outputs::WEBP);
        assert_eq!(read("text/html"), Outputs::CLASSIC);
    }
}

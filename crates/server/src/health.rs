//! What operators and balancers ask.

use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use crate::api::problem::Problem;
use crate::auth::address::{ClientAddress, is_trusted};
use crate::serve::Service;

/// The process is alive
#[utoipa::path(get, path = "/healthz", tag = "Operation", responses((status = 200, description = "`ok`", content_type = "text/plain")))]
pub async fn alive() -> &'static str {
    "ok\n"
}

/// This process can work
///
/// Fails while draining after SIGTERM, and for good after a storage failure. Further lines say what an operator should look at, and
/// whether database or store do not answer: all nodes share those, so they make none of them unready. With `?deep` both are asked
/// at once, and it fails when one does not answer.
#[utoipa::path(get, path = "/readyz", tag = "Operation",
    responses((status = 200, description = "`ready`", content_type = "text/plain"), (status = 503, description = "Not ready")))]
pub async fn ready(State(service): State<Service>, RawQuery(query): RawQuery) -> Response {
    let deep = query.is_some_and(|query| query.split('&').any(|name| name.split('=').next() == Some("deep")));
    let ready = if deep { service.ready_with_all().await } else { service.ready() };
    match ready {
        Ok(()) => service.app.notices().iter().fold("ready\n".to_owned(), |said, notice| said + notice + "\n").into_response(),
        Err(error) => {
            tracing::warn!(?error, "not ready");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not ready").into_response()
        }
    }
}

/// Metrics in Prometheus' text format
///
/// For the addresses of the setting `server.metrics_allow` only.
#[utoipa::path(get, path = "/metrics", tag = "Operation",
    responses((status = 200, content_type = "text/plain"), (status = 404, description = "Not for this address")))]
pub async fn metrics(State(service): State<Service>, Extension(ClientAddress(address)): Extension<ClientAddress>) -> Response {
    if !is_trusted(address, &service.settings.server.metrics_allow) {
        return Problem::new(StatusCode::NOT_FOUND, "not found").into_response();
    }
    let mut response = service.metrics.render().into_response();
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

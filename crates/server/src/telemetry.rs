//! Logs, metrics and the request id that ties an answer to its log lines.

use std::io::IsTerminal as _;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing::Instrument as _;
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Settings};
use crate::serve::Service;

/// On every answer.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static CURRENT_REQUEST_ID: String;
}

/// The id of the request that this task answers; empty outside of one.
#[must_use]
pub fn request_id() -> String {
    CURRENT_REQUEST_ID.try_with(Clone::clone).unwrap_or_default()
}

/// Sends log lines to standard error. Called once.
pub fn init_logs(settings: &Settings) {
    let json = match settings.service.log_format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let filter = EnvFilter::new(&settings.service.log);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call, in tests, keeps the first subscriber.
    let _ = if json { builder.json().flatten_event(true).try_init() } else { builder.try_init() };
}

/// The process-wide recorder of metrics.
#[must_use]
pub fn metrics_handle() -> PrometheusHandle {
    static HANDLE: std::sync::OnceLock<PrometheusHandle> = std::sync::OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let builder = PrometheusBuilder::new()
                .set_buckets(&[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
                .unwrap_or_else(|error| unreachable!("buckets are not empty: {error}"));
            let recorder = builder.build_recorder();
            let handle = recorder.handle();
            // Only a recorder installed by someone else could stand in the way; then ours stays empty.
            let _ = metrics::set_global_recorder(recorder);
            handle
        })
        .clone()
}

/// Gives every request an id, one log line and its metrics.
pub async fn observe(State(service): State<Service>, matched: Option<MatchedPath>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = uuid::Uuid::now_v7().simple().to_string();
    let method = request.method().clone();
    let route = matched.map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let address = crate::auth::address::of(request.headers(), request.extensions(), &service.settings.server.trusted_proxies);
    request.extensions_mut().insert(crate::auth::address::ClientAddress(address));
    // The path is logged without its query, where tokens may stand.
    let span = tracing::info_span!("request", id, %method, path = request.uri().path(), %address);
    let mut response = CURRENT_REQUEST_ID.scope(id.clone(), next.run(request)).instrument(span.clone()).await;
    let status = response.status().as_u16();
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let seconds = started.elapsed().as_secs_f64();
    let labels = [("route", route), ("method", method_label(&method).to_owned()), ("status", status.to_string())];
    metrics::counter!("imagewell_http_requests_total", &labels).increment(1);
    metrics::histogram!("imagewell_http_request_seconds", &labels[..1]).record(seconds);
    span.in_scope(|| tracing::info!(status, milliseconds = seconds * 1000.0, "answered"));
    response
}

/// Clients can make up methods; metrics must not grow with them.
fn method_label(method: &Method) -> &str {
    match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH") => known,
        _ => "other",
    }
}

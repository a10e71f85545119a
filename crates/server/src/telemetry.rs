//! Logs, metrics and the request id that ties an answer to its log lines.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io::IsTerminal as _;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::response::Response;
use bytes::Bytes;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Format;
use uuid::Uuid;

use crate::auth::address::ClientAddress;
use crate::config::{LogFormat, Settings};
use crate::log_lines::{JsonLines, TextLines};

/// On every answer.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static CURRENT_REQUEST_ID: String;
}

/// The id of the request that this task answers; empty outside of one.
#[must_use]
pub fn request_id() -> String {
    with_request_id(str::to_owned).unwrap_or_default()
}

/// Does something with the id of the request that this task answers, if it answers one.
pub(crate) fn with_request_id<T>(work: impl FnOnce(&str) -> T) -> Option<T> {
    CURRENT_REQUEST_ID.try_with(|id| work(id)).ok()
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
    let _ = if json {
        builder.event_format(JsonLines).try_init()
    } else {
        builder.event_format(TextLines(Format::default())).try_init()
    };
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

/// Samples of histograms pile up until somebody takes them in; without a scraper nobody else does.
const METRICS_TENDED_EVERY: Duration = Duration::from_secs(1);

/// Keeps the memory of metrics from growing with the number of requests, for as long as the process lives.
pub async fn keep_metrics_small(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(METRICS_TENDED_EVERY).await;
        metrics.run_upkeep();
    }
}

/// Gives every request an id, one log line and its metrics.
pub async fn observe(matched: Option<&MatchedPath>, request: Request, next: impl AsyncFnOnce(Request) -> Response) -> Response {
    let started = Instant::now();
    let id = request_id_now();
    let method = request.method().clone();
    let address = ClientAddress::in_extensions(request.extensions());
    let uri = request.uri().clone();
    let answered = async {
        let response = next(request).await;
        let status = response.status().as_u16();
        let seconds = started.elapsed().as_secs_f64();
        count(matched.map_or("unmatched", MatchedPath::as_str), method_label(&method), status, seconds);
        let (method, path) = (method.as_str(), logged(uri.path()));
        tracing::info!(method, path = &*path, %address, status, milliseconds = seconds * 1000.0, "answered");
        response
    };
    // Whatever is logged meanwhile carries the id.
    let mut response = CURRENT_REQUEST_ID.scope(id.clone(), answered).await;
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(id)) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Whoever knows what follows this in a path sees the picture.
const PICTURES: &str = "/api/dropbox/pictures/";

/// The path as it is logged: without its query, which may hold tokens, and with a digest for a picture's number, which opens the
/// picture. The key of the digest is this process's own, so nobody finds the number by trying all of them.
fn logged(path: &str) -> Cow<'_, str> {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    match path.strip_prefix(PICTURES) {
        Some(number) if !number.is_empty() => format!("{PICTURES}~{:08x}", KEY.hash_one(number) as u32).into(),
        _ => path.into(),
    }
}

/// Sorts by time. It only tells requests apart, so it needs no bits from the operating system.
fn request_id_now() -> String {
    let milliseconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let milliseconds = u64::try_from(milliseconds).unwrap_or_default();
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    let id = uuid::Builder::from_unix_timestamp_millis(milliseconds, &random).into_uuid();
    id.simple().encode_lower(&mut Uuid::encode_buffer()).to_owned()
}

/// The metrics of one kind of answer. Finding them by their labels takes longer than counting.
struct Counted {
    method: &'static str,
    status: u16,
    requests: metrics::Counter,
    seconds: metrics::Histogram,
}

fn count(route: &str, method: &'static str, status: u16, seconds: f64) {
    thread_local! {
        static BY_ROUTE: RefCell<HashMap<String, Vec<Counted>>> = RefCell::default();
    }
    BY_ROUTE.with_borrow_mut(|by_route| {
        let kinds = match by_route.get_mut(route) {
            Some(kinds) => kinds,
            None => by_route.entry(route.to_owned()).or_default(),
        };
        let known = kinds.iter().position(|kind| (kind.method, kind.status) == (method, status));
        let known = known.unwrap_or_else(|| {
            let labels = [("route", route.to_owned()), ("method", method.to_owned()), ("status", status.to_string())];
            let requests = metrics::counter!("imagewell_http_requests_total", &labels);
            let seconds = metrics::histogram!("imagewell_http_request_seconds", &labels[..1]);
            kinds.push(Counted { method, status, requests, seconds });
            kinds.len() - 1
        });
        kinds[known].requests.increment(1);
        kinds[known].seconds.record(seconds);
    });
}

/// Clients can make up methods; metrics must not grow with them.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_picture_is_not_logged() {
        for path in ["/api/dropbox/pictures/6193872", "/api/dropbox/pictures/6193872/", "/api/dropbox/pictures/6193872/x"] {
            let line = logged(path);
            assert!(line.starts_with("/api/dropbox/pictures/~") && !line.contains("6193872"), "{line}");
            assert_eq!(line, logged(path), "requests for one picture can be told from others");
        }
        assert_ne!(logged("/api/dropbox/pictures/1"), logged("/api/dropbox/pictures/2"));
        for path in ["/api/dropbox/pictures", "/api/dropbox/pictures/", "/i/6193872/original"] {
            assert_eq!(logged(path), path);
        }
    }
}

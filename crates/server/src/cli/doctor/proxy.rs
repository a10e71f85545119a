//! What a proxy passes on, found out by sending a signed request through it.

use std::time::Duration;

use imagewell_core::model::{KeyPurpose, Timestamp};
use serde_json::Value;

use super::report::Report;
use crate::config::Settings;
use crate::proxy_probe::{HEADER, PATH, prove};
use crate::serve::Service;

const AREA: &str = "proxy";
/// For an answer, the largest body included.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// An address that nobody has (RFC 5737): a service that believes it believes anything.
const NOBODY: &str = "192.0.2.1";
/// Seconds that clocks may be apart; a proof is good for a minute.
const CLOCK_WARNED_AT: f64 = 5.0;

pub(super) async fn examine(service: &Service, url: &str, report: &mut Report) {
    let settings = &service.settings;
    let Ok(url) = reqwest::Url::parse(url) else {
        return report.fault(AREA, format!("--url {url} is no URL"), "give it as in --url https://images.example.com");
    };
    let largest = largest_upload(settings);
    let answer = match ask(service, &url, 0).await {
        Ok(answer) => answer,
        Err((text, remedy)) => return report.fault(AREA, text, remedy),
    };
    let before = report.count();
    hosts(&url, &answer, report);
    addresses(settings, &answer, report);
    clock(&answer, report);
    match ask(service, &url, largest).await {
        Ok(answer) if answer["bytes"] == largest => {}
        Ok(answer) => report.fault(
            AREA,
            format!("of a body of {largest} bytes {} arrive", answer["bytes"]),
            "raise the proxy's limit on bodies (nginx: client_max_body_size 0)",
        ),
        Err((text, _)) => report.fault(
            AREA,
            format!("a body of {largest} bytes, as the settings allow, does not pass: {text}"),
            "raise the proxy's limit on bodies (nginx: client_max_body_size 0) and its time limits",
        ),
    }
    if report.count() == before {
        report.ok(AREA, format!("{url} passes on Host, addresses and bodies of {largest} bytes"));
    }
}

/// The largest file that any API takes, by the settings.
fn largest_upload(settings: &Settings) -> u64 {
    let file_service = settings.file_service.upload_bytes_max;
    [settings.opsportal.upload_bytes_max, settings.opsportal.file_bytes_max, file_service, settings.dropbox.upload_bytes_max]
        .into_iter()
        .max()
        .unwrap_or_default()
}

/// Sends a body of so many bytes through the proxy. What arrived, or what went wrong and what to do.
async fn ask(service: &Service, url: &reqwest::Url, bytes: u64) -> Result<Value, (String, &'static str)> {
    let failed = |text: String| (text, "see that the proxy is reached from here, and reaches the service");
    let key = service.app.keys.current(KeyPurpose::Links).map_err(|error| failed(error.to_string()))?;
    let client = reqwest::Client::builder().timeout(WAIT_MAX).redirect(reqwest::redirect::Policy::none()).build();
    let client = client.map_err(|error| failed(error.to_string()))?;
    let target = url.join(PATH).map_err(|error| failed(error.to_string()))?;
    let body = vec![0_u8; usize::try_from(bytes).unwrap_or_default()];
    let request = client.post(target).header(HEADER, prove(&key)).header("x-forwarded-for", NOBODY).body(body);
    let answer = request.send().await.map_err(|error| failed(explained(&error)))?;
    match answer.status().as_u16() {
        200 => {
            let text = answer.bytes().await.map_err(|error| failed(explained(&error)))?;
            serde_json::from_slice(&text).map_err(|_| failed(format!("{url} answers something else than imagewell")))
        }
        301 | 302 | 307 | 308 => Err((format!("{url} leads elsewhere"), "give the address to which it leads as --url")),
        404 => Err((
            format!("{url} is not this deployment, or does not pass on {HEADER}"),
            "give the address of the service that uses this database, run this version of imagewell there, and set the clocks",
        )),
        413 => Err((format!("{url} answers 413"), "raise the proxy's limit on bodies")),
        status => Err(failed(format!("{url} answers {status}"))),
    }
}

fn explained(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn hosts(url: &reqwest::Url, answer: &Value, report: &mut Report) {
    let host = url.host_str().unwrap_or_default();
    let asked = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let arrived = answer["host"].as_str().unwrap_or_default();
    let public = answer["publicUrl"].as_str();
    let origin = url.origin().ascii_serialization();
    if arrived != asked && public.is_none() {
        report.fault(
            AREA,
            format!("Host arrives as {arrived:?} in the place of {asked:?}: browsers are refused, and links lead astray"),
            "pass Host on (nginx: proxy_set_header Host $http_host), and set public_url",
        );
    }
    if public.is_some_and(|public| public != origin) {
        report.warn(
            AREA,
            format!("public_url is {}, and this is {origin}", public.unwrap_or_default()),
            "set public_url to the address that browsers use",
        );
    }
    if url.scheme() == "https" && answer["https"] == false {
        report.fault(
            AREA,
            "the service does not know that it is reached through TLS: its cookies are not Secure, its links begin with http",
            format!("set public_url to {origin}"),
        );
    }
    if answer["forwardedProto"].as_str().is_some_and(|scheme| scheme != url.scheme()) {
        report.warn(
            AREA,
            "X-Forwarded-Proto says another scheme than was used",
            "correct it in the proxy; imagewell goes by public_url",
        );
    }
}

fn addresses(settings: &Settings, answer: &Value, report: &mut Report) {
    let counted = answer["address"].as_str().unwrap_or_default();
    let forwarded = answer["forwardedFor"].as_str().unwrap_or_default();
    let last = forwarded.rsplit(',').next().unwrap_or_default();
    if counted == NOBODY {
        report.fault(
            AREA,
            "the service believes whatever X-Forwarded-For a client sends: limits per address hold nobody",
            "let the proxy replace it (nginx: proxy_set_header X-Forwarded-For $remote_addr), and name only proxies in server.trusted_proxies",
        );
    } else if settings.server.trusted_proxies.is_empty() {
        report.warn(
            AREA,
            format!("no proxy is trusted: the service counts by who connects to it, here {counted}"),
            format!("if {counted} is a proxy, name it in server.trusted_proxies; if it is this machine, all is well"),
        );
    } else if forwarded == NOBODY {
        report.fault(
            AREA,
            "X-Forwarded-For is passed on as the client sends it: the service counts all clients as one, the proxy",
            "let the proxy replace it (nginx: proxy_set_header X-Forwarded-For $remote_addr)",
        );
    } else if !last.contains(counted) {
        report.fault(
            AREA,
            format!("{counted} is no trusted proxy: all clients behind it are counted as one"),
            "name it in server.trusted_proxies",
        );
    }
}

fn clock(answer: &Value, report: &mut Report) {
    let Some(theirs) = answer["microseconds"].as_i64() else { return };
    let apart = (theirs - Timestamp::now().0) as f64 / 1e6;
    if apart.abs() > CLOCK_WARNED_AT {
        report.warn(
            AREA,
            format!("the service's clock is {apart:.1} s ahead of this machine's"),
            "let both take the time from the same servers (chrony, systemd-timesyncd)",
        );
    }
}

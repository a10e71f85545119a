//! Named texts of a small body: a JSON object, an urlencoded form, or `multipart/form-data`. Clients
//! name the type of such bodies wrongly or not at all, so what begins like an object is one.

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use imagewell_core::Error;
use serde_json::Value;

use crate::config::Settings;
use crate::intake::{self, Intake};
use crate::multipart::{self, Multipart};

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Names and texts in their order; what is no text in JSON is left out.
///
/// # Errors
/// [`Error::Invalid`] for a body that is none of the three, [`Error::TooLarge`] past `bytes_max`, and what
/// the body's chunks say.
pub async fn read(headers: &HeaderMap, body: Body, settings: &Settings, bytes_max: u64) -> Result<Vec<(String, String)>, Error> {
    intake::check_declared_length(headers, bytes_max.saturating_add(1), 0)?;
    let intake = Intake::new(body, settings, bytes_max, bytes_max);
    if headers.get(CONTENT_TYPE).is_some_and(multipart::is_form) {
        return parts(Multipart::new(headers, intake.chunks(), settings)?).await;
    }
    let whole = intake.whole().await?;
    let text = whole.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&whole).trim_ascii();
    if text.starts_with(b"{") || is_json(headers) {
        return members(text);
    }
    Ok(form_urlencoded::parse(text).into_owned().collect())
}

/// The first text of a name that is not empty.
#[must_use]
pub fn find<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
}

/// The media type of a body, in lower case and without its parameters; empty where none is named.
#[must_use]
pub fn media_type(headers: &HeaderMap) -> String {
    let content_type = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = media_type(headers);
    media_type == "application/json" || media_type.ends_with("+json")
}

fn members(text: &[u8]) -> Result<Vec<(String, String)>, Error> {
    let object: serde_json::Map<String, Value> =
        serde_json::from_slice(text).map_err(|_| Error::invalid("the body is no JSON object"))?;
    let texts = object.into_iter().filter_map(|(name, value)| match value {
        Value::String(text) => Some((name, text)),
        _ => None,
    });
    Ok(texts.collect())
}

async fn parts(mut form: Multipart) -> Result<Vec<(String, String)>, Error> {
    let mut fields = Vec::new();
    while let Some(part) = form.next().await? {
        if part.file_name.is_some() || part.name.is_empty() {
            part.skip().await?;
        } else {
            fields.push((part.name.clone(), part.text().await?));
        }
    }
    Ok(fields)
}

//! The avatar of those who have none: initials on a colour, the same every time.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use imagewell_core::model::{Actor, Resource};
use maud::{PreEscaped, html};
use sha2::{Digest as _, Sha256};

use crate::delivery::{INERT_POLICY, set};

/// Pixels where no size is asked for.
const SIZE_PX: u32 = 128;

/// A drawing of so many pixels. The colour is told by the resource, so that neighbours differ and nobody changes.
pub(super) fn draw(actor: &Actor, resource: &Resource, size: Option<u32>) -> Response {
    let size = size.unwrap_or(SIZE_PX);
    let digest = Sha256::digest(format!("{}/{resource}", actor.org.0).as_bytes());
    let hue = (u32::from(digest[0]) << 8 | u32::from(digest[1])) % 360;
    // Dark enough for white letters to be read on, whatever the hue.
    let (upper, lower) = (format!("hsl({hue},48%,46%)"), format!("hsl({},52%,36%)", (hue + 24) % 360));
    let letters = initials(resource.id());
    let drawing = html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(size) height=(size) viewBox="0 0 100 100" role="img" aria-label=(letters) {
            defs {
                linearGradient id="ground" x1="0" y1="0" x2="0.6" y2="1" {
                    stop offset="0" stop-color=(upper) {}
                    stop offset="1" stop-color=(lower) {}
                }
            }
            rect width="100" height="100" fill="url(#ground)" {}
            text x="50" y="50" dy="0.36em" text-anchor="middle" fill="#fff" font-size="42" font-weight="600"
                font-family="system-ui, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif" { (letters) }
        }
    };
    let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{}", PreEscaped(drawing.into_string()).0);
    let mut response = text.into_response();
    set(&mut response, header::CONTENT_TYPE, "image/svg+xml");
    set(&mut response, header::CACHE_CONTROL, "private, no-cache");
    set(&mut response, header::CONTENT_SECURITY_POLICY, INERT_POLICY);
    response.headers_mut().insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("inline; filename=\"avatar.svg\""));
    response
}

/// The first letters of the first two words, in capitals: `ada.lovelace@example.com` → `AL`, `42` → `42`.
fn initials(id: &str) -> String {
    let name = id.split('@').next().unwrap_or(id);
    let words: Vec<&str> = name.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let letters: String = match words.as_slice() {
        [] => "?".to_owned(),
        [one] if one.chars().all(|character| character.is_ascii_digit()) => one.chars().take(2).collect(),
        [one] => one.chars().take(1).collect(),
        [first, second, ..] => first.chars().take(1).chain(second.chars().take(1)).collect(),
    };
    letters.to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initials_are_one_or_two_letters() {
        for (id, expected) in [
            ("ada", "A"),
            ("ada.lovelace@example.com", "AL"),
            ("grace-brewster-hopper", "GB"),
            ("42", "42"),
            ("1234", "12"),
            ("7-eleven", "7E"),
            ("...", "?"),
        ] {
            assert_eq!(initials(id), expected, "{id}");
        }
    }
}

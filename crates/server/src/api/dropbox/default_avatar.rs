//! The avatar of those who have none: initials on a colour, the same every time.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use imagewell_core::Error;
use imagewell_core::model::{Actor, Resource};
use imagewell_imaging::{Limits, svg};
use maud::{PreEscaped, html};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::error::Result;
use crate::delivery::{INERT_POLICY, set};

/// Pixels where no size is asked for.
const SIZE_PX: u32 = 128;

/// At once, each of up to 64 MB.
static DRAWINGS: Semaphore = Semaphore::const_new(2);

/// A PNG of so many pixels, or a drawing for those who ask for SVG by name: phones and mail programs show none.
pub(super) async fn answer(head: &Parts, actor: &Actor, resource: &Resource, size: Option<u32>) -> Result<Response> {
    let size = size.unwrap_or(SIZE_PX);
    let drawing = drawing(actor, resource, size);
    let mut response = if accepts_svg(&head.headers) {
        let mut response = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{drawing}").into_response();
        set(&mut response, header::CONTENT_TYPE, "image/svg+xml");
        set(&mut response, header::CONTENT_DISPOSITION, "inline; filename=\"avatar.svg\"");
        response
    } else {
        let mut response = png(drawing, size).await?.into_response();
        set(&mut response, header::CONTENT_TYPE, "image/png");
        set(&mut response, header::CONTENT_DISPOSITION, "inline; filename=\"avatar.png\"");
        response
    };
    set(&mut response, header::VARY, "Accept");
    set(&mut response, header::CACHE_CONTROL, "private, no-cache");
    set(&mut response, header::CONTENT_SECURITY_POLICY, INERT_POLICY);
    Ok(response)
}

fn accepts_svg(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(','));
    kinds.any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("image/svg+xml")))
}

/// It is our own drawing: no worker is needed.
async fn png(drawing: String, size: u32) -> Result<Vec<u8>> {
    let _turn = DRAWINGS.acquire().await.map_err(|error| Error::internal("drawing an avatar", &error))?;
    let drawn = tokio::task::spawn_blocking(move || svg::rasterise_to(drawing.as_bytes(), size as f32, &Limits::default()));
    let drawn = drawn.await.map_err(|error| Error::internal("drawing an avatar", &error))?;
    Ok(drawn.map_err(|error| Error::internal("drawing an avatar", &error))?)
}

/// The colour is told by the resource, so that neighbours differ and nobody changes.
fn drawing(actor: &Actor, resource: &Resource, size: u32) -> String {
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
            g fill="#fff" { (PreEscaped(figure(&letters))) }
        }
    };
    drawing.into_string()
}

/// The letters as outlines, which need no font, or a head and shoulders where one of them has none here.
fn figure(letters: &str) -> String {
    let Some(outlines) = letters.chars().map(|letter| OUTLINES.get(&letter)).collect::<Option<Vec<_>>>() else {
        return "<circle cx=\"50\" cy=\"38\" r=\"17\"/><path d=\"M16 92a34 31 0 0 1 68 0z\"/>".to_owned();
    };
    let width: f32 = outlines.iter().map(|(advance, _)| advance).sum();
    // Capitals are 0.729 em high; they stand in the middle, and two of the widest have room.
    let scale = 0.042_f32.min(74.0 / width);
    let mut left = 50.0 - width * scale / 2.0;
    let mut figure = String::new();
    for (advance, outline) in outlines {
        let baseline = 50.0 + 729.0 * scale / 2.0;
        figure.push_str(&format!("<path transform=\"translate({left:.2} {baseline:.2}) scale({scale:.4})\" d=\"{outline}\"/>"));
        left += advance * scale;
    }
    figure
}

/// Advance and outline of each capital and digit: Latin, Greek and Cyrillic.
static OUTLINES: LazyLock<HashMap<char, (f32, &str)>> = LazyLock::new(|| {
    let lines = include_str!("../../../assets/initials.txt").lines().filter(|line| !line.starts_with('#'));
    let outlines = lines.filter_map(|line| {
        let mut fields = line.splitn(3, ' ');
        Some((fields.next()?.chars().next()?, (fields.next()?.parse().ok()?, fields.next()?)))
    });
    outlines.collect()
});

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
    fn capitals_of_three_alphabets_have_outlines_and_others_a_silhouette() {
        for letters in ["A", "AL", "42", "\u{c9}", "\u{3a9}", "\u{416}\u{429}", "?"] {
            assert!(!figure(letters).contains("circle"), "{letters}");
        }
        for letters in ["\u{5d0}", "A\u{4e2d}"] {
            assert!(figure(letters).contains("circle"), "{letters}");
        }
        assert!(OUTLINES.len() > 250, "{}", OUTLINES.len());
    }

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

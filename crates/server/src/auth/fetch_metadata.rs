//! What the browser says about where a request comes from (`Sec-Fetch-*`, `Origin`), as a second wall beside CSRF tokens.

use std::sync::Once;

use axum::http::{HeaderMap, header};

use crate::config::{Domain, ResourcePolicy, Settings};

/// Whether a request that changes something may come from where it comes from. Without any of the headers the caller is no
/// current browser, and the CSRF token alone decides.
#[must_use]
pub fn may_change(headers: &HeaderMap, settings: &Settings) -> bool {
    let origin = text(headers, "origin");
    if origin.is_some_and(|origin| is_allow_listed(origin, settings)) {
        return true;
    }
    match (text(headers, "sec-fetch-site"), origin) {
        (Some("same-origin" | "none"), _) => true,
        (Some(_), _) => false,
        (None, Some(origin)) => is_own(origin, headers, settings),
        (None, None) => true,
    }
}

/// As [`may_change`], where pages of hosts below `domain` are the operator's as well.
#[must_use]
pub fn may_change_within(headers: &HeaderMap, settings: &Settings, domain: Option<&Domain>) -> bool {
    let host = text(headers, "origin").and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    let host = host.map(|host| host.rsplit_once(':').map_or(host, |(host, _)| host));
    may_change(headers, settings) || domain.zip(host).is_some_and(|(domain, host)| domain.covers(host))
}

/// Whether an image may be read from where the request comes from: other sites' pages may link to it, but not embed it,
/// unless the resource policy says so.
#[must_use]
pub fn may_embed(headers: &HeaderMap, settings: &Settings) -> bool {
    let policy = settings.delivery.cross_origin_resource_policy;
    match (text(headers, "sec-fetch-site"), policy) {
        (None | Some("same-origin" | "none"), _) | (_, ResourcePolicy::CrossOrigin) => true,
        (Some("same-site"), ResourcePolicy::SameSite) => true,
        _ if text(headers, "sec-fetch-mode") == Some("navigate") => text(headers, "sec-fetch-dest") == Some("document"),
        _ => text(headers, "origin").is_some_and(|origin| is_allow_listed(origin, settings)),
    }
}

/// Why a request is refused that [`may_change`] does not let through. The first time it is logged, too: where the service does not
/// see the address that browsers use, every change is refused, and only its operator can mend that.
#[must_use]
pub fn foreign_origin(headers: &HeaderMap, settings: &Settings) -> String {
    static LOGGED: Once = Once::new();
    let origin = text(headers, "origin").unwrap_or("another site");
    let own = own_origin(headers, settings).unwrap_or_else(|| "an address without a host".into());
    LOGGED.call_once(|| {
        tracing::warn!(origin, own, "a change was refused: the page is none of this service's; see service.public_url");
    });
    format!(
        "Pages of {origin} can't do this: this service is {own}. Where that is wrong, its operator sets service.public_url; \
         other portals are listed in server.cors_origins."
    )
}

/// Whether the operator has named this origin.
#[must_use]
pub fn is_allow_listed(origin: &str, settings: &Settings) -> bool {
    settings.server.cors_origins.iter().any(|allowed| allowed.0 == origin)
}

fn is_own(origin: &str, headers: &HeaderMap, settings: &Settings) -> bool {
    own_origin(headers, settings).is_some_and(|own| own == origin)
}

fn own_origin(headers: &HeaderMap, settings: &Settings) -> Option<String> {
    if let Some(public) = &settings.service.public_url {
        return Some(public.0.clone());
    }
    let host = text(headers, header::HOST.as_str())?;
    Some(format!("{}://{host}", if settings.is_https() { "https" } else { "http" }))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("unreadable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().expect("name"), value.parse().expect("value"))).collect()
    }

    /// Row A2: what the browser says of the site × what it says of the origin.
    #[test]
    fn changes_come_from_our_own_pages_or_from_no_browser() {
        let mut settings = Settings::default();
        settings.set("server.cors_origins", "https://portal.example.com").expect("known").expect("valid");
        let sites = [None, Some("same-origin"), Some("same-site"), Some("cross-site"), Some("none"), Some("nonsense")];
        let origins =
            [None, Some("http://well.test"), Some("https://portal.example.com"), Some("null"), Some("http://evil.test")];
        for site in sites {
            for origin in origins {
                let mut pairs = vec![("host", "well.test")];
                pairs.extend(site.map(|site| ("sec-fetch-site", site)));
                pairs.extend(origin.map(|origin| ("origin", origin)));
                let expected = matches!(
                    (site, origin),
                    (_, Some("https://portal.example.com"))
                        | (Some("same-origin" | "none"), _)
                        | (None, None | Some("http://well.test"))
                );
                assert_eq!(may_change(&headers(&pairs), &settings), expected, "{site:?} {origin:?}");
            }
        }
    }

    #[test]
    fn pages_below_a_domain_that_the_operator_has_named_are_ours() {
        let (settings, domain) = (Settings::default(), Domain("portal.test".into()));
        let cases = [
            (Some(&domain), "http://www.portal.test:8080", true),
            (Some(&domain), "https://portal.test", true),
            (Some(&domain), "http://evilportal.test", false),
            (Some(&domain), "http://portal.test.evil.test", false),
            (Some(&domain), "null", false),
            (None, "http://www.portal.test:8080", false),
        ];
        for (domain, origin, expected) in cases {
            let headers = headers(&[("host", "images.portal.test"), ("sec-fetch-site", "same-site"), ("origin", origin)]);
            assert_eq!(may_change_within(&headers, &settings, domain), expected, "{domain:?} {origin}");
        }
    }

    /// Row H3.
    #[test]
    fn other_sites_may_link_to_an_image_but_not_embed_it() {
        let settings = Settings::default();
        let cases = [
            (vec![], true),
            (vec![("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")], true),
            (vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")], false),
            (vec![("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")], false),
            (vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")], true),
            (vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")], false),
            (vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors"), ("origin", "https://evil.test")], false),
        ];
        for (pairs, expected) in cases {
            assert_eq!(may_embed(&headers(&pairs), &settings), expected, "{pairs:?}");
        }
    }
}

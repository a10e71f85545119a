//! Paths as clients write them.

use axum::http::Uri;
use axum::http::uri::PathAndQuery;

/// The same address without doubled slashes and without one at its end, which base addresses that end in a slash bring about; none
/// when there is nothing to change. Escaped slashes stand in names and stay.
pub(crate) fn tidied(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    if !path.contains("//") && (path.len() == 1 || !path.ends_with('/')) {
        return None;
    }
    let mut tidy = String::with_capacity(path.len());
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        tidy.push('/');
        tidy.push_str(segment);
    }
    if tidy.is_empty() {
        tidy.push('/');
    }
    if let Some(query) = uri.query() {
        tidy.push('?');
        tidy.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(tidy).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_that_mean_nothing_go() {
        let cases = [
            ("/", None),
            ("/a/b", None),
            ("/a/b?c=//&d=/", None),
            ("/a%2F/b", None),
            ("/a/", Some("/a")),
            ("//a///b//", Some("/a/b")),
            ("//", Some("/")),
            ("/a//b/?c=//", Some("/a/b?c=//")),
            ("http://well.test//a/", Some("http://well.test/a")),
        ];
        for (address, expected) in cases {
            let tidy = tidied(&address.parse().expect("address")).map(|uri| uri.to_string());
            assert_eq!(tidy.as_deref(), expected, "{address}");
        }
    }
}

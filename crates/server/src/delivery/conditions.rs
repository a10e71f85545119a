use std::ops::Range;
use std::str::FromStr as _;

use axum::http::{HeaderName, Method, header};
use headers::{ETag, HeaderMapExt as _, IfMatch, IfModifiedSince, IfNoneMatch, IfRange, IfUnmodifiedSince};
use http_range_header::{EndPosition, StartPosition, SyntacticallyCorrectRange, parse_range_header};

use super::{Asked, Representation};

/// What a request's conditions and ranges come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Whole,
    Part(Range<u64>),
    NotModified,
    PreconditionFailed,
    RangeNotSatisfiable,
}

/// Without any of these all of it is wanted.
const CONDITIONS: [HeaderName; 6] = [
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
    header::RANGE,
];

/// Follows the order of RFC 9110 §13.2.2. A request for several ranges gets the whole, as §14.2 allows.
pub(super) fn judge(asked: &Asked<'_>, what: &Representation) -> Verdict {
    let headers = asked.headers;
    if !CONDITIONS.iter().any(|name| headers.contains_key(name)) {
        return Verdict::Whole;
    }
    let Ok(etag) = ETag::from_str(&format!("\"{}\"", what.etag)) else { return Verdict::Whole };
    if let Some(condition) = headers.typed_get::<IfMatch>() {
        if !condition.precondition_passes(&etag) {
            return Verdict::PreconditionFailed;
        }
    } else if let (Some(condition), Some(modified)) = (headers.typed_get::<IfUnmodifiedSince>(), what.modified)
        && !condition.precondition_passes(modified)
    {
        return Verdict::PreconditionFailed;
    }
    if let Some(condition) = headers.typed_get::<IfNoneMatch>() {
        if !condition.precondition_passes(&etag) {
            return Verdict::NotModified;
        }
    } else if let (Some(condition), Some(modified)) = (headers.typed_get::<IfModifiedSince>(), what.modified)
        && !condition.is_modified(modified)
    {
        return Verdict::NotModified;
    }
    if asked.method != Method::GET {
        return Verdict::Whole;
    }
    // Two versions may have come within a second, so no date is strong (§13.1.5): whoever has one gets the whole.
    if let Some(condition) = headers.typed_get::<IfRange>()
        && condition.is_modified(Some(&etag), None)
    {
        return Verdict::Whole;
    }
    match headers.get(header::RANGE).and_then(|value| value.to_str().ok()).map(parse_range_header) {
        Some(Ok(asked)) => part(&asked.ranges, what.len),
        // A unit that we don't know, or no range at all: §14.2 says to go on as if it weren't there.
        Some(Err(_)) | None => Verdict::Whole,
    }
}

fn part(ranges: &[SyntacticallyCorrectRange], len: u64) -> Verdict {
    let [range] = ranges else { return Verdict::Whole };
    let start = match range.start {
        StartPosition::Index(start) => start,
        StartPosition::FromLast(count) => len.saturating_sub(count),
    };
    let end = match range.end {
        EndPosition::Index(last) if last < start => return Verdict::Whole,
        EndPosition::Index(last) => last.saturating_add(1).min(len),
        EndPosition::LastByte => len,
    };
    if start < end { Verdict::Part(start..end) } else { Verdict::RangeNotSatisfiable }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use axum::http::{HeaderMap, HeaderValue};

    use super::*;

    fn judged(method: &Method, pairs: &[(&'static str, &str)]) -> Verdict {
        let modified: SystemTime = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let what = Representation {
            etag: "abc".into(),
            modified: Some(modified),
            content_type: "image/png".into(),
            disposition: HeaderValue::from_static("inline"),
            len: 100,
            audience: crate::delivery::Audience::Members,
        };
        let headers: HeaderMap =
            pairs.iter().map(|(name, value)| (name.parse().expect("name"), value.parse().expect("value"))).collect();
        judge(&Asked { method, headers: &headers }, &what)
    }

    /// Row P7. The date is that of RFC 9110's examples.
    #[test]
    fn conditions_and_ranges_are_judged_as_the_rfc_says() {
        const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
        let cases: &[(&[(&'static str, &str)], Verdict)] = &[
            (&[], Verdict::Whole),
            (&[("if-none-match", "\"abc\"")], Verdict::NotModified),
            (&[("if-none-match", "W/\"abc\"")], Verdict::NotModified),
            (&[("if-none-match", "\"x\", \"abc\"")], Verdict::NotModified),
            (&[("if-none-match", "*")], Verdict::NotModified),
            (&[("if-none-match", "\"x\"")], Verdict::Whole),
            (&[("if-none-match", "\"x\""), ("if-modified-since", SAME)], Verdict::Whole),
            (&[("if-modified-since", SAME)], Verdict::NotModified),
            (&[("if-modified-since", EARLIER)], Verdict::Whole),
            (&[("if-match", "\"abc\"")], Verdict::Whole),
            (&[("if-match", "\"x\"")], Verdict::PreconditionFailed),
            (&[("if-match", "W/\"abc\"")], Verdict::PreconditionFailed),
            (&[("if-unmodified-since", EARLIER)], Verdict::PreconditionFailed),
            (&[("if-unmodified-since", SAME)], Verdict::Whole),
            (&[("range", "bytes=0-0")], Verdict::Part(0..1)),
            (&[("range", "bytes=10-")], Verdict::Part(10..100)),
            (&[("range", "bytes=-10")], Verdict::Part(90..100)),
            (&[("range", "bytes=-1000")], Verdict::Part(0..100)),
            (&[("range", "bytes=90-1000")], Verdict::Part(90..100)),
            (&[("range", "bytes=100-")], Verdict::RangeNotSatisfiable),
            (&[("range", "bytes=-0")], Verdict::Whole),
            (&[("range", "bytes=0-1,5-6")], Verdict::Whole),
            (&[("range", "lines=0-1")], Verdict::Whole),
            (&[("range", "bytes=0-1"), ("if-range", "\"abc\"")], Verdict::Part(0..2)),
            (&[("range", "bytes=0-1"), ("if-range", "\"x\"")], Verdict::Whole),
            (&[("range", "bytes=0-1"), ("if-range", SAME)], Verdict::Whole),
            (&[("range", "bytes=0-1"), ("if-range", "W/\"abc\"")], Verdict::Whole),
            (&[("range", "bytes=0-1"), ("if-none-match", "\"abc\"")], Verdict::NotModified),
        ];
        for (pairs, expected) in cases {
            assert_eq!(judged(&Method::GET, pairs), *expected, "{pairs:?}");
        }
        assert_eq!(judged(&Method::HEAD, &[("range", "bytes=0-0")]), Verdict::Whole, "a range means nothing to HEAD");
    }

    /// CVE-2026-33658: many ranges must cost nothing.
    #[test]
    fn ten_thousand_ranges_are_answered_with_the_whole() {
        let many = format!("bytes={}", (0..10_000).map(|n| format!("{}-{}", n % 50, n % 50 + 1)).collect::<Vec<_>>().join(","));
        assert_eq!(judged(&Method::GET, &[("range", &many)]), Verdict::Whole);
    }
}

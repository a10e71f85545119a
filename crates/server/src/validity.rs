//! How long an X.509 certificate is valid (RFC 5280 §4.1.2.5). Of its DER only the way to that is
//! walked: libraries that read all of a certificate are larger than what is needed of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tags of DER (X.690 §8.1.2) on the way.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// From when until when a certificate is valid, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: i64,
    /// The last second.
    pub not_after: i64,
}

impl Validity {
    /// None when the certificate is not one.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (certificate, _) = inside(certificate, SEQUENCE)?;
        let (to_be_signed, _) = inside(certificate, SEQUENCE)?;
        // The version may be left out; then come serial number, algorithm and issuer.
        let mut rest = inside(to_be_signed, VERSION).map_or(to_be_signed, |(_, rest)| rest);
        for _ in 0..3 {
            rest = element(rest)?.2;
        }
        let (times, _) = inside(rest, SEQUENCE)?;
        let (tag, not_before, rest) = element(times)?;
        let not_before = seconds(tag, not_before)?;
        let (tag, not_after, _) = element(rest)?;
        Some(Self { not_before, not_after: seconds(tag, not_after)? })
    }

    /// How long it is valid from now on; nothing when it has ended.
    #[must_use]
    pub fn left(&self, now: SystemTime) -> Duration {
        Duration::from_secs(u64::try_from(self.not_after.saturating_sub(since_1970(now))).unwrap_or(0))
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self, now: SystemTime) -> bool {
        self.not_before <= since_1970(now)
    }

    /// The end, for people.
    #[must_use]
    pub fn end_text(&self) -> String {
        jiff::Timestamp::from_second(self.not_after).map_or_else(|_| self.not_after.to_string(), |end| end.to_string())
    }
}

fn since_1970(now: SystemTime) -> i64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// The first element: its tag, what is in it, and what comes after it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7F => (usize::from(*first), rest),
        // So many bytes of length, most significant first.
        0x81..=0x84 => {
            let (len, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((*tag, content, rest))
}

/// What is in the first element, if it has this tag, and what comes after it.
fn inside(bytes: &[u8], expected: u8) -> Option<(&[u8], &[u8])> {
    element(bytes).filter(|(tag, ..)| *tag == expected).map(|(_, content, rest)| (content, rest))
}

/// `YYMMDDHHMMSSZ`, of 1950 to 2049, or `YYYYMMDDHHMMSSZ`.
fn seconds(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: i16 = text[..2].parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let two = |at: usize| rest[at..at + 2].parse::<i8>().ok();
    let time = jiff::civil::DateTime::new(year, two(0)?, two(2)?, two(4)?, two(6)?, two(8)?, 0).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_both_forms() {
        for (tag, text, expected) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "261126101112Z", Some(1_795_687_872)),
            (GENERALIZED_TIME, "20501231235959Z", Some(2_556_143_999)),
            (UTC_TIME, "20501231235959Z", None),
            (GENERALIZED_TIME, "20501331235959Z", None),
            (GENERALIZED_TIME, "2050123123595+Z", None),
            (UTC_TIME, "7001010000Z", None),
            (SEQUENCE, "700101000000Z", None),
        ] {
            assert_eq!(seconds(tag, text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn what_is_cut_off_or_no_certificate_says_nothing() {
        let validity = [&[SEQUENCE, 30, UTC_TIME, 13][..], b"700101000000Z", &[UTC_TIME, 13], b"261126101112Z"].concat();
        let small = [&[SEQUENCE, 0x81, 43, SEQUENCE, 41, VERSION, 1, 2, 2, 0, SEQUENCE, 0, SEQUENCE, 0][..], &validity].concat();
        let read = Validity::of(&small).expect("it is as long as it says");
        assert_eq!(read, Validity { not_before: 0, not_after: 1_795_687_872 });
        let noon = UNIX_EPOCH + Duration::from_secs(1_795_687_872 - 60);
        assert_eq!((read.left(noon), read.has_begun(noon)), (Duration::from_secs(60), true));
        assert_eq!(read.left(noon + Duration::from_secs(61)), Duration::ZERO);
        for len in 0..small.len() {
            assert_eq!(Validity::of(&small[..len]), None, "cut off after {len}");
        }
    }
}

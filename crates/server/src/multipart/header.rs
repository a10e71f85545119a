//! The two headers of forms, read as tolerantly as browsers and Node's servers read them: what is in
//! the field was not made by the grammar of RFC 9110 alone.

use axum::http::HeaderValue;
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use percent_encoding::percent_decode_str;

/// Bytes of the longest boundary (RFC 2046 §5.1.1).
const BOUNDARY_BYTES_MAX: usize = 70;

/// A part's `Content-Disposition` (RFC 7578 §4.2).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Disposition {
    /// The part's name; empty when it has none.
    pub(super) name: String,
    /// The name of the file; none for text. Empty for a file input that was left empty.
    pub(super) file_name: Option<String>,
}

impl Disposition {
    /// Reads it. `filename*` (RFC 8187) outweighs `filename`, which old clients do not understand.
    pub(super) fn of(value: Option<&HeaderValue>) -> Self {
        let mut found = Self::default();
        let mut extended = None;
        for (name, value) in parameters(value.map(HeaderValue::as_bytes).unwrap_or_default()) {
            match name.to_ascii_lowercase().as_slice() {
                b"name" => found.name = text(&value),
                b"filename" => found.file_name = Some(text(&value)),
                b"filename*" => extended = extended_text(&value),
                _ => {}
            }
        }
        found.file_name = extended.or(found.file_name);
        found
    }
}

/// The boundary that a `Content-Type` names, quoted or not; none where it names none that can be used.
pub(super) fn boundary(content_type: &HeaderValue) -> Option<String> {
    let found = parameters(content_type.as_bytes()).find(|(name, _)| name.eq_ignore_ascii_case(b"boundary"))?.1;
    // Clients send characters that RFC 2046 does not list, and other servers take them.
    let is_usable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    let fits = (1..=BOUNDARY_BYTES_MAX).contains(&found.len()) && found.iter().all(is_usable) && !found.ends_with(b" ");
    String::from_utf8(found).ok().filter(|_| fits)
}

/// The encoding that a part's `Content-Type` names; UTF-8 where it names none that is known.
pub(super) fn charset(content_type: Option<&HeaderValue>) -> &'static Encoding {
    let mut all = parameters(content_type.map(HeaderValue::as_bytes).unwrap_or_default());
    let named = all.find(|(name, _)| name.eq_ignore_ascii_case(b"charset"));
    named.and_then(|(_, label)| Encoding::for_label(&label)).unwrap_or(UTF_8)
}

/// The parameters behind a header's first value.
fn parameters(header: &[u8]) -> impl Iterator<Item = (&[u8], Vec<u8>)> {
    let mut rest = header.iter().position(|byte| *byte == b';').map_or(&[][..], |at| &header[at..]);
    std::iter::from_fn(move || {
        loop {
            rest = trimmed(rest.strip_prefix(b";")?);
            let name_ends = rest.iter().position(|byte| matches!(byte, b'=' | b';')).unwrap_or(rest.len());
            let (name, behind) = rest.split_at(name_ends);
            rest = behind;
            if let Some(value) = rest.strip_prefix(b"=") {
                let (value, behind) = read_value(trimmed(value));
                rest = behind;
                return Some((name.trim_ascii_end(), value));
            }
        }
    })
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii_start()
}

/// A quoted or bare value, and what stands behind it from the next semicolon on.
fn read_value(bytes: &[u8]) -> (Vec<u8>, &[u8]) {
    let Some(quoted) = bytes.strip_prefix(b"\"") else {
        let end = bytes.iter().position(|byte| *byte == b';').unwrap_or(bytes.len());
        return (bytes[..end].trim_ascii_end().to_vec(), &bytes[end..]);
    };
    let mut value = Vec::with_capacity(quoted.len());
    let mut at = 0;
    while let Some(byte) = quoted.get(at) {
        match byte {
            b'"' => break,
            // Browsers do not escape backslashes, and names may end in one.
            b'\\' if quoted.get(at + 1) == Some(&b'"') && !ends_value(&quoted[at + 2..]) => {
                value.push(b'"');
                at += 1;
            }
            _ => value.push(*byte),
        }
        at += 1;
    }
    let behind = &quoted[at..];
    let next = behind.iter().position(|byte| *byte == b';').unwrap_or(behind.len());
    (value, &behind[next..])
}

/// Whether a quote in front of this is the closing one.
fn ends_value(behind: &[u8]) -> bool {
    matches!(trimmed(behind).first(), None | Some(b';'))
}

/// UTF-8, or what clients without it send. Browsers escape three characters (the HTML standard's
/// "multipart/form-data encoding algorithm"), and a percent sign by itself stays one.
fn text(bytes: &[u8]) -> String {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned(),
    };
    text.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n")
}

/// `UTF-8''na%C3%AFve.jpg`.
fn extended_text(bytes: &[u8]) -> Option<String> {
    let mut fields = std::str::from_utf8(bytes).ok()?.splitn(3, '\'');
    let (charset, _language, encoded) = (fields.next()?, fields.next()?, fields.next()?);
    let bytes: Vec<u8> = percent_decode_str(encoded).collect();
    let (text, had_errors) = Encoding::for_label(charset.as_bytes())?.decode_without_bom_handling(&bytes);
    (!had_errors).then(|| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disposition(header: &[u8]) -> (String, Option<String>) {
        let value = HeaderValue::from_bytes(header).expect("header");
        let found = Disposition::of(Some(&value));
        (found.name, found.file_name)
    }

    #[test]
    fn names_are_read_as_clients_write_them() {
        let cases: [(&[u8], &str, Option<&str>); 18] = [
            (b"form-data; name=\"image\"; filename=\"a.png\"", "image", Some("a.png")),
            (b"form-data; name=\"image\"", "image", None),
            (b"form-data;name=image;filename=a.png", "image", Some("a.png")),
            (b"form-data; filename=\"a.png\"; name=\"image\"", "image", Some("a.png")),
            (b"Form-Data; NAME=\"image\"; FileName=\"a.png\"", "image", Some("a.png")),
            (b"form-data; name = \"image\" ; filename = \"a.png\" ", "image", Some("a.png")),
            (b"form-data; filename*=UTF-8''na%C3%AFve.jpg; name=\"image\"", "image", Some("na\u{ef}ve.jpg")),
            (b"form-data; filename*=UTF-8''b.jpg; name=\"image\"; filename=\"a.jpg\"", "image", Some("b.jpg")),
            (b"form-data; name=\"image\"; filename=\"a.jpg\"; filename*=nonsense", "image", Some("a.jpg")),
            (b"form-data; name=\"image\"; filename*=iso-8859-1'de'M%F6bel.jpg", "image", Some("M\u{f6}bel.jpg")),
            (b"form-data; name=\"image\"; filename=\"M\xF6bel.jpg\"", "image", Some("M\u{f6}bel.jpg")),
            (b"form-data; name=\"image\"; filename=\"C:\\photos\\\"", "image", Some("C:\\photos\\")),
            (b"form-data; name=\"image\"; filename=\"a\\\"b.jpg\"", "image", Some("a\"b.jpg")),
            (b"form-data; name=\"image\"; filename=\"a%22b%0D%0A50%.jpg\"", "image", Some("a\"b\r\n50%.jpg")),
            (b"form-data; name=\"image\"; filename=\"a;b=c.jpg\"; x=y", "image", Some("a;b=c.jpg")),
            (b"form-data; name=\"image\"; filename=\"\"", "image", Some("")),
            (b"form-data; name=\"image\"; filename=\"never closed", "image", Some("never closed")),
            (b"form-data; ; =; name", "", None),
        ];
        for (header, name, file_name) in cases {
            let expected = (name.to_owned(), file_name.map(str::to_owned));
            assert_eq!(disposition(header), expected, "{}", String::from_utf8_lossy(header));
        }
        assert_eq!(Disposition::of(None), Disposition::default());
    }

    #[test]
    fn boundaries_come_as_they_come() {
        let cases = [
            ("multipart/form-data; boundary=abc", Some("abc")),
            ("multipart/form-data; boundary=\"a b\"; charset=utf-8", Some("a b")),
            ("Multipart/Form-Data; charset=utf-8; Boundary=abc", Some("abc")),
            ("multipart/form-data; boundary=*****", Some("*****")),
            ("multipart/form-data; boundary=----=_Part_0_1.2", Some("----=_Part_0_1.2")),
            ("multipart/form-data; boundary=a/b:c?d=e", Some("a/b:c?d=e")),
            ("multipart/form-data; boundary=abc ", Some("abc")),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
            ("multipart/form-data; boundary=\"\"", None),
            ("multipart/form-data; boundary=\"a \"", None),
        ];
        for (header, expected) in cases {
            let value = HeaderValue::from_static(header);
            assert_eq!(boundary(&value).as_deref(), expected, "{header}");
        }
        for (length, fits) in [(70, true), (71, false)] {
            let header = format!("multipart/form-data; boundary={}", "b".repeat(length));
            let value = HeaderValue::try_from(header).expect("header");
            assert_eq!(boundary(&value).is_some(), fits, "{length}");
        }
    }

    #[test]
    fn text_is_in_the_encoding_that_it_says() {
        let named = |header| charset(Some(&HeaderValue::from_static(header))).name();
        assert_eq!(named("text/plain; charset=ISO-8859-1"), "windows-1252");
        assert_eq!(named("text/plain; charset=\"gbk\""), "GBK");
        assert_eq!(named("text/plain; charset=nonsense"), "UTF-8");
        assert_eq!(named("text/plain"), "UTF-8");
        assert_eq!(charset(None).name(), "UTF-8");
    }
}

use axum::http::HeaderValue;
use imagewell_core::model::is_bidirectional;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What RFC 8187 lets stand unescaped in an extended value.
const ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Longest name that is kept, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Shown in the page, saved under this name (RFC 6266).
#[must_use]
pub fn inline(name: &str) -> HeaderValue {
    disposition("inline", name)
}

/// Always saved, under this name.
#[must_use]
pub fn attachment(name: &str) -> HeaderValue {
    disposition("attachment", name)
}

fn disposition(kind: &'static str, name: &str) -> HeaderValue {
    let mut text = String::with_capacity(name.len() + 32);
    text.extend([kind, "; filename=\""]);
    if name.chars().all(is_plain) {
        text.extend([name, "\""]);
    } else {
        text.extend(name.chars().map(|character| if is_plain(character) { character } else { '_' }));
        text.push_str("\"; filename*=UTF-8''");
        text.extend(utf8_percent_encode(name, ATTR_CHAR));
    }
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(kind))
}

/// Stands in a quoted string without escaping and means nothing to any file system.
fn is_plain(character: char) -> bool {
    let is_mark = |byte: u8| b" !#$&'()+,-.;=@[]^_`{}~".contains(&byte);
    character.is_ascii_alphanumeric() || u8::try_from(character).is_ok_and(is_mark)
}

/// A client's name for a file, made harmless: the last path segment, without control and bidirectional characters, cut to 255
/// bytes at a character. None when nothing is left.
#[must_use]
pub fn clean_file_name(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut clean: String = last.chars().filter(|character| !character.is_control() && !is_bidirectional(*character)).collect();
    clean = clean.trim().trim_start_matches('.').to_owned();
    while clean.len() > NAME_BYTES_MAX {
        clean.pop();
    }
    (!clean.is_empty()).then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows F13 and F14.
    #[test]
    fn names_are_made_harmless() {
        let long = "ü".repeat(200);
        let cases = [
            ("report.pdf", Some("report.pdf")),
            ("../../etc/passwd", Some("passwd")),
            ("C:\\temp\\a.txt", Some("a.txt")),
            ("a\r\nSet-Cookie: x=y\0.txt", Some("aSet-Cookie: x=y.txt")),
            ("\u{202E}gpj.exe", Some("gpj.exe")),
            (".htaccess", Some("htaccess")),
            ("..", None),
            ("", None),
            ("\u{0}", None),
        ];
        for (name, expected) in cases {
            assert_eq!(clean_file_name(name).as_deref(), expected, "{name:?}");
        }
        assert_eq!(clean_file_name(&long).expect("kept").len(), 254);
    }

    #[test]
    fn the_header_carries_any_name() {
        assert_eq!(attachment("a b.txt"), "attachment; filename=\"a b.txt\"");
        assert_eq!(attachment("naïve\".txt"), "attachment; filename=\"na_ve_.txt\"; filename*=UTF-8''na%C3%AFve%22.txt");
        assert_eq!(inline("a.png"), "inline; filename=\"a.png\"");
    }
}

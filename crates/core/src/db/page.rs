//! Many rows in one statement: their keys and numbers as one JSON text, which both databases take apart themselves.

use std::fmt::Write as _;

/// Rows that one statement changes at most: a transaction of one page holds no row for long.
pub(super) const ROWS_MAX: usize = 512;

/// An object of numbers, as in `{"a":1}`. The order stays.
pub(super) fn object<'k>(rows: impl IntoIterator<Item = (&'k str, i64)>) -> String {
    let members = rows.into_iter().map(|(key, number)| format!("{}:{number}", quoted(key)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// A list of texts, as in `["a","b"]`. The order stays.
pub(super) fn list<'k>(keys: impl IntoIterator<Item = &'k str>) -> String {
    format!("[{}]", keys.into_iter().map(quoted).collect::<Vec<_>>().join(","))
}

/// RFC 8259 §7.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            control if control < ' ' => {
                // A String takes everything.
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_json() {
        assert_eq!(object([("a", 1), ("b\"\\\n", -2)]), r#"{"a":1,"b\"\\\u000a":-2}"#);
        assert_eq!(list(["ä", "b"]), r#"["ä","b"]"#);
        assert_eq!((object([]), list([])), ("{}".to_owned(), "[]".to_owned()));
    }
}

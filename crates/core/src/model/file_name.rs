use imagewell_imaging::Format;
use unicode_normalization::UnicodeNormalization as _;

use super::ParseError;

/// The name that a file has inside its namespace. In Unicode's composed form (NFC), so that it is the same name whichever
/// keyboard or file system wrote it; upper and lower case differ. Never part of a storage key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileName {
    text: String,
    format: Format,
}

impl FileName {
    /// Longest name, in bytes.
    pub const BYTES_MAX: usize = 255;

    /// Parses a decoded name.
    ///
    /// # Errors
    /// When it is empty or too long, holds a separator, a control or a bidirectional character, or doesn't end in an
    /// image's extension.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let text: String = text.nfc().collect();
        if !(1..=Self::BYTES_MAX).contains(&text.len()) {
            return Err(ParseError("a file name has 1 to 255 bytes"));
        }
        if text.contains(['/', '\\', '\u{2028}', '\u{2029}']) {
            return Err(ParseError("a file name holds no separator: / and \\ can't stand in it"));
        }
        if text.chars().any(|character| character.is_control() || is_bidirectional(character)) {
            return Err(ParseError("a file name holds no control characters and none that change the direction of writing"));
        }
        let Some((_, extension)) = text.rsplit_once('.').filter(|(stem, _)| !stem.trim().is_empty()) else {
            return Err(ParseError("a file name ends in an image's extension, as in test.png"));
        };
        let Some(format) = format_of(extension) else {
            return Err(ParseError(
                "a file name ends in an image's extension: .jpg, .jpeg, .png, .gif, .webp, .bmp, .tif, .tiff, .ico, .avif, .heic, \
                 .heif or .jxl",
            ));
        };
        Ok(Self { text, format })
    }

    /// From its stored form.
    #[must_use]
    pub fn from_stored(text: String) -> Option<Self> {
        let format = format_of(text.rsplit_once('.')?.1)?;
        Some(Self { text, format })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether there is another extension before the last one, on which some programs act: `invoice.pdf.png`, `shell.php.png`. Here it
    /// means nothing: a name is never a path or a key, and the bytes decide.
    #[must_use]
    pub fn has_two_extensions(&self) -> bool {
        let stem = self.text.rsplit_once('.').map_or("", |(stem, _)| stem);
        stem.rsplit_once('.').is_some_and(|(_, inner)| is_second_extension(inner))
    }

    /// What the extension promises.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }
}

fn format_of(extension: &str) -> Option<Format> {
    let extension = extension.to_ascii_lowercase();
    match extension.as_str() {
        "jpeg" | "jpe" | "jfif" => Some(Format::Jpeg),
        "tif" => Some(Format::Tiff),
        "heif" => Some(Format::Heic),
        other => Format::from_extension(other),
    }
}

/// An extension that programs act on before they look at the last one. Dots for other reasons do not count, as in `logo.2x.png`.
fn is_second_extension(text: &str) -> bool {
    const DECEPTIVE: &[&str] = &[
        "asp", "aspx", "bat", "cgi", "cmd", "dll", "doc", "docx", "exe", "htm", "html", "jar", "js", "jsp", "mjs", "msi", "pdf",
        "phar", "php", "php3", "php4", "php5", "phtml", "pl", "ps1", "py", "scr", "sh", "shtml", "svg", "svgz", "vbs", "wasm",
        "xhtml", "xls", "xml", "zip",
    ];
    format_of(text).is_some() || DECEPTIVE.contains(&text.to_ascii_lowercase().as_str())
}

/// Characters that reorder what stands around them (UAX #9), with which `gpj.exe` can be shown as `exe.jpg`.
#[must_use]
pub fn is_bidirectional(character: char) -> bool {
    matches!(character, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_one_thing_are_accepted() {
        let cases = [
            ("test.png", Format::Png),
            ("IMG_20220730_180352311.jpg", Format::Jpeg),
            ("A.JPEG", Format::Jpeg),
            ("scan.tif", Format::Tiff),
            ("logo.2x.png", Format::Png),
            ("2024.05.08.webp", Format::WebP),
            ("smile 😀🏽‍🚀.gif", Format::Gif),
            ("שלום.png", Format::Png),
            ("a b&c=d%20#?.png", Format::Png),
            ("photo.heif", Format::Heic),
        ];
        for (name, format) in cases {
            let parsed = FileName::parse(name).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!((parsed.as_str(), parsed.format()), (name, format));
            assert_eq!(FileName::from_stored(name.to_owned()), Some(parsed));
        }
        let long = format!("{}.png", "a".repeat(251));
        assert!(FileName::parse(&long).is_ok(), "255 bytes");
        assert_eq!(FileName::parse("e\u{301}.png"), FileName::parse("\u{e9}.png"), "one name, however it is composed");
    }

    #[test]
    fn two_extensions_are_told_from_other_dots() {
        for (name, two) in [
            ("IMG_1.HEIC.jpg", true),
            ("photo.jpg.jpeg", true),
            ("node.js.jpg", true),
            ("shell.php.png", true),
            ("a.PDF.png", true),
            ("a.png", false),
            ("logo.2x.png", false),
            ("2024.05.08.webp", false),
        ] {
            assert_eq!(FileName::parse(name).expect(name).has_two_extensions(), two, "{name}");
        }
    }

    /// Row F14: where a name is an identifier, it is refused and not mended.
    #[test]
    fn names_that_deceive_are_refused() {
        let long = format!("{}.png", "a".repeat(252));
        let cases = [
            "",
            ".png",
            " .png",
            "png",
            "test",
            "test.",
            "test.txt",
            "test.svg",
            "test.png.exe",
            "../x.png",
            "a\\b.png",
            "a\0.png",
            "a\n.png",
            "a\u{85}.png",
            "a\u{202E}gnp.png",
            "\u{2066}a.png",
            "a\u{2028}b.png",
            &long,
        ];
        for name in cases {
            assert!(FileName::parse(name).is_err(), "{name:?}");
        }
    }
}

use std::fmt;

use crate::Error;
use crate::svg::is_svg;

/// An image format that imagewell accepts, recognised by its bytes and never by a name or a declared type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// ITU-T T.81.
    Jpeg,
    /// W3C PNG, third edition, animated ones included.
    Png,
    /// GIF 87a and 89a.
    Gif,
    /// WebP, RFC 9649.
    WebP,
    /// Windows bitmap.
    Bmp,
    /// TIFF 6.0.
    Tiff,
    /// Windows icon.
    Ico,
    /// AVIF: AV1 in HEIF.
    Avif,
    /// HEIC: HEVC in HEIF.
    Heic,
    /// JPEG XL, ISO/IEC 18181, bare or in its container.
    Jxl,
}

/// Bytes that [`Format::sniff`] wants to see; fewer are enough when the file is shorter.
pub(crate) const SNIFF_BYTES: usize = 512;

impl Format {
    /// All of them, in the order in which documents list them.
    pub const ALL: [Self; 10] =
        [Self::Jpeg, Self::Png, Self::Gif, Self::WebP, Self::Bmp, Self::Tiff, Self::Ico, Self::Avif, Self::Heic, Self::Jxl];

    /// The registered media type (IANA; `image/x-icon` is what browsers use for ICO).
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Gif => "image/gif",
            Self::WebP => "image/webp",
            Self::Bmp => "image/bmp",
            Self::Tiff => "image/tiff",
            Self::Ico => "image/x-icon",
            Self::Avif => "image/avif",
            Self::Heic => "image/heic",
            Self::Jxl => "image/jxl",
        }
    }

    /// The usual file extension, without the dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::Gif => "gif",
            Self::WebP => "webp",
            Self::Bmp => "bmp",
            Self::Tiff => "tiff",
            Self::Ico => "ico",
            Self::Avif => "avif",
            Self::Heic => "heic",
            Self::Jxl => "jxl",
        }
    }

    /// Pixels along a side at most, of the formats that renderings come out in: RFC 9649 §2.7.1, libjpeg-turbo, GIF89a and AV1 §5.5.1.
    #[must_use]
    pub fn side_px_max(self) -> u32 {
        match self {
            Self::WebP => 16_383,
            Self::Jpeg => 65_500,
            Self::Gif | Self::Avif => 65_535,
            _ => i32::MAX.unsigned_abs(),
        }
    }

    /// Whether a picture of this size fits into the format.
    pub(crate) fn holds(self, (width, height): (u32, u32)) -> bool {
        width.max(height) <= self.side_px_max()
    }

    /// The format whose [`Format::extension`] this is.
    #[must_use]
    pub fn from_extension(extension: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.extension() == extension)
    }

    /// Recognises a format by the first bytes of a file.
    ///
    /// # Errors
    /// [`Error::Unsupported`] says what the bytes look like instead.
    pub fn sniff(head: &[u8]) -> Result<Self, Error> {
        match head {
            [0xFF, 0xD8, 0xFF, ..] => Ok(Self::Jpeg),
            [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Ok(Self::Png),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(Self::Gif),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Self::WebP),
            [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Ok(Self::Tiff),
            [0, 0, 1, 0, count_low, count_high, ..] if (*count_low, *count_high) != (0, 0) => Ok(Self::Ico),
            [0xFF, 0x0A, ..] => Ok(Self::Jxl),
            [0, 0, 0, 12, b'J', b'X', b'L', b' ', 0x0D, 0x0A, 0x87, 0x0A, ..] => Ok(Self::Jxl),
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => Self::sniff_heif(head),
            [b'B', b'M', rest @ ..] if rest.len() < 12 || rest[8..12].iter().any(|byte| *byte != 0) => Ok(Self::Bmp),
            _ => Err(Error::Unsupported { what: describe_other(head) }),
        }
    }

    /// Tells AVIF from HEIC by the brands of the file type box (ISO/IEC 14496-12 §4.3).
    fn sniff_heif(head: &[u8]) -> Result<Self, Error> {
        let size = head.iter().take(4).fold(0_usize, |size, byte| size << 8 | usize::from(*byte));
        let brands = &head[8..size.clamp(8, head.len())];
        // The minor version stands between the major brand and the compatible ones; no brand looks like one.
        let has = |names: &[&[u8; 4]]| brands.chunks_exact(4).any(|brand| names.iter().any(|name| brand == *name));
        if has(&[b"avif", b"avis"]) {
            Ok(Self::Avif)
        } else if has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"]) {
            Ok(Self::Heic)
        } else {
            Err(Error::Unsupported { what: "this is a video or another ISO media file" })
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Gif => "GIF",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
            Self::Ico => "ICO",
            Self::Avif => "AVIF",
            Self::Heic => "HEIC",
            Self::Jxl => "JPEG XL",
        })
    }
}

/// First bytes of what people send instead of an image, and what it is.
pub(crate) const NOT_IMAGES: &[(&[u8], &str)] = &[
    (b"%PDF", "this is a PDF document"),
    (b"PK\x03\x04", "this is a ZIP archive or an office document"),
    (b"\x1F\x8B", "this is a gzip archive"),
    (b"8BPS", "this is a Photoshop document"),
    (b"%!PS", "this is a PostScript document"),
    (b"\x7FELF", "this is a program"),
    (b"MZ", "this is a program"),
    (b"#!", "this is a script"),
    (b"{\\rtf", "this is a text document"),
    (b"II\x2B\x00", "this is a BigTIFF file"),
    (b"MM\x00\x2B", "this is a BigTIFF file"),
    (b"\x00\x00\x02\x00", "this is a cursor file"),
    (b"\xFF\x4F\xFF\x51", "this is a JPEG 2000 file"),
    (b"\x00\x00\x00\x0CjP  ", "this is a JPEG 2000 file"),
    (b"data:", "this is a data URI: send the bytes, or the base64 text after the comma"),
];

/// Names the most common things that people send instead of an image, so that the refusal helps.
fn describe_other(head: &[u8]) -> &'static str {
    if head.is_empty() {
        return "the file is empty";
    }
    if let Some((_, what)) = NOT_IMAGES.iter().find(|(magic, _)| head.starts_with(magic)) {
        return what;
    }
    if is_svg(head) {
        return "SVG can carry scripts and is not accepted";
    }
    let head = &head[..head.len().min(SNIFF_BYTES)];
    let text = String::from_utf8_lossy(head).trim_start_matches('\u{FEFF}').trim_start().to_ascii_lowercase();
    if text.starts_with("<!doctype html") || text.starts_with("<html") || text.starts_with("<script") {
        "this is an HTML page"
    } else if text.starts_with('<') {
        "this is an XML or HTML document"
    } else if head.iter().all(|byte| matches!(byte, 0x09..=0x0D | 0x20..=0x7E | 0x80..)) {
        "this is text"
    } else {
        "this is not an image in a known format"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let heif =
            |brand: &[u8; 4], compatible: &[u8; 4]| [b"\0\0\0\x14ftyp".as_slice(), brand, b"\0\0\0\0", compatible].concat();
        let cases: &[(&[u8], Format)] = &[
            (b"\xFF\xD8\xFF\xE0", Format::Jpeg),
            (b"\x89PNG\r\n\x1A\n", Format::Png),
            (b"GIF89a", Format::Gif),
            (b"GIF87a", Format::Gif),
            (b"RIFF\x04\0\0\0WEBP", Format::WebP),
            (b"II*\0\x08\0\0\0", Format::Tiff),
            (b"MM\0*\0\0\0\x08", Format::Tiff),
            (b"\0\0\x01\0\x01\0", Format::Ico),
            (b"\xFF\x0A", Format::Jxl),
            (b"\0\0\0\x0CJXL \r\n\x87\n", Format::Jxl),
            (&heif(b"mif1", b"avif"), Format::Avif),
            (&heif(b"mif1", b"heic"), Format::Heic),
        ];
        for (head, format) in cases {
            assert_eq!(Format::sniff(head).ok(), Some(*format), "{head:?}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_name() {
        let cases: &[(&[u8], &str)] = &[
            (b"", "empty"),
            (b"%PDF-1.7", "PDF"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
            (b"\xEF\xBB\xBF<?xml version='1.0'?>\n<svg/>", "SVG"),
            (b"<!DOCTYPE html><p>", "HTML"),
            (b"#!/bin/sh\nrm", "script"),
            (b"data:image/png;base64,AAAA", "data URI"),
            (b"hello", "text"),
            (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video"),
            (b"\0\0\x02\0\x01\0", "cursor"),
            (b"\x01\x02\x03\x04", "not an image"),
        ];
        for (head, expected) in cases {
            let error = Format::sniff(head).expect_err("refused").to_string();
            assert!(error.contains(expected), "{head:?} → {error}");
        }
    }
}

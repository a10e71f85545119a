//! Kinds of images that are what their format says, and that no decoder here reads.

use std::fmt;

use crate::Format;

/// Such a kind. `docs/formats.md` lists them all; a test holds it to this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each has its name in words")]
pub enum Undrawable {
    LosslessJpeg,
    HierarchicalJpeg,
    DeepJpeg,
    BitmapOfJpeg,
    BitmapOfPng,
    BitmapOfInks,
    Os2Huffman,
    Os2RunLengths,
    TiffOldJpeg,
    TiffJpeg2000,
    TiffLzma,
    TiffZstandard,
    TiffWebP,
    TiffCompression,
    TiffFax2d,
    TiffFaxTiles,
    TiffSubsampled,
    TiffMixedBits,
    TiffOddBits,
    TiffComplex,
    TiffPalette,
    TiffColours,
    AvifOverlay,
    AvifGrid,
    AvifOther,
}

impl Undrawable {
    /// All of them, by format.
    pub const ALL: [Self; 25] = [
        Self::LosslessJpeg,
        Self::HierarchicalJpeg,
        Self::DeepJpeg,
        Self::BitmapOfJpeg,
        Self::BitmapOfPng,
        Self::BitmapOfInks,
        Self::Os2Huffman,
        Self::Os2RunLengths,
        Self::TiffOldJpeg,
        Self::TiffJpeg2000,
        Self::TiffLzma,
        Self::TiffZstandard,
        Self::TiffWebP,
        Self::TiffCompression,
        Self::TiffFax2d,
        Self::TiffFaxTiles,
        Self::TiffSubsampled,
        Self::TiffMixedBits,
        Self::TiffOddBits,
        Self::TiffComplex,
        Self::TiffPalette,
        Self::TiffColours,
        Self::AvifOverlay,
        Self::AvifGrid,
        Self::AvifOther,
    ];

    /// The format that it is a kind of.
    #[must_use]
    pub fn format(self) -> Format {
        match self {
            Self::LosslessJpeg | Self::HierarchicalJpeg | Self::DeepJpeg => Format::Jpeg,
            Self::BitmapOfJpeg | Self::BitmapOfPng | Self::BitmapOfInks | Self::Os2Huffman | Self::Os2RunLengths => Format::Bmp,
            Self::AvifOverlay | Self::AvifGrid | Self::AvifOther => Format::Avif,
            _ => Format::Tiff,
        }
    }
}

/// The kind in words, as the subject of a sentence.
impl fmt::Display for Undrawable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::LosslessJpeg => "lossless JPEG",
            Self::HierarchicalJpeg => "hierarchical JPEG",
            Self::DeepJpeg => "JPEG of more than eight bits a sample",
            Self::BitmapOfJpeg => "a JPEG in a bitmap",
            Self::BitmapOfPng => "a PNG in a bitmap",
            Self::BitmapOfInks => "CMYK in a bitmap",
            Self::Os2Huffman => "Huffman compression of OS/2",
            Self::Os2RunLengths => "24-bit run-length compression of OS/2",
            Self::TiffOldJpeg => "old-style JPEG compression",
            Self::TiffJpeg2000 => "JPEG 2000 compression",
            Self::TiffLzma => "LZMA compression",
            Self::TiffZstandard => "Zstandard compression",
            Self::TiffWebP => "WebP compression",
            Self::TiffCompression => "its compression",
            Self::TiffFax2d => "two-dimensional Group 3 fax compression",
            Self::TiffFaxTiles => "fax compression in tiles",
            Self::TiffSubsampled => "subsampled colour without JPEG compression",
            Self::TiffMixedBits => "a different number of bits for each sample",
            Self::TiffOddBits => "an unusual number of bits for a sample",
            Self::TiffComplex => "a sample that is a complex number",
            Self::TiffPalette => "a palette of more than 256 colours",
            Self::TiffColours => "its kind of colour",
            Self::AvifOverlay => "an overlay of pictures",
            Self::AvifGrid => "a grid of anything but AV1 pictures",
            Self::AvifOther => "a picture that is not AV1",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::NOT_IMAGES;

    const DOCUMENT: &str = include_str!("../../../docs/formats.md");

    /// A format's part of the document, in one line.
    fn section(format: Format) -> String {
        let heading = format!("## {format}\n");
        let (_, rest) = DOCUMENT.split_once(&heading).unwrap_or_else(|| panic!("no heading {heading:?}"));
        in_one_line(rest.split("\n## ").next().unwrap_or_default())
    }

    fn in_one_line(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_document_lists_what_is_taken_kept_and_refused() {
        for format in Format::ALL {
            let section = section(format);
            assert!(section.contains(&format!("`{}`", format.media_type())), "{format}");
            assert!(section.contains(&format!("`.{}`", format.extension())), "{format}");
            for part in ["**Shown:**", "**Kept only:**"] {
                assert!(section.contains(part), "{format}: {part}");
            }
        }
        for kind in Undrawable::ALL {
            let section = section(kind.format());
            let (_, kept) = section.split_once("**Kept only:**").expect("a list");
            let (kept, refused) = kept.split_once("**Refused:**").unwrap_or((kept, ""));
            // Bitmaps of these kinds are refused by their headers.
            let place = if kind.format() == Format::Bmp { refused } else { kept };
            assert!(place.contains(&kind.to_string()), "{kind:?}: {kind}");
        }
        let (_, other) = DOCUMENT.split_once("\n## Everything else\n").expect("a heading");
        let other = in_one_line(other);
        for (_, what) in NOT_IMAGES {
            let what = what.trim_start_matches("this is a ").split(':').next().unwrap_or_default();
            assert!(other.contains(what), "{what}");
        }
    }

    #[test]
    fn every_kind_is_listed_once() {
        let names: std::collections::HashSet<String> = Undrawable::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), Undrawable::ALL.len());
    }
}

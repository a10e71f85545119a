use crate::{Format, Undrawable};

/// A bound of [`crate::Limits`] that an image passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Width × height of one frame, in pixels.
    Pixels,
    /// The longer side, in pixels.
    Side,
    /// Number of frames or pages.
    Frames,
    /// Sum of the areas of all frames, in pixels.
    FramePixels,
    /// Bytes of decoded pixels that a rendering may hold.
    DecodedBytes,
    /// Width × height of a rendering, in pixels.
    OutputPixels,
    /// Width × height of all frames of an animated rendering, in pixels.
    OutputFramePixels,
}

impl Limit {
    /// The limit in words, with its unit.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Pixels => "pixels in one frame",
            Self::Side => "pixels along a side",
            Self::Frames => "frames",
            Self::FramePixels => "pixels in all frames together",
            Self::DecodedBytes => "bytes of decoded pixels",
            Self::OutputPixels => "pixels as a rendering",
            Self::OutputFramePixels => "pixels in all frames of a rendering together",
        }
    }
}

/// Why bytes were refused. Every text may be shown to the caller: none of them quotes the bytes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not one of the accepted formats.
    #[error("{what}; accepted are JPEG, PNG, GIF, WebP, BMP, TIFF, ICO, AVIF, HEIC and JPEG XL")]
    Unsupported {
        /// What the bytes look like instead, as the start of a sentence.
        what: &'static str,
    },
    /// The structure contradicts the format's rules.
    #[error("this {format} file is broken: {detail}")]
    Corrupt {
        /// The format that the first bytes announced.
        format: Format,
        /// The rule that doesn't hold.
        detail: &'static str,
    },
    /// The file ends before its structure does.
    #[error("this {format} file is truncated: it ends before its image data does")]
    Truncated {
        /// The format that the first bytes announced.
        format: Format,
    },
    /// The image is whole but larger than allowed.
    #[error("the image has {actual} {}, at most {max} are accepted", limit.describe())]
    OverLimit {
        /// Which bound.
        limit: Limit,
        /// What the image claims.
        actual: u64,
        /// What is allowed.
        max: u64,
    },
    /// A drawing could not be drawn.
    #[error("this SVG can't be drawn: {detail}")]
    Svg {
        /// The parser's own words.
        detail: String,
    },
    /// The bytes could not be read.
    #[error("reading the image failed")]
    Io(#[source] std::io::Error),
    /// The image is of a kind that no decoder here reads. `docs/formats.md` lists them.
    #[error("this {} file can't be rendered: {kind} is not supported", kind.format())]
    Undrawable {
        /// Which kind.
        kind: Undrawable,
    },
    /// Pixels could not be decoded or encoded.
    #[error("this {format} file can't be rendered: its image data breaks the rules of the format")]
    Render {
        /// The format of the source.
        format: Format,
        /// The decoder's or encoder's own words, for logs and never for callers.
        detail: String,
    },
}

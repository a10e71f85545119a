//! Pixels → bytes, one file a format where there is more to say than one call.

mod animation;
#[cfg(feature = "avif-encoder")]
mod avif;
mod gif;
mod jpeg;
mod palette;
mod png;
mod webp;

use std::fmt;

use image::{DynamicImage, ImageError};

pub(crate) use animation::{AnimationEncoder, Moment};

use crate::Format;

/// How it is encoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encoding<'a> {
    pub(crate) format: Format,
    /// None is the format's usual one.
    pub(crate) quality: Option<u8>,
    pub(crate) lossless: bool,
    pub(crate) progressive: bool,
    /// Whether the source has a palette, so that a PNG is to have one.
    pub(crate) palette: bool,
    /// Kept with the pixels, for the formats of [`holds_profile`].
    pub(crate) profile: Option<&'a [u8]>,
}

/// Why it could not be encoded.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) String);

impl Failed {
    fn of(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

impl From<ImageError> for Failed {
    fn from(error: ImageError) -> Self {
        Self::of(error)
    }
}

/// Whether renderings in a format can hold a colour profile. Those in AVIF and GIF, and in WebP for want of a muxer, are in sRGB.
pub(crate) fn holds_profile(format: Format) -> bool {
    matches!(format, Format::Jpeg | Format::Png)
}

pub(crate) fn encode(picture: &DynamicImage, encoding: &Encoding<'_>) -> Result<Vec<u8>, Failed> {
    match encoding.format {
        Format::Jpeg => jpeg::encode(picture, encoding),
        Format::WebP => webp::encode(picture, encoding),
        #[cfg(feature = "avif-encoder")]
        Format::Avif => avif::encode(picture, encoding),
        #[cfg(not(feature = "avif-encoder"))]
        Format::Avif => Err(Failed("this build has no encoder for AVIF".into())),
        Format::Gif => gif::encode(vec![Moment { canvas: picture.to_rgba8(), milliseconds: 0 }], 1),
        _ => png::encode(picture, encoding),
    }
}

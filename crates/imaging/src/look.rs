//! What an image looks like from afar: for the time before it is there.

use std::fmt;
use std::str::FromStr;

use crate::decode::{Decoded, decode};
use crate::encode::Failed;
use crate::render::{drawn, enough};
use crate::transform::{Fit, Transform};
use crate::{Error, Format, Limits, colour};

/// A ThumbHash is made of at most so many pixels a side.
const SIDE: u32 = 100;
/// Bytes of the longest ThumbHash.
const HASH_BYTES_MAX: usize = 32;

/// A colour and a blur.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The colour that most of it is near, in sRGB.
    pub dominant: [u8; 3],
    /// Twenty-odd bytes from which a blurred picture can be drawn (ThumbHash, evanw.github.io/thumbhash).
    pub thumbhash: Vec<u8>,
}

/// Looks at the upright first frame.
///
/// # Errors
/// As [`crate::render::render`].
pub fn look(source: &[u8], limits: &Limits) -> Result<Look, Error> {
    let format = Format::sniff(source)?;
    let transform = Transform::of(Fit::Inside(SIDE, SIDE));
    let Decoded { picture, profile, full_size } = decode(source, limits, |width, height| enough(&transform, (width, height)))?;
    let (picture, _) =
        drawn(picture, profile.as_deref(), full_size, &transform).map_err(|Failed(detail)| Error::Render { format, detail })?;
    let pixels = picture.into_rgba8();
    let thumbhash = thumbhash::rgba_to_thumb_hash(pixels.width() as usize, pixels.height() as usize, &pixels);
    Ok(Look { dominant: colour::dominant(&pixels), thumbhash })
}

/// Decodes the first picture and forgets it: what this finds good can be rendered.
///
/// # Errors
/// As [`crate::render::render`].
pub fn check(source: &[u8], limits: &Limits) -> Result<(), Error> {
    let transform = Transform::of(Fit::Inside(SIDE, SIDE));
    decode(source, limits, |width, height| enough(&transform, (width, height))).map(drop)
}

/// Both as hexadecimal digits.
impl fmt::Display for Look {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = |bytes: &[u8]| bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"));
        digits(&self.dominant)?;
        digits(&self.thumbhash)
    }
}

impl FromStr for Look {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "a look is a colour and a hash in hexadecimal digits";
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
        match bytes.as_deref() {
            Some([red, green, blue, hash @ ..]) if rest.is_empty() && !hash.is_empty() && hash.len() <= HASH_BYTES_MAX => {
                Ok(Self { dominant: [*red, *green, *blue], thumbhash: hash.to_vec() })
            }
            _ => Err(WRONG),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_read_back() {
        let look = Look { dominant: [1, 0xAB, 255], thumbhash: vec![0, 16, 7] };
        assert_eq!(look.to_string(), "01abff001007");
        assert_eq!(look.to_string().parse(), Ok(look));
        for wrong in ["", "01abff", "01abff0", "01abffzz", &"00".repeat(36)] {
            assert!(wrong.parse::<Look>().is_err(), "{wrong}");
        }
    }
}

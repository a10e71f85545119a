use crate::{Error, Format, Limit, Limits};

/// How the stored picture must be turned to be seen upright: the eight values of EXIF tag 0x0112.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Orientation(u8);

impl Orientation {
    /// Upright as stored.
    pub const UPRIGHT: Self = Self(1);

    /// From an EXIF value; anything outside 1–8 counts as upright, as browsers do.
    #[must_use]
    pub fn from_exif(value: u16) -> Self {
        match u8::try_from(value) {
            Ok(value @ 1..=8) => Self(value),
            _ => Self::UPRIGHT,
        }
    }

    /// The EXIF value, 1–8.
    #[must_use]
    pub fn exif(self) -> u8 {
        self.0
    }

    /// Whether width and height change places.
    #[must_use]
    pub fn swaps_sides(self) -> bool {
        self.exif() >= 5
    }
}

/// Upright.
impl Default for Orientation {
    fn default() -> Self {
        Self::UPRIGHT
    }
}

/// What an image says of itself in its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The format, told by the bytes.
    pub format: Format,
    /// Width as stored, in pixels.
    pub width: u32,
    /// Height as stored, in pixels.
    pub height: u32,
    /// Frames of an animation or pages of a document; 1 for a still image and for an icon of many sizes.
    pub frames: u32,
    /// How to turn it upright.
    pub orientation: Orientation,
}

impl Facts {
    /// Facts of a still, upright image whose size has been checked.
    pub(crate) fn still(format: Format, width: u32, height: u32, limits: &Limits) -> Result<Self, Error> {
        check_size(format, width, height, limits)?;
        Ok(Self { format, width, height, frames: 1, orientation: Orientation::UPRIGHT })
    }
}

/// Refuses sizes of nothing and sizes over the limits, before anything is allocated for them.
pub(crate) fn check_size(format: Format, width: u32, height: u32, limits: &Limits) -> Result<(), Error> {
    if width == 0 || height == 0 {
        return Err(Error::Corrupt { format, detail: "it is 0 pixels wide or high" });
    }
    let side = u64::from(width.max(height));
    let pixels = u64::from(width) * u64::from(height);
    over(Limit::Side, side, u64::from(limits.side_px_max))?;
    over(Limit::Pixels, pixels, limits.pixels_max)
}

/// Refuses too many frames, by count and by the area they cover together.
pub(crate) fn check_frames(frames: u32, frame_pixels: u64, limits: &Limits) -> Result<(), Error> {
    over(Limit::Frames, u64::from(frames), u64::from(limits.frames_max))?;
    over(Limit::FramePixels, frame_pixels, limits.frame_pixels_max)
}

fn over(limit: Limit, actual: u64, max: u64) -> Result<(), Error> {
    if actual > max { Err(Error::OverLimit { limit, actual, max }) } else { Ok(()) }
}

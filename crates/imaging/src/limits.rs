use std::fmt;
use std::str::FromStr;

/// Bounds on what an image may claim of itself. Checked from headers, before any pixel is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Width × height of a frame, in pixels.
    pub pixels_max: u64,
    /// The longer side, in pixels.
    pub side_px_max: u32,
    /// Frames of an animation, pages of a TIFF.
    pub frames_max: u32,
    /// Width × height of all frames together, in pixels.
    pub frame_pixels_max: u64,
    /// Width × height of a rendering, in pixels.
    pub output_pixels_max: u64,
    /// Width × height of all frames of an animated rendering together, in pixels.
    pub output_frame_pixels_max: u64,
    /// Bytes of metadata that a decoder unpacks of one image: its colour profile, for the most part.
    pub metadata_bytes_max: u64,
    /// Whether HEIC is decoded.
    pub heic: bool,
}

impl Limits {
    /// What is allowed where nobody says otherwise.
    pub const DEFAULT: Self = Self {
        pixels_max: 64_000_000,
        side_px_max: 30_000,
        frames_max: 1000,
        frame_pixels_max: 2_000_000_000,
        output_pixels_max: 64_000_000,
        output_frame_pixels_max: 100_000_000,
        metadata_bytes_max: 32 * 1024 * 1024,
        heic: true,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The numbers in the order of the fields, for the process that renders.
impl fmt::Display for Limits {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pixels_max, side_px_max, frames_max, frame_pixels_max, .. } = self;
        let Self { output_pixels_max, output_frame_pixels_max, metadata_bytes_max, heic, .. } = self;
        write!(out, "{pixels_max},{side_px_max},{frames_max},{frame_pixels_max},")?;
        write!(out, "{output_pixels_max},{output_frame_pixels_max},{metadata_bytes_max},{}", u8::from(*heic))
    }
}

impl FromStr for Limits {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "limits are eight whole numbers separated by commas, of which the last is 0 or 1";
        let mut numbers = text.split(',').map(str::parse::<u64>);
        let mut next = || numbers.next().and_then(Result::ok).ok_or(WRONG);
        let narrow = |number: u64| u32::try_from(number).map_err(|_| WRONG);
        let limits = Self {
            pixels_max: next()?,
            side_px_max: narrow(next()?)?,
            frames_max: narrow(next()?)?,
            frame_pixels_max: next()?,
            output_pixels_max: next()?,
            output_frame_pixels_max: next()?,
            metadata_bytes_max: next()?,
            heic: match next()? {
                0 => false,
                1 => true,
                _ => return Err(WRONG),
            },
        };
        if numbers.next().is_some() { Err(WRONG) } else { Ok(limits) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_back() {
        for heic in [true, false] {
            let limits = Limits { pixels_max: 1, frames_max: 7, heic, ..Limits::default() };
            assert_eq!(limits.to_string().parse(), Ok(limits));
        }
        for wrong in ["", "1,2,3,4,5,6,7", "1,2,3,4,5,6,7,1,1", "1,2,3,4,5,6,x,1", "1,99999999999,3,4,5,6,7,1", "1,2,3,4,5,6,7,2"]
        {
            assert!(wrong.parse::<Limits>().is_err(), "{wrong}");
        }
    }
}

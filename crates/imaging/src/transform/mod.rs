//! What is made of an image, as a value with one canonical text: the text names renderings and goes to the process that makes them.

mod outputs;
mod text;

pub use outputs::Outputs;

/// A part of the upright picture, in its pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Crop {
    /// From the left edge.
    pub x: u32,
    /// From the upper edge.
    pub y: u32,
    /// At least 1.
    pub width: u32,
    /// At least 1.
    pub height: u32,
}

impl Crop {
    /// What of an inner crop lies inside this one; `inner` counts from this one's corner.
    #[must_use]
    pub fn within(self, inner: Self) -> Self {
        let clamped = inner.clamped(self.width, self.height);
        Self { x: self.x.saturating_add(clamped.x), y: self.y.saturating_add(clamped.y), ..clamped }
    }

    /// What of it lies on a picture; at least one pixel.
    #[must_use]
    pub fn clamped(self, width: u32, height: u32) -> Self {
        let (x, y) = (self.x.min(width - 1), self.y.min(height - 1));
        Self { x, y, width: self.width.clamp(1, width - x), height: self.height.clamp(1, height - y) }
    }
}

/// Quarter turns, clockwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Rotation {
    /// As it stands.
    #[default]
    None,
    /// A quarter turn to the right.
    Right,
    /// Upside down.
    Half,
    /// A quarter turn to the left.
    Left,
}

impl Rotation {
    /// From degrees clockwise: 0, 90, 180 or 270.
    #[must_use]
    pub fn from_degrees(degrees: u32) -> Option<Self> {
        [Self::None, Self::Right, Self::Half, Self::Left].into_iter().find(|rotation| rotation.degrees() == degrees)
    }

    /// Clockwise.
    #[must_use]
    pub fn degrees(self) -> u32 {
        self as u32 * 90
    }

    /// Whether width and height change places.
    #[must_use]
    pub fn swaps_sides(self) -> bool {
        matches!(self, Self::Right | Self::Left)
    }
}

/// Mirroring, after the rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flip {
    /// Left and right change places.
    pub horizontal: bool,
    /// Top and bottom change places.
    pub vertical: bool,
}

/// What size a rendering has, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fit {
    /// As large as the original, or as its crop.
    Original,
    /// The largest that fits into width × height, aspect kept.
    Inside(u32, u32),
    /// As wide as this at most, aspect kept.
    Width(u32),
    /// As high as this at most, aspect kept.
    Height(u32),
    /// The smallest that covers width × height, aspect kept, nothing cut off.
    Outside(u32, u32),
    /// Width × height, aspect kept, cut off where it is longer.
    Cover(u32, u32),
    /// Width × height, aspect kept, with background where it is shorter.
    Contain(u32, u32),
    /// Width × height, stretched.
    Fill(u32, u32),
}

impl Fit {
    /// So many pixels wide and high.
    #[must_use]
    pub fn square(side: u32) -> Self {
        Self::Cover(side, side)
    }
}

/// Which part stays when something is cut off, and where the picture stands on a background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Gravity {
    /// Where the image's owner wants it, who is asked before pixels are; the middle if nobody was.
    #[default]
    Focus,
    /// A place on the picture, in thousandths of its width and height: as near to the middle of the rendering as can be.
    Point(u16, u16),
    /// An edge or corner, -1 to 1 from left to right and from top to bottom.
    Side(i8, i8),
    /// The middle.
    Centre,
    /// Where most is to be seen: the largest entropy of brightness.
    Entropy,
    /// Where people look: edges, skin and strong colours.
    Attention,
}

impl Gravity {
    /// Whether it is the picture's pixels that say where.
    pub(crate) fn needs_pixels(self) -> bool {
        matches!(self, Self::Entropy | Self::Attention)
    }
}

/// Red, green, blue and opacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Colour(pub [u8; 4]);

impl Colour {
    /// From 6 or 8 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        if !matches!(text.len(), 6 | 8) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut channels = [255; 4];
        for (channel, digits) in channels.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *channel = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(channels))
    }
}

/// What a rendering tells beside its pixels. Where and with what a picture was taken is never told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Metadata {
    /// Nothing; the pixels are brought to sRGB.
    #[default]
    None,
    /// The colour profile; the pixels stay as they are. Formats that can't hold a profile get sRGB.
    Profile,
}

/// What is made of an image, in this order: crop, rotation, flip, fit, background, blur, sharpening, output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transform {
    /// None is all of it.
    pub crop: Option<Crop>,
    /// Turned by.
    pub rotation: Rotation,
    /// Mirrored.
    pub flip: Flip,
    /// How large.
    pub fit: Fit,
    /// Which part.
    pub gravity: Gravity,
    /// Whether a picture that is too small is made larger.
    pub enlarge: bool,
    /// Under what is transparent, and beside what is too short.
    pub background: Option<Colour>,
    /// Standard deviation of a Gaussian blur, in tenths of the rendering's pixels.
    pub blur: Option<u16>,
    /// How much of what a blur of one pixel takes away is added, in tenths.
    pub sharpen: Option<u16>,
    /// Quality from 1 to 100, as the format's encoder understands it; none is the usual one.
    pub quality: Option<u8>,
    /// Whether a format that can be lossless is.
    pub lossless: bool,
    /// What it tells beside its pixels.
    pub metadata: Metadata,
    /// Whether an animation stays one where the output can be.
    pub animate: bool,
    /// As what.
    pub outputs: Outputs,
}

impl Transform {
    /// Largest [`Transform::blur`].
    pub const BLUR_MAX: u16 = 1000;
    /// Largest [`Transform::sharpen`].
    pub const SHARPEN_MAX: u16 = 100;

    /// The first frame, for clients of any age, exactly as large as it says.
    #[must_use]
    pub fn of(fit: Fit) -> Self {
        Self {
            crop: None,
            rotation: Rotation::None,
            flip: Flip::default(),
            fit,
            gravity: Gravity::Focus,
            enlarge: matches!(fit, Fit::Cover(..)),
            background: None,
            blur: None,
            sharpen: None,
            quality: None,
            lossless: false,
            metadata: Metadata::None,
            animate: false,
            outputs: Outputs::CLASSIC,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_inside_a_crop_stays_inside() {
        let outer = Crop { x: 100, y: 50, width: 40, height: 30 };
        let inner = |x, y, width, height| outer.within(Crop { x, y, width, height });
        assert_eq!(inner(0, 0, 1000, 1000), outer);
        assert_eq!(inner(10, 10, 5, 5), Crop { x: 110, y: 60, width: 5, height: 5 });
        assert_eq!(inner(35, 0, 10, 10), Crop { x: 135, y: 50, width: 5, height: 10 });
        assert_eq!(inner(u32::MAX, u32::MAX, 1, 1), Crop { x: 139, y: 79, width: 1, height: 1 });
    }
}

use crate::Format;

/// The formats that a rendering may come out in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Outputs {
    /// For opaque pictures.
    pub jpeg: bool,
    /// JPEG in scans, so that it can be seen before it is there; a little smaller, too.
    pub progressive: bool,
    /// For any.
    pub png: bool,
    /// For any, animations included.
    pub webp: bool,
    /// For any. Smallest, and dearest to make.
    pub avif: bool,
    /// For animations.
    pub gif: bool,
}

impl Outputs {
    /// None at all, for adding some.
    pub const NONE: Self = Self { jpeg: false, progressive: false, png: false, webp: false, avif: false, gif: false };
    /// What every client reads.
    pub const CLASSIC: Self = Self { jpeg: true, png: true, gif: true, ..Self::NONE };
    /// PNG alone.
    pub const PNG: Self = Self { png: true, ..Self::NONE };
    /// JPEG alone.
    pub const JPEG: Self = Self { jpeg: true, ..Self::NONE };
    /// WebP alone.
    pub const WEBP: Self = Self { webp: true, ..Self::NONE };

    /// The one that suits a still picture of this size best. Where only JPEG is wanted, what is transparent gets a background; where
    /// no format that is wanted can be so large, another one is taken.
    pub(crate) fn choose(self, opaque: bool, size: (u32, u32)) -> Format {
        let wanted = |format: Format| self.contain(format) && format.holds(size);
        match opaque {
            _ if wanted(Format::Avif) => Format::Avif,
            _ if wanted(Format::WebP) => Format::WebP,
            true if wanted(Format::Jpeg) => Format::Jpeg,
            _ if wanted(Format::Png) => Format::Png,
            _ if wanted(Format::Gif) => Format::Gif,
            false if !wanted(Format::Jpeg) => Format::Png,
            _ if Format::Jpeg.holds(size) => Format::Jpeg,
            _ => Format::Png,
        }
    }

    /// The one that suits an animation of this size best; none when it has to be its first frame.
    pub(crate) fn choose_animated(self, size: (u32, u32)) -> Option<Format> {
        [Format::WebP, Format::Gif].into_iter().find(|format| self.contain(*format) && format.holds(size))
    }

    /// Whether an animation may be able to stay one.
    pub(crate) fn can_animate(self) -> bool {
        self.webp || self.gif
    }

    /// Whether a rendering may come out in a format.
    pub(crate) fn contain(self, format: Format) -> bool {
        match format {
            Format::Jpeg => self.jpeg,
            Format::Png => self.png,
            Format::WebP => self.webp,
            Format::Avif => self.avif,
            Format::Gif => self.gif,
            Format::Bmp | Format::Tiff | Format::Ico | Format::Heic | Format::Jxl => false,
        }
    }

    /// The only format that a rendering may come out in; none where there is a choice.
    #[must_use]
    pub fn only(self) -> Option<Format> {
        let mut formats = Format::ALL.into_iter().filter(|format| self.contain(*format));
        formats.next().filter(|_| formats.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparency_and_movement_are_kept_where_the_client_reads_a_format_that_can() {
        let still = |outputs: Outputs, opaque| outputs.choose(opaque, (100, 100));
        let moving = |outputs: Outputs| outputs.choose_animated((100, 100));
        let modern = Outputs { webp: true, ..Outputs::CLASSIC };
        assert_eq!((still(modern, true), still(modern, false)), (Format::WebP, Format::WebP));
        assert_eq!((moving(modern), moving(Outputs::CLASSIC)), (Some(Format::WebP), Some(Format::Gif)));
        assert_eq!(still(Outputs::CLASSIC, true), Format::Jpeg);
        assert_eq!(still(Outputs::CLASSIC, false), Format::Png);
        assert_eq!(still(Outputs { avif: true, ..modern }, true), Format::Avif);
        assert_eq!(moving(Outputs { avif: true, ..modern }), Some(Format::WebP));
        assert_eq!((moving(Outputs::JPEG), still(Outputs::JPEG, false)), (None, Format::Jpeg));
        assert_eq!((moving(Outputs::PNG), still(Outputs::PNG, true)), (None, Format::Png));
        assert_eq!(still(Outputs { gif: true, ..Outputs::NONE }, true), Format::Gif);
    }

    #[test]
    fn a_format_that_cannot_be_so_large_is_passed_over() {
        let modern = Outputs { webp: true, ..Outputs::CLASSIC };
        for (side, still, moving) in [(16_383, Format::WebP, Format::WebP), (16_384, Format::Jpeg, Format::Gif)] {
            assert_eq!(modern.choose(true, (side, 10)), still);
            assert_eq!(modern.choose(true, (10, side)), still);
            assert_eq!(modern.choose_animated((10, side)), Some(moving));
        }
        assert_eq!(modern.choose(false, (16_384, 10)), Format::Png);
        assert_eq!(Outputs::WEBP.choose(true, (16_384, 10)), Format::Jpeg, "rather than none");
        assert_eq!(Outputs::WEBP.choose(false, (16_384, 10)), Format::Png);
        assert_eq!(Outputs::WEBP.choose_animated((16_384, 10)), None);
        assert_eq!(modern.choose(true, (65_501, 10)), Format::Png);
        assert_eq!((Outputs::WEBP.only(), modern.only()), (Some(Format::WebP), None));
    }
}

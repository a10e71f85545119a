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

/// What the choice of a format depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) opaque: bool,
    pub(crate) animated: bool,
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

    /// The one that suits a picture best. Where only JPEG is wanted, what is transparent gets a background.
    pub(crate) fn choose(self, shape: Shape) -> Format {
        let Self { jpeg, png, webp, avif, gif, .. } = self;
        match shape {
            Shape { animated: true, .. } if webp => Format::WebP,
            Shape { animated: true, .. } if gif => Format::Gif,
            _ if avif => Format::Avif,
            _ if webp => Format::WebP,
            Shape { opaque: true, .. } if jpeg => Format::Jpeg,
            _ if png => Format::Png,
            _ if gif => Format::Gif,
            _ => Format::Jpeg,
        }
    }

    /// Whether an animation can stay one.
    pub(crate) fn can_animate(self) -> bool {
        self.webp || self.gif
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparency_and_movement_are_kept_where_the_client_reads_a_format_that_can() {
        let choose = |outputs: Outputs, opaque, animated| outputs.choose(Shape { opaque, animated });
        let modern = Outputs { webp: true, ..Outputs::CLASSIC };
        assert_eq!((choose(modern, true, false), choose(modern, false, false)), (Format::WebP, Format::WebP));
        assert_eq!((choose(modern, true, true), choose(Outputs::CLASSIC, true, true)), (Format::WebP, Format::Gif));
        assert_eq!(choose(Outputs::CLASSIC, true, false), Format::Jpeg);
        assert_eq!(choose(Outputs::CLASSIC, false, false), Format::Png);
        assert_eq!(choose(Outputs { avif: true, ..modern }, true, false), Format::Avif);
        assert_eq!(choose(Outputs { avif: true, ..modern }, true, true), Format::WebP);
        assert_eq!(choose(Outputs::JPEG, false, true), Format::Jpeg);
        assert_eq!(choose(Outputs::PNG, true, true), Format::Png);
        assert_eq!(choose(Outputs { gif: true, ..Outputs::NONE }, true, false), Format::Gif);
    }
}

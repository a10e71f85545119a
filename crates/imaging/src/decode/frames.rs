//! Animations frame by frame, each the whole canvas as it is seen at that time.

use std::io::Cursor;

use image::RgbaImage;

use super::{check_decoded, gif, png, webp};
use crate::{Error, Format, Limits, inspect};

/// What browsers make of a frame that says it lasts no time.
const SHORTEST_MS: u32 = 20;
const USUAL_MS: u32 = 100;

/// Whole canvases, in their order.
pub(crate) struct Animation<'a> {
    pub(crate) frames: Box<dyn Iterator<Item = Result<Frame, Error>> + 'a>,
    /// How many there are.
    pub(crate) count: u32,
    /// Width and height of the canvas.
    pub(crate) size: (u32, u32),
    pub(crate) profile: Option<Vec<u8>>,
    /// How often it is shown; 0 is for ever.
    pub(crate) plays: u32,
}

pub(crate) struct Frame {
    pub(crate) canvas: RgbaImage,
    pub(crate) milliseconds: u32,
}

/// What the decoder of a format finds.
pub(super) struct Moving<'a> {
    pub(super) frames: Box<dyn Iterator<Item = Result<Frame, Error>> + 'a>,
    pub(super) profile: Option<Vec<u8>>,
    /// See [`Animation::plays`].
    pub(super) plays: u32,
}

/// The frames of an animated GIF, PNG or WebP; none for whatever is still.
///
/// # Errors
/// As [`super::decode`]; those of a frame come with it.
pub(crate) fn animation<'a>(source: &'a [u8], limits: &Limits) -> Result<Option<Animation<'a>>, Error> {
    let format = Format::sniff(source)?;
    if !matches!(format, Format::Gif | Format::Png | Format::WebP) {
        return Ok(None);
    }
    let facts = inspect(Cursor::new(source), limits)?;
    if facts.frames < 2 {
        return Ok(None);
    }
    // The canvas, the frame upon it, and a copy.
    check_decoded(u64::from(facts.width) * u64::from(facts.height) * 4 * 3)?;
    let Moving { frames, profile, plays } = match format {
        Format::Gif => gif::animation(source, limits),
        Format::Png => png::animation(source, &facts, limits),
        _ => webp::animation(source, limits),
    }?;
    let frames = frames.take(facts.frames as usize).map(|frame| {
        let frame = frame?;
        let milliseconds = if frame.milliseconds < SHORTEST_MS { USUAL_MS } else { frame.milliseconds };
        Ok(Frame { milliseconds, ..frame })
    });
    Ok(Some(Animation { frames: Box::new(frames), count: facts.frames, size: (facts.width, facts.height), profile, plays }))
}

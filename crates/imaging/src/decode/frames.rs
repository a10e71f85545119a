//! Animations frame by frame, each the whole canvas as it is seen at that time.

use std::io::Cursor;

use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, Frames, ImageDecoder, ImageError, RgbaImage};

use super::{DECODED_BYTES_MAX, bounds, broken, check_decoded};
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
}

pub(crate) struct Frame {
    pub(crate) canvas: RgbaImage,
    pub(crate) milliseconds: u32,
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
    let failed = move |error: ImageError| broken(format, error);
    let canvas_bounds = bounds(limits, DECODED_BYTES_MAX);
    let bytes = Cursor::new(source);
    let (profile, frames): (_, Frames<'a>) = match format {
        Format::Gif => {
            let mut decoder = GifDecoder::new(bytes).map_err(failed)?;
            decoder.set_limits(canvas_bounds).map_err(failed)?;
            (None, decoder.into_frames())
        }
        Format::Png => {
            let mut decoder = PngDecoder::with_limits(bytes, canvas_bounds).map_err(failed)?;
            let profile = decoder.icc_profile().unwrap_or_default();
            (profile, decoder.apng().map_err(failed)?.into_frames())
        }
        _ => {
            let mut decoder = WebPDecoder::new(bytes).map_err(failed)?;
            decoder.set_limits(canvas_bounds).map_err(failed)?;
            (decoder.icc_profile().unwrap_or_default(), decoder.into_frames())
        }
    };
    let frames = frames.take(facts.frames as usize).map(move |frame| {
        let frame = frame.map_err(failed)?;
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let milliseconds = numerator / denominator.max(1);
        let milliseconds = if milliseconds < SHORTEST_MS { USUAL_MS } else { milliseconds };
        Ok(Frame { canvas: frame.into_buffer(), milliseconds })
    });
    Ok(Some(Animation { frames: Box::new(frames), count: facts.frames, size: (facts.width, facts.height), profile }))
}

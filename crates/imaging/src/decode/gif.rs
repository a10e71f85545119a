//! GIF, by the gif crate. The frames are put together here.

use std::io::Read as _;

use gif::{ColorOutput, DecodeOptions, Decoder, DisposalMethod, MemoryLimit, Repeat};
use image::{DynamicImage, RgbaImage};

use super::canvas::{Canvas, Disposal, Patch};
use super::frames::{Frame, Moving};
use super::{DECODED_BYTES_MAX, Decoded, broken, check_decoded};
use crate::facts::check_size;
use crate::inspect::{GifOutline, inspect_gif};
use crate::{Error, Format, Limits};

const TRAILER: &[u8] = b";";
/// Where the rows of each pass of an interlaced frame begin, and how far they are apart (GIF89a appendix E).
const PASSES: [(usize, usize); 4] = [(0, 8), (4, 8), (2, 4), (1, 2)];

type Reader<'a> = Decoder<std::io::Chain<&'a [u8], &'static [u8]>>;

/// The first frame, on its canvas.
pub(super) fn still(source: &[u8], limits: &Limits) -> Result<Decoded, Error> {
    let outline = inspect_gif(source, limits)?;
    let (width, height) = (outline.facts.width, outline.facts.height);
    check_decoded(u64::from(width) * u64::from(height) * 4)?;
    let mut decoder = reader(source, &outline)?;
    let Some((patch, _)) = patch(&mut decoder, limits)? else { return Err(broken(Format::Gif, "it has no frames")) };
    let picture = DynamicImage::from(Canvas::new(width, height).draw(&patch));
    Ok(Decoded { picture, profile: None, full_size: (width, height) })
}

/// All frames; see [`super::frames::animation`].
pub(super) fn animation<'a>(source: &'a [u8], limits: &Limits) -> Result<Moving<'a>, Error> {
    let outline = inspect_gif(source, limits)?;
    let facts = outline.facts;
    let mut decoder = reader(source, &outline)?;
    let plays = match decoder.repeat() {
        Repeat::Infinite => 0,
        Repeat::Finite(again) => u32::from(again) + 1,
    };
    let mut canvas = Canvas::new(facts.width, facts.height);
    let limits = *limits;
    let mut next = move || -> Result<Option<Frame>, Error> {
        let Some((patch, milliseconds)) = patch(&mut decoder, &limits)? else { return Ok(None) };
        Ok(Some(Frame { canvas: canvas.draw(&patch), milliseconds }))
    };
    let frames = std::iter::from_fn(move || next().transpose());
    Ok(Moving { frames: Box::new(frames), profile: None, plays })
}

/// Reads up to the last whole block, as if a trailer followed.
fn reader<'a>(source: &'a [u8], outline: &GifOutline) -> Result<Reader<'a>, Error> {
    let end = usize::try_from(outline.end).unwrap_or(usize::MAX).min(source.len());
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::RGBA);
    if let Some(bytes) = std::num::NonZeroU64::new(DECODED_BYTES_MAX) {
        options.set_memory_limit(MemoryLimit::Bytes(bytes));
    }
    options.read_info(source[..end].chain(TRAILER)).map_err(|error| broken(Format::Gif, error))
}

/// The next frame, and how long it lasts in milliseconds. Rows that are missing at its end are transparent, as in browsers.
fn patch(decoder: &mut Reader<'_>, limits: &Limits) -> Result<Option<(Patch, u32)>, Error> {
    let failed = |error: gif::DecodingError| broken(Format::Gif, error);
    let Some(frame) = decoder.next_frame_info().map_err(failed)? else { return Ok(None) };
    let (width, height) = (usize::from(frame.width), usize::from(frame.height));
    let (left, top) = (u32::from(frame.left), u32::from(frame.top));
    let (interlaced, milliseconds) = (frame.interlaced, u32::from(frame.delay) * 10);
    let disposal = match frame.dispose {
        DisposalMethod::Any | DisposalMethod::Keep => Disposal::Keep,
        DisposalMethod::Background => Disposal::Clear,
        DisposalMethod::Previous => Disposal::Restore,
    };
    let size = (u32::from(frame.width), u32::from(frame.height));
    check_size(Format::Gif, size.0, size.1, limits)?;
    check_decoded(u64::from(size.0) * u64::from(size.1) * 4)?;
    let mut pixels = vec![0; width * height * 4];
    let mut whole_rows = 0;
    for row in rows(height, interlaced) {
        if !decoder.fill_buffer(&mut pixels[row * width * 4..(row + 1) * width * 4]).map_err(failed)? {
            break;
        }
        whole_rows += 1;
    }
    if whole_rows == 0 {
        return Err(broken(Format::Gif, "a frame has no whole row"));
    }
    let pixels = RgbaImage::from_raw(size.0, size.1, pixels).ok_or_else(|| broken(Format::Gif, "a frame has no pixels"))?;
    Ok(Some((Patch { left, top, pixels, blends: true, disposal }, milliseconds)))
}

/// The rows in the order in which they come.
fn rows(height: usize, interlaced: bool) -> Box<dyn Iterator<Item = usize>> {
    if interlaced {
        Box::new(PASSES.into_iter().flat_map(move |(begin, step)| (begin..height).step_by(step)))
    } else {
        Box::new(0..height)
    }
}

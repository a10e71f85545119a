//! Animated GIF and WebP.

use image::RgbaImage;
use webp::{AnimEncoder, AnimFrame};

use super::{Encoding, Failed, gif, webp::config};
use crate::Format;

/// Bytes before the chunks of a WebP, of a chunk's head, and where in a frame its duration stands (RFC 9649 §2.7.1.1).
const RIFF_HEAD: usize = 12;
const CHUNK_HEAD: usize = 8;
const DURATION_AT: usize = 12;

/// A rendered frame.
pub(crate) struct Moment {
    pub(crate) canvas: RgbaImage,
    pub(crate) milliseconds: u32,
}

/// Takes frames and gives a file that is shown as often as its source.
pub(crate) struct AnimationEncoder<'a> {
    encoding: Encoding<'a>,
    moments: Vec<Moment>,
    /// How often it is shown; 0 is for ever.
    plays: u32,
}

impl<'a> AnimationEncoder<'a> {
    pub(crate) fn new(encoding: Encoding<'a>, plays: u32) -> Self {
        Self { encoding, moments: Vec::new(), plays }
    }

    pub(crate) fn add(&mut self, moment: Moment) {
        self.moments.push(moment);
    }

    pub(crate) fn finish(self) -> Result<Vec<u8>, Failed> {
        if self.encoding.format == Format::Gif { gif::encode(self.moments, self.plays) } else { self.webp() }
    }

    fn webp(self) -> Result<Vec<u8>, Failed> {
        let (width, height) = self.moments.first().map(|moment| moment.canvas.dimensions()).unwrap_or_default();
        let config = config(&self.encoding, false)?;
        let mut encoder = AnimEncoder::new(width, height, &config);
        encoder.set_loop_count(i32::from(u16::try_from(self.plays).unwrap_or(u16::MAX)));
        let mut begins = 0_u32;
        for Moment { canvas, milliseconds } in &self.moments {
            encoder.add_frame(AnimFrame::from_rgba(canvas, width, height, i32::try_from(begins).unwrap_or(i32::MAX)));
            begins = begins.saturating_add(*milliseconds);
        }
        let encoded = encoder.try_encode().map_err(|error| Failed(format!("the WebP encoder refuses it: {error:?}")))?;
        let mut bytes = encoded.to_vec();
        set_end(&mut bytes, begins);
        Ok(bytes)
    }
}

/// Makes the last frame last until the end: the library's interface can say when frames begin, but not when the last one ends.
fn set_end(webp: &mut [u8], end: u32) {
    let (mut at, mut before, mut last) = (RIFF_HEAD, 0, None);
    while let Some(head) = webp.get(at..at + CHUNK_HEAD) {
        let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if head.starts_with(b"ANMF") && len >= DURATION_AT + 3 {
            let duration = at + CHUNK_HEAD + DURATION_AT;
            if let Some(previous) = last.replace(duration) {
                before +=
                    webp.get(previous..previous + 3).map_or(0, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]));
            }
        }
        // Chunks are padded to even lengths.
        at += CHUNK_HEAD + len + len % 2;
    }
    if let Some(place) = last.and_then(|last| webp.get_mut(last..last + 3)) {
        place.copy_from_slice(&end.saturating_sub(before).min(0xFF_FFFF).to_le_bytes()[..3]);
    }
}

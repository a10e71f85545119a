//! A file's pixels as they came, in a file of their own: without EXIF, XMP, comments, thumbnails and whatever stands behind them.
//!
//! For the answer that is to be the original and would be larger encoded anew. Of each format that is kept which says how pixels look;
//! all else is left out, known or not. A file with a colour profile is none of these, because renderings are in sRGB.

use crate::Format;

/// The file in its own format; none for formats that are not taken apart here, and for files whose pixels need more than their numbers.
pub(crate) fn stripped(source: &[u8], format: Format) -> Option<Vec<u8>> {
    match format {
        Format::Jpeg => jpeg(source),
        Format::Png => png(source),
        Format::Gif => gif(source),
        Format::WebP => webp(source),
        _ => None,
    }
}

/// Segments up to the end of the picture (ITU-T T.81 annex B).
fn jpeg(source: &[u8]) -> Option<Vec<u8>> {
    const JFIF_BYTES: usize = 16;
    let mut kept = source.get(..2)?.to_vec();
    let mut at = 2;
    loop {
        let [0xFF, marker] = *source.get(at..at + 2)? else { return None };
        match marker {
            // Filled up.
            0xFF => {
                at += 1;
                continue;
            }
            0xD9 => {
                kept.extend([0xFF, marker]);
                return Some(kept);
            }
            _ => {}
        }
        let length = usize::from(u16::from_be_bytes(source.get(at + 2..at + 4)?.try_into().ok()?));
        let segment = source.get(at..at + 2 + length)?;
        let payload = segment.get(4..)?;
        let keeps = match marker {
            0xE0 => payload.starts_with(b"JFIF\0") && length == JFIF_BYTES,
            0xE2 if payload.starts_with(b"ICC_PROFILE\0") => return None,
            0xEE => payload.starts_with(b"Adobe"),
            0xE1..=0xEF | 0xFE => false,
            // Four components are inks, which programs read in different ways.
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF if *payload.get(5)? > 3 => return None,
            _ => true,
        };
        if keeps {
            kept.extend(segment);
        }
        at += segment.len();
        if marker == 0xDA {
            let end = entropy_end(source, at)?;
            kept.extend(&source[at..end]);
            at = end;
        }
    }
}

/// Where coded data ends: at the next marker that is no restart.
fn entropy_end(source: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += memchr::memchr(0xFF, source.get(at..)?)?;
        match source.get(at + 1)? {
            0x00 | 0xD0..=0xD7 => at += 2,
            0xFF => at += 1,
            _ => return Some(at),
        }
    }
}

/// Critical chunks and transparency (W3C PNG §5.3). An animation is none of these: programs that read PNG show its first frame or all.
fn png(source: &[u8]) -> Option<Vec<u8>> {
    const SIGNATURE_BYTES: usize = 8;
    let mut kept = source.get(..SIGNATURE_BYTES)?.to_vec();
    let mut at = SIGNATURE_BYTES;
    loop {
        let length = u32::from_be_bytes(source.get(at..at + 4)?.try_into().ok()?) as usize;
        let chunk = source.get(at..at.checked_add(length)?.checked_add(12)?)?;
        match &chunk[4..8] {
            b"IHDR" | b"PLTE" | b"tRNS" | b"IDAT" => kept.extend(chunk),
            b"IEND" => {
                kept.extend(chunk);
                return Some(kept);
            }
            b"iCCP" | b"cICP" | b"acTL" => return None,
            _ => {}
        }
        at += chunk.len();
    }
}

/// Frames, what controls them, and how often they repeat (GIF89a).
fn gif(source: &[u8]) -> Option<Vec<u8>> {
    const HEADER_BYTES: usize = 13;
    const DESCRIPTOR_BYTES: usize = 10;
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 6 << (flags & 7) };
    let mut at = HEADER_BYTES + table(*source.get(10)?);
    let mut kept = source.get(..at)?.to_vec();
    loop {
        let end = match source.get(at)? {
            0x3B => {
                kept.push(0x3B);
                return Some(kept);
            }
            0x2C => blocks_end(source, at + DESCRIPTOR_BYTES + table(*source.get(at + 9)?) + 1)?,
            0x21 => blocks_end(source, at + 2)?,
            _ => return None,
        };
        let block = &source[at..end];
        let repeats = |block: &[u8]| block.get(3..14) == Some(b"NETSCAPE2.0") || block.get(3..14) == Some(b"ANIMEXTS1.0");
        match (block[0], block[1]) {
            (0x21, 0xF9) => kept.extend(block),
            (0x21, 0xFF) if repeats(block) => kept.extend(block),
            // Comments and what applications have left.
            (0x21, 0xFE | 0xFF) => {}
            // Text that is drawn, and whatever else.
            (0x21, _) => return None,
            _ => kept.extend(block),
        }
        at = end;
    }
}

fn blocks_end(source: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let length = usize::from(*source.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    }
}

/// Chunks of pixels (RFC 9649 §2.7).
fn webp(source: &[u8]) -> Option<Vec<u8>> {
    const EXIF_AND_XMP: u8 = 0x0C;
    let length = u32::from_le_bytes(source.get(4..8)?.try_into().ok()?) as usize;
    let body = source.get(12..length.checked_add(8)?)?;
    let (mut at, mut kept) = (0, Vec::with_capacity(body.len()));
    while at < body.len() {
        let length = u32::from_le_bytes(body.get(at + 4..at + 8)?.try_into().ok()?) as usize;
        let end = at.checked_add(8)?.checked_add(length)?;
        let chunk = body.get(at..end)?;
        match &chunk[..4] {
            b"VP8X" => {
                kept.extend(chunk);
                let flags = kept.len() - length;
                *kept.get_mut(flags)? &= !EXIF_AND_XMP;
            }
            b"VP8 " | b"VP8L" | b"ALPH" | b"ANIM" | b"ANMF" => kept.extend(chunk),
            b"ICCP" => return None,
            _ => {}
        }
        // Chunks are padded to even lengths.
        if kept.len() % 2 == 1 {
            kept.push(0);
        }
        at = end + length % 2;
    }
    let length = u32::try_from(kept.len() + 4).ok()?;
    Some([b"RIFF", &length.to_le_bytes()[..], b"WEBP", &kept].concat())
}

//! The one reader of EXIF (CIPA DC-008): records and renderings both get the orientation from here.

use crate::Orientation;

/// Bytes of a block that are read: its first directory is at its start, and previews may follow for megabytes.
pub(super) const READ_BYTES_MAX: usize = 256 * 1024;

/// What JPEG writes in front of a block, and some writers of WebP, PNG and AVIF too.
pub(super) const PREFIX: &[u8] = b"Exif\0\0";

const TAG_ORIENTATION: u16 = 0x0112;
const ENTRY_BYTES: usize = 12;

/// The orientation that a block names, with or without [`PREFIX`]; upright when it can't be read.
pub(super) fn orientation(block: &[u8]) -> Orientation {
    let tiff = block.strip_prefix(PREFIX).unwrap_or(block);
    read(tiff).map_or(Orientation::UPRIGHT, Orientation::from_exif)
}

/// The value in the first directory of a TIFF structure (TIFF 6.0 §2).
fn read(tiff: &[u8]) -> Option<u16> {
    let little = match tiff.get(..2)? {
        b"II" => true,
        b"MM" => false,
        _ => return None,
    };
    let u16_at = |at: usize| -> Option<u16> {
        let bytes = [*tiff.get(at)?, *tiff.get(at + 1)?];
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let u32_at = |at: usize| -> Option<u32> {
        let (first, second) = (u32::from(u16_at(at)?), u32::from(u16_at(at + 2)?));
        Some(if little { second << 16 | first } else { first << 16 | second })
    };
    let directory = usize::try_from(u32_at(4)?).ok()?;
    let count = usize::from(u16_at(directory)?);
    let entries = (0..count).map(|index| directory + 2 + index * ENTRY_BYTES);
    let entry = entries.into_iter().find(|at| u16_at(*at) == Some(TAG_ORIENTATION))?;
    // A SHORT, or a LONG as some writers have it.
    match u16_at(entry + 2)? {
        3 => u16_at(entry + 8),
        4 => u16::try_from(u32_at(entry + 8)?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_read_with_and_without_its_prefix() {
        let block = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        assert_eq!(orientation(block).exif(), 6);
        assert_eq!(orientation(&[PREFIX, block].concat()).exif(), 6);
        let long = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x08";
        assert_eq!(orientation(long).exif(), 8);
        for len in 0..block.len() - 8 {
            assert_eq!(orientation(&block[..len.min(17)]).exif(), 1, "{len}");
        }
    }
}

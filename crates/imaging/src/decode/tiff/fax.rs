//! One-dimensional fax coding (ITU-T T.4 §2): runs of white and black in turn. Fax of Group 4 is the tiff crate's.

use std::convert::Infallible;

use fax::maps::{black, white};
use fax::{BitReader, ByteReader};

/// Bits of an end-of-line code.
const END_OF_LINE_BITS: u8 = 12;
/// Runs up to this end a colour; longer ones are sums (T.4 table 3).
const TERMINATING_MAX: u16 = 63;

/// So many rows as one bit a pixel, black set. Lines end with a code of their own, or at a whole byte.
pub(super) fn unpacked(strip: &[u8], width: u32, rows: u32, ends_lines: bool) -> Option<Vec<u8>> {
    let width = usize::try_from(width).ok()?;
    let row_bytes = width.div_ceil(8);
    // A reader looks ahead of the last code.
    let bytes = strip.iter().copied().chain([0; 4]).map(Ok::<u8, Infallible>);
    let mut bits = ByteReader::new(bytes).ok()?;
    let mut pixels = vec![0_u8; row_bytes.checked_mul(rows as usize)?];
    for row in pixels.chunks_exact_mut(row_bytes) {
        if ends_lines {
            skip_end_of_line(&mut bits)?;
        } else {
            let rest = bits.bits_to_byte_boundary();
            bits.consume(rest).ok()?;
        }
        let (mut at, mut is_black) = (0, false);
        while at < width {
            let end = (at + run(&mut bits, is_black)?).min(width);
            if is_black {
                (at..end).for_each(|x| row[x / 8] |= 0x80 >> (x % 8));
            }
            (at, is_black) = (end, !is_black);
        }
    }
    Some(pixels)
}

fn run(bits: &mut impl BitReader, is_black: bool) -> Option<usize> {
    let mut sum = 0;
    loop {
        let part = if is_black { black::decode(bits) } else { white::decode(bits) }?;
        sum += usize::from(part);
        if part <= TERMINATING_MAX {
            return Some(sum);
        }
        if sum > usize::from(u16::MAX) {
            return None;
        }
    }
}

/// Passes over zeros that fill up a byte and the code behind them, if there are any.
fn skip_end_of_line(bits: &mut impl BitReader) -> Option<()> {
    while bits.peek(END_OF_LINE_BITS) == Some(0) {
        bits.consume(1).ok()?;
    }
    if bits.peek(END_OF_LINE_BITS) == Some(1) {
        bits.consume(END_OF_LINE_BITS).ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_become_pixels() {
        // White 2, black 3, white 3: 0111 10 1000; then a whole white line: 10011.
        let aligned = [0b0111_1010, 0b0000_0000, 0b1001_1000];
        assert_eq!(unpacked(&aligned, 8, 2, false), Some(vec![0b0011_1000, 0]));
        let end = "000000000001";
        let text = [end, "0111101000", end, "10011", end].concat();
        let bits: Vec<u8> = text.bytes().map(|bit| bit - b'0').collect();
        let bytes: Vec<u8> =
            bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |sum, (at, bit)| sum | bit << (7 - at))).collect();
        assert_eq!(unpacked(&bytes, 8, 2, true), Some(vec![0b0011_1000, 0]));
        assert_eq!(unpacked(&bytes[..2], 8, 2, true), None);
    }
}

//! What the samples of an AVIF mean: code points of ITU-T H.273.
//!
//! The container says them (ISO/IEC 23000-22 §7.3.6.4); what it leaves open, the AV1 sequence header may say (AV1 §5.5.2). re_rav1d
//! tells of that header too, but panics over the code points that H.273 reserves.

use moxcms::{CicpColorPrimaries, CicpProfile, ColorProfile, MatrixCoefficients, TransferCharacteristics};
use scuffle_av1::seq::{ColorConfig, SequenceHeaderObu};
use scuffle_av1::{ObuHeader, ObuType};

use crate::inspect::{CodePoints, ItemColours};

const UNSPECIFIED: u16 = 2;

/// How samples become red, green and blue, and what those mean.
pub(super) struct Colours {
    matrix: Matrix,
    full_range: bool,
    primaries: u16,
    profile: Option<Vec<u8>>,
}

enum Matrix {
    /// The samples are green, blue and red.
    Identity,
    /// Luma, and what green and orange have more of.
    GreenOrange,
    /// How much of luma is red and blue.
    Luma { red: f32, blue: f32 },
}

impl Matrix {
    /// H.273 §8.3. Most pictures that don't say mean BT.601, as JPEG does.
    fn of(code_point: u16) -> Self {
        match code_point {
            0 => Self::Identity,
            1 => Self::Luma { red: 0.2126, blue: 0.0722 },
            4 => Self::Luma { red: 0.30, blue: 0.11 },
            7 => Self::Luma { red: 0.212, blue: 0.087 },
            8 => Self::GreenOrange,
            9 | 10 => Self::Luma { red: 0.2627, blue: 0.0593 },
            _ => Self::Luma { red: 0.299, blue: 0.114 },
        }
    }
}

impl Colours {
    /// Of an item of AV1 data, and what the container says of it.
    pub(super) fn of(container: ItemColours, item: &[u8]) -> Self {
        let coded = sequence_header(item).map(|header| CodePoints {
            primaries: header.color_primaries.into(),
            matrix: header.matrix_coefficients.into(),
            full_range: header.full_color_range,
        });
        let said = |part: fn(CodePoints) -> u16| {
            let said = [container.code_points, coded].into_iter().flatten().map(part);
            said.into_iter().find(|code_point| *code_point != UNSPECIFIED).unwrap_or(UNSPECIFIED)
        };
        Self {
            matrix: Matrix::of(said(|points| points.matrix)),
            full_range: container.code_points.or(coded).is_some_and(|points| points.full_range),
            primaries: said(|points| points.primaries),
            profile: container.profile,
        }
    }

    /// The brightness that a luma sample stands for, from 0 to 255; beyond that for samples that are blacker than black.
    pub(super) fn brightness(&self, luma: u8) -> f32 {
        if self.full_range { f32::from(luma) } else { (f32::from(luma) - 16.0) * (255.0 / 219.0) }
    }

    /// Red, green and blue of a pixel's three samples.
    pub(super) fn rgb(&self, luma: u8, blue: u8, red: u8) -> [u8; 3] {
        let spread = if self.full_range { 1.0 } else { 255.0 / 224.0 };
        let bright = self.brightness(luma);
        let (cb, cr) = ((f32::from(blue) - 128.0) * spread, (f32::from(red) - 128.0) * spread);
        match self.matrix {
            Matrix::Identity => [byte(self.brightness(red)), byte(bright), byte(self.brightness(blue))],
            Matrix::GreenOrange => [byte(bright - cb + cr), byte(bright + cb), byte(bright - cb - cr)],
            Matrix::Luma { red, blue } => {
                let (r, b) = (bright + 2.0 * (1.0 - red) * cr, bright + 2.0 * (1.0 - blue) * cb);
                [byte(r), byte((bright - red * r - blue * b) / (1.0 - red - blue)), byte(b)]
            }
        }
    }

    /// An ICC profile: the picture's own, else one of its primaries where they are wider than sRGB's.
    pub(super) fn profile(self) -> Option<Vec<u8>> {
        if self.profile.is_some() {
            return self.profile;
        }
        wide_profile(self.primaries)
    }
}

/// A profile of these primaries (H.273 §8.1) with sRGB's curve, where they are wider than sRGB's.
pub(in crate::decode) fn wide_profile(primaries: u16) -> Option<Vec<u8>> {
    let profile = ColorProfile::new_from_cicp(CicpProfile {
        color_primaries: match primaries {
            9 => CicpColorPrimaries::Bt2020,
            11 => CicpColorPrimaries::Smpte431,
            12 => CicpColorPrimaries::Smpte432,
            _ => return None,
        },
        transfer_characteristics: TransferCharacteristics::Srgb,
        matrix_coefficients: MatrixCoefficients::Identity,
        full_range: true,
    });
    profile.encode().ok()
}

/// A channel's value.
pub(super) fn byte(value: f32) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

fn sequence_header(mut item: &[u8]) -> Option<ColorConfig> {
    while !item.is_empty() {
        let header = ObuHeader::parse(&mut item).ok()?;
        let len = header.size.map_or(Some(item.len()), |size| usize::try_from(size).ok())?;
        let (mut payload, rest) = item.split_at_checked(len)?;
        if header.obu_type == ObuType::SequenceHeader {
            return SequenceHeaderObu::parse(header, &mut payload).ok().map(|found| found.color_config);
        }
        item = rest;
    }
    None
}

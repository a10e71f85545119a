//! Pictures of few colours: which those are, and which of them each pixel has.

use std::collections::HashMap;

use color_quant::NeuQuant;

/// Red, green, blue and opacity.
pub(super) type Pixel = [u8; 4];

/// Numbers that a palette has room for.
pub(super) const COLOURS_MAX: usize = 256;
/// How many pixels are left out for each that a palette is made of, from 1: time against quality.
const SPEED: i32 = 10;
/// Colours of a palette that is made of more; those of [`NeuQuant`] are from 64 to 256.
const QUANTISED_MIN: usize = 64;

/// Colours by number, and the number of each colour that was asked for.
pub(super) struct Palette {
    colours: Vec<Pixel>,
    numbers: HashMap<Pixel, u8>,
    nearest: Option<NeuQuant>,
    latest: Option<(Pixel, u8)>,
}

impl Palette {
    /// Of exactly the colours that pixels have, in the order in which they come; none when there are more than so many.
    pub(super) fn exact(pixels: impl IntoIterator<Item = Pixel>, most: usize) -> Option<Self> {
        let mut palette = Self { colours: Vec::new(), numbers: HashMap::new(), nearest: None, latest: None };
        for pixel in pixels {
            if palette.latest.is_some_and(|(latest, _)| latest == pixel) {
                continue;
            }
            let number = match palette.numbers.get(&pixel) {
                Some(number) => *number,
                None if palette.colours.len() == most.min(COLOURS_MAX) => return None,
                None => {
                    let number = u8::try_from(palette.colours.len()).unwrap_or(u8::MAX);
                    palette.numbers.insert(pixel, number);
                    palette.colours.push(pixel);
                    number
                }
            };
            palette.latest = Some((pixel, number));
        }
        Some(palette)
    }

    /// Of so many colours that are near to all that pixels have.
    pub(super) fn near(pixels: &[u8], most: usize) -> Self {
        let net = NeuQuant::new(SPEED, most.clamp(QUANTISED_MIN, COLOURS_MAX), pixels);
        let colours = net.color_map_rgba().as_chunks().0.to_vec();
        Self { colours, numbers: HashMap::new(), nearest: Some(net), latest: None }
    }

    /// All colours, by number.
    pub(super) fn colours(&self) -> &[Pixel] {
        &self.colours
    }

    /// The number of a colour or of the one that is nearest to it; none for one that an exact palette does not have.
    pub(super) fn number(&mut self, pixel: Pixel) -> Option<u8> {
        if let Some((latest, number)) = self.latest
            && latest == pixel
        {
            return Some(number);
        }
        let known = self.numbers.get(&pixel).copied();
        let number = match (known, &self.nearest) {
            (Some(number), _) => number,
            (None, Some(net)) => {
                let number = u8::try_from(net.index_of(&pixel)).unwrap_or(u8::MAX);
                self.numbers.insert(pixel, number);
                number
            }
            (None, None) => return None,
        };
        self.latest = Some((pixel, number));
        Some(number)
    }

    /// Mean distance of pixels' channels from those of their colours in this palette, of 255; none where it lacks one.
    pub(super) fn distance(&mut self, pixels: impl IntoIterator<Item = Pixel>) -> Option<f64> {
        let (mut sum, mut count) = (0_u64, 0_u64);
        for pixel in pixels {
            let number = self.number(pixel)?;
            let near = self.colours[usize::from(number)];
            sum += pixel.iter().zip(near).map(|(one, other)| u64::from(one.abs_diff(other))).sum::<u64>();
            count += 4;
        }
        Some(sum as f64 / count.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_colours_as_there_is_room_for_are_numbered() {
        let gray = |count: usize| (0..count).map(|value| [value as u8, (value >> 8) as u8, 0, 255]);
        let mut palette = Palette::exact(gray(256).chain(gray(256)), 256).expect("fits");
        assert_eq!(palette.colours().len(), 256);
        assert_eq!((palette.number([255, 0, 0, 255]), palette.number([0, 1, 0, 255])), (Some(255), None));
        assert!(Palette::exact(gray(257), 256).is_none());
        assert!(Palette::exact(gray(256), 255).is_none());
        assert_eq!(palette.distance(gray(256)), Some(0.0));
    }
}

//! AVIF: items of AV1 (re_rav1d, the Rust dav1d) in a container (heifer-isobmff), brought from YUV to RGB (ITU-T H.273 §8.3).
//!
//! A picture may be one item, or a grid of them, as the exports of photo editors are. Of layers the last is shown, and of a sequence
//! its picture or first frame. Pixels in PQ or HLG are shown as if they were in sRGB's curve; primaries are followed.

mod colours;

use heifer::heifer_isobmff::boxes::Property;
use heifer::heifer_isobmff::{HeifFile, ItemId};
use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};
use re_rav1d::dav1d::pixel::YUVRange;
use re_rav1d::dav1d::{Decoder, Picture, PixelLayout, PlanarImageComponent, Settings};

use super::{Decoded, broken, check_decoded, upright, visible};
use crate::inspect::{HeifPicture, inspect_heif, whole_boxes};
use crate::{Error, Format, Limits, Undrawable};
use colours::{Colours, byte};

pub(super) use colours::wide_profile;

/// What names an item that is the opacity of another.
const ALPHA: [&str; 2] = ["urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", "urn:mpeg:hevc:2015:auxid:1"];
/// Says of a layer's number that all layers belong to one picture (23008-12 §6.5.11).
const ALL_LAYERS: u16 = 0xFFFF;

pub(super) fn decode(source: &[u8], limits: &Limits) -> Result<Decoded, Error> {
    let HeifPicture { facts, colours: container, coded_size, aperture } = inspect_heif(source, Format::Avif, limits)?;
    let pixels = u64::from(coded_size.0) * u64::from(coded_size.1);
    // The pixels, and planes of up to two bytes a sample.
    check_decoded(pixels * 4)?;
    let file = HeifFile::parse(whole_boxes(source)).map_err(|error| broken(Format::Avif, error))?;
    let tiles = Tiles::of(&file, file.primary_id)?;
    let alpha = tiles.opacity(&file)?;
    let first = item_data(&file, tiles.items[0])?;
    let colours = Colours::of(container, &first);
    let premultiplied = file.references.iter().any(|link| link.ref_type.0 == *b"prem" && link.from == file.primary_id);
    let mut painted = Painted::new(coded_size);
    tiles.each(&file, coded_size, limits, |picture, place| painted.paint(picture, &colours, place))?;
    let picture = match alpha {
        None => painted.picture(),
        Some(alpha) => {
            let mut mask = Mask::new(coded_size);
            alpha.each(&file, coded_size, limits, |picture, place| mask.paint(picture, place))?;
            painted.with_opacity(&mask, premultiplied)
        }
    };
    let picture = picture.ok_or_else(|| short("its pixels are not as many as it says"))?;
    let picture = upright(visible(picture, aperture), facts.orientation);
    let full_size = (picture.width(), picture.height());
    Ok(Decoded { picture, profile: colours.profile(), full_size })
}

fn short(detail: &'static str) -> Error {
    broken(Format::Avif, detail)
}

fn item_data(file: &HeifFile<'_>, id: ItemId) -> Result<Vec<u8>, Error> {
    file.item_data(id).map(std::borrow::Cow::into_owned).map_err(|error| broken(Format::Avif, error))
}

/// The coded pictures that an item consists of, line by line.
struct Tiles {
    items: Vec<ItemId>,
    columns: u32,
}

impl Tiles {
    fn of(file: &HeifFile<'_>, id: ItemId) -> Result<Self, Error> {
        let kind = file.item(id).map_err(|error| broken(Format::Avif, error))?.item_type.0;
        match &kind {
            b"av01" => Ok(Self { items: vec![id], columns: 1 }),
            b"grid" => {
                let grid = file.grid(id).map_err(|error| broken(Format::Avif, error))?;
                let items = file.referenced_items(id, b"dimg").to_vec();
                if items.len() != usize::from(grid.columns) * usize::from(grid.rows) {
                    return Err(short("its grid has too few or too many tiles"));
                }
                if items.iter().any(|tile| !file.item(*tile).is_ok_and(|tile| tile.item_type.0 == *b"av01")) {
                    return Err(Error::Undrawable { kind: Undrawable::AvifGrid });
                }
                Ok(Self { items, columns: u32::from(grid.columns) })
            }
            b"iovl" => Err(Error::Undrawable { kind: Undrawable::AvifOverlay }),
            _ => Err(Error::Undrawable { kind: Undrawable::AvifOther }),
        }
    }

    /// The opacity: one item for the whole picture, or one for each tile.
    fn opacity(&self, file: &HeifFile<'_>) -> Result<Option<Self>, Error> {
        if let Some(alpha) = alpha_of(file, file.primary_id) {
            return Self::of(file, alpha).map(Some);
        }
        let each: Option<Vec<ItemId>> = self.items.iter().map(|tile| alpha_of(file, *tile)).collect();
        Ok(each.map(|items| Self { items, columns: self.columns }))
    }

    /// Decodes one tile after the other and hands each out with the place of its corner.
    fn each(
        &self,
        file: &HeifFile<'_>,
        (width, height): (u32, u32),
        limits: &Limits,
        mut paint: impl FnMut(&Picture, (u32, u32)) -> Option<()>,
    ) -> Result<(), Error> {
        let rows = (self.items.len() as u64).div_ceil(u64::from(self.columns));
        let mut size: Option<(u32, u32)> = None;
        for (at, id) in (0_u32..).zip(&self.items) {
            let picture = coded(&item_data(file, *id)?, file, *id, limits)?;
            let (wide, high) = *size.get_or_insert((picture.width(), picture.height()));
            let covers = |tile: u32, count: u64, side: u32| {
                let (tile, side) = (u64::from(tile), u64::from(side));
                // No tile lies outside the picture (23000-22 §7.3.11.4.2).
                tile * count >= side && tile * (count - 1) < side
            };
            if !covers(wide, u64::from(self.columns), width) || !covers(high, rows, height) {
                return Err(short("its coded pictures are not as large as it says"));
            }
            if (picture.width(), picture.height()) != (wide, high) {
                return Err(short("its tiles differ in size"));
            }
            let place = (at % self.columns * wide, at / self.columns * high);
            paint(&picture, place).ok_or_else(|| short("its planes don't fit"))?;
        }
        Ok(())
    }
}

fn alpha_of(file: &HeifFile<'_>, id: ItemId) -> Option<ItemId> {
    let is_alpha = |property: &Property| matches!(property, Property::AuxiliaryType(kind) if ALPHA.contains(&kind.as_str()));
    file.referencing_items(id, b"auxl").into_iter().find(|id| file.item_properties(*id).is_ok_and(|mut all| all.any(is_alpha)))
}

/// The payload of an item's property of this kind.
fn property<'a>(file: &'a HeifFile<'_>, id: ItemId, kind: &[u8; 4]) -> Option<&'a [u8]> {
    file.item_properties(id).ok()?.find_map(|property| match property {
        Property::Unknown(found, payload) if found.0 == *kind => Some(payload.as_slice()),
        _ => None,
    })
}

/// One AV1 picture: the layer that its item names, or the last.
fn coded(data: &[u8], file: &HeifFile<'_>, id: ItemId, limits: &Limits) -> Result<Picture, Error> {
    let failed = |error: re_rav1d::dav1d::Error| broken(Format::Avif, error);
    let layer = match property(file, id, b"lsel") {
        Some([high, low, ..]) => Some(u16::from_be_bytes([*high, *low])).filter(|layer| *layer != ALL_LAYERS),
        _ => None,
    };
    let mut settings = Settings::new();
    settings.set_n_threads(1);
    settings.set_max_frame_delay(1);
    settings.set_frame_size_limit(u32::try_from(limits.pixels_max).unwrap_or(u32::MAX));
    settings.set_all_layers(layer.is_some());
    if let Some([point, ..]) = property(file, id, b"a1op") {
        settings.set_operating_point(u32::from(*point).min(31));
    }
    let mut decoder = Decoder::with_settings(&settings).map_err(failed)?;
    match decoder.send_data(data.to_vec(), None, None, None) {
        Err(error) if !error.is_again() => return Err(failed(error)),
        _ => {}
    }
    // Each look for a picture lets the decoder go on with what it was given.
    const LOOKS_MAX: usize = 64;
    let (mut last, mut shown) = (None, 0_u16);
    for _ in 0..LOOKS_MAX {
        match decoder.get_picture() {
            Ok(picture) => {
                last = Some(picture);
                if layer == Some(shown) {
                    break;
                }
                shown += 1;
            }
            Err(error) if error.is_again() => match decoder.send_pending_data() {
                Err(error) if !error.is_again() => return Err(failed(error)),
                _ => {
                    if last.is_some() {
                        break;
                    }
                }
            },
            Err(_) if last.is_some() => break,
            Err(error) => return Err(failed(error)),
        }
    }
    last.ok_or_else(|| short("it has no picture"))
}

/// A plane's samples as eight bits, at the places of the whole picture.
struct Plane {
    samples: Vec<u8>,
    width: usize,
    /// How many pixels share a sample, across and down, as powers of two.
    shift: (usize, usize),
}

impl Plane {
    fn read(picture: &Picture, component: PlanarImageComponent, shift: (usize, usize)) -> Option<Self> {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let (width, height) = ((width + shift.0) >> shift.0, (height + shift.1) >> shift.1);
        let stride = picture.stride(component) as usize;
        let bytes = picture.plane(component);
        let depth = picture.bit_depth();
        let mut samples = Vec::with_capacity(width * height);
        for line in 0..height {
            let line = bytes.get(line * stride..)?;
            if depth == 8 {
                samples.extend_from_slice(line.get(..width)?);
            } else {
                let wide = line.get(..width * 2)?.chunks_exact(2).map(|sample| u16::from_ne_bytes([sample[0], sample[1]]));
                samples.extend(wide.map(|sample| u8::try_from(sample >> (depth - 8)).unwrap_or(u8::MAX)));
            }
        }
        Some(Self { samples, width, shift })
    }

    fn at(&self, x: usize, y: usize) -> u8 {
        self.samples[(y >> self.shift.1) * self.width + (x >> self.shift.0)]
    }
}

/// The part of a tile that lies on a picture of this size: its width and height.
fn on_picture(picture: &Picture, (x, y): (u32, u32), size: (u32, u32)) -> (u32, u32) {
    (picture.width().min(size.0.saturating_sub(x)), picture.height().min(size.1.saturating_sub(y)))
}

/// The colours of the whole picture, gray as long as all tiles are.
struct Painted {
    size: (u32, u32),
    pixels: RgbImage,
    is_gray: bool,
}

impl Painted {
    fn new(size: (u32, u32)) -> Self {
        Self { size, pixels: RgbImage::new(size.0, size.1), is_gray: true }
    }

    fn paint(&mut self, picture: &Picture, colours: &Colours, place: (u32, u32)) -> Option<()> {
        let luma = Plane::read(picture, PlanarImageComponent::Y, (0, 0))?;
        let shift = match picture.pixel_layout() {
            PixelLayout::I420 => Some((1, 1)),
            PixelLayout::I422 => Some((1, 0)),
            PixelLayout::I444 => Some((0, 0)),
            PixelLayout::I400 => None,
        };
        let chroma = match shift {
            Some(shift) => Some((
                Plane::read(picture, PlanarImageComponent::U, shift)?,
                Plane::read(picture, PlanarImageComponent::V, shift)?,
            )),
            None => None,
        };
        self.is_gray &= chroma.is_none();
        let (width, height) = on_picture(picture, place, self.size);
        for y in 0..height {
            for x in 0..width {
                let (across, down) = (x as usize, y as usize);
                let pixel = match &chroma {
                    Some((blues, reds)) => colours.rgb(luma.at(across, down), blues.at(across, down), reds.at(across, down)),
                    None => [byte(colours.brightness(luma.at(across, down))); 3],
                };
                self.pixels.get_pixel_mut_checked(place.0 + x, place.1 + y)?.0 = pixel;
            }
        }
        Some(())
    }

    fn picture(self) -> Option<DynamicImage> {
        if !self.is_gray {
            return Some(self.pixels.into());
        }
        let gray = self.pixels.pixels().map(|pixel| pixel.0[0]).collect();
        GrayImage::from_raw(self.size.0, self.size.1, gray).map(Into::into)
    }

    fn with_opacity(self, mask: &Mask, premultiplied: bool) -> Option<DynamicImage> {
        let pixels = self.pixels.pixels().zip(mask.pixels.as_raw()).flat_map(|(colour, opacity)| {
            let colour = if premultiplied { colour.0.map(|part| unmultiplied(part, *opacity)) } else { colour.0 };
            [colour[0], colour[1], colour[2], *opacity]
        });
        RgbaImage::from_raw(self.size.0, self.size.1, pixels.collect()).map(Into::into)
    }
}

/// The opacity of the whole picture.
struct Mask {
    pixels: GrayImage,
}

impl Mask {
    fn new(size: (u32, u32)) -> Self {
        Self { pixels: GrayImage::new(size.0, size.1) }
    }

    fn paint(&mut self, picture: &Picture, place: (u32, u32)) -> Option<()> {
        let full = matches!(picture.color_range(), YUVRange::Full);
        let luma = Plane::read(picture, PlanarImageComponent::Y, (0, 0))?;
        let opacity = |sample: u8| if full { sample } else { byte((f32::from(sample) - 16.0) * (255.0 / 219.0)) };
        let (width, height) = on_picture(picture, place, self.pixels.dimensions());
        for y in 0..height {
            for x in 0..width {
                let sample = luma.at(x as usize, y as usize);
                self.pixels.get_pixel_mut_checked(place.0 + x, place.1 + y)?.0 = [opacity(sample)];
            }
        }
        Some(())
    }
}

fn unmultiplied(part: u8, opacity: u8) -> u8 {
    if opacity == 0 { 0 } else { byte(f32::from(part) * 255.0 / f32::from(opacity)) }
}

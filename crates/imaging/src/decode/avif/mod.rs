//! AVIF: items of AV1 (re_rav1d, the Rust dav1d) in a container (avif-parse), brought from YUV to RGB (ITU-T H.273 §8.3).
//!
//! Pixels in PQ or HLG are shown as if they were in sRGB's curve; primaries are followed.

mod colours;

use std::io::Cursor;

use avif_parse::AvifData;
use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};
use re_rav1d::dav1d::pixel::YUVRange;
use re_rav1d::dav1d::{Decoder, Picture, PixelLayout, PlanarImageComponent, Settings};

use super::{Decoded, broken, check_decoded, upright, visible};
use crate::inspect::{HeifPicture, inspect_heif};
use crate::{Error, Format, Limits};
use colours::{Colours, byte};

pub(super) use colours::wide_profile;

pub(super) fn decode(source: &[u8], limits: &Limits) -> Result<Decoded, Error> {
    let HeifPicture { facts, colours: container, coded_size: (width, height), aperture } =
        inspect_heif(source, Format::Avif, limits)?;
    let pixels = u64::from(width) * u64::from(height);
    // Planes of up to two bytes a sample, and the pixels made of them.
    check_decoded(pixels * 4)?;
    let data = AvifData::from_reader(&mut Cursor::new(source)).map_err(|error| broken(Format::Avif, error))?;
    let coloured = item(&data.primary_item, limits)?;
    let colours = Colours::of(container, &data.primary_item);
    let alpha = data.alpha_item.as_ref().map(|alpha| item(alpha, limits)).transpose()?;
    let picture = assemble(&coloured, &colours, alpha.as_ref(), data.premultiplied_alpha)
        .ok_or_else(|| broken(Format::Avif, "its planes don't fit"))?;
    let picture = upright(visible(picture, aperture), facts.orientation);
    let full_size = (picture.width(), picture.height());
    Ok(Decoded { picture, profile: colours.profile(), full_size })
}

/// One AV1 still picture.
fn item(data: &[u8], limits: &Limits) -> Result<Picture, Error> {
    let failed = |error: re_rav1d::dav1d::Error| broken(Format::Avif, error);
    let mut settings = Settings::new();
    settings.set_n_threads(1);
    settings.set_max_frame_delay(1);
    settings.set_frame_size_limit(u32::try_from(limits.pixels_max).unwrap_or(u32::MAX));
    let mut decoder = Decoder::with_settings(&settings).map_err(failed)?;
    match decoder.send_data(data.to_vec(), None, None, None) {
        Err(error) if !error.is_again() => return Err(failed(error)),
        _ => {}
    }
    // Each look for a picture lets the decoder go on with what it was given.
    const LOOKS_MAX: usize = 64;
    for _ in 0..LOOKS_MAX {
        match decoder.get_picture() {
            Ok(picture) => return Ok(picture),
            Err(error) if error.is_again() => match decoder.send_pending_data() {
                Err(error) if !error.is_again() => return Err(failed(error)),
                _ => {}
            },
            Err(error) => return Err(failed(error)),
        }
    }
    Err(broken(Format::Avif, "it has no picture"))
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

fn assemble(coloured: &Picture, colours: &Colours, alpha: Option<&Picture>, premultiplied: bool) -> Option<DynamicImage> {
    let (width, height) = (coloured.width(), coloured.height());
    let luma = Plane::read(coloured, PlanarImageComponent::Y, (0, 0))?;
    let shift = match coloured.pixel_layout() {
        PixelLayout::I420 => Some((1, 1)),
        PixelLayout::I422 => Some((1, 0)),
        PixelLayout::I444 => Some((0, 0)),
        PixelLayout::I400 => None,
    };
    let chroma = match shift {
        Some(shift) => {
            Some((Plane::read(coloured, PlanarImageComponent::U, shift)?, Plane::read(coloured, PlanarImageComponent::V, shift)?))
        }
        None => None,
    };
    if chroma.is_none() && alpha.is_none() {
        let pixels = luma.samples.iter().map(|sample| byte(colours.brightness(*sample))).collect();
        return GrayImage::from_raw(width, height, pixels).map(Into::into);
    }
    let pixel = |x: usize, y: usize| match &chroma {
        Some((blues, reds)) => colours.rgb(luma.at(x, y), blues.at(x, y), reds.at(x, y)),
        None => [byte(colours.brightness(luma.at(x, y))); 3],
    };
    let places = (0..height as usize).flat_map(|y| (0..width as usize).map(move |x| (x, y)));
    let Some(alpha) = alpha else {
        let pixels = places.flat_map(|(x, y)| pixel(x, y)).collect();
        return RgbImage::from_raw(width, height, pixels).map(Into::into);
    };
    if (alpha.width(), alpha.height()) != (width, height) {
        return None;
    }
    let alpha_full = matches!(alpha.color_range(), YUVRange::Full);
    let alpha = Plane::read(alpha, PlanarImageComponent::Y, (0, 0))?;
    let opacity = |sample: u8| if alpha_full { sample } else { byte((f32::from(sample) - 16.0) * (255.0 / 219.0)) };
    let pixels = places.flat_map(|(x, y)| {
        let (colour, opacity) = (pixel(x, y), opacity(alpha.at(x, y)));
        let colour = if premultiplied { colour.map(|part| unmultiplied(part, opacity)) } else { colour };
        [colour[0], colour[1], colour[2], opacity]
    });
    RgbaImage::from_raw(width, height, pixels.collect()).map(Into::into)
}

fn unmultiplied(part: u8, opacity: u8) -> u8 {
    if opacity == 0 { 0 } else { byte(f32::from(part) * 255.0 / f32::from(opacity)) }
}

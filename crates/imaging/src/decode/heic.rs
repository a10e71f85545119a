//! HEIC: items of HEVC (heifer) in a container, put together tile by tile.
//!
//! Phones write a grid of tiles, each a picture of its own. So beside the picture itself there are never more than the planes of one tile.
//! Gain maps, depths and thumbnails are other items and stay aside. Pixels in PQ or HLG are shown as if they were in sRGB's curve.

use heifer::color::{ColorParams, frame_to_rgba_into};
use heifer::heifer_hevc_dec::decoder::{DecodeOptions, decode_picture};
use heifer::heifer_hevc_dec::recon::Frame;
use heifer::heifer_isobmff::boxes::{ColorInfo, Property};
use heifer::heifer_isobmff::{HeifFile, ItemId};
use image::imageops::FilterType;
use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};

use super::avif::wide_profile;
use super::{Decoded, broken, check_decoded, upright, visible};
use crate::inspect::{HeifPicture, inspect_heif, whole_boxes};
use crate::{Error, Format, Limits};

/// A coded picture may be larger than what is shown of it by so many pixels a side: blocks have up to 64, and encoders align to them.
const PADDING_PX_MAX: u64 = 64;
/// All coded pixels of a picture may be so many times the pixels that one may have: tiles are padded, and opacity is a picture of its own.
const CODED_PICTURES_MAX: u64 = 4;
/// Items that a picture made of others may be made of, where heifer puts it together.
const PARTS_MAX: usize = 256;
/// How deep such pictures may be nested.
const DEPTH_MAX: u32 = 4;

/// Why there is no picture, as words behind "can't be rendered".
type Failed = String;

pub(super) fn decode(source: &[u8], limits: &Limits) -> Result<Decoded, Error> {
    if !limits.heic {
        return Err(Error::Unsupported {
            what: "HEIC images are kept and served, but rendering them is turned off here (images.heic)",
        });
    }
    let container = inspect_heif(source, Format::Heic, limits)?;
    // Four bytes a pixel, and the planes of a picture without tiles.
    check_decoded(u64::from(container.coded_size.0) * u64::from(container.coded_size.1) * 4)?;
    let (picture, profile) = read(source, &container, limits).map_err(|detail| broken(Format::Heic, detail))?;
    let full_size = (picture.width(), picture.height());
    Ok(Decoded { picture, profile, full_size })
}

fn read(source: &[u8], container: &HeifPicture, limits: &Limits) -> Result<(DynamicImage, Option<Vec<u8>>), Failed> {
    let file = HeifFile::parse(whole_boxes(source)).map_err(in_words)?;
    let mut budget = limits.pixels_max.saturating_mul(CODED_PICTURES_MAX);
    let picture = match Tiles::of(&file, file.primary_id)? {
        Some(tiles) => {
            let picture = assembled(&file, &tiles, container.coded_size, &mut budget)?;
            upright(visible(picture, container.aperture), container.facts.orientation)
        }
        None => made_of_others(source, &file, container, budget)?,
    };
    Ok((picture, profile(&file, container)))
}

fn in_words(error: impl std::fmt::Display) -> Failed {
    error.to_string()
}

/// The coded pictures that an item consists of, line by line.
struct Tiles<'a> {
    items: &'a [ItemId],
    columns: u32,
    /// Of each.
    size: (u32, u32),
}

impl<'a> Tiles<'a> {
    /// None for an item that is made of others in another way.
    fn of(file: &'a HeifFile<'_>, id: ItemId) -> Result<Option<Self>, Failed> {
        let item = file.item(id).map_err(in_words)?;
        let (items, columns, rows) = if is_coded(file, id) {
            (std::slice::from_ref(&item.id), 1, 1)
        } else if item.item_type.0 == *b"grid" {
            let grid = file.grid(id).map_err(in_words)?;
            (file.referenced_items(id, b"dimg"), u32::from(grid.columns), usize::from(grid.rows))
        } else {
            return Ok(None);
        };
        let plain = |tile: &ItemId| id == *tile || (is_coded(file, *tile) && !is_transformed(file, *tile));
        if !items.iter().all(plain) {
            return Ok(None);
        }
        if items.len() != columns as usize * rows {
            return Err("its grid has too few or too many tiles".into());
        }
        let size = file.image_size(items[0]).map_err(in_words)?.ok_or("its tiles have no size")?;
        if size.0 == 0 || size.1 == 0 {
            return Err("its tiles are 0 pixels wide or high".into());
        }
        Ok(Some(Self { items, columns, size }))
    }

    /// Decodes one tile after the other and hands each out with the place of its corner, as far as they lie on a picture of this size.
    fn each(
        &self,
        file: &HeifFile<'_>,
        (width, height): (u32, u32),
        budget: &mut u64,
        mut paint: impl FnMut(&Frame, ColorParams, (u32, u32)),
    ) -> Result<(), Failed> {
        let rows = (self.items.len() as u64).div_ceil(self.columns.into());
        if u64::from(self.size.0) * u64::from(self.columns) < width.into() || u64::from(self.size.1) * rows < height.into() {
            return Err("its tiles don't cover it".into());
        }
        let coded = (u64::from(self.size.0) + PADDING_PX_MAX) * (u64::from(self.size.1) + PADDING_PX_MAX);
        let all = coded.saturating_mul(self.items.len() as u64);
        *budget = budget.checked_sub(all).ok_or("its coded pictures are many times as large as it is")?;
        let options = DecodeOptions { max_pixels: coded, ..DecodeOptions::default() };
        for (place, id) in (0_u32..).zip(self.items) {
            let (x, y) = (place % self.columns * self.size.0, place / self.columns * self.size.1);
            if x >= width || y >= height {
                continue;
            }
            let frame = decode_picture(&file.hevc_bitstream(*id).map_err(in_words)?, options).map_err(in_words)?;
            let needed = (self.size.0.min(width - x), self.size.1.min(height - y));
            if frame.widths[0] < needed.0 || frame.heights[0] < needed.1 {
                return Err("a coded picture is smaller than it says".into());
            }
            let colours = colours(file, *id, &frame)?;
            paint(&frame, colours, (x, y));
        }
        Ok(())
    }
}

fn is_coded(file: &HeifFile<'_>, id: ItemId) -> bool {
    file.item(id).is_ok_and(|item| matches!(&item.item_type.0, b"hvc1" | b"hev1"))
}

fn is_transformed(file: &HeifFile<'_>, id: ItemId) -> bool {
    file.item_properties(id).is_ok_and(|mut properties| {
        properties
            .any(|property| matches!(property, Property::CleanAperture { .. } | Property::Rotation(1..) | Property::Mirror(_)))
    })
}

/// What an item's samples mean: its own code points, else those of its stream.
fn colours(file: &HeifFile<'_>, id: ItemId, frame: &Frame) -> Result<ColorParams, Failed> {
    let said = file.item_properties(id).map_err(in_words)?.find_map(|property| match *property {
        Property::Color(ColorInfo::Nclx { matrix, full_range, .. }) => Some(ColorParams { matrix, full_range }),
        _ => None,
    });
    Ok(said.unwrap_or_else(|| ColorParams::from_frame(frame)))
}

/// The whole picture, as it is coded: gray, RGB, or RGBA where another item has its opacity.
fn assembled(file: &HeifFile<'_>, tiles: &Tiles<'_>, size: (u32, u32), budget: &mut u64) -> Result<DynamicImage, Failed> {
    let (width, height) = size;
    let alpha = opacity(file, file.primary_id)?;
    if is_gray(file, tiles) && alpha.is_none() {
        return gray(file, tiles, size, budget).map(Into::into);
    }
    let stride = width as usize * 4;
    let mut pixels = vec![0; stride * height as usize];
    tiles.each(file, size, budget, |frame, colours, (x, y)| {
        let (wide, high) = ((tiles.size.0.min(width - x)) as usize, tiles.size.1.min(height - y) as usize);
        let left = x as usize * 4;
        let mut lines: Vec<&mut [u8]> =
            pixels.chunks_exact_mut(stride).skip(y as usize).take(high).map(|line| &mut line[left..left + wide * 4]).collect();
        if frame.widths[1] == 0 {
            let lines = lines.into_iter().zip(luma(frame, colours.full_range, wide));
            lines.for_each(|(line, luma)| {
                line.chunks_exact_mut(4).zip(luma).for_each(|(pixel, luma)| pixel.copy_from_slice(&[luma, luma, luma, 255]));
            });
        } else {
            frame_to_rgba_into(frame, colours, &mut lines, wide, high);
        }
    })?;
    let Some(alpha) = alpha else {
        without_alpha(&mut pixels);
        return RgbImage::from_raw(width, height, pixels).map(Into::into).ok_or("its pixels don't fit".into());
    };
    let premultiplied = file.references.iter().any(|link| link.ref_type.0 == *b"prem" && link.from == file.primary_id);
    apply(&mut pixels, &mask(file, alpha, size, budget)?, premultiplied);
    RgbaImage::from_raw(width, height, pixels).map(Into::into).ok_or("its pixels don't fit".into())
}

/// Brings pixels of four bytes to three, where they lie.
fn without_alpha(pixels: &mut Vec<u8>) {
    let count = pixels.len() / 4;
    for pixel in 0..count {
        pixels.copy_within(pixel * 4..pixel * 4 + 3, pixel * 3);
    }
    pixels.truncate(count * 3);
}

fn apply(pixels: &mut [u8], mask: &GrayImage, premultiplied: bool) {
    for (pixel, opacity) in pixels.chunks_exact_mut(4).zip(mask.as_raw()) {
        pixel[3] = *opacity;
        if premultiplied && *opacity > 0 {
            for part in &mut pixel[..3] {
                let whole = u32::from(*part) * 255 / u32::from(*opacity);
                *part = u8::try_from(whole).unwrap_or(u8::MAX);
            }
        }
    }
}

/// Whether all that an item is made of has luma alone.
fn is_gray(file: &HeifFile<'_>, tiles: &Tiles<'_>) -> bool {
    let config = |id: &ItemId| file.hevc_config(*id).ok().flatten();
    tiles.items.iter().all(|id| config(id).is_some_and(|config| config.chroma_format == 0))
}

fn gray(file: &HeifFile<'_>, tiles: &Tiles<'_>, size: (u32, u32), budget: &mut u64) -> Result<GrayImage, Failed> {
    let stride = size.0 as usize;
    let mut pixels = vec![0; stride * size.1 as usize];
    tiles.each(file, size, budget, |frame, colours, (x, y)| {
        let wide = tiles.size.0.min(size.0 - x) as usize;
        let lines = pixels.chunks_exact_mut(stride).skip(y as usize).take(tiles.size.1 as usize);
        for (line, luma) in lines.zip(luma(frame, colours.full_range, wide)) {
            line[x as usize..].iter_mut().zip(luma).for_each(|(pixel, luma)| *pixel = luma);
        }
    })?;
    GrayImage::from_raw(size.0, size.1, pixels).ok_or("its pixels don't fit".into())
}

/// Lines of luma in eight bits, of so many pixels each.
fn luma(frame: &Frame, full_range: bool, wide: usize) -> impl Iterator<Item = impl Iterator<Item = u8> + '_> + '_ {
    let depth = frame.bit_depth[0].clamp(8, 16);
    let (black, span) = if full_range { (0, (1_i64 << depth) - 1) } else { (16_i64 << (depth - 8), 219_i64 << (depth - 8)) };
    let bright = move |sample: u16| (((i64::from(sample) - black) * 255 + span / 2) / span).clamp(0, 255) as u8;
    frame.planes[0].chunks_exact(frame.widths[0] as usize).map(move |line| line.iter().take(wide).map(move |s| bright(*s)))
}

/// The item with the opacity of another.
fn opacity(file: &HeifFile<'_>, of: ItemId) -> Result<Option<ItemId>, Failed> {
    const ALPHA: [&str; 2] = ["urn:mpeg:hevc:2015:auxid:1", "urn:mpeg:mpegB:cicp:systems:auxiliary:alpha"];
    for id in file.referencing_items(of, b"auxl") {
        let is_alpha = |property: &Property| matches!(property, Property::AuxiliaryType(kind) if ALPHA.contains(&kind.as_str()));
        if file.item_properties(id).map_err(in_words)?.any(is_alpha) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// An item's opacity, in the size of the picture that it belongs to.
fn mask(file: &HeifFile<'_>, id: ItemId, size: (u32, u32), budget: &mut u64) -> Result<GrayImage, Failed> {
    let tiles = Tiles::of(file, id)?.ok_or("its opacity is put together in an unknown way")?;
    let own = file.image_size(id).map_err(in_words)?.ok_or("its opacity has no size")?;
    if u64::from(own.0) * u64::from(own.1) > u64::from(size.0) * u64::from(size.1) || own.0 == 0 || own.1 == 0 {
        return Err("its opacity is larger than itself".into());
    }
    let mask = gray(file, &tiles, own, budget)?;
    Ok(if own == size { mask } else { image::imageops::resize(&mask, size.0, size.1, FilterType::Triangle) })
}

/// Pictures laid over each other, or taken from others: heifer puts them together, and turns them upright.
fn made_of_others(source: &[u8], file: &HeifFile<'_>, container: &HeifPicture, budget: u64) -> Result<DynamicImage, Failed> {
    let mut parts = Vec::new();
    collect(file, file.primary_id, 0, &mut parts)?;
    let mut sum = 0_u64;
    for id in &parts {
        let (width, height) = file.image_size(*id).map_err(in_words)?.ok_or("a part of it has no size")?;
        sum = sum.saturating_add((u64::from(width) + PADDING_PX_MAX) * (u64::from(height) + PADDING_PX_MAX));
    }
    if sum > budget {
        return Err("its parts are many times as large as it is".into());
    }
    let (width, height) = container.coded_size;
    let max_pixels = (u64::from(width) + PADDING_PX_MAX) * (u64::from(height) + PADDING_PX_MAX);
    let image = heifer::decode_rgba8(whole_boxes(source), &heifer::Options { max_threads: 1, max_pixels }).map_err(in_words)?;
    let (facts, has_alpha, mut pixels) = (container.facts, image.has_alpha, image.data);
    let upright = if facts.orientation.swaps_sides() { (facts.height, facts.width) } else { (facts.width, facts.height) };
    if (image.width, image.height) != upright {
        return Err("it has another size than it says".into());
    }
    let picture = if has_alpha {
        RgbaImage::from_raw(upright.0, upright.1, pixels).map(Into::into)
    } else {
        without_alpha(&mut pixels);
        RgbImage::from_raw(upright.0, upright.1, pixels).map(Into::into)
    };
    picture.ok_or("its pixels don't fit".into())
}

/// All items that one is made of, itself too, each as often as it is used.
fn collect(file: &HeifFile<'_>, id: ItemId, depth: u32, parts: &mut Vec<ItemId>) -> Result<(), Failed> {
    parts.push(id);
    if parts.len() > PARTS_MAX || depth > DEPTH_MAX {
        return Err("it is made of too many parts".into());
    }
    file.referenced_items(id, b"dimg").iter().try_for_each(|part| collect(file, *part, depth + 1, parts))
}

/// The profile that says what the numbers mean: the picture's, else its first tile's, else one of the primaries that either names.
fn profile(file: &HeifFile<'_>, container: &HeifPicture) -> Option<Vec<u8>> {
    if container.colours.profile.is_some() {
        return container.colours.profile.clone();
    }
    let tile = file.referenced_items(file.primary_id, b"dimg").first();
    let of_tile = |pick: fn(&Property) -> Option<Vec<u8>>| file.item_properties(*tile?).ok()?.find_map(pick);
    let own = container.colours.code_points.map(|points| points.primaries);
    own.and_then(wide_profile)
        .or_else(|| {
            of_tile(|property| match property {
                Property::Color(ColorInfo::Icc(profile)) if !profile.is_empty() => Some(profile.clone()),
                _ => None,
            })
        })
        .or_else(|| {
            of_tile(|property| match property {
                Property::Color(ColorInfo::Nclx { primaries, .. }) => wide_profile(*primaries),
                _ => None,
            })
        })
}

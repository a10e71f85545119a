//! AVIF and HEIC: items and sequences in ISO base media files (ISO/IEC 14496-12, 23008-12).

use std::io::{BufRead, Cursor, Seek};

use super::source::Source;
use crate::facts::{check_frames, check_size};
use crate::transform::Crop;
use crate::{Error, Facts, Limits, Orientation};

/// Items of one file: a picture of 200 megapixels has some 800 tiles. Decoders look items up one by one.
const ITEMS_MAX: u32 = 10_000;

/// The meta and moov boxes hold indexes, never pixels; a larger one is refused.
const INDEX_BYTES_MAX: u64 = 4 * 1024 * 1024;

pub(super) fn inspect<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<Facts, Error> {
    let (still, frames) = walk(source)?;
    facts(source, &still, frames, limits)
}

/// What a decoder needs of the container beside the coded bytes of its primary picture.
pub(crate) struct HeifPicture {
    /// Those of the visible part.
    pub(crate) facts: Facts,
    pub(crate) colours: ItemColours,
    /// Width and height of the whole picture, before [`Self::aperture`] is cut out. Within the limits.
    pub(crate) coded_size: (u32, u32),
    /// The part of the whole picture that is visible, before it is turned upright (`clap`, 14496-12 §12.1.4).
    pub(crate) aperture: Crop,
}

/// The facts, and what else the container says of its primary picture.
pub(super) fn inspect_picture<R: BufRead + Seek>(source: &mut Source<R>, limits: &Limits) -> Result<HeifPicture, Error> {
    let (still, frames) = walk(source)?;
    let facts = facts(source, &still, frames, limits)?;
    Ok(HeifPicture { facts, colours: still.colours, coded_size: (still.width, still.height), aperture: still.aperture })
}

fn facts<R: BufRead + Seek>(source: &Source<R>, still: &Still, frames: u32, limits: &Limits) -> Result<Facts, Error> {
    check_size(source.format(), still.width, still.height, limits)?;
    let facts = Facts::still(source.format(), still.aperture.width, still.aperture.height, limits)?;
    check_frames(frames, u64::from(frames) * u64::from(still.width) * u64::from(still.height), limits)?;
    Ok(Facts { frames, orientation: still.orientation, ..facts })
}

/// The primary picture and the number of frames, when all that the boxes name is there.
fn walk<R: BufRead + Seek>(source: &mut Source<R>) -> Result<(Still, u32), Error> {
    let mut still: Option<Still> = None;
    let mut frames = 1;
    let mut has_data = false;
    while source.remaining() > 0 {
        let (kind, len) = match box_header(source) {
            // What stands behind the last box is no box.
            Err(error) if still.is_some() && has_data && !matches!(error, Error::Io(_)) => {
                source.note_doubt();
                break;
            }
            header => header?,
        };
        let end = source.position() + len;
        match &kind {
            b"meta" => {
                let bytes = index(source, len)?;
                still = Some(Still::read(&mut nested(&bytes, source)?)?);
            }
            b"moov" => {
                let bytes = index(source, len)?;
                frames = sample_count(&mut nested(&bytes, source)?)?.max(1);
            }
            b"mdat" => has_data = true,
            _ => {}
        }
        source.seek(end)?;
    }
    let still = still.ok_or_else(|| source.corrupt("it has no picture, only a sequence or nothing at all"))?;
    for (offset, len) in &still.extents {
        source.require(*offset, *len)?;
    }
    if !has_data && !still.extents.is_empty() {
        return Err(source.truncated());
    }
    Ok((still, frames))
}

/// See [`super::whole_boxes`].
pub(super) fn whole_boxes(bytes: &[u8]) -> &[u8] {
    let Ok(mut source) = Source::new(Cursor::new(bytes)) else { return bytes };
    let mut end = 0;
    while source.remaining() > 0 {
        let Ok((_, len)) = box_header(&mut source) else { break };
        if source.skip(len).is_err() {
            break;
        }
        end = usize::try_from(source.position()).unwrap_or(bytes.len());
    }
    &bytes[..end.min(bytes.len())]
}

/// Kind and payload length of the next box. A length of 0 reaches to the end of the file (14496-12 §4.2).
pub(super) fn box_header<R: BufRead + Seek>(source: &mut Source<R>) -> Result<([u8; 4], u64), Error> {
    let start = source.position();
    let short = u64::from(source.u32_be()?);
    let kind = source.bytes()?;
    let len = match short {
        0 => source.len() - start,
        1 => u64::from(source.u32_be()?) << 32 | u64::from(source.u32_be()?),
        len => len,
    };
    let header_len = source.position() - start;
    let payload = len.checked_sub(header_len).ok_or_else(|| source.corrupt("a box is shorter than its header"))?;
    source.require(source.position(), payload)?;
    Ok((kind, payload))
}

fn index<R: BufRead + Seek>(source: &mut Source<R>, len: u64) -> Result<Vec<u8>, Error> {
    if len > INDEX_BYTES_MAX {
        return Err(source.corrupt("its index is too large"));
    }
    source.vec(usize::try_from(len).unwrap_or(usize::MAX))
}

fn nested<'a, R: BufRead + Seek>(bytes: &'a [u8], outer: &Source<R>) -> Result<Source<Cursor<&'a [u8]>>, Error> {
    let mut source = Source::new(Cursor::new(bytes))?;
    source.announce(outer.format());
    Ok(source)
}

type Nested<'a> = Source<Cursor<&'a [u8]>>;

/// What the meta box says of the primary item.
struct Still {
    width: u32,
    height: u32,
    aperture: Crop,
    orientation: Orientation,
    colours: ItemColours,
    extents: Vec<(u64, u64)>,
}

/// What the `colr` boxes of an item say (14496-12 §12.1.5): each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ItemColours {
    /// An ICC profile.
    pub(crate) profile: Option<Vec<u8>>,
    pub(crate) code_points: Option<CodePoints>,
}

/// Code points of ITU-T H.273, and whether samples use their full range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodePoints {
    pub(crate) primaries: u16,
    pub(crate) matrix: u16,
    pub(crate) full_range: bool,
}

/// The properties that matter, in the order of the property container.
enum Property {
    Size(u32, u32),
    CodePoints(CodePoints),
    Profile(Vec<u8>),
    /// Quarter turns, anticlockwise.
    Rotation(u8),
    /// 0 exchanges top and bottom, 1 left and right.
    Mirror(u8),
    Aperture(CleanAperture),
    Other,
}

/// The visible part as the file has it: fractions, and the offset of its middle from that of the whole picture.
#[derive(Clone, Copy)]
struct CleanAperture {
    width: f64,
    height: f64,
    right: f64,
    down: f64,
}

impl CleanAperture {
    /// Four fractions. One without a value is no aperture.
    fn read(meta: &mut Nested<'_>) -> Result<Option<Self>, Error> {
        let mut next = |signed: bool| -> Result<f64, Error> {
            let (numerator, denominator) = (meta.u32_be()?, meta.u32_be()?);
            let numerator = if signed { f64::from(numerator.cast_signed()) } else { f64::from(numerator) };
            Ok(numerator / f64::from(denominator))
        };
        let aperture = Self { width: next(false)?, height: next(false)?, right: next(true)?, down: next(true)? };
        let Self { width, height, right, down } = aperture;
        Ok([width, height, right, down].into_iter().all(f64::is_finite).then_some(aperture))
    }

    /// The rectangle that it is of a picture of this size; all of it where it makes no sense.
    fn on(self, width: u32, height: u32) -> Crop {
        let whole = Crop { x: 0, y: 0, width, height };
        let begin = |side: u32, offset: f64, visible: f64| (offset + (f64::from(side) - visible) / 2.0).round();
        let (x, y) = (begin(width, self.right, self.width), begin(height, self.down, self.height));
        let (wide, high) = (self.width.round(), self.height.round());
        let fits = x >= 0.0 && y >= 0.0 && wide >= 1.0 && high >= 1.0 && x + wide <= width.into() && y + high <= height.into();
        if fits { Crop { x: x as u32, y: y as u32, width: wide as u32, height: high as u32 } } else { whole }
    }
}

impl Still {
    fn read(meta: &mut Nested<'_>) -> Result<Self, Error> {
        meta.skip(4)?;
        let mut primary = None;
        let mut properties = Vec::new();
        let mut associations = Vec::new();
        let mut extents = Vec::new();
        while meta.remaining() > 0 {
            let (kind, len) = box_header(meta)?;
            let end = meta.position() + len;
            match &kind {
                b"pitm" => {
                    let wide = meta.u32_be()? >> 24 != 0;
                    primary = Some(if wide { meta.u32_be()? } else { u32::from(meta.u16_be()?) });
                }
                b"iinf" => check_items(meta, |version| version != 0)?,
                b"iloc" => extents = locations(meta)?,
                b"iprp" => {
                    while meta.position() < end {
                        let (kind, len) = box_header(meta)?;
                        let end = meta.position() + len;
                        match &kind {
                            b"ipco" => properties = property_container(meta, end)?,
                            b"ipma" => associations.extend(property_associations(meta)?),
                            _ => {}
                        }
                        meta.seek(end)?;
                    }
                }
                _ => {}
            }
            meta.seek(end)?;
        }
        let primary = primary.ok_or_else(|| meta.corrupt("it names no primary picture"))?;
        let of_primary = associations
            .iter()
            .filter(|(item, _)| *item == primary)
            .filter_map(|(_, index)| properties.get(usize::from(*index).checked_sub(1)?));
        Self::assemble(of_primary, extents).ok_or_else(|| meta.corrupt("its primary picture has no size"))
    }

    fn assemble<'a>(properties: impl Iterator<Item = &'a Property>, extents: Vec<(u64, u64)>) -> Option<Self> {
        let (mut size, mut turns, mut mirror, mut aperture) = (None, 0, None, None);
        let (mut profile, mut code_points) = (None, None);
        for property in properties {
            match property {
                Property::Size(width, height) => size = Some((*width, *height)),
                Property::CodePoints(found) => code_points = Some(*found),
                Property::Profile(bytes) => profile = Some(bytes),
                Property::Rotation(quarter_turns) => turns = *quarter_turns,
                Property::Mirror(axis) => mirror = Some(*axis),
                Property::Aperture(found) => aperture = Some(*found),
                Property::Other => {}
            }
        }
        let (width, height) = size?;
        let whole = Crop { x: 0, y: 0, width, height };
        let aperture = aperture.map_or(whole, |aperture: CleanAperture| aperture.on(width, height));
        let colours = ItemColours { profile: profile.cloned(), code_points };
        let exif = match (turns, mirror) {
            (0, None) => 1,
            (1, None) => 8,
            (2, None) => 3,
            (_, None) => 6,
            (0, Some(0)) | (2, Some(1)) => 4,
            (0, Some(_)) | (2, Some(_)) => 2,
            (1, Some(0)) | (3, Some(1)) => 5,
            _ => 7,
        };
        Some(Self { width, height, aperture, orientation: Orientation::from_exif(exif), colours, extents })
    }
}

fn property_container(meta: &mut Nested<'_>, end: u64) -> Result<Vec<Property>, Error> {
    let mut properties = Vec::new();
    while meta.position() < end {
        let (kind, len) = box_header(meta)?;
        let next = meta.position() + len;
        properties.push(match &kind {
            b"ispe" => {
                meta.skip(4)?;
                Property::Size(meta.u32_be()?, meta.u32_be()?)
            }
            b"irot" => Property::Rotation(meta.u8()? & 3),
            b"imir" => Property::Mirror(meta.u8()? & 1),
            b"clap" => CleanAperture::read(meta)?.map_or(Property::Other, Property::Aperture),
            b"colr" => colour_information(&meta.vec(usize::try_from(len).unwrap_or(usize::MAX))?),
            _ => Property::Other,
        });
        meta.seek(next)?;
    }
    Ok(properties)
}

/// The payload of a `colr` box. One that is broken, or of an unknown type, says nothing: a picture is worth more than its colours.
fn colour_information(payload: &[u8]) -> Property {
    match payload {
        [b'n', b'c', b'l', b'x', p0, p1, _, _, m0, m1, range, ..] => Property::CodePoints(CodePoints {
            primaries: u16::from_be_bytes([*p0, *p1]),
            matrix: u16::from_be_bytes([*m0, *m1]),
            full_range: range & 0x80 != 0,
        }),
        [b'p', b'r', b'o', b'f', profile @ ..] | [b'r', b'I', b'C', b'C', profile @ ..] => Property::Profile(profile.to_vec()),
        _ => Property::Other,
    }
}

/// Refuses a box of so many items that looking them up would take long. Its count is wide in some versions.
fn check_items(meta: &mut Nested<'_>, wide: impl Fn(u32) -> bool) -> Result<(), Error> {
    let version = meta.u32_be()? >> 24;
    let count = if wide(version) { meta.u32_be()? } else { u32::from(meta.u16_be()?) };
    if count > ITEMS_MAX { Err(meta.corrupt("it has too many items")) } else { Ok(()) }
}

/// Pairs of item id and 1-based property index (23008-12 §9.3.1).
fn property_associations(meta: &mut Nested<'_>) -> Result<Vec<(u32, u16)>, Error> {
    let version_and_flags = meta.u32_be()?;
    let (wide_items, wide_indexes) = (version_and_flags >> 24 != 0, version_and_flags & 1 != 0);
    let mut pairs = Vec::new();
    let items = meta.u32_be()?;
    if items > ITEMS_MAX {
        return Err(meta.corrupt("it has too many items"));
    }
    for _ in 0..items {
        let item = if wide_items { meta.u32_be()? } else { u32::from(meta.u16_be()?) };
        for _ in 0..meta.u8()? {
            let index = if wide_indexes { meta.u16_be()? & 0x7FFF } else { u16::from(meta.u8()? & 0x7F) };
            pairs.push((item, index));
        }
    }
    Ok(pairs)
}

/// Offsets and lengths in the file of every item's extents (14496-12 §8.11.3). Items inside the meta box itself
/// were read with it and need no check.
fn locations(meta: &mut Nested<'_>) -> Result<Vec<(u64, u64)>, Error> {
    /// A picture of tiles has one item a tile.
    const EXTENTS_MAX: u32 = 100_000;
    let version = meta.u32_be()? >> 24;
    let [sizes_high, sizes_low] = meta.bytes()?;
    let (offset_size, length_size, base_size) = (sizes_high >> 4, sizes_high & 15, sizes_low >> 4);
    let index_size = if version == 0 { 0 } else { sizes_low & 15 };
    let items = if version < 2 { u32::from(meta.u16_be()?) } else { meta.u32_be()? };
    if items > ITEMS_MAX {
        return Err(meta.corrupt("it has too many items"));
    }
    let mut extents = Vec::new();
    let mut declared = 0_u32;
    for _ in 0..items {
        meta.skip(if version < 2 { 2 } else { 4 })?;
        let method = if version == 0 { 0 } else { meta.u16_be()? & 15 };
        meta.skip(2)?;
        let base = sized(meta, base_size)?;
        let count = u32::from(meta.u16_be()?);
        declared = declared.saturating_add(count);
        if declared > EXTENTS_MAX {
            return Err(meta.corrupt("it has too many pieces"));
        }
        for _ in 0..count {
            meta.step()?;
            sized(meta, index_size)?;
            let (offset, len) = (sized(meta, offset_size)?, sized(meta, length_size)?);
            if method == 0 {
                extents.push((base.saturating_add(offset), len));
            }
        }
    }
    Ok(extents)
}

fn sized(meta: &mut Nested<'_>, bytes: u8) -> Result<u64, Error> {
    match bytes {
        0 => Ok(0),
        4 => meta.u32_be().map(u64::from),
        8 => Ok(u64::from(meta.u32_be()?) << 32 | u64::from(meta.u32_be()?)),
        _ => Err(meta.corrupt("its index uses an unknown number width")),
    }
}

/// The largest number of samples of any track: the frames of an image sequence. Descends moov/trak/mdia/minf/stbl to stsz.
fn sample_count(moov: &mut Nested<'_>) -> Result<u32, Error> {
    let mut most = 0;
    while moov.remaining() > 0 {
        let (kind, len) = box_header(moov)?;
        match &kind {
            b"trak" | b"mdia" | b"minf" | b"stbl" => {}
            b"stsz" => {
                let end = moov.position() + len;
                moov.skip(8)?;
                most = most.max(moov.u32_be()?);
                moov.seek(end)?;
            }
            _ => moov.skip(len)?,
        }
    }
    Ok(most)
}

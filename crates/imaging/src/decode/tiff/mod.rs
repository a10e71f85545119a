//! TIFF, first page: samples by the tiff crate, meaning here.
//!
//! The decoder is asked for bare samples: it reads a copy of the file with a directory in which all pixels are samples of gray
//! ([`directory`]). What they mean (palettes, inks, luma and chroma, opacity) is in [`samples`].

mod directory;
mod fax;
mod samples;

use std::io::Cursor;

use tiff::decoder::{BufferLayoutPreference, Decoder, DecodingResult};

use self::directory::{Directory, Tags};
use self::samples::{Meaning, Photometric};
use super::{DECODED_BYTES_MAX, Decoded, broken, check_decoded, decoded};
use crate::{Error, Format, Limits, Undrawable, inspect};

const COMPRESSION_NONE: u32 = 1;
const COMPRESSION_HUFFMAN: u32 = 2;
const COMPRESSION_GROUP_3: u32 = 3;
const COMPRESSION_JPEG: u32 = 7;
/// Where a directory says of two sides which is the first to be filled: the low one.
const FILL_LOW_BIT_FIRST: u32 = 2;
const PHOTOMETRIC_BLACK_IS_ZERO: u32 = 1;
const PLANAR_SEPARATE: u32 = 2;

pub(super) fn decode(source: &[u8], limits: &Limits) -> Result<Decoded, Error> {
    let facts = inspect(Cursor::new(source), limits)?;
    let directory = Directory::read(source).ok_or(Error::Truncated { format: Format::Tiff })?;
    let page = Page::read(&directory, facts.width, facts.height)?;
    check_decoded(page.bytes())?;
    // The pixels that are made of the samples.
    check_decoded(u64::from(page.width) * u64::from(page.height) * 4)?;
    let file = rewritten(source, &directory, &page)?;
    let (samples, layout) = read(file, &page)?;
    let eight_bits = samples::to_eight_bits(samples, &page, &layout);
    let profile = directory.bytes(directory::PROFILE).map(<[u8]>::to_vec);
    let (picture, profile) = samples::picture(&eight_bits, &page, profile).ok_or_else(|| short("its samples are too few"))?;
    Ok(decoded(picture, profile, facts.orientation))
}

fn short(detail: &'static str) -> Error {
    broken(Format::Tiff, detail)
}

fn undrawable(kind: Undrawable) -> Error {
    Error::Undrawable { kind }
}

/// What the directory says of the pixels.
struct Page {
    width: u32,
    height: u32,
    /// Of a sample.
    bits: u32,
    /// Of a pixel.
    samples: u32,
    /// 1 unsigned, 2 signed, 3 floating point (TIFF 6.0 §19).
    sample_format: u32,
    separate_planes: bool,
    meaning: Meaning,
    compression: u32,
}

impl Page {
    fn read(directory: &Directory<'_>, width: u32, height: u32) -> Result<Self, Error> {
        let number = |tag, default| directory.number(tag).unwrap_or(default);
        let samples = number(directory::SAMPLES, 1);
        let bits = directory.numbers(directory::BITS).unwrap_or_else(|| vec![1]);
        let depth = bits.first().copied().unwrap_or(1);
        if bits.iter().any(|bits| *bits != depth) {
            return Err(undrawable(Undrawable::TiffMixedBits));
        }
        if !matches!(depth, 1 | 2 | 4 | 8 | 16 | 32 | 64) {
            return Err(undrawable(Undrawable::TiffOddBits));
        }
        let compression = number(directory::COMPRESSION, COMPRESSION_NONE);
        if let Some(kind) = undrawable_compression(compression, number(directory::T4_OPTIONS, 0)) {
            return Err(undrawable(kind));
        }
        let meaning = Meaning::read(directory, samples, depth)?;
        let subsampling = directory.numbers(directory::CHROMA_SUBSAMPLING).unwrap_or_else(|| vec![2, 2]);
        if meaning.photometric == Photometric::YCbCr && compression != COMPRESSION_JPEG && subsampling != [1, 1] {
            return Err(undrawable(Undrawable::TiffSubsampled));
        }
        let sample_format = match number(directory::SAMPLE_FORMAT, 1) {
            format @ 1..=3 => format,
            // Undefined data are as good as unsigned.
            4 => 1,
            _ => return Err(undrawable(Undrawable::TiffComplex)),
        };
        if sample_format == 3 && !matches!(depth, 16 | 32 | 64) {
            return Err(undrawable(Undrawable::TiffOddBits));
        }
        let separate_planes = number(directory::PLANAR, 1) == PLANAR_SEPARATE && samples > 1;
        Ok(Self { width, height, bits: depth, samples, sample_format, separate_planes, meaning, compression })
    }

    /// Of the decoded samples.
    fn bytes(&self) -> u64 {
        let row = (u64::from(self.width) * u64::from(self.samples) * u64::from(self.bits)).div_ceil(8);
        row.saturating_mul(u64::from(self.height))
    }

    fn row_bytes(&self) -> u64 {
        let samples = if self.separate_planes { 1 } else { self.samples };
        (u64::from(self.width) * u64::from(samples) * u64::from(self.bits)).div_ceil(8)
    }
}

/// Compressions that exist and that no decoder here reads.
fn undrawable_compression(compression: u32, t4_options: u32) -> Option<Undrawable> {
    match compression {
        COMPRESSION_NONE | COMPRESSION_HUFFMAN | 4 | 5 | COMPRESSION_JPEG | 8 | 32773 | 32946 => None,
        COMPRESSION_GROUP_3 if t4_options & 1 == 0 => None,
        COMPRESSION_GROUP_3 => Some(Undrawable::TiffFax2d),
        6 => Some(Undrawable::TiffOldJpeg),
        33003 | 33005 | 34712 => Some(Undrawable::TiffJpeg2000),
        34925 => Some(Undrawable::TiffLzma),
        34926 | 50000 => Some(Undrawable::TiffZstandard),
        34927 | 50001 => Some(Undrawable::TiffWebP),
        _ => Some(Undrawable::TiffCompression),
    }
}

/// The file as the decoder gets it; see the head of this page.
fn rewritten(source: &[u8], directory: &Directory<'_>, page: &Page) -> Result<Vec<u8>, Error> {
    let mut file = source.to_vec();
    let mut tags = Tags::default();
    tags.set(directory::WIDTH, page.width);
    tags.set(directory::HEIGHT, page.height);
    tags.set_all(directory::BITS, vec![page.bits; page.samples as usize]);
    tags.set(directory::PHOTOMETRIC, PHOTOMETRIC_BLACK_IS_ZERO);
    tags.set(directory::SAMPLES, page.samples);
    tags.set(directory::PLANAR, if page.separate_planes { PLANAR_SEPARATE } else { 1 });
    tags.set(directory::PREDICTOR, directory.number(directory::PREDICTOR).unwrap_or(1));
    tags.set_all(directory::SAMPLE_FORMAT, vec![page.sample_format; page.samples as usize]);
    if let Some(tables) = directory.bytes(directory::JPEG_TABLES) {
        tags.set_bytes(directory::JPEG_TABLES, tables);
    }
    let mut pieces = Pieces::read(directory, page, source.len())?;
    if directory.number(directory::FILL_ORDER) == Some(FILL_LOW_BIT_FIRST) {
        pieces.each_once(file.len()).for_each(|range| file[range].iter_mut().for_each(|byte| *byte = byte.reverse_bits()));
    }
    let mut compression = page.compression;
    if matches!(compression, COMPRESSION_HUFFMAN | COMPRESSION_GROUP_3) {
        file = pieces.unpacked(&file, page, compression == COMPRESSION_GROUP_3)?;
        compression = COMPRESSION_NONE;
    }
    tags.set(directory::COMPRESSION, compression);
    pieces.write(&mut tags);
    Ok(directory.replaced(file, &tags))
}

/// Strips or tiles.
struct Pieces {
    offsets: Vec<u32>,
    lengths: Vec<u32>,
    /// Of a tile, or rows of a strip.
    size: Size,
}

enum Size {
    Strip(u32),
    Tile(u32, u32),
}

impl Pieces {
    /// Lengths that are missing or too long are those up to the end of the file.
    fn read(directory: &Directory<'_>, page: &Page, file_len: usize) -> Result<Self, Error> {
        let tile = directory.number(directory::TILE_WIDTH).zip(directory.number(directory::TILE_HEIGHT));
        let (size, offsets, lengths) = match tile {
            Some((width, height)) => (Size::Tile(width, height), directory::TILE_OFFSETS, directory::TILE_LENGTHS),
            None => {
                let rows = directory.number(directory::ROWS_PER_STRIP).unwrap_or(u32::MAX).clamp(1, page.height);
                (Size::Strip(rows), directory::STRIP_OFFSETS, directory::STRIP_LENGTHS)
            }
        };
        let offsets = directory.numbers(offsets).ok_or_else(|| short("its pieces can't be found"))?;
        let mut lengths = directory.numbers(lengths).unwrap_or_default();
        lengths.resize(offsets.len(), u32::MAX);
        for (length, offset) in lengths.iter_mut().zip(&offsets) {
            *length = (*length).min(u32::try_from(file_len).unwrap_or(u32::MAX).saturating_sub(*offset));
        }
        Ok(Self { offsets, lengths, size })
    }

    /// Where pieces are in the file, none of them twice.
    fn each_once(&self, file_len: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        let mut ranges: Vec<(usize, usize)> = self
            .offsets
            .iter()
            .zip(&self.lengths)
            .map(|(offset, len)| (*offset as usize, *offset as usize + *len as usize))
            .collect();
        ranges.sort_unstable();
        let mut free = 0;
        ranges.into_iter().map(move |(begin, end)| {
            let range = begin.max(free)..end.max(free).min(file_len);
            free = free.max(range.end);
            if range.start <= range.end { range } else { 0..0 }
        })
    }

    /// A file whose strips of fax are pixels.
    fn unpacked(&mut self, file: &[u8], page: &Page, ends_lines: bool) -> Result<Vec<u8>, Error> {
        let Size::Strip(rows_per_strip) = self.size else { return Err(undrawable(Undrawable::TiffFaxTiles)) };
        if page.bits != 1 || page.samples != 1 {
            return Err(short("fax is black and white"));
        }
        // The header, which the new directory is written into.
        let mut unpacked = file[..8].to_vec();
        let mut rows_left = page.height;
        for (offset, length) in self.offsets.iter_mut().zip(&mut self.lengths) {
            let rows = rows_per_strip.min(rows_left);
            rows_left -= rows;
            let begin = *offset as usize;
            let strip = file.get(begin..begin + *length as usize).unwrap_or_default();
            let pixels = fax::unpacked(strip, page.width, rows, ends_lines).ok_or_else(|| short("its fax lines are broken"))?;
            let at = unpacked.len();
            unpacked.extend(pixels);
            *offset = u32::try_from(at).unwrap_or(u32::MAX);
            *length = u32::try_from(unpacked.len() - at).unwrap_or(u32::MAX);
        }
        Ok(unpacked)
    }

    fn write(self, tags: &mut Tags) {
        let (offsets, lengths) = match self.size {
            Size::Strip(rows) => {
                tags.set(directory::ROWS_PER_STRIP, rows);
                (directory::STRIP_OFFSETS, directory::STRIP_LENGTHS)
            }
            Size::Tile(width, height) => {
                tags.set(directory::TILE_WIDTH, width);
                tags.set(directory::TILE_HEIGHT, height);
                (directory::TILE_OFFSETS, directory::TILE_LENGTHS)
            }
        };
        tags.set_all(offsets, self.offsets);
        tags.set_all(lengths, self.lengths);
    }
}

fn read(file: Vec<u8>, page: &Page) -> Result<(DecodingResult, BufferLayoutPreference), Error> {
    let failed = |error: tiff::TiffError| broken(Format::Tiff, error);
    let mut limits = tiff::decoder::Limits::default();
    limits.decoding_buffer_size = usize::try_from(DECODED_BYTES_MAX).unwrap_or(usize::MAX);
    limits.intermediate_buffer_size = limits.decoding_buffer_size;
    let mut decoder = Decoder::new(Cursor::new(file)).map_err(failed)?.with_limits(limits);
    let mut samples = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut samples).map_err(failed)?;
    let planes = if page.separate_planes { page.samples as usize } else { 1 };
    if layout.planes != planes || samples.as_buffer(0).as_bytes().len() < layout.complete_len {
        return Err(short("its samples are too many"));
    }
    Ok((samples, layout))
}

//! The first image file directory of a TIFF (TIFF 6.0 §2), read and written anew.
//!
//! Files say the same in many ways, or too little, or point past their end. The decoder sees a copy with a directory of its own: with
//! all that pixels depend on, and nothing else.

pub(super) const WIDTH: u16 = 256;
pub(super) const HEIGHT: u16 = 257;
pub(super) const BITS: u16 = 258;
pub(super) const COMPRESSION: u16 = 259;
pub(super) const PHOTOMETRIC: u16 = 262;
pub(super) const FILL_ORDER: u16 = 266;
pub(super) const STRIP_OFFSETS: u16 = 273;
pub(super) const SAMPLES: u16 = 277;
pub(super) const ROWS_PER_STRIP: u16 = 278;
pub(super) const STRIP_LENGTHS: u16 = 279;
pub(super) const PLANAR: u16 = 284;
pub(super) const T4_OPTIONS: u16 = 292;
pub(super) const PREDICTOR: u16 = 317;
pub(super) const COLOUR_MAP: u16 = 320;
pub(super) const TILE_WIDTH: u16 = 322;
pub(super) const TILE_HEIGHT: u16 = 323;
pub(super) const TILE_OFFSETS: u16 = 324;
pub(super) const TILE_LENGTHS: u16 = 325;
pub(super) const EXTRA_SAMPLES: u16 = 338;
pub(super) const SAMPLE_FORMAT: u16 = 339;
pub(super) const JPEG_TABLES: u16 = 347;
pub(super) const CHROMA_SUBSAMPLING: u16 = 530;
pub(super) const PROFILE: u16 = 34675;

const ENTRY_BYTES: usize = 12;
/// A page has no more pieces than inspection allows, and a colour map fewer numbers.
const NUMBERS_MAX: usize = 200_000;
const SHORT: u16 = 3;
const LONG: u16 = 4;
const UNDEFINED: u16 = 7;

pub(super) struct Directory<'a> {
    file: &'a [u8],
    little: bool,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    tag: u16,
    kind: u16,
    count: usize,
    /// Where its values are.
    at: usize,
}

impl<'a> Directory<'a> {
    /// None where the file is too short for one.
    pub(super) fn read(file: &'a [u8]) -> Option<Self> {
        let mut directory = Self { file, little: file.starts_with(b"II"), entries: Vec::new() };
        let begin = directory.u32_at(4)? as usize;
        for index in 0..usize::from(directory.u16_at(begin)?) {
            let at = begin + 2 + index * ENTRY_BYTES;
            let (tag, kind, count) = (directory.u16_at(at)?, directory.u16_at(at + 2)?, directory.u32_at(at + 4)? as usize);
            let fits = count.saturating_mul(value_bytes(kind)) <= 4;
            let at = if fits { at + 8 } else { directory.u32_at(at + 8)? as usize };
            directory.entries.push(Entry { tag, kind, count, at });
        }
        Some(directory)
    }

    fn u16_at(&self, at: usize) -> Option<u16> {
        let bytes = [*self.file.get(at)?, *self.file.get(at.checked_add(1)?)?];
        Some(if self.little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    }

    fn u32_at(&self, at: usize) -> Option<u32> {
        let (first, second) = (u32::from(self.u16_at(at)?), u32::from(self.u16_at(at.checked_add(2)?)?));
        Some(if self.little { second << 16 | first } else { first << 16 | second })
    }

    fn entry(&self, tag: u16) -> Option<Entry> {
        self.entries.iter().find(|entry| entry.tag == tag).copied()
    }

    /// Whole numbers of a tag, whatever their width. None where it is absent or can't be read.
    pub(super) fn numbers(&self, tag: u16) -> Option<Vec<u32>> {
        let Entry { kind, count, at, .. } = self.entry(tag)?;
        if count > NUMBERS_MAX {
            return None;
        }
        let number = |index: usize| match kind {
            1 | 6 | UNDEFINED => self.file.get(at + index).map(|byte| u32::from(*byte)),
            SHORT => self.u16_at(at + index * 2).map(u32::from),
            LONG => self.u32_at(at + index * 4),
            _ => None,
        };
        (0..count).map(number).collect()
    }

    pub(super) fn number(&self, tag: u16) -> Option<u32> {
        self.numbers(tag)?.first().copied()
    }

    /// Bytes of a tag, such as a profile.
    pub(super) fn bytes(&self, tag: u16) -> Option<&'a [u8]> {
        let Entry { kind, count, at, .. } = self.entry(tag)?;
        (value_bytes(kind) == 1).then(|| self.file.get(at..at.checked_add(count)?)).flatten()
    }

    /// The file with a directory of these values at its end, in place of its own.
    pub(super) fn replaced(&self, mut file: Vec<u8>, tags: &Tags) -> Vec<u8> {
        file.resize(file.len().next_multiple_of(2), 0);
        let begin = file.len();
        let mut values_at = begin + 2 + tags.0.len() * ENTRY_BYTES + 4;
        let (mut entries, mut values) = (Vec::new(), Vec::new());
        for (tag, value) in &tags.0 {
            let (kind, count, bytes) = match value {
                Value::Numbers(numbers) => {
                    (LONG, numbers.len(), numbers.iter().flat_map(|number| self.u32_bytes(*number)).collect())
                }
                Value::Bytes(bytes) => (UNDEFINED, bytes.len(), bytes.clone()),
            };
            entries.extend(self.u16_bytes(*tag));
            entries.extend(self.u16_bytes(kind));
            entries.extend(self.u32_bytes(u32::try_from(count).unwrap_or(u32::MAX)));
            if bytes.len() <= 4 {
                let mut bytes: Vec<u8> = bytes;
                bytes.resize(4, 0);
                entries.extend(bytes);
            } else {
                entries.extend(self.u32_bytes(u32::try_from(values_at).unwrap_or(u32::MAX)));
                values_at += bytes.len().next_multiple_of(2);
                values.extend(&bytes);
                values.resize(values.len().next_multiple_of(2), 0);
            }
        }
        file.extend(self.u16_bytes(u16::try_from(tags.0.len()).unwrap_or(u16::MAX)));
        file.extend(entries);
        // No page follows.
        file.extend([0; 4]);
        file.extend(values);
        let pointer = self.u32_bytes(u32::try_from(begin).unwrap_or(u32::MAX));
        file[4..8].copy_from_slice(&pointer);
        file
    }

    fn u16_bytes(&self, value: u16) -> [u8; 2] {
        if self.little { value.to_le_bytes() } else { value.to_be_bytes() }
    }

    fn u32_bytes(&self, value: u32) -> [u8; 4] {
        if self.little { value.to_le_bytes() } else { value.to_be_bytes() }
    }
}

enum Value {
    Numbers(Vec<u32>),
    Bytes(Vec<u8>),
}

/// Tags to write, in ascending order.
#[derive(Default)]
pub(super) struct Tags(std::collections::BTreeMap<u16, Value>);

impl Tags {
    pub(super) fn set(&mut self, tag: u16, number: u32) {
        self.set_all(tag, vec![number]);
    }

    pub(super) fn set_all(&mut self, tag: u16, numbers: Vec<u32>) {
        self.0.insert(tag, Value::Numbers(numbers));
    }

    pub(super) fn set_bytes(&mut self, tag: u16, bytes: &[u8]) {
        self.0.insert(tag, Value::Bytes(bytes.to_vec()));
    }
}

/// Bytes of one value of a type (TIFF 6.0 §2).
fn value_bytes(kind: u16) -> usize {
    match kind {
        1 | 2 | 6 | UNDEFINED => 1,
        SHORT | 8 => 2,
        LONG | 9 | 11 => 4,
        5 | 10 | 12 => 8,
        _ => usize::MAX,
    }
}

//! TIFF files of every kind that people send, byte by byte.

use std::collections::BTreeMap;

/// Tags of a page, beside width, height and the strip's offset and length.
pub type Tags = BTreeMap<u16, (u16, Vec<u32>)>;

/// Tags that most pictures have: bits of a sample, samples, photometric interpretation. Uncompressed.
pub fn tags(bits: u32, samples: u32, photometric: u32) -> Tags {
    BTreeMap::from([
        (258, (3, vec![bits; samples as usize])),
        (259, (3, vec![1])),
        (262, (3, vec![photometric])),
        (277, (3, vec![samples])),
    ])
}

/// A page in one strip, little endian.
pub fn page(width: u32, height: u32, mut tags: Tags, strip: &[u8]) -> Vec<u8> {
    tags.insert(256, (4, vec![width]));
    tags.insert(257, (4, vec![height]));
    tags.insert(273, (4, vec![8]));
    tags.insert(278, (4, vec![height]));
    tags.entry(279).or_insert((4, vec![strip.len() as u32]));
    // Said to be absent.
    tags.retain(|_, (_, values)| !values.is_empty());
    let begin = (8 + strip.len()).next_multiple_of(2);
    let mut file = [&b"II*\0"[..], &(begin as u32).to_le_bytes(), strip].concat();
    file.resize(begin, 0);
    let mut values_at = begin + 2 + tags.len() * 12 + 4;
    let mut elsewhere = Vec::new();
    file.extend((tags.len() as u16).to_le_bytes());
    for (tag, (kind, values)) in tags {
        let bytes: Vec<u8> = match kind {
            1 | 7 => values.iter().map(|value| *value as u8).collect(),
            3 => values.iter().flat_map(|value| (*value as u16).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        file.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
        file.extend((values.len() as u32).to_le_bytes());
        if bytes.len() <= 4 {
            let mut bytes = bytes;
            bytes.resize(4, 0);
            file.extend(bytes);
        } else {
            file.extend((values_at as u32).to_le_bytes());
            values_at += bytes.len().next_multiple_of(2);
            elsewhere.extend(&bytes);
            elsewhere.resize(elsewhere.len().next_multiple_of(2), 0);
        }
    }
    [file, vec![0; 4], elsewhere].concat()
}

/// [`page`] whose strips are at these offsets.
pub fn page_at(width: u32, height: u32, tags: Tags, strip: &[u8], offsets: &(u16, Vec<u32>)) -> Vec<u8> {
    let mut file = page(width, height, with_strips(tags, offsets), strip);
    let directory = u32::from_le_bytes(file[4..8].try_into().expect("four")) as usize;
    let entries = usize::from(u16::from_le_bytes([file[directory], file[directory + 1]]));
    for index in 0..entries {
        let at = directory + 2 + index * 12;
        if u16::from_le_bytes([file[at], file[at + 1]]) == 273 {
            let values_at = file.len() as u32;
            file[at + 4..at + 8].copy_from_slice(&(offsets.1.len() as u32).to_le_bytes());
            file[at + 8..at + 12].copy_from_slice(&values_at.to_le_bytes());
        }
    }
    file.extend(offsets.1.iter().flat_map(|offset| offset.to_le_bytes()));
    file
}

fn with_strips(tags: Tags, offsets: &(u16, Vec<u32>)) -> Tags {
    assert_eq!(tags.get(&279).map(|(_, lengths)| lengths.len()), Some(offsets.1.len()));
    tags
}

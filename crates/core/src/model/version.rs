use std::fmt;

use imagewell_imaging::Facts;
use imagewell_imaging::look::Look;

use super::{AccountId, BlobKey, Timestamp};

/// The sha-256 of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// From the 64 hexadecimal digits of its display form.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        bytes_from_hex(text).map(Self)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 64];
        hex::encode_to_slice(self.0, &mut digits).map_err(|_| fmt::Error)?;
        out.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

/// On whose behalf a machine says that it acts. Recorded with what it sent and never interpreted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attribution {
    /// The kind of entity, as in `TILL`.
    pub entity_type: Option<String>,
    /// The entity, as in `till01`.
    pub code: Option<String>,
}

impl Attribution {
    /// Longest part, in bytes; more is cut off.
    pub const BYTES_MAX: usize = 255;
}

/// Immutable bytes of an image.
#[derive(Debug, Clone)]
pub struct Version {
    /// Counts from 1.
    pub number: u32,
    /// Where the bytes are.
    pub blob: BlobKey,
    /// How many.
    pub size_bytes: u64,
    /// Their sha-256.
    pub digest: Digest,
    /// What they are served as: from the recognised format, never as declared.
    pub content_type: String,
    /// The client's name for the file, cleaned; only for files kept unseen.
    pub file_name: Option<String>,
    /// What the image says of itself; none for files kept unseen.
    pub facts: Option<Facts>,
    /// What it looks like from afar; none until somebody has looked, and for what can't be decoded.
    pub look: Option<Look>,
    /// Who sent them.
    pub created_by: AccountId,
    /// On whose behalf.
    pub attribution: Attribution,
    /// When.
    pub created: Timestamp,
}

pub(super) fn bytes_from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok().map(|()| bytes)
}

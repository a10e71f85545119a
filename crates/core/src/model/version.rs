use std::fmt::{self, Write as _};

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
        out.write_str(&hex(&self.0))
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

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(super) fn bytes_from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

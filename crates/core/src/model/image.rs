use std::fmt;

use imagewell_imaging::transform::Crop;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::action::is_plain_key;
use super::{AccountId, ActionKey, FileName, Namespace, OrgId, ParseError, Timestamp, Version};

/// Identity of an image: OpsPortal's `uuid`, file-service's `file_handle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageId(Uuid);

impl ImageId {
    /// A fresh one.
    #[must_use]
    pub fn mint() -> Self {
        Self(Uuid::now_v7())
    }

    /// The image that an org calls by an id of its own choice. Each org has all ids for itself: what another one has chosen before
    /// changes nothing, and so tells nothing. It has version 8 (RFC 9562 §5.8), which [`ImageId::mint`] never gives.
    #[must_use]
    pub fn chosen_by(self, org: OrgId) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"imagewell: an id that an org has chosen");
        hasher.update(org.0.to_be_bytes());
        hasher.update(self.0.as_bytes());
        let digest: [u8; 32] = hasher.finalize().into();
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        Self(uuid::Builder::from_custom_bytes(first).into_uuid())
    }

    /// Parses the hyphenated form in either case.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let hyphenated = text.len() == 36;
        match Uuid::try_parse(text) {
            Ok(uuid) if hyphenated => Ok(Self(uuid)),
            _ => Err(ParseError("a uuid has the form 01234567-89ab-cdef-0123-456789abcdef")),
        }
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// The application inside an org that an image belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AppKey(String);

impl AppKey {
    /// Longest key, in bytes.
    pub const BYTES_MAX: usize = 255;

    /// Parses a key.
    ///
    /// # Errors
    /// When it is empty, longer than [`AppKey::BYTES_MAX`], starts with a dot or holds anything but letters, digits and `. _ - :`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if is_plain_key(text, Self::BYTES_MAX) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError("an appKey has 1 to 255 letters, digits or any of . _ - : and starts with no dot"))
        }
    }

    /// The key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where an image is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Without bytes so far: a placeholder that the next version fills.
    Draft,
    /// Gone at a certain time unless somebody takes it.
    Temporary,
    /// Stored for good.
    Kept,
    /// Without a version that could be read. It keeps its name and its id, and may come back.
    Deleted,
}

impl State {
    /// As stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Temporary => "temporary",
            Self::Kept => "kept",
            Self::Deleted => "deleted",
        }
    }

    /// From its stored form.
    #[must_use]
    pub fn from_stored(text: &str) -> Option<Self> {
        [Self::Draft, Self::Temporary, Self::Kept, Self::Deleted].into_iter().find(|state| state.as_str() == text)
    }

    /// What an image is whose newest readable version has this many bytes.
    #[must_use]
    pub fn of_latest(size_bytes: u64) -> Self {
        if size_bytes == 0 { Self::Draft } else { Self::Kept }
    }
}

/// Whether an image can be read without a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Acl {
    /// By those who hold its permission, or a link.
    Private,
    /// By anybody who knows its address.
    Public,
}

impl Acl {
    /// As stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Public => "public",
        }
    }

    /// From its stored form.
    #[must_use]
    pub fn from_stored(text: &str) -> Option<Self> {
        [Self::Private, Self::Public].into_iter().find(|acl| acl.as_str() == text)
    }
}

/// What keeps its identity while its bytes may change: an image, or a file kept unseen.
#[derive(Debug, Clone)]
pub struct Image {
    /// Identity.
    pub id: ImageId,
    /// Tenant.
    pub org: OrgId,
    /// Who uploaded it first.
    pub owner: AccountId,
    /// The API's part of the store.
    pub namespace: Namespace,
    /// What it is called inside its namespace, if it has a name there.
    pub name: Option<FileName>,
    /// The application it belongs to, if it belongs to one.
    pub app_key: Option<AppKey>,
    /// What a reader must hold.
    pub permission: ActionKey,
    /// Whether it can be read without a login.
    pub acl: Acl,
    /// Where it is in its life.
    pub state: State,
    /// What of it is to be seen. It belongs to the image, never to its bytes, and every rendering obeys it.
    pub crop: Option<Crop>,
    /// The place that should be seen whatever is cut off, in thousandths of the upright picture's width and height.
    pub focus: Option<(u16, u16)>,
    /// Number of the newest version that can be read.
    pub latest_number: u32,
    /// The newest version, or the one that was asked for.
    pub version: Version,
    /// When it was first stored.
    pub created: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was stored under them must be found for ever.
    #[test]
    fn chosen_ids_are_each_orgs_own_and_never_change() {
        let id = ImageId::parse("0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab").expect("a uuid");
        let of = |org| id.chosen_by(OrgId(org)).to_string();
        assert_eq!(of(2), "493d70da-fce6-861f-a2ca-ede12afe6f95");
        assert_eq!(of(100_606), "4d179e1c-dd50-8ffa-b81f-23782a27a54d");
        assert_ne!(id.chosen_by(OrgId(2)).chosen_by(OrgId(2)), id.chosen_by(OrgId(2)));
    }
}

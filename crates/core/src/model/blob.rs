use uuid::Uuid;

use super::{Namespace, OrgId};

/// The name of bytes in the store: `{namespace}/{org}/{uuid}.{ext}`. Minted here, never from a client's text, never reused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobKey(String);

impl BlobKey {
    /// A fresh key. The extension is one of our own.
    #[must_use]
    pub fn mint(namespace: &Namespace, org: OrgId, extension: &'static str) -> Self {
        Self(format!("{}/{}/{}.{extension}", namespace.as_str(), org.0, Uuid::now_v7()))
    }

    /// From its stored form, or from text that is only looked up.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// Whether this text has a key's form: three parts, of which the last begins with a UUID.
    #[must_use]
    pub fn is_well_formed(text: &str) -> bool {
        let mut parts = text.split('/');
        let (Some(namespace), Some(org), Some(file), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return false;
        };
        let uuid = file.split_once('.').map_or(file, |(uuid, _)| uuid);
        !namespace.is_empty() && org.parse::<i64>().is_ok() && Uuid::try_parse(uuid).is_ok()
    }

    /// The key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

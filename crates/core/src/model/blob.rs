use uuid::Uuid;

use super::{Namespace, OrgId};

/// The name of bytes in the store: `{namespace}/{org}/{uuid}.{ext}`. Minted here, never from a client's text, never reused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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

    /// The key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

use uuid::Uuid;

use super::OrgId;

/// The part of the store, and of the object model, that an API's images live in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Namespace {
    /// Images of the OpsPortal API.
    OpsportalImages,
    /// Files of any kind that the OpsPortal API keeps unseen.
    OpsportalFiles,
}

impl Namespace {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::OpsportalImages, Self::OpsportalFiles];

    /// As stored, and the first segment of blob keys.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpsportalImages => "opsportal-images",
            Self::OpsportalFiles => "opsportal-files",
        }
    }

    /// From its stored form.
    #[must_use]
    pub fn from_stored(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|namespace| namespace.as_str() == text)
    }
}

/// The name of bytes in the store: `{namespace}/{org}/{uuid}.{ext}`. Minted here, never from a client's text, never reused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BlobKey(String);

impl BlobKey {
    /// A fresh key. The extension is one of our own.
    #[must_use]
    pub fn mint(namespace: Namespace, org: OrgId, extension: &'static str) -> Self {
        Self(format!("{}/{}/{}.{extension}", namespace.as_str(), org.0, Uuid::now_v7()))
    }

    /// From its stored form.
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

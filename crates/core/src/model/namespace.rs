use std::borrow::Cow;

use imagewell_imaging::Format;

use super::ParseError;
use super::action::is_plain_key;

/// The part of the store, and of the object model, that an API's images live in: the first segment of every blob key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Namespace(Cow<'static, str>);

impl Namespace {
    /// Images of the OpsPortal API.
    pub const OPSPORTAL_IMAGES: Self = Self(Cow::Borrowed("opsportal-images"));
    /// Files of any kind that the OpsPortal API keeps unseen.
    pub const OPSPORTAL_FILES: Self = Self(Cow::Borrowed("opsportal-files"));
    /// Pictures of the Dropbox API, avatars among them.
    pub const DROPBOX_PICTURES: Self = Self(Cow::Borrowed("dropbox-pictures"));
    /// Longest name, in bytes.
    pub const BYTES_MAX: usize = 63;
    /// Taken by the store itself and by a route beside the namespaces.
    const RESERVED: [&'static str; 2] = ["variants", "handles"];
    /// What the namespaces of other APIs begin with.
    const RESERVED_PREFIXES: [&'static str; 3] = ["opsportal-", "dropbox-", "native-"];

    /// Parses the name of a namespace of the file-service API.
    ///
    /// # Errors
    /// When it is empty, longer than [`Namespace::BYTES_MAX`], holds anything but letters, digits and `. _ -`, starts with a dot, or
    /// is reserved.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if !is_plain_key(text, Self::BYTES_MAX) || text.contains(':') {
            return Err(ParseError("a namespace has 1 to 63 letters, digits or any of . _ - and starts with no dot"));
        }
        let folded = text.to_ascii_lowercase();
        if Self::RESERVED.contains(&folded.as_str()) || Self::RESERVED_PREFIXES.iter().any(|prefix| folded.starts_with(prefix)) {
            return Err(ParseError("this name is reserved: choose another for the namespace"));
        }
        Ok(Self(Cow::Owned(text.to_owned())))
    }

    /// From its stored form.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(Cow::Owned(text))
    }

    /// As stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What an org has decided for a namespace. Absent values stand for the service's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceRules {
    /// Which.
    pub namespace: Namespace,
    /// An upload of this size is already refused.
    pub bytes_max: Option<u64>,
    /// Formats that it takes; all of them when empty.
    pub formats: Vec<Format>,
    /// Whether bytes are kept unseen.
    pub verbatim: bool,
    /// Zone of the times that its callers are told: an IANA name, or an offset as in `+05:30`.
    pub time_zone: Option<String>,
}

impl NamespaceRules {
    /// A namespace for which nothing is decided.
    #[must_use]
    pub fn plain(namespace: Namespace) -> Self {
        Self { namespace, bytes_max: None, formats: Vec::new(), verbatim: false, time_zone: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_clear_of_the_store_and_of_other_apis() {
        for name in ["rewards", "Rewards_2", "a.b", "0", "variant", "images", "image-bank"] {
            assert!(Namespace::parse(name).is_ok(), "{name}");
        }
        for name in ["", ".hidden", "a/b", "a:b", "ü", "variants", "VARIANTS", "handles", "opsportal-images", "Dropbox-x"] {
            assert!(Namespace::parse(name).is_err(), "{name}");
        }
        assert!(Namespace::parse(&"n".repeat(63)).is_ok());
        assert!(Namespace::parse(&"n".repeat(64)).is_err());
    }
}

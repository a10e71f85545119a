use super::ParseError;

/// What a role allows: `opstool.AB_Crew.view`, `imagewell.upload`. An image names one as the permission to see it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActionKey(String);

impl ActionKey {
    /// Uploading through the OpsPortal, Dropbox and native APIs.
    pub const UPLOAD: &'static str = "imagewell.upload";
    /// Reading through the file-service API.
    pub const FILES_READ: &'static str = "imagewell.files.read";
    /// Writing through the file-service API.
    pub const FILES_WRITE: &'static str = "imagewell.files.write";
    /// Everything inside the holder's own org.
    pub const ADMIN: &'static str = "imagewell.admin";
    /// Longest key, in bytes.
    pub const BYTES_MAX: usize = 255;

    /// One of the keys above.
    #[must_use]
    pub fn built_in(key: &'static str) -> Self {
        Self(key.to_owned())
    }

    /// Parses a key.
    ///
    /// # Errors
    /// When it is empty, longer than [`ActionKey::BYTES_MAX`] or holds anything but letters, digits and `. _ - :`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if is_plain_key(text, Self::BYTES_MAX) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError("an action key has 1 to 255 letters, digits or any of . _ - :"))
        }
    }

    /// The key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether text is made of ASCII letters, digits and `. _ - :` alone, and is no relative path.
pub(super) fn is_plain_key(text: &str, bytes_max: usize) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':');
    (1..=bytes_max).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('.')
}

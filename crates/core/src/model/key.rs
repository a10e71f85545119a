use super::Timestamp;

/// What a key signs. Each purpose has keys of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyPurpose {
    /// OAuth access tokens: an RSA key of 2048 bits, as PKCS #8 PEM.
    Tokens,
    /// Links to bytes: an S3 secret access key; the key's id is the access key id.
    Links,
    /// Transforms in addresses: each org's secret follows from it.
    Transforms,
}

impl KeyPurpose {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tokens, Self::Links, Self::Transforms];

    /// As stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Links => "links",
            Self::Transforms => "transforms",
        }
    }

    /// From its stored form.
    #[must_use]
    pub fn from_stored(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.as_str() == text)
    }
}

/// A key that signs, or one that has signed and is still honoured. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// What a signature names it by.
    pub id: String,
    /// What it signs.
    pub purpose: KeyPurpose,
    /// The key itself, in the form of its purpose.
    pub secret: String,
    /// When it was made.
    pub created: Timestamp,
    /// Until when signatures of it are honoured; none while it is the one that signs.
    pub honoured_until: Option<Timestamp>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SigningKey").field("id", &self.id).field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

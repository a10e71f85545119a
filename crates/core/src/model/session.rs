use std::fmt;

use sha2::{Digest as _, Sha256};

/// The secret that a session cookie carries: 256 random bits. Never stored and never printed.
#[derive(Clone)]
pub struct SessionToken([u8; 32]);

impl SessionToken {
    /// A fresh one from the operating system's generator.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn mint() -> Result<Self, crate::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| crate::Error::internal("random bytes", &error))?;
        Ok(Self(bytes))
    }

    /// From the 64 hexadecimal digits of [`SessionToken::to_hex`].
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        super::version::bytes_from_hex(text).map(Self)
    }

    /// For the cookie.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The secret itself, as key material for what must be bound to the session.
    #[must_use]
    pub fn secret(&self) -> &[u8; 32] {
        &self.0
    }

    /// What is stored and looked up.
    #[must_use]
    pub fn hash(&self) -> SessionTokenHash {
        SessionTokenHash(Sha256::digest(self.0).into())
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SessionToken(…)")
    }
}

/// The sha-256 of a session's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionTokenHash([u8; 32]);

impl SessionTokenHash {
    /// From what [`SessionTokenHash::to_hex`] gives.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        super::version::bytes_from_hex(text).map(Self)
    }

    /// As stored.
    #[must_use]
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

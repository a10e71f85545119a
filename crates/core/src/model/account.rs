use uuid::Uuid;

/// Identity of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AccountId(pub Uuid);

impl AccountId {
    /// A fresh one.
    #[must_use]
    pub fn mint() -> Self {
        Self(Uuid::now_v7())
    }
}

/// Who can call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountKind {
    /// A person with a login and a password.
    User,
    /// A machine with an id and a password.
    Till,
    /// An OAuth client with a key and a secret.
    Client,
    /// Whoever an outside identity provider vouches for. Made at its first request; it has no secret and no roles here.
    Outside,
}

impl AccountKind {
    /// As stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Till => "till",
            Self::Client => "client",
            Self::Outside => "outside",
        }
    }
}

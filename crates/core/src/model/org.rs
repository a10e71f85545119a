/// The number of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrgId(pub i64);

/// How an org is referred to from outside.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum OrgReference {
    /// By its number.
    Number(OrgId),
    /// By its name.
    Name(String),
}

impl OrgReference {
    /// Of a text without a type, as on a command line: digits alone are a number.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), |number| Self::Number(OrgId(number)))
    }
}

/// A tenant. Every row belongs to one and nothing crosses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Org {
    /// Its number, as in `100606`.
    pub id: OrgId,
    /// Its name, as in `acmepaymentscorp`.
    pub name: String,
}

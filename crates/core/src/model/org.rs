/// The number of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrgId(pub i64);

/// A tenant. Every row belongs to one and nothing crosses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Org {
    /// Its number, as in `100606`.
    pub id: OrgId,
    /// Its name, as in `acmepaymentscorp`.
    pub name: String,
}

//! From proof to Actor. One module a kind of proof; everything behind this sees only the Actor.

pub mod address;
pub mod csrf;
pub mod fetch_metadata;
pub mod machine;
pub mod provider;
pub mod session;
pub mod tokens;

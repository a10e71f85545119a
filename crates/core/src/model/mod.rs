//! The nouns: plain types, one to a file. A value that exists is valid; text from outside is parsed into these at the edge.

mod account;
mod action;
mod actor;
mod blob;
mod image;
mod org;
mod session;
mod time;
mod version;

pub use account::{AccountId, AccountKind};
pub use action::ActionKey;
pub use actor::Actor;
pub use blob::{BlobKey, Namespace};
pub use image::{AppKey, Image, ImageId, State};
pub use org::{Org, OrgId};
pub use session::{SessionToken, SessionTokenHash};
pub use time::Timestamp;
pub use version::{Digest, Version};

/// Why text from outside is no such thing; the text may be shown to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub &'static str);

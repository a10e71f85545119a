//! The nouns: plain types, one to a file. A value that exists is valid; text from outside is parsed into these at the edge.

mod account;
mod action;
mod actor;
mod blob;
mod file_name;
mod image;
mod key;
mod namespace;
mod org;
mod preset;
mod resource;
mod session;
mod ticket;
mod time;
mod version;

pub use account::{AccountId, AccountKind};
pub use action::ActionKey;
pub use actor::Actor;
pub use blob::BlobKey;
pub use file_name::{FileName, is_bidirectional};
pub use image::{Acl, AppKey, Image, ImageId, State};
pub use key::{KeyPurpose, SigningKey};
pub use namespace::{Namespace, NamespaceRules};
pub use org::{Org, OrgId, OrgReference};
pub use preset::Preset;
pub use resource::{Resource, Service};
pub use session::{SessionToken, SessionTokenHash};
pub use ticket::{TicketNumber, TicketNumbers};
pub use time::Timestamp;
pub use version::{Attribution, Digest, Version};

/// Why text from outside is no such thing; the text may be shown to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub &'static str);

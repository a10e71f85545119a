//! The OpsPortal API: images, their base64 twin, files of any kind, and the site's login.

pub mod base64;
mod caller;
mod error;
mod parameters;
pub mod read;
pub mod site;
pub mod upload;
mod wire;

pub use error::Refusal;

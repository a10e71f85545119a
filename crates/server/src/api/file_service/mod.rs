//! The file-service API: files with a name and versions, for machines that prove themselves with every request.

mod caller;
mod error;
pub mod files;
pub mod token;
pub mod upload;
mod wire;

pub use error::Refusal;

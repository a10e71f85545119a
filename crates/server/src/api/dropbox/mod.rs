//! The Dropbox pictures API: pictures that wait under a ticket, their crops, and the avatars that resources take from there.

pub mod avatars;
mod caller;
mod default_avatar;
mod error;
pub mod login;
pub mod pictures;
mod rendering;
mod wire;

pub use error::Refusal;

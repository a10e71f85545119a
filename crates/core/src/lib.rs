//! The service without HTTP: what is stored, who may see it, and how both survive a power cut.
//!
//! Nothing here knows HTTP, JSON, HTML, the command line or the environment. Two straight lines carry almost everything:
//! [`upload`] and [`fetch`].

pub mod access;
pub mod accounts;
mod admission;
pub mod adopt;
pub mod app;
pub mod avatars;
mod background;
pub mod backup;
mod changes;
mod clock;
mod copy;
mod db;
pub mod durable;
mod error;
mod failures;
pub mod fetch;
pub mod files;
mod filling;
mod following;
pub mod grammar;
pub mod halt;
mod identity;
pub mod images;
pub mod inventory;
mod kept;
pub mod keys;
mod leases;
mod looks;
pub mod model;
pub mod moving;
pub mod passwords;
mod places;
pub mod presets;
pub mod provision;
mod rendering;
pub mod scrub;
mod shared;
pub mod spool;
pub mod storage;
pub mod sweep;
pub mod tickets;
pub mod upload;
pub mod variant;
pub mod verify;
pub mod workers;

pub use app::App;
pub use clock::ClockLimits;
pub use db::{Address as DatabaseAddress, Connections, Holdings, Patience, Place as DatabasePlace, diagnosis};
pub use error::Error;
pub use following::Whither;

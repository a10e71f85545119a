//! Bytes in, facts or bytes out.
//!
//! [`inspect`] tells what an image is and whether it is whole, from its headers and structure alone; [`render`] decodes,
//! orients, fits and encodes. Everything here is pure and synchronous: no clock, no network, no file names, no async. It faces
//! hostile bytes, so every read is bounded by [`Limits`] and `render` is meant to run in a process that has nothing to lose.

mod attention;
mod colour;
pub mod cost;
mod decode;
mod effects;
mod encode;
mod error;
mod facts;
mod format;
mod inspect;
mod limits;
pub mod look;
mod plan;
pub mod render;
mod stripped;
pub mod svg;
pub mod transform;
mod undrawable;

pub use error::{Error, Limit};
pub use facts::{Facts, Orientation};
pub use format::Format;
pub use inspect::{Inspected, inspect, inspect_closely, inspect_head};
pub use limits::Limits;
pub use undrawable::Undrawable;

//! Resizing and AVIF's encoder: pixels in, pixels or bytes out.
//!
//! Their libraries are generic, so their code is compiled where it is called: four fifths of what imaging was compiled to. Here that
//! happens once, and not again with each change of imaging.

#[cfg(feature = "avif-encoder")]
mod avif;
mod resize;

#[cfg(feature = "avif-encoder")]
pub use avif::encode_avif;
pub use resize::resize;

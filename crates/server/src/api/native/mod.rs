//! The native API. So far it shows: any image that the caller may see, whichever API it came in through, at any size.

mod grammar;
pub mod show;

//! The native API. So far it shows any image that the caller may see, whichever API it came in through, at any size, and tells what is
//! known of it.

mod caller;
pub mod record;
pub mod show;

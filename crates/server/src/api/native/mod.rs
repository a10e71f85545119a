//! The native API. So far it shows: any image that the caller may see, whichever API it came in through, at any size.

mod grammar;
pub mod show;

/// Whether a text is a transform at all; how large it may be is the service's setting.
///
/// # Errors
/// What is wrong with it.
pub fn check_transform(text: &str) -> Result<(), String> {
    grammar::Asked::parse(text, u32::MAX).map(|_| ())
}

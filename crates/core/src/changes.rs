//! What was changed in the database and may be held in memory somewhere: by this process, or by others that work on the same
//! database. Whoever changes something says so inside the write, and hears of it after the commit, as everybody does.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use crate::model::{AccountId, ImageId, SessionTokenHash};

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// An image, or which of its versions is the newest.
    Image(ImageId),
    /// A session ended.
    Session(SessionTokenHash),
    /// All sessions of an account ended.
    SessionsOf(AccountId),
    /// Anything may have changed.
    Everything,
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(id) => write!(out, "image:{id}"),
            Self::Session(hash) => write!(out, "session:{}", hash.to_hex()),
            Self::SessionsOf(account) => write!(out, "account:{}", account.0),
            Self::Everything => write!(out, "everything:"),
        }
    }
}

impl FromStr for Change {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (kind, name) = text.split_once(':').ok_or(())?;
        match kind {
            "image" => ImageId::parse(name).map(Self::Image).map_err(|_| ()),
            "session" => SessionTokenHash::from_hex(name).map(Self::Session).ok_or(()),
            "account" => name.parse().map(|id| Self::SessionsOf(AccountId(id))).map_err(|_| ()),
            _ => Err(()),
        }
    }
}

/// Whoever holds something in memory.
type Listener = Box<dyn Fn(Change) + Send + Sync>;

/// Tells the listener.
#[derive(Clone, Default)]
pub(crate) struct Announcer(Arc<OnceLock<Listener>>);

impl fmt::Debug for Announcer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Announcer").finish_non_exhaustive()
    }
}

impl Announcer {
    /// From now on this is told. Once.
    pub(crate) fn tell(&self, listener: impl Fn(Change) + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(listener));
    }

    pub(crate) fn announce(&self, change: Change) {
        if let Some(listener) = self.0.get() {
            listener(change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_survive_their_text() {
        let token = crate::model::SessionToken::mint().expect("random");
        for change in [Change::Image(ImageId::mint()), Change::Session(token.hash()), Change::SessionsOf(AccountId::mint())] {
            assert_eq!(change.to_string().parse(), Ok(change));
        }
        for other in ["", "image", "image:", "session:00", "node:1", "account:x"] {
            assert_eq!(other.parse::<Change>(), Err(()), "{other}");
        }
    }
}

use std::error::Error as StdError;
use std::time::Duration;

/// What the caller can do about a failure. Knows no HTTP; each API turns it into its own face.
///
/// Public text and private detail are apart: only [`Error::Internal`] carries detail, which is logged and never shown.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The bytes or a parameter can't be accepted; the reason may be shown.
    #[error("{reason}")]
    Invalid {
        /// What is wrong and what to do.
        reason: String,
    },
    /// More bytes than the limit allows.
    #[error("the upload reaches the limit of {bytes_max} bytes")]
    TooLarge {
        /// The limit that was reached.
        bytes_max: u64,
    },
    /// The caller proved nothing, or what it proved has ended.
    #[error("not logged in")]
    Unauthenticated,
    /// Name or password are wrong, whichever.
    #[error("wrong name or password")]
    WrongCredentials,
    /// The caller is known and lacks the right.
    #[error("permission denied")]
    Forbidden,
    /// It isn't there, or the caller may not know that it is.
    #[error("not found")]
    NotFound,
    /// What was to be made exists already.
    #[error("exists already")]
    Conflict,
    /// The caller, or its org, asks too much at once: too many attempts to log in, or all of its own share is in use.
    #[error("too many requests at once")]
    TooMany {
        /// When to try again.
        retry_after: Duration,
    },
    /// No capacity at the moment.
    #[error("busy, try again")]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// The disk is full, or as full as it may get. Uploads resume once there is space.
    #[error("no space left to store this")]
    NoSpace,
    /// The sender was too slow.
    #[error("the request came in too slowly")]
    TooSlow,
    /// The sender went away before the request was complete.
    #[error("the request ended before it was complete")]
    Disconnected,
    /// A fault of ours or of what we stand on.
    #[error("internal error")]
    Internal {
        /// For the log.
        detail: String,
    },
}

impl Error {
    /// A fault with its whole chain of causes as private detail.
    #[must_use]
    pub fn internal(doing: &str, cause: &(dyn StdError + 'static)) -> Self {
        let mut detail = format!("{doing}: {cause}");
        let mut next = cause.source();
        while let Some(cause) = next {
            detail.push_str(": ");
            detail.push_str(&cause.to_string());
            next = cause.source();
        }
        Self::Internal { detail }
    }

    /// A refusal with a reason that may be shown.
    #[must_use]
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }
}

impl From<imagewell_imaging::Error> for Error {
    fn from(error: imagewell_imaging::Error) -> Self {
        match error {
            imagewell_imaging::Error::Io(cause) => Self::internal("reading an upload back", &cause),
            other => Self::invalid(other.to_string()),
        }
    }
}

impl From<crate::model::ParseError> for Error {
    fn from(error: crate::model::ParseError) -> Self {
        Self::invalid(error.0)
    }
}

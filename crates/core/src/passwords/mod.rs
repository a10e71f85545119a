//! Password hashing: argon2id, in a bounded number of blocking threads, with the same work done for users that don't exist.

mod turns;

pub(crate) use turns::Asker;
pub use turns::HashLimits;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params};

use crate::Error;
use turns::Turns;

/// A longer password is refused before any hashing.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// Hashes and checks passwords.
#[derive(Debug)]
pub struct Passwords {
    hasher: Argon2<'static>,
    turns: Turns,
    /// Checked when there is no such user, so that the answer takes as long.
    dummy_hash: String,
}

impl Passwords {
    /// `memory_kib` and `passes` are argon2id's costs; each hash that runs holds `memory_kib`.
    ///
    /// # Errors
    /// [`Error::Internal`] when the costs are outside argon2's own bounds.
    pub fn new(memory_kib: u32, passes: u32, limits: HashLimits) -> Result<Self, Error> {
        let params = Params::new(memory_kib, passes, 1, None).map_err(|error| Error::internal("argon2 costs", &error))?;
        let hasher = Argon2::new(Algorithm::Argon2id, argon2::Version::V0x13, params);
        let dummy_hash = hash_blocking(&hasher, "nobody has this password")?;
        Ok(Self { hasher, turns: Turns::new(limits), dummy_hash })
    }

    /// A fresh salted hash in PHC form.
    ///
    /// # Errors
    /// [`Error::Busy`] when no hashing thread comes free in time.
    pub(crate) async fn hash(&self, password: String) -> Result<String, Error> {
        let hasher = self.hasher.clone();
        self.blocking(Asker::OURSELVES, move || hash_blocking(&hasher, &password)).await?
    }

    /// Whether the password has this hash. Without a hash the same work is done and the answer is no.
    ///
    /// # Errors
    /// [`Error::Busy`] when no hashing thread comes free in time.
    pub(crate) async fn verify(&self, password: String, hash: Option<String>, asker: Asker) -> Result<bool, Error> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.dummy_hash.clone());
        let matches = self.blocking(asker, move || {
            let parsed = PasswordHash::new(&hash).map_err(|error| Error::internal("reading a password hash", &error))?;
            Ok::<_, Error>(Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok())
        });
        Ok(matches.await?? && known)
    }

    /// Keeps a thread busy for as long as the result is held.
    #[cfg(test)]
    pub(crate) async fn occupy(&self) -> impl Drop + use<> {
        self.turns.turn(Asker::OURSELVES).await.expect("a thread is free")
    }

    async fn blocking<T: Send + 'static>(&self, asker: Asker, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let turn = self.turns.turn(asker).await?;
        tokio::task::spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        })
        .await
        .map_err(|error| Error::internal("hashing a password", &error))
    }
}

fn hash_blocking(hasher: &Argon2<'_>, password: &str) -> Result<String, Error> {
    let hash = hasher.hash_password(password.as_bytes()).map_err(|error| Error::internal("hashing a password", &error))?;
    Ok(hash.to_string())
}

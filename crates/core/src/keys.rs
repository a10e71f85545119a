//! Keys that sign tokens and links. They lie in the database, because every process that serves must honour what another one
//! signed. A new one takes over at once; those before it are honoured for as long as anything that they signed may live.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Error;
use crate::db::{self, Database};
use crate::model::{KeyPurpose, SigningKey, Timestamp};

/// The longest life of an access token.
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(3600);
/// The longest life of a link (Amazon S3 API, `X-Amz-Expires`).
pub const LINK_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(60);
/// An id that nobody knows is looked up at most this often.
const LOOK_UP_EVERY: Duration = Duration::from_secs(1);
/// Digits of ids: without those that look alike.
const DIGITS: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// All keys, in memory.
#[derive(Debug)]
pub struct Keys {
    database: Database,
    all: RwLock<Arc<[SigningKey]>>,
    looked_up: Mutex<Option<Instant>>,
    /// Held while they are read, so that an older reading never follows a newer one.
    reading: tokio::sync::Mutex<()>,
}

impl Keys {
    /// Reads the keys, and makes those that are missing: at the first start, all of them.
    ///
    /// # Errors
    /// [`Error::Internal`] when they can't be read or made.
    pub async fn open(database: Database) -> Result<Self, Error> {
        let keys = Self { database, all: RwLock::default(), looked_up: Mutex::default(), reading: tokio::sync::Mutex::default() };
        keys.reload().await?;
        for purpose in KeyPurpose::ALL {
            if keys.current(purpose).is_err() {
                let key = mint(purpose, keys.database.now()).await?;
                keys.database
                    .write(move |connection| Box::pin(async move { db::keys::insert_first(connection, &key).await }))
                    .await?;
                keys.reload().await?;
            }
        }
        Ok(keys)
    }

    /// Reads the keys and makes none.
    ///
    /// # Errors
    /// [`Error::Internal`] when they can't be read.
    pub async fn look(database: Database) -> Result<Self, Error> {
        let keys = Self { database, all: RwLock::default(), looked_up: Mutex::default(), reading: Default::default() };
        keys.reload().await?;
        Ok(keys)
    }

    /// Reads them again, after another process may have changed them.
    ///
    /// # Errors
    /// [`Error::Internal`] when the database can't be read.
    pub async fn reload(&self) -> Result<(), Error> {
        let _reading = self.reading.lock().await;
        let all = db::keys::all(&self.database).await?;
        *self.all.write().unwrap_or_else(PoisonError::into_inner) = all.into();
        Ok(())
    }

    /// Every key, the newest first.
    #[must_use]
    pub fn all(&self) -> Arc<[SigningKey]> {
        Arc::clone(&self.all.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The key that signs.
    ///
    /// # Errors
    /// [`Error::Internal`] when there is none.
    pub fn current(&self, purpose: KeyPurpose) -> Result<SigningKey, Error> {
        let all = self.all();
        let current = all.iter().find(|key| key.purpose == purpose && key.honoured_until.is_none());
        current.cloned().ok_or_else(|| Error::Internal { detail: format!("there is no key for {}", purpose.as_str()) })
    }

    /// The key of this id, if what it signed is honoured now. An id that is new to this process is looked up.
    ///
    /// # Errors
    /// [`Error::Internal`] when the database can't be read.
    pub async fn honoured(&self, purpose: KeyPurpose, id: &str) -> Result<Option<SigningKey>, Error> {
        let find = |all: &[SigningKey]| all.iter().find(|key| key.purpose == purpose && key.id == id).cloned();
        let mut key = find(&self.all());
        if key.is_none() && self.may_look_up() {
            self.reload().await?;
            key = find(&self.all());
        }
        Ok(key.filter(|key| key.honoured_until.is_none_or(|until| self.database.now() < until)))
    }

    /// Strangers can make up ids.
    fn may_look_up(&self) -> bool {
        let mut last = self.looked_up.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| last.elapsed() >= LOOK_UP_EVERY);
        if may {
            *last = Some(Instant::now());
        }
        may
    }

    /// Makes a new key that signs from now on. What the others signed is honoured until it ends by itself, or with `revoke` no
    /// longer.
    ///
    /// # Errors
    /// [`Error::Internal`] when that can't be stored.
    pub async fn rotate(&self, purpose: KeyPurpose, revoke: bool) -> Result<SigningKey, Error> {
        let key = mint(purpose, self.database.now()).await?;
        let longest = match purpose {
            KeyPurpose::Tokens => TOKEN_TTL_MAX,
            // Signatures without an end are given as long as the longest with one.
            KeyPurpose::Links | KeyPurpose::Transforms => LINK_TTL_MAX,
        };
        let until = if revoke { key.created } else { key.created.plus(longest + LEEWAY) };
        let row = key.clone();
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    db::keys::replace(connection, &row, until).await?;
                    db::accounts::Provisioning(connection).raise_generation().await
                })
            })
            .await?;
        self.reload().await?;
        tracing::info!(target: "audit", purpose = purpose.as_str(), key = key.id, revoke, "a new key signs");
        Ok(key)
    }
}

fn id_prefix(purpose: KeyPurpose) -> &'static str {
    match purpose {
        KeyPurpose::Tokens => "IWT",
        KeyPurpose::Links => "IWL",
        KeyPurpose::Transforms => "IWX",
    }
}

async fn mint(purpose: KeyPurpose, created: Timestamp) -> Result<SigningKey, Error> {
    let id: String = random_bytes::<16>()?.iter().map(|byte| char::from(DIGITS[usize::from(byte % 32)])).collect();
    let secret = match purpose {
        KeyPurpose::Links | KeyPurpose::Transforms => STANDARD.encode(random_bytes::<30>()?),
        KeyPurpose::Tokens => {
            tokio::task::spawn_blocking(rsa_key).await.map_err(|error| Error::internal("making a key", &error))??
        }
    };
    Ok(SigningKey { id: format!("{}{id}", id_prefix(purpose)), purpose, secret, created, honoured_until: None })
}

fn random_bytes<const COUNT: usize>() -> Result<[u8; COUNT], Error> {
    let mut bytes = [0; COUNT];
    getrandom::fill(&mut bytes).map_err(|error| Error::internal("random bytes", &error))?;
    Ok(bytes)
}

/// PKCS #8 in PEM (RFC 7468).
fn rsa_key() -> Result<String, Error> {
    let failed = || Error::Internal { detail: "making an RSA key failed".into() };
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| failed())?;
    let der = pair.as_der().map_err(|_| failed())?;
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    for line in STANDARD.encode(der.as_ref()).as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    Ok(pem)
}

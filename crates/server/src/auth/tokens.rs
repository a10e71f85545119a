//! Access tokens: JSON Web Tokens (RFC 7519), signed with RS256 by keys of ours. They say who, never what for: rights are looked
//! up at every use, so that a change acts at once.

use std::sync::Arc;
use std::time::Duration;

use imagewell_core::Error;
use imagewell_core::model::{AccountId, Actor, KeyPurpose, SigningKey, Timestamp};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::machine::Denied;
use crate::serve::Service;

/// A longer token is refused unread.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// What is said of a token whose time is over.
const EXPIRED: &str = "it has expired";

/// What a token of ours says.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    exp: u64,
    jti: Uuid,
    iat: u64,
    /// The account.
    sub: Uuid,
    /// What the client calls itself.
    client_id: String,
    org_id: i64,
}

/// Keys in the form that signing and verifying need, by their id.
pub struct TokenKeys(Cache<String, Arc<(EncodingKey, DecodingKey)>>);

impl Default for TokenKeys {
    fn default() -> Self {
        Self(Cache::new(16))
    }
}

impl TokenKeys {
    fn parsed(&self, key: &SigningKey) -> Result<Arc<(EncodingKey, DecodingKey)>, Error> {
        self.0.get_or_insert_with(&key.id, || {
            let failed = |error: jsonwebtoken::errors::Error| Error::internal("reading a token key", &error);
            let encoding = EncodingKey::from_rsa_pem(key.secret.as_bytes()).map_err(failed)?;
            let public = Jwk::from_encoding_key(&encoding, Algorithm::RS256).map_err(failed)?;
            let decoding = DecodingKey::from_jwk(&public).map_err(failed)?;
            Ok(Arc::new((encoding, decoding)))
        })
    }
}

/// A token for a client that has proved itself.
///
/// # Errors
/// [`Error::Internal`] when there is no key to sign with.
pub fn issue(service: &Service, client: &Actor, lifetime: Duration) -> Result<String, Error> {
    let key = service.app.keys.current(KeyPurpose::Tokens)?;
    let now = seconds(service.app.now());
    let claims = Claims {
        iss: service.settings.oauth.issuer.clone(),
        exp: now + lifetime.as_secs(),
        jti: Uuid::new_v4(),
        iat: now,
        sub: client.account.0,
        client_id: client.login.clone(),
        org_id: client.org.0,
    };
    let header = Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::RS256) };
    let parsed = service.token_keys.parsed(&key)?;
    jsonwebtoken::encode(&header, &claims, &parsed.0).map_err(|error| Error::internal("signing a token", &error))
}

/// Seconds since 1970.
fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.0 / 1_000_000).unwrap_or(0)
}

/// Whose token this is, ours or the configured identity provider's.
///
/// # Errors
/// [`Denied::InvalidToken`]; [`Denied::StatusUnavailable`] when the provider's keys can't be had.
pub async fn verify(service: &Service, token: &str) -> Result<Arc<Actor>, Denied> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Denied::InvalidToken("it is too long"));
    }
    // What an unverified token says only decides who is asked about it.
    let header = jsonwebtoken::decode_header(token).map_err(|error| Denied::InvalidToken(reason(&error)))?;
    let is_jwt = header.typ.as_deref().is_none_or(|typ| matches!(typ.to_ascii_lowercase().as_str(), "jwt" | "at+jwt"));
    if !is_jwt {
        return Err(Denied::InvalidToken("it is no access token"));
    }
    if let Some(provider) = &service.provider
        && provider.vouches_for(token)
    {
        let caller = provider.verify(token, &header).await?;
        return Ok(service.app.accounts.outside(caller).await?);
    }
    verify_own(service, token, &header).await
}

async fn verify_own(service: &Service, token: &str, header: &Header) -> Result<Arc<Actor>, Denied> {
    if header.alg != Algorithm::RS256 {
        return Err(Denied::InvalidToken("it is not signed with RS256"));
    }
    let id = header.kid.as_deref().ok_or(Denied::InvalidToken("it names no key"))?;
    let key = service.app.keys.honoured(KeyPurpose::Tokens, id).await?;
    let key = key.ok_or(Denied::InvalidToken("its key is not one of ours, or not any more"))?;
    let parsed = service.token_keys.parsed(&key)?;
    let mut validation = Validation::new(Algorithm::RS256);
    // By the time that all nodes have in common, below.
    validation.validate_exp = false;
    validation.set_issuer(&[&service.settings.oauth.issuer]);
    validation.set_required_spec_claims(&["exp", "iss", "sub"]);
    let claims = jsonwebtoken::decode::<Claims>(token, &parsed.1, &validation)
        .map_err(|error| Denied::InvalidToken(reason(&error)))?
        .claims;
    // At the second that it names, not after it (RFC 7519 §4.1.4).
    if seconds(service.app.now()) >= claims.exp {
        return Err(Denied::InvalidToken(EXPIRED));
    }
    let actor = service.app.accounts.actor(AccountId(claims.sub)).await?;
    actor
        .filter(|actor| actor.org.0 == claims.org_id)
        .ok_or(Denied::InvalidToken("the client that it was given to is gone or disabled"))
}

/// Why a token is not good, in words for its bearer.
pub(super) fn reason(error: &jsonwebtoken::errors::Error) -> &'static str {
    match error.kind() {
        ErrorKind::ExpiredSignature => EXPIRED,
        ErrorKind::ImmatureSignature => "it is not valid yet",
        ErrorKind::InvalidIssuer => "it is from another issuer",
        ErrorKind::InvalidAudience => "it is meant for another audience",
        ErrorKind::InvalidSignature => "its signature is wrong",
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => "it is signed in a way that is not accepted",
        ErrorKind::MissingRequiredClaim(_) => "a claim is missing",
        _ => "it is no JSON Web Token of the expected form",
    }
}

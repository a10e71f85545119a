//! An outside identity provider: its tokens are verified with the keys that it publishes (RFC 7517), which are kept for a while.
//! A token may not choose its key's address, and no key is trusted longer than the configured time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use imagewell_core::accounts::OutsideCaller;
use imagewell_core::model::{OrgId, OrgReference};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use reqwest::Client;
use serde_json::{Map, Value};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::machine::Denied;
use super::tokens::reason;
use crate::config::{IdentityProviderSettings, Value as _, WebUrl};

/// Signatures that only the provider can make: none that is keyed by a shared secret.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// A provider that answers with more is not believed.
const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;
/// After a failure the provider is left alone for so long.
const RETRY_AFTER_FAILURE: Duration = Duration::from_secs(2);
/// Longest subject, in bytes.
const SUBJECT_BYTES_MAX: usize = 255;

/// The provider, with its keys as far as they are known.
pub struct Provider {
    settings: IdentityProviderSettings,
    client: Client,
    /// Held for a moment, never while the provider is asked: whoever has its key waits for nobody.
    kept: Mutex<Kept>,
    /// Held while the provider is asked.
    asking: Arc<AsyncMutex<()>>,
}

#[derive(Clone, Default)]
struct Kept {
    keys: Option<(Arc<JwkSet>, Instant)>,
    failed: Option<Instant>,
}

impl Kept {
    /// How long ago the keys came in.
    fn age(&self) -> Option<Duration> {
        self.keys.as_ref().map(|(_, fetched)| fetched.elapsed())
    }

    fn failed_just_now(&self) -> bool {
        self.failed.is_some_and(|failed| failed.elapsed() < RETRY_AFTER_FAILURE)
    }

    /// Whether this is news since that moment, good or bad.
    fn is_newer_than(&self, moment: Instant) -> bool {
        let fetched = self.keys.as_ref().map(|(_, fetched)| *fetched);
        fetched.max(self.failed).is_some_and(|news| news > moment)
    }
}

impl Provider {
    /// Over the settings; none where there is no issuer.
    ///
    /// # Errors
    /// [`imagewell_core::Error::Internal`] when no HTTP client can be made.
    pub fn new(settings: &IdentityProviderSettings) -> Result<Option<Self>, imagewell_core::Error> {
        if settings.issuer.is_empty() {
            return Ok(None);
        }
        let address = settings.jwks_url.as_ref().map_or(settings.issuer.as_str(), |url| url.0.as_str());
        let mut client =
            Client::builder().timeout(Duration::from_secs(settings.timeout_seconds)).redirect(reqwest::redirect::Policy::none());
        if address.starts_with("http:") {
            // Only this machine may be asked without TLS, and no proxy leads there.
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| imagewell_core::Error::internal("making an HTTP client", &error))?;
        Ok(Some(Self { settings: settings.clone(), client, kept: Mutex::default(), asking: Arc::default() }))
    }

    /// Whether a token claims to be the provider's.
    pub(super) fn vouches_for(&self, token: &str) -> bool {
        let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Map<String, Value>>(token);
        claims.is_ok_and(|claims| claims.get("iss").and_then(Value::as_str) == Some(&self.settings.issuer))
    }

    /// Whom the token is about, if it is good.
    pub(super) async fn verify(self: &Arc<Self>, token: &str, header: &Header) -> Result<OutsideCaller, Denied> {
        if !ALGORITHMS.contains(&header.alg) {
            return Err(Denied::InvalidToken("it is signed in a way that is not accepted"));
        }
        let key = self.key(header).await?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = self.settings.leeway_seconds;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&[&self.settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = jsonwebtoken::decode::<Map<String, Value>>(token, &key, &validation)
            .map_err(|error| Denied::InvalidToken(reason(&error)))?
            .claims;
        self.caller(&claims).ok_or(Denied::InvalidToken("it doesn't say which org and whom it is for"))
    }

    fn caller(&self, claims: &Map<String, Value>) -> Option<OutsideCaller> {
        let org = match claim(claims, &self.settings.org_claim)? {
            Value::String(name) => OrgReference::Name(name.clone()),
            Value::Number(number) => OrgReference::Number(OrgId(number.as_i64()?)),
            _ => return None,
        };
        let subject = claims.get("sub")?.as_str().filter(|subject| (1..=SUBJECT_BYTES_MAX).contains(&subject.len()))?;
        let roles: BTreeSet<String> = match claim(claims, &self.settings.roles_claim) {
            Some(Value::String(roles)) => roles.split_whitespace().map(str::to_owned).collect(),
            Some(Value::Array(roles)) => roles.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => BTreeSet::new(),
        };
        let (issuer, subject) = (self.settings.issuer.clone(), subject.to_owned());
        Some(OutsideCaller { org, issuer, subject, roles: roles.into_iter().collect() })
    }

    /// The key that the token names. One that is held is given at once, whatever other tokens wait for; many tokens without one are
    /// one look at the provider.
    async fn key(self: &Arc<Self>, header: &Header) -> Result<DecodingKey, Denied> {
        let kept = self.kept();
        let ttl = Duration::from_secs(self.settings.jwks_ttl_seconds);
        let found = kept.keys.as_ref().and_then(|(keys, _)| find(keys, header));
        let fresh = kept.age().filter(|age| *age < ttl);
        let jwk = match (fresh, found) {
            (Some(age), Some(jwk)) => {
                if age >= ttl * 3 / 4 && !kept.failed_just_now() {
                    self.renew_in_background();
                }
                Some(jwk)
            }
            (Some(age), None) if age < Duration::from_secs(self.settings.unknown_key_seconds) => None,
            _ => {
                let keys = self.ask(Instant::now()).await?;
                find(&keys, header)
            }
        };
        let jwk = jwk.ok_or(Denied::InvalidToken("its key is not one of its issuer's"))?;
        DecodingKey::from_jwk(&jwk).map_err(|_| Denied::InvalidToken("its key can't be used"))
    }

    fn kept(&self) -> Kept {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keys that are newer than `since`: what somebody else has just asked for is as good.
    async fn ask(self: &Arc<Self>, since: Instant) -> Result<Arc<JwkSet>, Denied> {
        let asking = Arc::clone(&self.asking).lock_owned().await;
        let mut kept = self.kept();
        if !kept.is_newer_than(since) && !kept.failed_just_now() {
            // In a task of its own: it would be a pity about the answer if this caller hung up.
            let provider = Arc::clone(self);
            kept = tokio::spawn(async move { provider.renew(asking).await }).await.map_err(|_| Denied::StatusUnavailable)?;
        }
        match kept {
            Kept { keys: Some((keys, _)), failed: None } => Ok(keys),
            _ => Err(Denied::StatusUnavailable),
        }
    }

    /// Before the keys are too old, and nobody waits for it.
    fn renew_in_background(self: &Arc<Self>) {
        if let Ok(asking) = Arc::clone(&self.asking).try_lock_owned() {
            let provider = Arc::clone(self);
            tokio::spawn(async move { provider.renew(asking).await });
        }
    }

    /// Asks the provider, and keeps what it says. Keys that are held stay for their time when it fails.
    async fn renew(&self, _asking: OwnedMutexGuard<()>) -> Kept {
        let fetched = self.fetch().await;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok(keys) => *kept = Kept { keys: Some((Arc::new(keys), Instant::now())), failed: None },
            Err(error) => {
                tracing::warn!(error, "the identity provider's keys can't be had");
                kept.failed = Some(Instant::now());
            }
        }
        kept.clone()
    }

    /// Asks the provider for its keys now.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn fetch(&self) -> Result<JwkSet, String> {
        let address = match &self.settings.jwks_url {
            Some(url) => url.clone(),
            None => self.discover().await?,
        };
        serde_json::from_slice(&self.get(&address.0).await?).map_err(|error| format!("{}: {error}", address.0))
    }

    /// OpenID Connect Discovery 1.0 §4.
    async fn discover(&self) -> Result<WebUrl, String> {
        let address = format!("{}/.well-known/openid-configuration", self.settings.issuer.trim_end_matches('/'));
        let document: Map<String, Value> =
            serde_json::from_slice(&self.get(&address).await?).map_err(|error| format!("{address}: {error}"))?;
        if document.get("issuer").and_then(Value::as_str) != Some(&self.settings.issuer) {
            return Err(format!("{address} speaks for another issuer"));
        }
        let address = document.get("jwks_uri").and_then(Value::as_str).ok_or("it names no jwks_uri")?;
        WebUrl::parse(address)
    }

    async fn get(&self, address: &str) -> Result<Vec<u8>, String> {
        let failed = |error: reqwest::Error| format!("{address}: {}", imagewell_core::Error::internal("asking", &error));
        let mut response = self.client.get(address).send().await.map_err(failed)?.error_for_status().map_err(failed)?;
        if response.status().as_u16() != 200 {
            return Err(format!("{address}: answered {}", response.status()));
        }
        let mut document = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            document.extend_from_slice(&chunk);
            if document.len() > DOCUMENT_BYTES_MAX {
                return Err(format!("{address}: answered with more than {DOCUMENT_BYTES_MAX} bytes"));
            }
        }
        Ok(document)
    }
}

/// A claim by its name, or by the names that lead to it.
fn claim<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    claims.get(path).or_else(|| {
        let mut names = path.split('.');
        let first = claims.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    })
}

/// The key that a token names and that is meant for its algorithm. A token that names none is good for a provider with one key.
fn find(keys: &JwkSet, header: &Header) -> Option<Jwk> {
    let fits = |key: &&Jwk| {
        let signs = key.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
        let algorithm = key.common.key_algorithm.is_none_or(|algorithm| algorithm.to_string() == format!("{:?}", header.alg));
        signs && algorithm
    };
    match &header.kid {
        Some(id) => keys.find(id).filter(fits).cloned(),
        None => match keys.keys.as_slice() {
            [only] => Some(only).filter(fits).cloned(),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_found_by_name_or_by_path() {
        let claims: Map<String, Value> =
            serde_json::from_str(r#"{"roles":["a"],"realm_access":{"roles":["b"]},"https://x.example/org.id":7}"#).expect("json");
        assert_eq!(claim(&claims, "roles"), Some(&serde_json::json!(["a"])));
        assert_eq!(claim(&claims, "realm_access.roles"), Some(&serde_json::json!(["b"])));
        assert_eq!(claim(&claims, "https://x.example/org.id"), Some(&serde_json::json!(7)));
        assert_eq!(claim(&claims, "realm_access.groups"), None);
    }
}

//! Signatures of addresses under `/i/`: an application that holds its org's secret lets strangers have a transform, and with an end
//! in time a private image too.
//!
//! `sig` is HMAC-SHA256 (RFC 2104) as base64url without padding (RFC 4648 §5), keyed by the org's secret as it is printed, over the
//! path as far as the transform; with `exp`, over the path, `?exp=` and the number of seconds since 1970 at which it ends.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use imagewell_core::keys::{Keys, LINK_TTL_MAX};
use imagewell_core::model::{KeyPurpose, OrgId, SigningKey, Timestamp};
use sha2::Sha256;

/// What the query of a request shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    mac: Vec<u8>,
    expires: Option<u64>,
}

/// What a signature is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// This transform, of whatever the caller may see.
    Transform,
    /// This transform of this image, whoever asks.
    View,
}

impl Signature {
    /// Reads `sig` and `exp`; none when there is no `sig`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(query: &str) -> Result<Option<Self>, &'static str> {
        let (mut mac, mut expires) = (None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "sig" if mac.is_none() => {
                    mac = Some(URL_SAFE_NO_PAD.decode(value.as_bytes()).map_err(|_| "sig is base64url without padding")?);
                }
                "exp" if expires.is_none() => {
                    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
                    let seconds = value.parse().ok().filter(|_| digits);
                    expires = Some(seconds.ok_or("exp is a number of seconds since 1970")?);
                }
                "sig" | "exp" => return Err("sig and exp stand once each"),
                _ => {}
            }
        }
        Ok(mac.map(|mac| Self { mac, expires }))
    }

    /// Whether an org signed this path, and what for.
    #[must_use]
    pub fn grants(&self, keys: &Keys, now: Timestamp, org: OrgId, path: &str) -> Option<Grant> {
        let seconds = u64::try_from(now.0 / 1_000_000).unwrap_or(0);
        let ends = self.expires.map(|expires| (expires, expires.checked_sub(seconds)));
        if matches!(ends, Some((_, left)) if !left.is_some_and(|left| (1..=LINK_TTL_MAX.as_secs()).contains(&left))) {
            return None;
        }
        let text = self.expires.map_or_else(|| path.to_owned(), |expires| format!("{path}?exp={expires}"));
        let all = keys.all();
        let honoured =
            |key: &&SigningKey| key.purpose == KeyPurpose::Transforms && key.honoured_until.is_none_or(|until| now < until);
        let signed = all.iter().filter(honoured).any(|key| mac(&org_secret(key, org), &text).verify_slice(&self.mac).is_ok());
        signed.then_some(if self.expires.is_some() { Grant::View } else { Grant::Transform })
    }
}

/// What an org's applications sign with. It follows from the service's key, so it changes when that is rotated.
#[must_use]
pub fn org_secret(key: &SigningKey, org: OrgId) -> String {
    let text = format!("imagewell transforms of org {}", org.0);
    URL_SAFE_NO_PAD.encode(mac(&key.secret, &text).finalize().into_bytes())
}

/// The `sig` of a text.
#[must_use]
pub fn sign(secret: &str, text: &str) -> String {
    URL_SAFE_NO_PAD.encode(mac(secret, text).finalize().into_bytes())
}

fn mac(secret: &str, text: &str) -> Hmac<Sha256> {
    let mac = <Hmac<Sha256>>::new_from_slice(secret.as_bytes());
    let mut mac = mac.unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
    mac.update(text.as_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231 §4.3.
    #[test]
    fn the_mac_is_that_of_the_rfc() {
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex::encode(mac("Jefe", "what do ya want for nothing?").finalize().into_bytes()), expected);
    }

    #[test]
    fn queries_are_read_strictly() {
        let signature = |mac: &[u8], expires| Ok(Some(Signature { mac: mac.to_vec(), expires }));
        assert_eq!(Signature::read(""), Ok(None));
        assert_eq!(Signature::read("v=1&exp=5"), Ok(None));
        assert_eq!(Signature::read("sig=AAA"), signature(&[0, 0], None));
        assert_eq!(Signature::read("exp=12&sig=AAA"), signature(&[0, 0], Some(12)));
        for wrong in ["sig=%2B%2F", "sig=AAA=", "sig=AAA&sig=AAA", "sig=AAA&exp=-1", "sig=AAA&exp=1e3", "exp=1&exp=2&sig=AAA"] {
            assert!(Signature::read(wrong).is_err(), "{wrong}");
        }
    }
}

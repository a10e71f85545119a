//! CSRF tokens: an HMAC over a random part, keyed by the secret of the session that they belong to (OWASP, HMAC-based token
//! pattern). Nothing is stored: whoever holds another session's cookie makes another token.

use hmac::{Hmac, KeyInit as _, Mac as _};
use imagewell_core::Error;
use imagewell_core::model::SessionToken;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

const MAC_DIGITS: usize = 64;
const RANDOM_DIGITS: usize = 32;

/// A fresh token for a session. Any number of them are good for as long as the session is.
///
/// # Errors
/// [`Error::Internal`] when the operating system gives no randomness.
pub fn issue(session: &SessionToken) -> Result<String, Error> {
    let mut random = [0_u8; RANDOM_DIGITS / 2];
    getrandom::fill(&mut random).map_err(|error| Error::internal("random bytes", &error))?;
    let random = hex::encode(random);
    Ok(format!("{}.{random}", mac(session, &random)))
}

/// Whether the token was issued for this session, in constant time.
#[must_use]
pub fn verify(session: &SessionToken, token: &str) -> bool {
    let Some((given, random)) = token.split_once('.') else { return false };
    given.len() == MAC_DIGITS
        && random.len() == RANDOM_DIGITS
        && bool::from(mac(session, random).as_bytes().ct_eq(given.as_bytes()))
}

/// Both parts go in with their lengths, so that the border between them can't be moved.
fn mac(session: &SessionToken, random: &str) -> String {
    let session_id = session.hash().to_hex();
    let mut mac =
        <Hmac<Sha256>>::new_from_slice(session.secret()).unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
    mac.update(format!("imagewell csrf!{}!{session_id}!{}!{random}", session_id.len(), random.len()).as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_session_alone() {
        let (mine, other) = (SessionToken::mint().expect("random"), SessionToken::mint().expect("random"));
        let token = issue(&mine).expect("random");
        assert!(verify(&mine, &token));
        assert!(!verify(&other, &token), "another session's");
        let (given, random) = token.split_once('.').expect("two parts");
        let moved = format!("{given}{}.{}", &random[..1], &random[1..]);
        for wrong in ["", ".", given, random, &moved, &token.replace('.', ""), &format!("{random}.{given}"), &format!("{token}0")]
        {
            assert!(!verify(&mine, wrong), "{wrong}");
        }
    }
}

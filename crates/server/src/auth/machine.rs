//! Machines prove themselves with every request: tills by Basic credentials (RFC 7617), clients by a bearer token (RFC 6750).

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use imagewell_core::Error;
use imagewell_core::model::{AccountKind, Actor};

use super::{fetch_metadata, tokens};
use crate::serve::Service;

/// Carries a token in place of `Authorization`.
const TOKEN_HEADER: &str = "x-cap-api-oauth-token";

/// Why nobody is proved.
#[derive(Debug)]
pub enum Denied {
    /// Nothing was shown.
    Missing,
    /// Several proofs.
    Malformed(&'static str),
    /// The `Authorization` can't be understood.
    Unreadable(&'static str),
    /// A login or secret is wrong, whichever.
    WrongSecret,
    /// The token is not good, and why.
    InvalidToken(&'static str),
    /// A page of another site made the browser send credentials that it remembers.
    ForeignPage,
    /// The outside identity provider can't be asked.
    StatusUnavailable,
    /// Attempts are over their limit, or a fault of ours.
    Core(Error),
}

impl From<Error> for Denied {
    fn from(error: Error) -> Self {
        match error {
            Error::WrongCredentials => Self::WrongSecret,
            other => Self::Core(other),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Proof {
    Basic { login: String, secret: String },
    Token(String),
}

/// Who sends this request. A token's rights are those that its account has now.
///
/// # Errors
/// See [`Denied`].
pub async fn caller(service: &Service, headers: &HeaderMap, address: IpAddr) -> Result<Arc<Actor>, Denied> {
    match proof(headers)? {
        Proof::Token(token) => tokens::verify(service, &token).await,
        Proof::Basic { login, secret } => {
            // Browsers send Basic credentials that they remember along with whatever any page asks for.
            if !fetch_metadata::may_change(headers, &service.settings) {
                return Err(Denied::ForeignPage);
            }
            // Another form can't be right, and hashing it would only help to guess.
            if !is_md5(&secret) {
                return Err(Denied::WrongSecret);
            }
            Ok(service.app.accounts.prove(AccountKind::Till, &login, &secret, address).await?)
        }
    }
}

fn proof(headers: &HeaderMap) -> Result<Proof, Denied> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter().chain(headers.get_all(TOKEN_HEADER));
    let value = shown.next().ok_or(Denied::Missing)?;
    if shown.next().is_some() {
        return Err(Denied::Malformed("send one proof of who is calling, not several"));
    }
    let text = value.to_str().map_err(|_| Denied::Unreadable("the credentials are no plain text"))?.trim();
    if headers.contains_key(TOKEN_HEADER) {
        return Ok(Proof::Token(text.to_owned()));
    }
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Ok(Proof::Token(rest.trim().to_owned())),
        "basic" => basic(rest.trim()),
        _ => Err(Denied::Unreadable("the Authorization header is neither Basic nor Bearer")),
    }
}

fn basic(encoded: &str) -> Result<Proof, Denied> {
    let malformed = Denied::Unreadable("Basic credentials are the base64 of id:md5");
    let Some(text) = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()) else {
        return Err(malformed);
    };
    let (login, secret) = text.split_once(':').ok_or(malformed)?;
    Ok(Proof::Basic { login: login.to_owned(), secret: secret.to_owned() })
}

fn is_md5(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pairs: &[(&'static str, &str)]) -> Result<Proof, Denied> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("value"));
        }
        proof(&headers)
    }

    #[test]
    fn one_proof_is_read_and_two_are_refused() {
        let basic = || Proof::Basic { login: "till01".into(), secret: "a:b".into() };
        assert_eq!(shown(&[("authorization", "Basic dGlsbDAxOmE6Yg==")]).expect("read"), basic());
        assert_eq!(shown(&[("authorization", "basic  dGlsbDAxOmE6Yg==")]).expect("read"), basic());
        assert_eq!(shown(&[("authorization", "Bearer a.b.c")]).expect("read"), Proof::Token("a.b.c".into()));
        assert_eq!(shown(&[(TOKEN_HEADER, "a.b.c")]).expect("read"), Proof::Token("a.b.c".into()));
        assert!(matches!(shown(&[]), Err(Denied::Missing)));
        for pairs in [
            &[("authorization", "Bearer a"), (TOKEN_HEADER, "a")][..],
            &[("authorization", "Bearer a"), ("authorization", "Basic dGlsbDAxOmE6Yg==")],
            &[(TOKEN_HEADER, "a"), (TOKEN_HEADER, "a")],
        ] {
            assert!(matches!(shown(pairs), Err(Denied::Malformed(_))), "{pairs:?}");
        }
        for value in ["Digest x", "Basic ===", "Basic bm9jb2xvbg==", ""] {
            assert!(matches!(shown(&[("authorization", value)]), Err(Denied::Unreadable(_))), "{value}");
        }
    }

    #[test]
    fn only_the_lower_case_md5_can_be_a_tills_secret() {
        assert!(is_md5("5f4dcc3b5aa765d61d8327deb882cf99"));
        for text in ["password", "5F4DCC3B5AA765D61D8327DEB882CF99", "5f4dcc3b5aa765d61d8327deb882cf9", ""] {
            assert!(!is_md5(text), "{text}");
        }
    }
}

//! The session cookie.
//!
//! It carries one of two things: the token of a stored session, or, before a login, a random token that is stored nowhere and
//! only binds CSRF tokens to this browser. Which of the two is told by its first letter, so that an ended session can't pass
//! for a fresh visitor.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, header};
use imagewell_core::Error;
use imagewell_core::model::{Actor, SessionToken};

use crate::config::Settings;
use crate::serve::Service;

const NAME: &str = "imagewell_session";
/// A cookie with this prefix is accepted by browsers only with `Secure`, without `Domain` and for the whole host.
const SECURE_NAME: &str = "__Host-imagewell_session";

/// What the cookie proves.
#[derive(Debug, Clone)]
pub enum Session {
    /// No cookie, or one that means nothing any more.
    None,
    /// A visitor that is not logged in.
    Visitor(SessionToken),
    /// A caller.
    LoggedIn(SessionToken, Arc<Actor>),
}

impl Session {
    /// Reads the cookie and looks the session up. A warm one touches no database.
    ///
    /// # Errors
    /// [`Error::Internal`] when the database can't be read.
    pub async fn read(headers: &HeaderMap, service: &Service) -> Result<Self, Error> {
        for (kind, token) in cookies(headers, name(&service.settings)) {
            match kind {
                'v' => return Ok(Self::Visitor(token)),
                's' => {
                    if let Some(actor) = service.app.accounts.session(&token).await? {
                        return Ok(Self::LoggedIn(token, actor));
                    }
                }
                _ => {}
            }
        }
        Ok(Self::None)
    }

    /// The caller.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] when nobody is logged in.
    pub fn actor(&self) -> Result<Arc<Actor>, Error> {
        match self {
            Self::LoggedIn(_, actor) => Ok(Arc::clone(actor)),
            Self::None | Self::Visitor(_) => Err(Error::Unauthenticated),
        }
    }

    /// The token, of either kind.
    #[must_use]
    pub fn token(&self) -> Option<&SessionToken> {
        match self {
            Self::None => None,
            Self::Visitor(token) | Self::LoggedIn(token, _) => Some(token),
        }
    }
}

/// The one name that counts. Under https the plain one is never read: a page of a sibling host could have set it.
fn name(settings: &Settings) -> &'static str {
    if settings.is_https() { SECURE_NAME } else { NAME }
}

/// All session cookies of a request that are well formed, with the letter that tells their kind.
fn cookies(headers: &HeaderMap, expected: &'static str) -> impl Iterator<Item = (char, SessionToken)> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(move |(name, _)| *name == expected)
        .filter_map(|(_, value)| {
            let kind = value.chars().next()?;
            Some((kind, SessionToken::from_hex(value.get(1..)?)?))
        })
}

/// The `Set-Cookie` of a logged-in session.
#[must_use]
pub fn session_cookie(token: &SessionToken, settings: &Settings) -> HeaderValue {
    let seconds = settings.sessions.absolute_seconds;
    set_cookie(&format!("s{}", token.to_hex()), &format!("; Max-Age={seconds}"), settings)
}

/// The `Set-Cookie` of a visitor; it ends with the browser.
#[must_use]
pub fn visitor_cookie(token: &SessionToken, settings: &Settings) -> HeaderValue {
    set_cookie(&format!("v{}", token.to_hex()), "", settings)
}

/// The `Set-Cookie` that takes the cookie away.
#[must_use]
pub fn no_cookie(settings: &Settings) -> HeaderValue {
    set_cookie("", "; Max-Age=0", settings)
}

fn set_cookie(value: &str, lifetime: &str, settings: &Settings) -> HeaderValue {
    let secure = if settings.is_https() { "; Secure" } else { "" };
    let name = name(settings);
    let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{lifetime}");
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_host_bound_and_secure_under_https() {
        let token = SessionToken::mint().expect("random bytes");
        let mut settings = Settings::default();
        let plain = session_cookie(&token, &settings).to_str().expect("text").to_owned();
        assert!(plain.starts_with("imagewell_session=s") && plain.contains("HttpOnly") && plain.contains("SameSite=Lax"));
        settings.set("public_url", "https://images.example.com").expect("known").expect("valid");
        let secure = session_cookie(&token, &settings).to_str().expect("text").to_owned();
        assert!(secure.starts_with("__Host-imagewell_session=s") && secure.contains("; Secure") && !secure.contains("Domain"));
    }

    #[test]
    fn only_well_formed_cookies_are_read() {
        let token = SessionToken::mint().expect("random bytes").to_hex();
        let cases = [
            (format!("imagewell_session=s{token}"), 1),
            (format!("a=b; imagewell_session=v{token}; c"), 1),
            (format!("imagewell_session=s{token}0"), 0),
            (format!("imagewell_session={token}"), 0),
            (format!("x_imagewell_session=s{token}"), 0),
            ("imagewell_session=é".to_owned(), 0),
        ];
        for (cookie, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, HeaderValue::from_bytes(cookie.as_bytes()).expect("header"));
            assert_eq!(cookies(&headers, NAME).count(), expected, "{cookie}");
            assert_eq!(cookies(&headers, SECURE_NAME).count(), 0, "{cookie}");
        }
    }
}

//! The session and its CSRF token in cookies whose names end in the org's. The session is the same as any other's; only its
//! clothes are this API's.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use hmac::{Hmac, KeyInit as _, Mac as _};
use imagewell_core::model::{Actor, SessionToken, Timestamp};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::error::{Refusal, Result};
use super::wire::Form;
use crate::auth::fetch_metadata;
use crate::config::Settings;
use crate::serve::Service;

const SESSION_COOKIE: &str = "AtmoAuthToken_";
const CSRF_COOKIE: &str = "Csrf-Token_";

/// Somebody who is logged in.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) token: SessionToken,
    pub(super) actor: Arc<Actor>,
}

/// What a request does, which decides whether it must show that it comes from the portal's own page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Caller {
    /// Whoever the cookies prove. A session counts only under the name of its own org.
    pub(super) async fn find(service: &Service, headers: &HeaderMap) -> Result<Option<Self>> {
        for (name, value) in cookies(headers) {
            let Some(org) = name.strip_prefix(SESSION_COOKIE) else { continue };
            let Some(token) = token_in(value) else { continue };
            if let Some(actor) = service.app.accounts.session(&token).await?.filter(|actor| actor.org_name == org) {
                return Ok(Some(Self { token, actor }));
            }
        }
        Ok(None)
    }

    /// Somebody who is logged in and, where that is asked for, shows the CSRF token in a header.
    pub(super) async fn read(service: &Service, headers: &HeaderMap, access: Access) -> Result<Self> {
        Self::read_in(service, headers, access, &mut Form::Plain).await
    }

    /// As [`Caller::read`], for an answer in some form.
    pub(super) async fn read_in(service: &Service, headers: &HeaderMap, access: Access, form: &mut Form) -> Result<Self> {
        let caller = Self::find(service, headers).await?.ok_or_else(Refusal::unauthorized)?;
        caller.check_csrf(service, headers, access, form, None)?;
        Ok(caller)
    }

    /// The name of the header that the CSRF token comes in.
    pub(super) fn csrf_header(&self) -> String {
        format!("X-{CSRF_COOKIE}{}", self.actor.org_name)
    }

    /// Whether the request comes from a page that can read the CSRF cookie, and from no other site: whoever got hold of a token
    /// still has to be where the portal is. `field` is what stood in a form or in the query. The form learns that the caller is
    /// proved.
    pub(super) fn check_csrf(
        &self,
        service: &Service,
        headers: &HeaderMap,
        access: Access,
        form: &mut Form,
        field: Option<&str>,
    ) -> Result<()> {
        let settings = &service.settings.dropbox;
        let asked_for = match access {
            Access::Read => settings.csrf_on_reads,
            Access::Write => settings.csrf_on_writes,
        };
        let from_here = fetch_metadata::may_change_within(headers, &service.settings, form.domain());
        let shown = headers.get(self.csrf_header()).map(|value| value.to_str().unwrap_or_default()).or(field);
        let proved = match access {
            Access::Read if !asked_for => true,
            _ => from_here && (!asked_for || shown.is_some_and(|shown| self.is_csrf(shown, service.app.now()))),
        };
        if !proved && !from_here {
            return Err(Refusal::foreign_origin(fetch_metadata::foreign_origin(headers, &service.settings)));
        }
        if !proved {
            return Err(Refusal::csrf());
        }
        form.caller_is_proved();
        Ok(())
    }

    /// In constant time as far as the token is concerned.
    fn is_csrf(&self, shown: &str, now: Timestamp) -> bool {
        let expires = shown.rsplit("%3D").next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let expected = csrf_value(&self.token, expires);
        bool::from(expected.as_bytes().ct_eq(shown.as_bytes())) && milliseconds(now) < expires
    }
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

/// The session's token stands where the original has its signature. The other fields are for those who read the cookie; nothing
/// is believed of them.
fn token_in(value: &str) -> Option<SessionToken> {
    let value = percent_decode_str(value).decode_utf8().ok()?;
    SessionToken::from_hex(value.split(',').find_map(|field| field.trim().strip_prefix("sig="))?)
}

/// `TokenID%3D<uuid>%2CexpirationTime%3D<ms>`: the uuid is keyed by the session's secret, so it belongs to this session and time.
fn csrf_value(token: &SessionToken, expires: u64) -> String {
    let mut mac =
        <Hmac<Sha256>>::new_from_slice(token.secret()).unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
    mac.update(format!("imagewell dropbox csrf!{expires}").as_bytes());
    let bytes: [u8; 32] = mac.finalize().into_bytes().into();
    let mut first = [0; 16];
    first.copy_from_slice(&bytes[..16]);
    format!("TokenID%3D{}%2CexpirationTime%3D{expires}", uuid::Builder::from_custom_bytes(first).into_uuid())
}

fn milliseconds(time: Timestamp) -> u64 {
    u64::try_from(time.0 / 1000).unwrap_or(0)
}

/// The cookies of a session that begins now.
pub(super) fn login_cookies(caller: &Caller, now: Timestamp, settings: &Settings) -> Vec<HeaderValue> {
    let seconds = settings.dropbox.session_seconds;
    let (issued, expires) = (milliseconds(now), milliseconds(now.plus(Duration::from_secs(seconds))));
    let org = &caller.actor.org_name;
    let fields = format!(
        "TokenID={},claimed_id={},issueTime={issued},expirationTime={expires},sig={}",
        Uuid::new_v4(),
        caller.actor.login.replace(',', " "),
        caller.token.to_hex()
    );
    let value = utf8_percent_encode(&fields, NON_ALPHANUMERIC).to_string();
    let mut cookies = vec![cookie(&format!("{SESSION_COOKIE}{org}"), &value, seconds, true, settings)];
    if settings.dropbox.csrf_on_reads || settings.dropbox.csrf_on_writes {
        let value = csrf_value(&caller.token, expires);
        cookies.push(cookie(&format!("{CSRF_COOKIE}{org}"), &value, seconds, false, settings));
    }
    cookies
}

/// What takes the cookies of a session away.
pub(super) fn logout_cookies(actor: &Actor, settings: &Settings) -> Vec<HeaderValue> {
    [SESSION_COOKIE, CSRF_COOKIE].map(|name| cookie(&format!("{name}{}", actor.org_name), "", 0, true, settings)).into()
}

/// The page reads the CSRF cookie, and no page the session's.
fn cookie(name: &str, value: &str, seconds: u64, http_only: bool, settings: &Settings) -> HeaderValue {
    let http_only = if http_only { "; HttpOnly" } else { "" };
    let secure = if settings.is_https() { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path=/; SameSite=Lax; Max-Age={seconds}{http_only}{secure}");
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

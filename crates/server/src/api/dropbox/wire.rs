//! Plain answers, and the same wrapped in HTML for pages that post through an iframe and read what comes back into it.

use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, PreEscaped, html};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use super::error::{Refusal, Result};
use crate::config::{Domain, Value as _};
use crate::delivery::set;
use crate::fields;

/// Browsers once showed a page of their own in place of an error that was 512 bytes or shorter.
const FILLER: &str = "This page carries the answer to a form that was posted into a frame. The page that posted it reads the text \
    of the body, and the attributes status and statusText of the body or of the document, which repeat the status of the answer \
    and whether it is a success. Nobody is meant to read this description: it is here because some browsers used to replace an \
    answer of 512 bytes or less by a page of their own when its status told of an error, and with the answer the reason would be \
    lost. So every answer in this form is longer than that, whatever it says, and this text is what makes it long enough.";

/// What an operation has to say, as text.
#[derive(Debug)]
pub(super) struct Plain {
    text: String,
    content_type: &'static str,
}

impl Plain {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), content_type: "text/plain; charset=utf-8" }
    }

    pub(super) fn json(value: &impl Serialize) -> Self {
        Self { text: serde_json::to_string(value).unwrap_or_default(), content_type: "application/json" }
    }
}

/// In which form the caller wants the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Wrapped {
        /// The document's domain, so that a page on a sibling host can read the frame: one of those that the operator has listed.
        domain: Option<Domain>,
        /// Whether the caller has proved itself. Nobody else gets a page that other hosts can look into.
        proved: bool,
    },
}

impl Form {
    /// What the query asks for. A domain that is none, or is not among these, is refused in wrapped form.
    pub(super) fn of(uri: &Uri, domains: &[Domain]) -> (Self, Result<()>) {
        let pairs: Vec<_> = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).collect();
        let value = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref());
        if value("wrapInHTML") != Some("true") {
            return (Self::Plain, Ok(()));
        }
        let wrapped = |domain| Self::Wrapped { domain, proved: false };
        let Some(asked_for) = value("document.domain").filter(|domain| !domain.is_empty()) else {
            return (wrapped(None), Ok(()));
        };
        match Domain::parse(asked_for) {
            Err(_) => (wrapped(None), Err(Refusal::invalid("document.domain is no domain"))),
            Ok(domain) if domains.contains(&domain) => (wrapped(Some(domain)), Ok(())),
            Ok(_) => {
                let reason = "document.domain is none that is allowed here: dropbox.document_domains lists them";
                (wrapped(None), Err(Refusal::invalid(reason)))
            }
        }
    }

    pub(super) fn is_wrapped(&self) -> bool {
        *self != Self::Plain
    }

    /// The domain whose hosts the caller's page may be of.
    pub(super) fn domain(&self) -> Option<&Domain> {
        match self {
            Self::Plain => None,
            Self::Wrapped { domain, .. } => domain.as_ref(),
        }
    }

    pub(super) fn caller_is_proved(&mut self) {
        if let Self::Wrapped { proved, .. } = self {
            *proved = true;
        }
    }

    /// The answer in this form.
    pub(super) fn answer(&self, outcome: Result<Plain>) -> Response {
        let (status, plain) = match &outcome {
            Ok(plain) => (StatusCode::OK, Plain { text: plain.text.clone(), content_type: plain.content_type }),
            Err(refusal) => (refusal.status(), Plain::text(refusal.message())),
        };
        let mut response = match self {
            Self::Plain => {
                let mut response = (status, plain.text).into_response();
                set(&mut response, header::CONTENT_TYPE, plain.content_type);
                response
            }
            Self::Wrapped { domain, proved } => wrapped(status, &plain.text, domain.as_ref(), *proved),
        };
        set(&mut response, header::CACHE_CONTROL, "no-store");
        set(&mut response, header::EXPIRES, "Thu, 01 Jan 1970 00:00:00 GMT");
        if let Err(refusal) = outcome {
            refusal.add_headers(&mut response);
        }
        response
    }
}

fn wrapped(status: StatusCode, text: &str, domain: Option<&Domain>, proved: bool) -> Response {
    let status_text = if status.is_success() { "success" } else { "error" };
    let script = domain.filter(|_| proved).map(|Domain(domain)| format!("document.domain=\"{domain}\";"));
    let page = html! {
        (DOCTYPE)
        html lang="en" status=(status.as_u16()) statusText=(status_text) {
            head {
                meta content="text/html; charset=UTF-8" http-equiv="Content-Type";
                meta content="IE=edge" http-equiv="X-UA-Compatible";
                meta name="description" content=(FILLER);
                @if let Some(script) = &script { script { (PreEscaped(script)) } }
            }
            body status=(status.as_u16()) statusText=(status_text) { (text) }
        }
    };
    let mut response = (status, page.into_string()).into_response();
    set(&mut response, header::CONTENT_TYPE, "text/html; charset=utf-8");
    // Only our own script, by its hash. It stands in frames of pages that we don't know; there is nothing in it to click on.
    let policy = script.map_or("default-src 'none'".to_owned(), |script| {
        format!("default-src 'none'; script-src 'sha256-{}'", STANDARD.encode(Sha256::digest(script.as_bytes())))
    });
    set(&mut response, header::CONTENT_SECURITY_POLICY, &policy);
    if domain.is_some() {
        // Without it current browsers ignore document.domain. They go by the first page of an origin that they meet, so refusals
        // have it too.
        response.headers_mut().insert(HeaderName::from_static("origin-agent-cluster"), HeaderValue::from_static("?0"));
    }
    response
}

/// Body of a login.
#[derive(Deserialize, ToSchema)]
pub struct LoginBody {
    /// The e-mail address or the login.
    pub(super) email: String,
    pub(super) password: String,
}

impl LoginBody {
    /// From a body's fields; none when one is missing or empty.
    pub(super) fn of(fields: &[(String, String)]) -> Option<Self> {
        let text = |name| fields::find(fields, name).map(str::to_owned);
        Some(Self { email: text("email")?, password: text("password")? })
    }
}

/// Answer to a login.
#[derive(Debug, Serialize, ToSchema)]
pub struct LoggedIn {
    /// The login as it is stored.
    pub(super) login: String,
    /// The org's name, which the names of cookies and headers end in.
    pub(super) fedmemberid: String,
}

/// Body of a resource that takes a picture.
#[derive(Debug, Deserialize, ToSchema)]
pub struct AvatarBody {
    /// A picture's id, as text or number; empty for none.
    #[serde(rename = "PictureID")]
    #[schema(value_type = String, example = "1001")]
    pub(super) picture_id: serde_json::Value,
}

/// Answer to a resource that took a picture.
#[derive(Debug, Serialize, ToSchema)]
pub struct AvatarAnswer {
    /// Names this avatar among those of the resource; empty for the default.
    #[serde(rename = "AvatarVersionID")]
    #[schema(example = "1")]
    pub(super) avatar_version_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_says_in_which_form() {
        let listed = [Domain("a.b".into()), Domain("portal.test".into())];
        let form = |query: &str| Form::of(&format!("/x?{query}").parse().expect("uri"), &listed);
        let wrapped = |domain: Option<&str>| Form::Wrapped { domain: domain.map(|name| Domain(name.into())), proved: false };
        assert_eq!(form("a=b").0, Form::Plain);
        assert_eq!(form("wrapInHTML=false").0, Form::Plain);
        assert_eq!(form("wrapInHTML=true&document.domain=").0, wrapped(None));
        for asked_for in ["a.b", "A.b"] {
            assert_eq!(form(&format!("wrapInHTML=true&document.domain={asked_for}")).0, wrapped(Some("a.b")));
        }
        for other in ["%3Cscript%3E", "b", "x.a.b", "portal.test.", "test", "xportal.test", "a.b%00"] {
            let (refused_in, verdict) = form(&format!("wrapInHTML=true&document.domain={other}"));
            assert_eq!(refused_in, wrapped(None), "{other}");
            assert!(verdict.is_err(), "{other}");
        }
    }
}

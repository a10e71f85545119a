use std::sync::Arc;

use axum::http::{HeaderMap, header};
use imagewell_core::model::Actor;

use super::error::{Refusal, Result};
use super::parameters::Parameters;
use crate::auth::session::Session;
use crate::auth::{csrf, fetch_metadata};
use crate::serve::Service;

/// The caller of a request that changes something, on its way through the gate: first CSRF, then login.
pub(super) struct Caller {
    session: Session,
    wants_html: bool,
    csrf_passed: bool,
}

impl Caller {
    /// Judges what the head of the request shows. A CSRF token may still come in the body.
    pub(super) async fn begin(service: &Service, headers: &HeaderMap, parameters: &Parameters) -> Result<Self> {
        if !fetch_metadata::may_change(headers, &service.settings) {
            return Err(Refusal::foreign_origin(fetch_metadata::foreign_origin(headers, &service.settings)));
        }
        let session = Session::read(headers, service).await?;
        if session.token().is_none() {
            return Err(Refusal::csrf());
        }
        let mut caller = Self { session, wants_html: wants_html(headers), csrf_passed: false };
        let given = headers.get("x-csrf-token").map(|value| value.to_str().unwrap_or_default());
        if let Some(token) = given.or_else(|| parameters.csrf()) {
            caller.check_csrf(Some(token))?;
            caller.csrf_passed = true;
        }
        Ok(caller)
    }

    fn check_csrf(&self, token: Option<&str>) -> Result<()> {
        match (self.session.token(), token) {
            (Some(session), Some(token)) if csrf::verify(session, token) => Ok(()),
            _ => Err(Refusal::csrf()),
        }
    }

    /// Whether a token stood in the head and was right.
    pub(super) fn csrf_passed(&self) -> bool {
        self.csrf_passed
    }

    /// Through the first gate: a right token, in the head or among the parameters by now.
    pub(super) fn check(&self, parameters: &Parameters) -> Result<&Session> {
        if !self.csrf_passed {
            self.check_csrf(parameters.csrf())?;
        }
        Ok(&self.session)
    }

    /// Through both gates.
    pub(super) fn actor(&self, parameters: &Parameters) -> Result<Arc<Actor>> {
        self.check(parameters)?.actor().map_err(|_| Refusal::reauthenticate(self.wants_html))
    }

    /// Through both gates, with the right to upload.
    pub(super) fn uploader(&self, parameters: &Parameters) -> Result<Arc<Actor>> {
        let actor = self.actor(parameters)?;
        imagewell_core::upload::check_right(&actor)?;
        Ok(actor)
    }
}

/// The caller of a request that only reads: a login is enough, since `<img>` can send no header.
pub(super) async fn reader(service: &Service, headers: &HeaderMap) -> Result<Arc<Actor>> {
    if !fetch_metadata::may_embed(headers, &service.settings) {
        return Err(Refusal::foreign_page());
    }
    let session = Session::read(headers, service).await?;
    session.actor().map_err(|_| Refusal::reauthenticate(wants_html(headers)))
}

/// Whether a person looks at the answer: a browser that navigates, not a program and not an `<img>`.
pub(super) fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.contains("text/html") && !headers.contains_key("x-requested-with")
}

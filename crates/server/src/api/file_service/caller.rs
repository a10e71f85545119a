//! Who is calling, and what its org has decided for the namespace that it names: asked in this order, so that nobody learns
//! anything that it has no right to.

use std::sync::Arc;

use axum::http::request::Parts;
use imagewell_core::access::Action;
use imagewell_core::files;
use imagewell_core::model::{Actor, NamespaceRules};

use super::error::{Refusal, Result};
use super::wire::Context;
use crate::auth::address::ClientAddress;
use crate::auth::machine;
use crate::config::{Value as _, Zone};
use crate::links;
use crate::serve::Service;

/// A caller who holds the right that the request asks for.
pub(super) async fn caller(service: &Service, head: &Parts, action: Action<'_>) -> Result<Arc<Actor>> {
    let address = ClientAddress::in_extensions(&head.extensions);
    let actor = machine::caller(service, &head.headers, address).await?;
    files::check_right(&actor, action)?;
    Ok(actor)
}

/// One of the caller's namespaces.
pub(super) async fn namespace(service: &Service, actor: &Actor, name: &str) -> Result<Arc<NamespaceRules>> {
    files::namespace(&service.app, actor, name).await.map_err(|error| match error {
        imagewell_core::Error::NotFound => Refusal::not_found("There is no such namespace."),
        other => other.into(),
    })
}

/// What answers about a namespace's files need to know.
pub(super) fn context(service: &Service, head: &Parts, rules: &NamespaceRules) -> Context {
    let zone = rules.time_zone.as_deref().and_then(|zone| Zone::parse(zone).ok());
    let zone = zone.unwrap_or_else(|| service.settings.file_service.time_zone.clone());
    Context { zone, base_url: links::base_url(service, &head.uri, &head.headers) }
}

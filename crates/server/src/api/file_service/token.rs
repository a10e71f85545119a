//! Tokens for clients: the client credentials grant (RFC 6749 §4.4) in the shape that callers of this API know.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use imagewell_core::keys::TOKEN_TTL_MAX;
use imagewell_core::model::AccountKind;

use super::error::{Refusal, Result};
use super::wire::{ErrorAnswer, TokenAnswer, TokenBody};
use crate::auth::address::ClientAddress;
use crate::auth::tokens;
use crate::fields;
use crate::serve::Service;

const BODY_BYTES_MAX: u64 = 8 * 1024;

/// Get an access token
///
/// For a client's key and secret. Send the token as `X-CAP-API-OAUTH-TOKEN`, or as `Authorization: Bearer`, until its seconds are over.
#[utoipa::path(post, path = "/v3/oauth/token/generate", tag = "File service", request_body = TokenBody,
    responses((status = 200, body = TokenAnswer), (status = "4XX", body = ErrorAnswer), (status = "5XX", body = ErrorAnswer)))]
pub async fn generate(State(service): State<Service>, request: Request) -> Result<Response> {
    answer(&service, request).await.map_err(Refusal::for_token)
}

async fn answer(service: &Service, request: Request) -> Result<Response> {
    let (head, body) = request.into_parts();
    let address = ClientAddress::in_extensions(&head.extensions);
    let fields = fields::read(&head.headers, body, &service.settings, BODY_BYTES_MAX).await?;
    let body = TokenBody::of(&fields).ok_or_else(|| Refusal::invalid("The body is JSON: {\"key\":\"…\",\"secret\":\"…\"}."))?;
    let client = service.app.accounts.prove(AccountKind::Client, &body.key, &body.secret, address).await;
    let client = client.map_err(|error| match error {
        imagewell_core::Error::WrongCredentials => Refusal::wrong_client(),
        other => other.into(),
    })?;
    let own = service.app.accounts.token_ttl_seconds(&client).await?;
    let seconds = own.unwrap_or(service.settings.oauth.token_ttl_seconds).min(TOKEN_TTL_MAX.as_secs());
    let token = tokens::issue(service, &client, Duration::from_secs(seconds))?;
    let mut response = Json(TokenAnswer::new(token, seconds)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

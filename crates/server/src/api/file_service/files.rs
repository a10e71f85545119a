//! Reading records, and changing what is not bytes: who may read, deletion, restoring.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use imagewell_core::access::Action;
use imagewell_core::files::{self, Named};
use imagewell_core::model::{Acl, Actor, FileName, ImageId, NamespaceRules};

use super::caller::{caller, context, namespace};
use super::error::{Refusal, Result};
use super::upload::{FilePath, file_name, parts_of};
use super::wire::{AclBody, ErrorAnswer, FileAnswer, VersionsAnswer};
use crate::intake::Intake;
use crate::serve::Service;

/// The body of an ACL change is a word.
const ACL_BODY_BYTES_MAX: u64 = 1024;

/// A file that the caller named, in a namespace of its org.
struct Asked {
    head: Parts,
    actor: Arc<Actor>,
    rules: Arc<NamespaceRules>,
    name: FileName,
    query: HashMap<String, String>,
}

impl Asked {
    async fn read(service: &Service, path: FilePath, head: Parts, action: Action<'_>) -> Result<Self> {
        let actor = caller(service, &head, action).await?;
        let (space, filename) = parts_of(path)?;
        let rules = namespace(service, &actor, &space).await?;
        let name = file_name(&filename)?;
        let query = query(&head)?;
        Ok(Self { head, actor, rules, name, query })
    }

    fn file(&self) -> Named<'_> {
        Named { namespace: &self.rules.namespace, name: &self.name }
    }

    fn number(&self, parameter: &str) -> Result<Option<u32>> {
        let Some(text) = self.query.get(parameter) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| *number > 0 && text.bytes().all(|byte| byte.is_ascii_digit()));
        number.map(Some).ok_or_else(|| Refusal::invalid(format!("{parameter} is a whole number from 1.")))
    }
}

fn query(head: &Parts) -> Result<HashMap<String, String>> {
    let mut parameters = HashMap::new();
    for (name, value) in form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()) {
        if parameters.insert(name.to_string(), value.into_owned()).is_some() {
            return Err(Refusal::invalid(format!("{name} is given twice.")));
        }
    }
    Ok(parameters)
}

/// Links grow old: no cache may keep them.
fn fresh<T: serde::Serialize>(answer: T) -> Response {
    let mut response = Json(answer).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Read a file's record
///
/// The newest version, or the one of a number, with a fresh `secureFilePath`.
#[utoipa::path(get, path = "/api_gateway/file-service/{namespace}/{filename}", tag = "File service",
    params(("namespace" = String, Path), ("filename" = String, Path), ("version" = Option<u32>, Query)),
    responses((status = 200, body = FileAnswer), (status = "4XX", body = ErrorAnswer), (status = "5XX", body = ErrorAnswer)))]
pub async fn record(State(service): State<Service>, path: FilePath, request: Request) -> Result<Response> {
    let asked = Asked::read(&service, path, request.into_parts().0, Action::ReadFiles).await?;
    let image = files::find(&service.app, &asked.actor, asked.file(), asked.number("version")?).await?;
    let context = context(&service, &asked.head, &asked.rules);
    Ok(fresh(FileAnswer::record(&service, &image, &context, "Successfully found file").await?))
}

/// List a file's versions
///
/// Newest first, so many in an answer; `before` asks for those with a smaller number. Deleted ones are left out.
#[utoipa::path(get, path = "/api_gateway/file-service/{namespace}/{filename}/versions", tag = "File service",
    params(("namespace" = String, Path), ("filename" = String, Path), ("before" = Option<u32>, Query)),
    responses((status = 200, body = VersionsAnswer), (status = "4XX", body = ErrorAnswer), (status = "5XX", body = ErrorAnswer)))]
pub async fn versions(State(service): State<Service>, path: FilePath, request: Request) -> Result<Response> {
    let asked = Asked::read(&service, path, request.into_parts().0, Action::ReadFiles).await?;
    let below = asked.number("before")?.unwrap_or(u32::MAX);
    let count = service.settings.file_service.versions_per_answer_max.get();
    let images = files::versions(&service.app, &asked.actor, asked.file(), below, count).await?;
    let is_full = u32::try_from(images.len()).is_ok_and(|found| found >= count);
    let next_before = images.last().map(|image| image.version.number).filter(|number| is_full && *number > 1);
    let context = context(&service, &asked.head, &asked.rules);
    Ok(fresh(VersionsAnswer::new(&service, &images, next_before, &context).await?))
}

/// Read a file's record by its handle
///
/// The handle is the same for all versions of a name, for ever; links expire.
#[utoipa::path(get, path = "/api_gateway/file-service/handles/{file_handle}", tag = "File service",
    params(("file_handle" = String, Path)),
    responses((status = 200, body = FileAnswer), (status = "4XX", body = ErrorAnswer), (status = "5XX", body = ErrorAnswer)))]
pub async fn by_handle(
    State(service): State<Service>,
    path: std::result::Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response> {
    let head = request.into_parts().0;
    let actor = caller(&service, &head, Action::ReadFiles).await?;
    let no_such_handle = || Refusal::not_found("There is no file with this handle.");
    let handle = path.ok().and_then(|Path(text)| ImageId::parse(&text).ok()).ok_or_else(no_such_handle)?;
    let image = files::find_by_handle(&service.app, &actor, handle).await.map_err(|error| match error {
        imagewell_core::Error::NotFound => no_such_handle(),
        other => other.into(),
    })?;
    let rules = namespace(&service, &actor, image.namespace.as_str()).await?;
    let context = context(&service, &head, &rules);
    Ok(fresh(FileAnswer::record(&service, &image, &context, "Successfully found file").await?))
}

/// Say who may read a file
///
/// `PRIVATE`: callers with the right, and whoever has a link. `PUBLIC`: also anybody, at `publicFilePath`. It holds for all versions,
/// later ones included. The body is `{"acl":"PUBLIC"}` or the word alone.
#[utoipa::path(put, path = "/api_gateway/file-service/{namespace}/{filename}/acl", tag = "File service",
    params(("namespace" = String, Path), ("filename" = String, Path)), request_body = AclBody,
    responses((status = 200, body = FileAnswer), (status = "4XX", body = ErrorAnswer), (status = "5XX", body = ErrorAnswer)))]
pub async fn set_acl(State(service): State<Service>, path: FilePath, request: Request) -> Result<Response> {
    let (head, body) = request.into_parts();
    let asked = Asked::read(&service, path, head, Action::WriteFiles).await?;
    let intake = Intake::new(body, &service.settings, ACL_BODY_BYTES_MAX, ACL_BODY_BYTES_MAX);
    let acl = acl_of(&intake.whole().await?)?;
    let image = files::set_acl(&service.app, &asked.actor, asked.file(), acl).await?;
    let context = context(&service, &asked.head, &asked.rules);
    Ok(fresh(FileAnswer::record(&service, &image, &context, "Successfully changed who may read the file").await?))
}

fn acl_of(body: &Bytes) -> Result<Acl> {
    let text = std::str::from_utf8(body).unwrap_or_default().trim();
    let word = match serde_json::from_str::<AclBody>(text) {
        Ok(body) => body.acl,
        Err(_) => serde_json::from_str::<String>(text).unwrap_or_else(|_| text.to_owned()),
    };
    match word.as_str() {
        "PRIVATE" => Ok(Acl::Private),
        "PUBLIC" => Ok(Acl::Public),
        _ => Err(Refusal::invalid("The body is {\"acl\":\"PRIVATE\"} or {\"acl\":\"PUBLIC\"}.")),
    }
}

/// Delete a file, or one version
///
/// Until the undo window is over, `restore` takes it back; then the bytes go. The name keeps its handle, and its next version keeps
/// counting.
#[utoipa::path(delete, path = "/api_gateway/file-service/{namespace}/{filename}", tag = "File service",
    params(("namespace" = String, Path), ("filename" = String, Path), ("version" = Option<u32>, Query)),
    responses((status = 200, body = FileAnswer), (status = "4XX", body = ErrorAnswer), (status = "5XX", body = ErrorAnswer)))]
pub async fn delete(State(service): State<Service>, path: FilePath, request: Request) -> Result<Response> {
    let asked = Asked::read(&service, path, request.into_parts().0, Action::WriteFiles).await?;
    let number = asked.number("version")?;
    let (image, restorable_until) = files::delete(&service.app, &asked.actor, asked.file(), number).await?;
    let context = context(&service, &asked.head, &asked.rules);
    let what = if number.is_some() { "version" } else { "file" };
    let message = format!("Successfully deleted {what}; it can be restored until {}", context.zone.format(restorable_until));
    Ok(fresh(FileAnswer::gone(&service, &image, &context, message)))
}

/// Take a deletion back
///
/// With a version, that one; without, whatever the last deletion took away.
#[utoipa::path(post, path = "/api_gateway/file-service/{namespace}/{filename}/restore", tag = "File service",
    params(("namespace" = String, Path), ("filename" = String, Path), ("version" = Option<u32>, Query)),
    responses((status = 200, body = FileAnswer), (status = "4XX", body = ErrorAnswer), (status = "5XX", body = ErrorAnswer)))]
pub async fn restore(State(service): State<Service>, path: FilePath, request: Request) -> Result<Response> {
    let asked = Asked::read(&service, path, request.into_parts().0, Action::WriteFiles).await?;
    let number = asked.number("version")?;
    let restored = files::restore(&service.app, &asked.actor, asked.file(), number).await;
    let image = restored.map_err(|error| match error {
        imagewell_core::Error::NotFound => Refusal::not_found("There is nothing deleted here that could be restored."),
        other => other.into(),
    })?;
    let context = context(&service, &asked.head, &asked.rules);
    Ok(fresh(FileAnswer::record(&service, &image, &context, "Successfully restored").await?))
}

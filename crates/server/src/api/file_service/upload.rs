//! Storing the next version of a file: the body is the file, or a form that holds it.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header;
use axum::http::request::Parts;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use imagewell_core::Error;
use imagewell_core::access::Action;
use imagewell_core::model::{Actor, Attribution, FileName, NamespaceRules};
use imagewell_core::upload::{self, Accept, Admitted, Received, Target};
use imagewell_imaging::Format;

use super::caller::{caller, context, namespace};
use super::error::{Refusal, Result};
use super::wire::{ErrorAnswer, FileAnswer};
use crate::intake::{self, Intake};
use crate::multipart::{self, Multipart};
use crate::serve::Service;

/// What a form may be longer than the file in it.
const FORM_OVERHEAD_BYTES_MAX: u64 = 1024 * 1024;
/// A body that is the name of a file instead of the file is not longer than a path can be.
const PATH_BYTES_MAX: usize = 4096;

/// namespace and filename.
pub(super) type FilePath = std::result::Result<Path<(String, String)>, PathRejection>;

/// Upload a file
///
/// The body is the file itself, whatever its Content-Type, or `multipart/form-data`, of which the first file part is taken. The
/// bytes must be an image of the kind that the name says. Without a body a placeholder is made, which the next upload fills. Every
/// upload of a name is its next version.
#[utoipa::path(post, path = "/api_gateway/file-service/{namespace}/{filename}", tag = "File service",
    params(("namespace" = String, Path, example = "rewards"), ("filename" = String, Path, example = "test.png"),
        ("X-CAP-API-OAUTH-TOKEN" = Option<String>, Header, description = "A token; or Authorization, with Bearer or Basic"),
        ("X-CAP-API-ATTRIBUTION-ENTITY-TYPE" = Option<String>, Header, description = "Recorded with the version"),
        ("X-CAP-API-ATTRIBUTION-ENTITY-CODE" = Option<String>, Header, description = "Recorded with the version")),
    request_body(content_type = "application/octet-stream", description = "The file, or a form that holds it, or nothing"),
    responses((status = 200, body = FileAnswer), (status = "4XX", body = ErrorAnswer), (status = "5XX", body = ErrorAnswer)))]
pub async fn upload(State(service): State<Service>, path: FilePath, request: Request) -> Result<Json<FileAnswer>> {
    let (head, body) = request.into_parts();
    let asked = Asked::read(&service, &head, path).await?;
    let bytes_max = asked.rules.bytes_max.unwrap_or(service.settings.file_service.upload_bytes_max);
    let overhead = if is_form(&head) { FORM_OVERHEAD_BYTES_MAX } else { 0 };
    let intake = Intake::new(body, &service.settings, bytes_max.saturating_add(overhead), bytes_max);
    let received = async {
        let announced = intake::check_declared_length(&head.headers, bytes_max, overhead)?;
        let admitted = upload::admit(&service.app, asked.request(&head, bytes_max, announced)).await?;
        receive(&service, &head, &intake, asked.name.format(), admitted).await
    }
    .await?;
    let image = received.store().await?.image;
    Ok(Json(FileAnswer::uploaded(&service, &image, &context(&service, &head, &asked.rules)).await?))
}

/// Everything that is said before the body.
struct Asked {
    actor: Arc<Actor>,
    rules: Arc<NamespaceRules>,
    name: FileName,
}

impl Asked {
    async fn read(service: &Service, head: &Parts, path: FilePath) -> Result<Self> {
        let actor = caller(service, head, Action::WriteFiles).await?;
        let (space, filename) = parts_of(path)?;
        let rules = namespace(service, &actor, &space).await?;
        let name = file_name(&filename)?;
        check_format(&rules, &name)?;
        Ok(Self { actor, rules, name })
    }

    fn request(&self, head: &Parts, bytes_max: u64, bytes_announced: u64) -> upload::Request {
        let format = self.name.format();
        upload::Request {
            actor: Arc::clone(&self.actor),
            namespace: self.rules.namespace.clone(),
            target: Target::Name { name: self.name.clone(), attribution: attribution(head) },
            bytes_max,
            bytes_announced,
            accept: if self.rules.verbatim { Accept::Unseen(format) } else { Accept::ImageOrNothing(format) },
        }
    }
}

/// Both segments, decoded.
pub(super) fn parts_of(path: FilePath) -> Result<(String, String)> {
    path.map(|Path(parts)| parts).map_err(|_| Refusal::invalid("The path is no UTF-8."))
}

/// The name as callers may know it.
pub(super) fn file_name(text: &str) -> Result<FileName> {
    FileName::parse(text).map_err(|error| Error::from(error).into())
}

fn check_format(rules: &NamespaceRules, name: &FileName) -> Result<()> {
    if rules.formats.is_empty() || rules.formats.contains(&name.format()) {
        return Ok(());
    }
    let accepted = rules.formats.iter().map(Format::to_string).collect::<Vec<_>>().join(", ");
    let (space, format) = (rules.namespace.as_str(), name.format());
    Err(Refusal::invalid(format!("Not accepted: the namespace {space} takes {accepted}, and the name says {format}.")))
}

fn attribution(head: &Parts) -> Attribution {
    let text = |name: &str| {
        let value = head.headers.get(name)?.to_str().ok()?;
        Some(value.chars().filter(|character| !character.is_control()).take(Attribution::BYTES_MAX).collect())
    };
    Attribution { entity_type: text("x-cap-api-attribution-entity-type"), code: text("x-cap-api-attribution-entity-code") }
}

fn is_form(head: &Parts) -> bool {
    head.headers.get(header::CONTENT_TYPE).is_some_and(multipart::is_form)
}

/// Reads the body to its end. Nothing is stored yet, so that a broken end leaves nothing behind.
async fn receive(service: &Service, head: &Parts, intake: &Intake, format: Format, admitted: Admitted) -> Result<Received> {
    if !is_form(head) {
        return receive_file(head, intake.chunks(), format, admitted).await;
    }
    let mut form = Multipart::new(&head.headers, intake.chunks(), &service.settings)?;
    let mut admitted = Some(admitted);
    let mut received = None;
    while let Some(mut part) = form.next().await? {
        match admitted.take_if(|_| part.file_name.is_some()) {
            Some(admitted) => received = Some(receive_file(head, part.chunks()?, format, admitted).await?),
            None => part.skip().await?,
        }
    }
    received.ok_or_else(|| Refusal::invalid("The form holds no file: send one as a part with a filename, or the bytes alone."))
}

/// Takes the bytes of the file. When they are refused, and are what somebody sends who follows the manual to the letter, the
/// answer says what to type instead.
async fn receive_file<S>(head: &Parts, chunks: S, format: Format, admitted: Admitted) -> Result<Received>
where
    S: Stream<Item = std::result::Result<Bytes, Error>> + Unpin,
{
    let beginning = Mutex::new(Vec::new());
    let watched = chunks.inspect(|chunk| {
        let mut beginning = beginning.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(chunk) = chunk {
            let wanted = (PATH_BYTES_MAX + 1).saturating_sub(beginning.len());
            beginning.extend_from_slice(&chunk[..chunk.len().min(wanted)]);
        }
    });
    let received = admitted.receive(watched).await;
    received.map_err(|error| match error {
        Error::Invalid { reason } => {
            let beginning = beginning.lock().unwrap_or_else(PoisonError::into_inner);
            Refusal::invalid(match path_sent_for_file(&beginning) {
                Some(hint) => format!("Not accepted: {hint}."),
                None => format!("Not accepted: {reason}.{}", changed_on_its_way(head, &beginning, format)),
            })
        }
        other => other.into(),
    })
}

/// The manual of this API shows `@/some/path` as a body, which is curl's way to name a file and not a file.
fn path_sent_for_file(beginning: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(beginning).ok().filter(|text| text.len() <= PATH_BYTES_MAX)?;
    let path = text.trim().strip_prefix('@').filter(|path| !path.contains(char::is_control))?;
    let path: String = path.chars().take(200).collect();
    Some(format!("the body is the name of a file and not the file: send its bytes, with curl as --data-binary \"@{path}\""))
}

/// curl's `-d @file` drops line breaks and zeros from the file.
fn changed_on_its_way(head: &Parts, beginning: &[u8], promised: Format) -> &'static str {
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_other_image = Format::sniff(beginning).is_ok_and(|found| found != promised);
    if is_other_image || !content_type.starts_with("application/x-www-form-urlencoded") {
        return "";
    }
    " Was it sent by curl's -d or --data, which change a file? --data-binary sends it as it is."
}

//! Uploads as multipart bodies: the parameters first, then the file.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use futures_util::StreamExt as _;
use imagewell_core::model::Namespace;
use imagewell_core::upload::{self, Accept, Received, Target};

use super::caller::Caller;
use super::error::{Refusal, Result};
use super::parameters::{BODY_BYTES_MAX, Parameters, UploadParameters, is_parameter};
use super::wire::{ErrorEnvelope, Uploaded};
use crate::delivery::clean_file_name;
use crate::intake::{self, Intake};
use crate::multipart::{Multipart, Part};
use crate::serve::Service;

/// What a body may be longer than its file: boundaries, part headers and parameters.
pub(super) const OVERHEAD_BYTES_MAX: u64 = 1024 * 1024;

/// appKey, permission and isWebix in the path: the form that real clients use.
pub(super) type UploadPath = std::result::Result<Path<(String, String, String)>, PathRejection>;

/// Which of the two siblings is uploaded to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Image,
    File,
}

impl Kind {
    fn part_name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::File => "file",
        }
    }

    fn bytes_max(self, service: &Service) -> u64 {
        match self {
            Self::Image => service.settings.opsportal.upload_bytes_max,
            Self::File => service.settings.opsportal.file_bytes_max,
        }
    }
}

/// Upload an image
///
/// `multipart/form-data`: text parts `appKey`, `permission`, `isWebix` and `uuid`, then the file part `image`. Text parts that
/// stand after the file do not count, nor do parts of other names. The parameters may also stand in the query.
#[utoipa::path(post, path = "/opsportal/image", tag = "OpsPortal",
    params(("X-CSRF-Token" = Option<String>, Header, description = "From /csrfToken; or a parameter `_csrf`")),
    request_body(content_type = "multipart/form-data", description = "Parameters, then the part `image`"),
    responses((status = 200, body = Uploaded), (status = "4XX", body = ErrorEnvelope), (status = "5XX", body = ErrorEnvelope)))]
pub async fn image(State(service): State<Service>, request: Request) -> Result<Json<Uploaded>> {
    receive(service, Kind::Image, Vec::new(), request).await
}

/// Upload an image, parameters in the path
///
/// As `POST /opsportal/image`. What stands in the path outweighs the body and the query.
#[utoipa::path(post, path = "/opsportal/image/{appKey}/{permission}/{isWebix}", tag = "OpsPortal",
    params(("appKey" = String, Path), ("permission" = String, Path), ("isWebix" = String, Path)),
    request_body(content_type = "multipart/form-data", description = "The part `image`"),
    responses((status = 200, body = Uploaded), (status = "4XX", body = ErrorEnvelope), (status = "5XX", body = ErrorEnvelope)))]
pub async fn image_by_path(State(service): State<Service>, path: UploadPath, request: Request) -> Result<Json<Uploaded>> {
    receive(service, Kind::Image, path_parameters(path)?, request).await
}

/// Upload a file of any kind
///
/// As `POST /opsportal/image`, but the file part is called `file`, its bytes are kept unseen, and it is read back as a download.
#[utoipa::path(post, path = "/opsportal/file", tag = "OpsPortal",
    request_body(content_type = "multipart/form-data", description = "Parameters, then the part `file`"),
    responses((status = 200, body = Uploaded), (status = "4XX", body = ErrorEnvelope), (status = "5XX", body = ErrorEnvelope)))]
pub async fn file(State(service): State<Service>, request: Request) -> Result<Json<Uploaded>> {
    receive(service, Kind::File, Vec::new(), request).await
}

/// Upload a file of any kind, parameters in the path
#[utoipa::path(post, path = "/opsportal/file/{appKey}/{permission}/{isWebix}", tag = "OpsPortal",
    params(("appKey" = String, Path), ("permission" = String, Path), ("isWebix" = String, Path)),
    request_body(content_type = "multipart/form-data", description = "The part `file`"),
    responses((status = 200, body = Uploaded), (status = "4XX", body = ErrorEnvelope), (status = "5XX", body = ErrorEnvelope)))]
pub async fn file_by_path(State(service): State<Service>, path: UploadPath, request: Request) -> Result<Json<Uploaded>> {
    receive(service, Kind::File, path_parameters(path)?, request).await
}

fn path_parameters(path: UploadPath) -> Result<Vec<(String, String)>> {
    let Path((app_key, permission, is_webix)) = path.map_err(|_| Refusal::invalid("the path is no UTF-8"))?;
    let names = ["appKey", "permission", "isWebix"].map(str::to_owned);
    Ok(names.into_iter().zip([app_key, permission, is_webix]).collect())
}

async fn receive(service: Service, kind: Kind, path: Vec<(String, String)>, request: Request) -> Result<Json<Uploaded>> {
    let (head, body) = request.into_parts();
    let bytes_max = kind.bytes_max(&service);
    let intake = Intake::new(body, &service.settings, bytes_max.saturating_add(OVERHEAD_BYTES_MAX), bytes_max);
    let mut parameters = Parameters::new(path, head.uri.query());
    let (received, is_webix) = receive_parts(&service, kind, &head.headers, &mut parameters, &intake).await?;
    let uuid = received.store().await?.called;
    Ok(Json(Uploaded::new(uuid.to_string(), is_webix)))
}

/// Reads the body to its end. Nothing is stored yet, so that a broken end leaves nothing behind.
async fn receive_parts(
    service: &Service,
    kind: Kind,
    headers: &HeaderMap,
    parameters: &mut Parameters,
    intake: &Intake,
) -> Result<(Received, bool)> {
    let caller = Caller::begin(service, headers, parameters).await?;
    if caller.csrf_passed() {
        caller.uploader(parameters)?;
        // Before the body is asked for.
        intake::check_declared_length(headers, kind.bytes_max(service), OVERHEAD_BYTES_MAX)?;
    }
    let mut multipart = match Multipart::new(headers, intake.chunks(), &service.settings) {
        Ok(multipart) => multipart,
        Err(error) => {
            caller.uploader(parameters)?;
            return Err(error.into());
        }
    };
    let mut received = None;
    let mut has_unnamed_file = false;
    let mut skipped = SkippedBytes::default();
    loop {
        let mut part = match multipart.next().await {
            Ok(None) => break,
            Ok(Some(part)) => part,
            Err(error) => {
                caller.uploader(parameters)?;
                return Err(error.into());
            }
        };
        if received.is_none() && part.file_name.is_none() && is_parameter(&part.name) {
            let name = part.name.clone();
            let value = part.text().await?;
            if let Err(refusal) = parameters.add_from_body(name, value) {
                caller.uploader(parameters)?;
                return Err(refusal);
            }
        } else if received.is_none() && part.file_name.is_some() && part.name == kind.part_name() {
            caller.uploader(parameters)?;
            let uploading = parameters.for_upload()?;
            let is_webix = uploading.is_webix;
            let name = part.file_name.as_deref().and_then(clean_file_name);
            let admitted = admit(service, kind, headers, &caller, parameters, uploading, name).await?;
            received = Some((admitted.receive(part.chunks()?).await?, is_webix));
        } else {
            has_unnamed_file |= part.file_name.is_none() && part.name == kind.part_name();
            skipped.skip(part, &caller, parameters).await?;
        }
    }
    received.ok_or_else(|| match caller.uploader(parameters) {
        Err(refusal) => refusal,
        Ok(_) => {
            let mut missing = parameters.missing();
            missing.push(kind.part_name());
            if has_unnamed_file { Refusal::missing_file_name(&missing) } else { Refusal::missing(&missing) }
        }
    })
}

/// Bytes of parts that nobody asked for. A caller that has not proved itself may send only so many.
#[derive(Default)]
pub(super) struct SkippedBytes(usize);

impl SkippedBytes {
    /// Reads past a part.
    pub(super) async fn skip(&mut self, mut part: Part, caller: &Caller, parameters: &Parameters) -> Result<()> {
        let mut bytes = part.unwanted();
        while let Some(chunk) = bytes.next().await {
            self.0 = self.0.saturating_add(chunk?.len());
            if self.0 > BODY_BYTES_MAX {
                caller.uploader(parameters)?;
            }
        }
        Ok(())
    }
}

async fn admit(
    service: &Service,
    kind: Kind,
    headers: &HeaderMap,
    caller: &Caller,
    parameters: &Parameters,
    uploading: UploadParameters,
    name: Option<String>,
) -> Result<upload::Admitted> {
    let bytes_max = kind.bytes_max(service);
    let bytes_announced = intake::check_declared_length(headers, bytes_max, OVERHEAD_BYTES_MAX)?;
    let request = upload::Request {
        actor: caller.uploader(parameters)?,
        namespace: match kind {
            Kind::Image => Namespace::OPSPORTAL_IMAGES,
            Kind::File => Namespace::OPSPORTAL_FILES,
        },
        target: Target::Application { app_key: uploading.app_key, permission: uploading.permission, id: uploading.uuid },
        bytes_max,
        bytes_announced,
        accept: match kind {
            Kind::Image => Accept::Images,
            Kind::File => Accept::AnyFile { name },
        },
    };
    Ok(upload::admit(&service.app, request).await?)
}

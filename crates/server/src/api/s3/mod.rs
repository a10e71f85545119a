//! Bytes at the address that an S3 client gives them: presigned links, and the plain addresses of public files. Nothing else of
//! S3 is spoken here.

mod error;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use imagewell_core::fetch;
use imagewell_core::model::BlobKey;

pub use error::Refusal;

use crate::delivery::{self, Asked, Audience};
use crate::links;
use crate::serve::Service;

/// Read a file's bytes by a link
///
/// `secureFilePath` of the file-service API: a presigned GET (AWS Signature Version 4) that opens without a login until it expires.
/// A `PUBLIC` file opens without a signature. Further parameters count where they are signed, and `response-content-disposition` is
/// obeyed then. Supports HEAD, conditions and ranges. Every other method, and every link that was
/// altered or has expired, gets S3's XML error.
#[utoipa::path(get, path = "/imagewell/{namespace}/{org}/{blob}", tag = "Links",
    params(("namespace" = String, Path), ("org" = String, Path), ("blob" = String, Path),
        ("X-Amz-Algorithm" = Option<String>, Query), ("X-Amz-Credential" = Option<String>, Query),
        ("X-Amz-Date" = Option<String>, Query), ("X-Amz-Expires" = Option<u64>, Query),
        ("X-Amz-SignedHeaders" = Option<String>, Query), ("X-Amz-Signature" = Option<String>, Query)),
    responses((status = 200, description = "The bytes", content_type = "image/*"), (status = 206), (status = 304), (status = 412),
        (status = 403, description = "S3's XML error: AccessDenied", content_type = "application/xml"),
        (status = 404, description = "S3's XML error: NoSuchKey", content_type = "application/xml"), (status = 416)))]
pub async fn read(
    State(service): State<Service>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if !matches!(method, Method::GET | Method::HEAD) {
        return Err(Refusal::denied("A link only opens for GET and HEAD."));
    }
    let Ok(Path((namespace, org, blob))) = path else { return Err(Refusal::denied("Access Denied")) };
    let key = BlobKey::from_stored(format!("{namespace}/{org}/{blob}"));
    let link = links::verify(&service, &method, &uri, &headers, &key).await?;
    let image = fetch::find_as_visitor(&service.app, &key, link.as_ref()).await?;
    let name = image.name.as_ref().map_or(blob.as_str(), |name| name.as_str());
    // Bytes that nobody has looked at are handed over, not shown.
    let is_seen = image.version.facts.is_some();
    let disposition = if is_seen { delivery::inline(name) } else { delivery::attachment(name) };
    let signed = link.as_ref().and_then(|_| links::signed_disposition(&uri, is_seen));
    let disposition = signed.unwrap_or(disposition);
    let audience = if link.is_some() { Audience::LinkHolders } else { Audience::Everybody };
    let asked = Asked { method: &method, headers: &headers };
    Ok(delivery::original(&service, &asked, &image.version, disposition, audience).await?)
}

//! Uploads in parts that nobody finishes: those of a process that was killed. A bucket of the S3 protocol
//! keeps their parts, and charges for them, until they are aborted; no listing of objects shows them.
//! Azure forgets such blocks by itself after a week, and Google's store knows none of our kind.

use std::time::Duration;

use object_store::client::{HttpClient, HttpRequest, HttpRequestBody};
use object_store::path::Path as StorePath;
use object_store::signer::SignedUrlOptions;

use super::bucket::{Bucket, failed};
use super::{Backend, Storage, VARIANTS};
use crate::Error;
use crate::model::{BlobKey, Timestamp};

/// A request is signed for so long.
const SIGNED_FOR: Duration = Duration::from_secs(60);
/// Pages of one listing; what is beyond is left to the next one.
const PAGES_MAX: u32 = 100;

/// An upload in parts that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unfinished {
    pub(crate) key: BlobKey,
    id: String,
    /// By the store's clock.
    begun: Timestamp,
}

/// A page of a listing, and where the next one begins.
#[derive(Debug, Default, PartialEq, Eq)]
struct Page {
    uploads: Vec<Unfinished>,
    next: Option<(String, String)>,
}

impl Storage {
    /// Uploads in parts under keys of our own form that began before a moment. None where the store lists none.
    ///
    /// # Errors
    /// [`Error::Busy`] when the store can't be reached.
    pub(crate) async fn unfinished(&self, before: Timestamp) -> Result<Vec<Unfinished>, Error> {
        let backend = self.backend();
        let Backend::Bucket(bucket) = &*backend else { return Ok(Vec::new()) };
        let Some(client) = &bucket.client else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        let mut marker = None;
        for _ in 0..PAGES_MAX {
            let page = bucket.list_uploads(client, marker).await?;
            found.extend(page.uploads.into_iter().filter(|upload| upload.begun <= before));
            marker = page.next;
            if marker.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// Has the store forget the parts of an upload; one that has ended meanwhile is no error.
    ///
    /// # Errors
    /// [`Error::Internal`] when the store refuses; [`Error::Busy`] when it can't be reached.
    pub(crate) async fn abort(&self, upload: &Unfinished) -> Result<(), Error> {
        let backend = self.backend();
        let Backend::Bucket(bucket) = &*backend else { return Ok(()) };
        let Some(client) = &bucket.client else { return Ok(()) };
        let query = [("uploadId", upload.id.clone())];
        match bucket.ask(client, "DELETE", upload.key.as_str(), query.into()).await? {
            (200..=299 | 404, _) => Ok(()),
            (status, answer) => Err(refused("aborting an upload in parts", status, &answer)),
        }
    }
}

impl Bucket {
    async fn list_uploads(&self, client: &HttpClient, marker: Option<(String, String)>) -> Result<Page, Error> {
        let mut query = vec![("uploads", String::new())];
        if let Some((key, id)) = marker {
            query.extend([("key-marker", key), ("upload-id-marker", id)]);
        }
        match self.ask(client, "GET", "", query).await? {
            (200, answer) => Ok(parse(&answer)),
            // Not every store lists them, and not every key may: its lifecycle rule is left.
            (status @ (400..=499 | 501), answer) => {
                tracing::debug!(status, answer, "the store does not list uploads in parts");
                Ok(Page::default())
            }
            (status, answer) => Err(refused("listing uploads in parts", status, &answer)),
        }
    }

    /// The status and the text of the answer to a signed request.
    async fn ask(
        &self,
        client: &HttpClient,
        method: &str,
        key: &str,
        query: Vec<(&'static str, String)>,
    ) -> Result<(u16, String), Error> {
        let options = SignedUrlOptions::new().with_query(query);
        let method = method.parse().map_err(|error| Error::internal("a method", &error))?;
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method;
        let (method, path) = (request.method().clone(), StorePath::from(key));
        let url = self.signer().signed_url_opts(method, &path, SIGNED_FOR, &options).await;
        let url = url.map_err(|error| failed("signing a request", &error))?;
        *request.uri_mut() = url.as_str().parse().map_err(|error| Error::internal("an address", &error))?;
        let asked = async {
            let response = client.execute(request).await?;
            let status = response.status().as_u16();
            Ok((status, response.into_body().bytes().await?))
        };
        let (status, body) = asked.await.map_err(|error: object_store::client::HttpError| {
            let source = Box::new(error);
            failed("asking for uploads in parts", &object_store::Error::Generic { store: "bucket", source })
        })?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

fn refused(doing: &str, status: u16, answer: &str) -> Error {
    Error::Internal { detail: format!("{doing}: the store answers {status}: {}", answer.chars().take(300).collect::<String>()) }
}

/// Reads a `ListMultipartUploadsResult`. What is not of our form is not in it.
fn parse(answer: &str) -> Page {
    let mut uploads = Vec::new();
    let mut rest = answer;
    while let Some(upload) = element(rest, "Upload") {
        let ours = |key: &String| BlobKey::is_well_formed(key) || key.split('/').next() == Some(VARIANTS);
        let key = text(upload, "Key").filter(ours);
        let begun = text(upload, "Initiated").and_then(|begun| begun.parse::<jiff::Timestamp>().ok());
        if let (Some(key), Some(id), Some(begun)) = (key, text(upload, "UploadId"), begun) {
            uploads.push(Unfinished { key: BlobKey::from_stored(key), id, begun: Timestamp(begun.as_microsecond()) });
        }
        rest = rest.split_once("</Upload>").map_or("", |(_, rest)| rest);
    }
    let more = text(answer, "IsTruncated").as_deref() == Some("true");
    let next = text(answer, "NextKeyMarker").zip(text(answer, "NextUploadIdMarker"));
    Page { uploads, next: next.filter(|_| more) }
}

/// What is in the first element of this name. None of those that are read have attributes.
fn element<'x>(xml: &'x str, name: &str) -> Option<&'x str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

fn text(xml: &str, name: &str) -> Option<String> {
    let text = element(xml, name)?;
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    Some(entities.iter().fold(text.to_owned(), |text, (entity, character)| text.replace(entity, character)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_of_our_form_are_read_from_a_listing() {
        let key = "rewards/7/0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png";
        let upload = |key: &str, id: &str| {
            format!("<Upload><Initiated>2026-11-26T10:11:12.000Z</Initiated><Key>{key}</Key><UploadId>{id}</UploadId></Upload>")
        };
        let listing = |more: bool, uploads: &str| {
            format!(
                "<?xml version=\"1.0\"?><ListMultipartUploadsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <KeyMarker></KeyMarker><NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>b</NextUploadIdMarker>\
                 <IsTruncated>{more}</IsTruncated>{uploads}</ListMultipartUploadsResult>"
            )
        };
        let begun = Timestamp(1_795_687_872_000_000);
        let found = |id: &str| Unfinished { key: BlobKey::from_stored(key.into()), id: id.into(), begun };
        let all = [upload(key, "a&amp;lt;="), upload("backups/pg.dump", "x"), upload(key, "b")].concat();
        let page = parse(&listing(false, &all));
        assert_eq!(page, Page { uploads: vec![found("a&lt;="), found("b")], next: None });
        assert_eq!(parse(&listing(true, "")).next, Some((key.to_owned(), "b".to_owned())));
        for nothing in ["", "<p>Log in</p>", "<Upload>", "<Upload></Upload>"] {
            assert_eq!(parse(nothing), Page::default(), "{nothing}");
        }
    }
}

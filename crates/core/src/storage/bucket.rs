//! Blobs in a bucket. Of the S3 protocol only what every server of it knows is used: PUT, GET with ranges, HEAD, COPY and DELETE of one
//! object, LIST version 2, and multipart uploads.
//!
//! The store may be away for a while: each request is tried again for some seconds, and then its caller is told to come back. A put
//! whose answer was lost may have been done; nobody knows its key, so that does no harm.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as StorePath;
use object_store::signer::Signer;
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _,
    PutMultipartOptions, PutOptions, PutPayload, RetryConfig, WriteMultipart,
};
use url::Url;

use super::local::generic;
use crate::Error;
use crate::model::BlobKey;
use crate::spool::Content;

/// Parts of one upload on their way at once.
const PARTS_IN_FLIGHT: usize = 2;
/// What a caller is told about when to come back.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// For the answer to a ping.
const PING_MAX: Duration = Duration::from_secs(3);

/// Which bucket, and how to use it. What is empty comes from where the cloud's own programs look for it: `AWS_…`, `GOOGLE_…` and `AZURE_…`
/// variables, and the machine's role.
#[derive(Clone)]
pub struct BucketPlace {
    /// `s3://bucket`, `gs://bucket` or `az://container`.
    pub url: Url,
    /// Of a store that isn't the cloud's own, as in `http://127.0.0.1:3900`.
    pub endpoint: String,
    /// Of the bucket, for S3.
    pub region: String,
    /// For S3.
    pub access_key_id: String,
    /// For S3.
    pub secret_access_key: String,
    /// Larger objects go in parts of this size.
    pub part_bytes: usize,
    /// For one request.
    pub time_max: Duration,
    /// For all tries of one request.
    pub retry_max: Duration,
}

impl fmt::Debug for BucketPlace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("BucketPlace").field("url", &self.url.as_str()).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Stores that can also sign links.
trait SigningStore: ObjectStore + Signer {}
impl<T: ObjectStore + Signer> SigningStore for T {}

#[derive(Debug)]
pub(super) struct Bucket {
    store: Arc<dyn SigningStore>,
    url: Url,
    part_bytes: usize,
}

impl Bucket {
    pub(super) fn open(place: &BucketPlace) -> Result<Self, Error> {
        let opened = match place.url.scheme() {
            "gs" => google(place),
            "az" | "azure" | "abfs" | "abfss" => azure(place),
            _ => amazon(place),
        };
        let store = opened.map_err(|error| Error::internal(&format!("opening the bucket {}", place.url), &error))?;
        Ok(Self { store, url: place.url.clone(), part_bytes: place.part_bytes })
    }

    pub(super) fn store(&self) -> &dyn ObjectStore {
        &*self.store
    }

    pub(super) fn url(&self) -> &str {
        self.url.as_str()
    }

    pub(super) fn address(&self, key: &BlobKey) -> String {
        format!("{}/{}", self.url.as_str().trim_end_matches('/'), key.as_str())
    }

    pub(super) async fn put(&self, key: &BlobKey, content: &Content, content_type: &str, inspected: bool) -> Result<(), Error> {
        let path = StorePath::from(key.as_str());
        let attributes = attributes(content_type, inspected);
        if content.len() > self.part_bytes as u64 {
            // A caller that leaves must not leave parts behind: it goes on, and ends in an object or in nothing.
            let (store, content, part_bytes) = (Arc::clone(&self.store), content.clone(), self.part_bytes);
            let put = tokio::spawn(async move { put_in_parts(&*store, &path, &content, attributes, part_bytes).await });
            let put = put.await.map_err(|error| Error::internal("storing a blob", &error))?;
            return put.map_err(|error| failed("storing a blob in parts", &error));
        }
        let len = usize::try_from(content.len()).unwrap_or(usize::MAX);
        let bytes = content.read_at(0, len).await.map_err(|error| Error::internal("reading an upload back", &error))?;
        let options = PutOptions { attributes, ..PutOptions::default() };
        let put = self.store.put_opts(&path, PutPayload::from_bytes(bytes), options).await;
        put.map(|_| ()).map_err(|error| failed("storing a blob", &error))
    }

    pub(super) async fn read(&self, key: &BlobKey) -> Result<Bytes, Error> {
        let read = async { self.store.get(&StorePath::from(key.as_str())).await?.bytes().await };
        read.await.map_err(|error| failed("reading a blob", &error))
    }

    pub(super) async fn stream(
        &self,
        key: &BlobKey,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let result = self.store.get_opts(&StorePath::from(key.as_str()), options).await;
        let result = result.map_err(|error| failed("reading a blob", &error))?;
        Ok(result.into_stream().map_err(|error| failed("reading a blob", &error)).boxed())
    }

    pub(super) async fn presign(&self, key: &BlobKey, lifetime: Duration) -> Result<String, Error> {
        let path = StorePath::from(key.as_str());
        // The default method is GET.
        let signed = self.store.signed_url(Default::default(), &path, lifetime).await;
        signed.map(|url| url.to_string()).map_err(|error| Error::internal("signing a link", &error))
    }

    pub(super) async fn ping(&self, key: &BlobKey) -> Result<(), Error> {
        let path = StorePath::from(key.as_str());
        match tokio::time::timeout(PING_MAX, self.store.head(&path)).await {
            Ok(Ok(_) | Err(object_store::Error::NotFound { .. })) => Ok(()),
            Ok(Err(error)) => Err(failed("asking the store", &error)),
            Err(_) => Err(Error::Busy { retry_after: RETRY_AFTER }),
        }
    }

    /// Each thing that is asked of a bucket, once.
    pub(super) async fn probe(&self, key: &BlobKey) -> Result<(), Error> {
        let path = StorePath::from(key.as_str());
        let folder = StorePath::from(key.as_str().rsplit_once('/').map_or("", |(folder, _)| folder));
        let refused = |what: &str| {
            let what = format!(
                "the bucket {} doesn't {what}: are its name, storage.endpoint, storage.region and the keys right, and may these keys do that",
                self.url
            );
            move |error: object_store::Error| {
                let explained = Error::internal(&what, &error);
                // The store is away, which may pass; anything else will not.
                if let (object_store::Error::Generic { .. }, Error::Internal { detail }) = (&error, &explained) {
                    tracing::warn!(detail, "the store does not answer");
                    return Error::Busy { retry_after: RETRY_AFTER };
                }
                explained
            }
        };
        let options = PutOptions { attributes: attributes("image/png", true), ..PutOptions::default() };
        self.store.put_opts(&path, PutPayload::from_static(b"probe"), options).await.map_err(refused("take an object (PUT)"))?;
        let whole = async { self.store.get(&path).await?.bytes().await }.await.map_err(refused("give an object back (GET)"))?;
        let part = self.store.get_range(&path, 1..3).await.map_err(refused("give a part of an object back (GET with Range)"))?;
        let listed: Vec<_> =
            self.store.list(Some(&folder)).try_collect().await.map_err(refused("list its objects (ListObjectsV2)"))?;
        if whole != "probe" || part != "ro" || listed.len() != 1 {
            return Err(Error::Internal { detail: format!("the bucket {} gives back something else than it took", self.url) });
        }
        let copy = StorePath::from(format!("{}-copy", key.as_str()));
        self.store.copy(&path, &copy).await.map_err(refused("copy an object (CopyObject)"))?;
        self.store.delete(&copy).await.map_err(refused("remove an object (DELETE)"))?;
        let mut parts =
            self.store.put_multipart(&path).await.map_err(refused("begin an upload in parts (CreateMultipartUpload)"))?;
        parts.abort().await.map_err(refused("forget an upload in parts (AbortMultipartUpload)"))?;
        self.store.delete(&path).await.map_err(refused("remove an object (DELETE)"))
    }
}

/// For those who fetch from the bucket without us: what nobody has looked at is a download.
fn attributes(content_type: &str, inspected: bool) -> Attributes {
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::ContentType, content_type.to_owned().into());
    if !inspected {
        attributes.insert(Attribute::ContentDisposition, "attachment".into());
    }
    attributes
}

async fn put_in_parts(
    store: &dyn SigningStore,
    path: &StorePath,
    content: &Content,
    attributes: Attributes,
    part_bytes: usize,
) -> object_store::Result<()> {
    let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
    let mut upload = WriteMultipart::new_with_chunk_size(store.put_multipart_opts(path, options).await?, part_bytes);
    let sent = async {
        let mut offset = 0;
        while offset < content.len() {
            upload.wait_for_capacity(PARTS_IN_FLIGHT).await?;
            let part = content.read_at(offset, part_bytes).await.map_err(generic)?;
            offset += part.len() as u64;
            upload.put(part);
        }
        Ok(())
    }
    .await;
    match sent {
        // It forgets the parts by itself when it fails.
        Ok(()) => upload.finish().await.map(|_| ()),
        Err(error) => {
            if let Err(error) = upload.abort().await {
                tracing::warn!(%error, "parts of an upload are left to the bucket's lifecycle rule");
            }
            Err(error)
        }
    }
}

fn amazon(place: &BucketPlace) -> object_store::Result<Arc<dyn SigningStore>> {
    let mut builder = AmazonS3Builder::from_env()
        .with_url(place.url.as_str())
        .with_retry(retry(place))
        .with_client_options(client(place))
        // One by one: not every server knows DeleteObjects.
        .with_disable_bulk_delete(true);
    if !place.endpoint.is_empty() {
        builder = builder.with_endpoint(&place.endpoint);
    }
    if !place.region.is_empty() {
        builder = builder.with_region(&place.region);
    }
    if !place.access_key_id.is_empty() {
        builder = builder.with_access_key_id(&place.access_key_id);
    }
    if !place.secret_access_key.is_empty() {
        builder = builder.with_secret_access_key(&place.secret_access_key);
    }
    builder.build().map(|store| Arc::new(store) as Arc<dyn SigningStore>)
}

fn google(place: &BucketPlace) -> object_store::Result<Arc<dyn SigningStore>> {
    let builder = GoogleCloudStorageBuilder::from_env().with_url(place.url.as_str()).with_retry(retry(place));
    builder.with_client_options(client(place)).build().map(|store| Arc::new(store) as Arc<dyn SigningStore>)
}

fn azure(place: &BucketPlace) -> object_store::Result<Arc<dyn SigningStore>> {
    let mut builder = MicrosoftAzureBuilder::from_env().with_url(place.url.as_str()).with_retry(retry(place));
    if !place.endpoint.is_empty() {
        builder = builder.with_endpoint(place.endpoint.clone());
    }
    builder.with_client_options(client(place)).build().map(|store| Arc::new(store) as Arc<dyn SigningStore>)
}

fn client(place: &BucketPlace) -> ClientOptions {
    ClientOptions::new()
        .with_timeout(place.time_max)
        .with_connect_timeout(place.time_max.min(Duration::from_secs(3)))
        // Whoever names an http endpoint wants it.
        .with_allow_http(place.endpoint.starts_with("http://"))
}

fn retry(place: &BucketPlace) -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(2),
        ..BackoffConfig::default()
    };
    RetryConfig { backoff, max_retries: 1000, retry_timeout: place.retry_max }
}

/// Not there, not now, or not at all.
pub(super) fn failed(doing: &str, error: &object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { .. } => Error::NotFound,
        object_store::Error::Generic { .. } => {
            tracing::warn!(%error, doing, "the store can't do it now");
            metrics::counter!("imagewell_store_failures_total").increment(1);
            Error::Busy { retry_after: RETRY_AFTER }
        }
        _ => Error::internal(doing, error),
    }
}

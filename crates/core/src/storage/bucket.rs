//! Blobs in a bucket. Of the S3 protocol only what every server of it knows is used: PUT, GET with ranges, HEAD, COPY and DELETE of one
//! object, LIST version 2, and multipart uploads.
//!
//! The store may be away for a while: each request is tried again for some seconds, and then its caller is told to come back. A put
//! whose answer was lost may have been done; nobody knows its key, so that does no harm. A put is believed when the store names the
//! digest of what it has, or has an object of that length: a proxy in between may answer 200 by itself.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use md5::{Digest as _, Md5};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as StorePath;
use object_store::signer::Signer;
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutMultipartOptions,
    PutOptions, PutPayload, RetryConfig,
};
use tokio::task::JoinSet;
use url::Url;

use super::VARIANTS;
use super::local::generic;
use super::resuming::{self, Waiting};
use crate::Error;
use crate::model::BlobKey;
use crate::spool::Content;

/// Parts of one upload on their way at once.
const PARTS_IN_FLIGHT: usize = 2;
/// What a caller is told about when to come back.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// For the answer to a ping.
const PING_MAX: Duration = Duration::from_secs(3);
/// Of smaller objects the digest is compared with what the store says of them; larger ones are asked
/// for, which takes less than hashing them once more.
const HASHED_BYTES_MAX: usize = 256 * 1024;

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
    /// For the next bytes of a body that somebody reads.
    pub time_max: Duration,
    /// For all tries of one request.
    pub retry_max: Duration,
    /// What sends the requests, and bounds how long each may take.
    pub http: StoreHttp,
}

/// The HTTP client of buckets, which is the caller's.
#[derive(Debug, Clone)]
pub struct StoreHttp(Arc<dyn HttpConnector>);

impl StoreHttp {
    /// One that connects like this.
    pub fn new(connector: impl HttpConnector) -> Self {
        Self(Arc::new(connector))
    }
}

impl HttpConnector for StoreHttp {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        self.0.connect(options)
    }
}

impl fmt::Debug for BucketPlace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("BucketPlace").field("url", &self.url.as_str()).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Stores that can also sign links.
pub(super) trait SigningStore: ObjectStore + Signer {}
impl<T: ObjectStore + Signer> SigningStore for T {}

#[derive(Debug)]
pub(super) struct Bucket {
    store: Arc<dyn SigningStore>,
    url: Url,
    part_bytes: usize,
    waiting: Waiting,
    /// For what no library of all stores has; none where uploads in parts end by themselves.
    pub(super) client: Option<HttpClient>,
}

impl Bucket {
    pub(super) fn open(place: &BucketPlace) -> Result<Self, Error> {
        let opened = match place.url.scheme() {
            "gs" => google(place).map(|store| (store, None)),
            "az" | "azure" | "abfs" | "abfss" => azure(place).map(|store| (store, None)),
            _ => amazon(place).and_then(|store| Ok((store, Some(place.http.connect(&client(place))?)))),
        };
        let opened = opened.map_err(|error| Error::internal(&format!("opening the bucket {}", place.url), &error));
        let (store, client) = opened?;
        let waiting = Waiting { time_max: place.time_max, retry_max: place.retry_max };
        Ok(Self { store, url: place.url.clone(), part_bytes: place.part_bytes, waiting, client })
    }

    pub(super) fn store(&self) -> &dyn ObjectStore {
        &*self.store
    }

    pub(super) fn signer(&self) -> &dyn Signer {
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
            let (store, path, whole) = (Arc::clone(&self.store), path.clone(), content.clone());
            let part_bytes = self.part_bytes;
            let put = tokio::spawn(async move { put_in_parts(&*store, &path, &whole, attributes, part_bytes).await });
            let put = put.await.map_err(|error| Error::internal("storing a blob", &error))?;
            put.map_err(|error| not_put(&error))?;
            return self.confirm(key, content.len()).await;
        }
        let len = usize::try_from(content.len()).unwrap_or(usize::MAX);
        let bytes = content.read_at(0, len).await.map_err(|error| Error::internal("reading an upload back", &error))?;
        let options = PutOptions { attributes, ..PutOptions::default() };
        let put = self.store.put_opts(&path, PutPayload::from_bytes(bytes.clone()), options).await;
        let put = put.map_err(|error| not_put(&error))?;
        // A rendering bears its digest, and is made again when it isn't there.
        if key.as_str().split('/').next() == Some(VARIANTS) || is_digest_of(put.e_tag.as_deref(), &bytes) {
            return Ok(());
        }
        self.confirm(key, content.len()).await
    }

    /// Makes sure that the store has an object of this length.
    async fn confirm(&self, key: &BlobKey, len: u64) -> Result<(), Error> {
        let fault = match self.store.head(&StorePath::from(key.as_str())).await {
            Ok(meta) if meta.size == len => return Ok(()),
            Ok(meta) => format!("it has {} bytes instead of {len}", meta.size),
            Err(object_store::Error::NotFound { .. }) => "it is not there".to_owned(),
            Err(error) => return Err(failed("asking for what was just stored", &error)),
        };
        tracing::error!(
            key = key.as_str(),
            fault,
            "ALARM: the store confirmed an object and does not have it: does a proxy or a gateway answer in its place?"
        );
        metrics::counter!("imagewell_store_puts_unconfirmed_total").increment(1);
        Err(Error::Busy { retry_after: RETRY_AFTER })
    }

    pub(super) async fn read(&self, key: &BlobKey) -> Result<Bytes, Error> {
        let read = async {
            let (len, mut stream) = self.open_object(key, None).await?;
            let mut whole = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
            while let Some(bytes) = stream.try_next().await? {
                if bytes.len() as u64 == len {
                    return Ok(bytes);
                }
                whole.extend_from_slice(&bytes);
            }
            Ok(whole.into())
        };
        read.await.map_err(|error| failed("reading a blob", &error))
    }

    pub(super) async fn stream(
        &self,
        key: &BlobKey,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let opened = self.open_object(key, Some(range)).await.map_err(|error| failed("reading a blob", &error))?;
        Ok(opened.1.map_err(|error| failed("reading a blob", &error)).boxed())
    }

    async fn open_object(
        &self,
        key: &BlobKey,
        range: Option<Range<u64>>,
    ) -> object_store::Result<(u64, BoxStream<'static, object_store::Result<Bytes>>)> {
        resuming::open(Arc::clone(&self.store), StorePath::from(key.as_str()), range, self.waiting).await
    }

    pub(super) async fn presign(&self, key: &BlobKey, lifetime: Duration) -> Result<String, Error> {
        let path = StorePath::from(key.as_str());
        // The default method is GET.
        let signed = self.store.signed_url(Default::default(), &path, lifetime).await;
        signed.map(|url| url.to_string()).map_err(|error| Error::internal("signing a link", &error))
    }

    pub(super) async fn ping(&self, key: &BlobKey) -> Result<(), Error> {
        let path = StorePath::from(key.as_str());
        // Not HEAD, whose answer doesn't say whether the object is missing or the bucket.
        match tokio::time::timeout(PING_MAX, self.store.get(&path)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => match failed("asking the store", &error) {
                Error::NotFound => Ok(()),
                failed => Err(failed),
            },
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

/// Whether an `ETag` is the MD5 of these bytes, as stores of the S3 protocol have it unless they encrypt.
fn is_digest_of(e_tag: Option<&str>, bytes: &[u8]) -> bool {
    let digest = e_tag.map(|e_tag| e_tag.trim_matches('"')).filter(|digest| digest.len() == 32);
    bytes.len() <= HASHED_BYTES_MAX && digest.is_some_and(|digest| digest.eq_ignore_ascii_case(&hex::encode(Md5::digest(bytes))))
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
    let mut upload = store.put_multipart_opts(path, options).await?;
    let ended = match send_parts(&mut *upload, content, part_bytes).await {
        Ok(()) => upload.complete().await.map(drop),
        Err(error) => Err(error),
    };
    if ended.is_err() {
        // A store that is mute takes as long over this as over the parts, and the caller has waited long enough.
        tokio::spawn(async move {
            if let Err(error) = upload.abort().await {
                tracing::warn!(%error, "parts of an upload are left in the bucket");
            }
        });
    }
    ended
}

async fn send_parts(upload: &mut dyn MultipartUpload, content: &Content, part_bytes: usize) -> object_store::Result<()> {
    let (mut in_flight, mut offset) = (JoinSet::new(), 0);
    loop {
        while in_flight.len() < PARTS_IN_FLIGHT && offset < content.len() {
            let part = content.read_at(offset, part_bytes).await.map_err(generic)?;
            offset += part.len() as u64;
            in_flight.spawn(upload.put_part(part.into()));
        }
        match in_flight.join_next().await {
            None => return Ok(()),
            Some(Ok(sent)) => sent?,
            Some(Err(panicked)) => return Err(generic(std::io::Error::other(panicked))),
        }
    }
}

fn amazon(place: &BucketPlace) -> object_store::Result<Arc<dyn SigningStore>> {
    let mut builder = AmazonS3Builder::from_env()
        .with_url(place.url.as_str())
        .with_retry(retry(place))
        .with_http_connector(place.http.clone())
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
    let builder = builder.with_client_options(client(place)).with_http_connector(place.http.clone());
    builder.build().map(|store| Arc::new(store) as Arc<dyn SigningStore>)
}

fn azure(place: &BucketPlace) -> object_store::Result<Arc<dyn SigningStore>> {
    let mut builder = MicrosoftAzureBuilder::from_env().with_url(place.url.as_str()).with_retry(retry(place));
    if !place.endpoint.is_empty() {
        builder = builder.with_endpoint(place.endpoint.clone());
    }
    let builder = builder.with_client_options(client(place)).with_http_connector(place.http.clone());
    builder.build().map(|store| Arc::new(store) as Arc<dyn SigningStore>)
}

fn client(place: &BucketPlace) -> ClientOptions {
    ClientOptions::new()
        // That would be for a request with its body, however steadily it goes on.
        .with_timeout_disabled()
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
        object_store::Error::NotFound { source, .. } if !says_no_bucket(&source.to_string()) => Error::NotFound,
        object_store::Error::NotFound { .. } => bucket_is_gone(error),
        object_store::Error::Generic { .. } => {
            tracing::warn!(%error, doing, "the store can't do it now");
            metrics::counter!("imagewell_store_failures_total").increment(1);
            Error::Busy { retry_after: RETRY_AFTER }
        }
        _ => Error::internal(doing, error),
    }
}

/// As [`failed`], but nothing that is put is ever missing: where the store says so, it is not itself.
fn not_put(error: &object_store::Error) -> Error {
    match failed("storing a blob", error) {
        Error::NotFound => {
            tracing::warn!(%error, "the store does not find what it is sent");
            metrics::counter!("imagewell_store_failures_total").increment(1);
            Error::Busy { retry_after: RETRY_AFTER }
        }
        failed => failed,
    }
}

/// As S3 and Google, and as Azure say it.
fn says_no_bucket(answer: &str) -> bool {
    answer.contains("NoSuchBucket") || answer.contains("ContainerNotFound")
}

fn bucket_is_gone(error: &object_store::Error) -> Error {
    tracing::error!(%error, "ALARM: the bucket does not exist: was it deleted, or are its name or storage.endpoint wrong?");
    metrics::counter!("imagewell_store_failures_total").increment(1);
    Error::Busy { retry_after: RETRY_AFTER }
}

//! What goes over the wire, apart from errors. Names, their order and the types of values are what callers rely on.

use imagewell_core::Error;
use imagewell_core::model::{Acl, FileName, Image};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::Zone;
use crate::fields;
use crate::links::{self, BUCKET};
use crate::serve::Service;

/// One version of a file.
#[derive(Debug, Serialize, ToSchema)]
pub struct File {
    /// Inside its namespace.
    #[schema(example = "test.png")]
    name: String,
    #[schema(example = "rewards")]
    namespace: String,
    /// Counts from 1 for each name.
    #[schema(example = 2)]
    version: u32,
    /// `PRIVATE` or `PUBLIC`.
    #[schema(example = "PRIVATE")]
    acl: &'static str,
    /// Bytes, as text. `0` for a placeholder.
    #[serde(rename = "fileSize")]
    #[schema(example = "51")]
    file_size: String,
    /// The same for all versions of a name, for ever.
    #[schema(example = "73e78929-1e07-4cc5-a738-b54470a7dc8c")]
    file_handle: String,
    #[schema(example = "image/png")]
    content_type: String,
    /// The key of the bytes in the store.
    #[schema(example = "rewards/100606/b21f3aea-ad38-4634-82a4-db2aaa0b1234.png")]
    s3_token: String,
    /// The newest version that can be read.
    #[schema(example = 2)]
    latest_version: u32,
    /// `yyyy-MM-dd HH:mm:ss` in the namespace's zone.
    #[schema(example = "2024-05-08 09:10:59")]
    last_modified: String,
    #[schema(example = "s3://imagewell/rewards/100606/b21f3aea-ad38-4634-82a4-db2aaa0b1234.png")]
    s3_url: String,
}

impl File {
    fn of(service: &Service, image: &Image, zone: &Zone) -> Self {
        let key = image.version.blob.as_str();
        Self {
            name: image.name.as_ref().map(FileName::as_str).unwrap_or_default().to_owned(),
            namespace: image.namespace.as_str().to_owned(),
            version: image.version.number,
            acl: match image.acl {
                Acl::Private => "PRIVATE",
                Acl::Public => "PUBLIC",
            },
            file_size: image.version.size_bytes.to_string(),
            file_handle: image.id.to_string(),
            content_type: image.version.content_type.clone(),
            s3_token: key.to_owned(),
            latest_version: image.latest_number,
            last_modified: zone.format(image.version.created),
            s3_url: service.app.storage.address(&image.version.blob).unwrap_or_else(|| format!("s3://{BUCKET}/{key}")),
        }
    }
}

/// Answer about one version.
#[derive(Debug, Serialize, ToSchema)]
pub struct FileAnswer {
    #[schema(example = 200)]
    code: u16,
    /// `true`, as text.
    #[schema(example = "true")]
    status: &'static str,
    #[schema(example = "Successfully uploaded file")]
    message: String,
    file: File,
    /// Opens without a login until it expires. Absent from the answer to a deletion.
    #[serde(rename = "secureFilePath", skip_serializing_if = "Option::is_none")]
    secure_file_path: Option<String>,
    /// Where a `PUBLIC` file's bytes are for anybody; never in the answer to an upload.
    #[serde(rename = "publicFilePath", skip_serializing_if = "Option::is_none")]
    public_file_path: Option<String>,
}

/// What an answer needs to know besides the image.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) zone: Zone,
    pub(super) base_url: String,
}

impl FileAnswer {
    /// The answer to an upload.
    pub(super) async fn uploaded(service: &Service, image: &Image, context: &Context) -> Result<Self, Error> {
        let record = Self::record(service, image, context, "Successfully uploaded file").await?;
        Ok(Self { public_file_path: None, ..record })
    }

    /// The answer about a file that can be read.
    pub(super) async fn record(service: &Service, image: &Image, context: &Context, message: &str) -> Result<Self, Error> {
        let blob = &image.version.blob;
        Ok(Self {
            code: 200,
            status: "true",
            message: message.to_owned(),
            file: File::of(service, image, &context.zone),
            secure_file_path: Some(links::presign(&service.app, &service.settings, &context.base_url, blob).await?),
            public_file_path: (image.acl == Acl::Public).then(|| links::plain(&context.base_url, blob)),
        })
    }

    /// The answer about a file that is gone.
    pub(super) fn gone(service: &Service, image: &Image, context: &Context, message: String) -> Self {
        let file = File::of(service, image, &context.zone);
        Self { code: 200, status: "true", message, file, secure_file_path: None, public_file_path: None }
    }
}

/// Answer about all versions.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionsAnswer {
    #[schema(example = 200)]
    code: u16,
    /// `true`, as text.
    #[schema(example = "true")]
    status: &'static str,
    #[schema(example = "Successfully listed versions")]
    message: &'static str,
    /// Newest first.
    versions: Vec<VersionEntry>,
    /// Send it as `before` to get the older ones; absent when there are none.
    #[serde(rename = "nextBefore", skip_serializing_if = "Option::is_none")]
    next_before: Option<u32>,
}

#[derive(Debug, Serialize, ToSchema)]
struct VersionEntry {
    file: File,
    /// Opens without a login until it expires.
    #[serde(rename = "secureFilePath")]
    secure_file_path: String,
}

impl VersionsAnswer {
    pub(super) async fn new(
        service: &Service,
        images: &[Image],
        next_before: Option<u32>,
        context: &Context,
    ) -> Result<Self, Error> {
        let mut versions = Vec::with_capacity(images.len());
        for image in images {
            let blob = &image.version.blob;
            let secure_file_path = links::presign(&service.app, &service.settings, &context.base_url, blob).await?;
            versions.push(VersionEntry { file: File::of(service, image, &context.zone), secure_file_path });
        }
        Ok(Self { code: 200, status: "true", message: "Successfully listed versions", versions, next_before })
    }
}

/// Body of an ACL change. The bare word does as well.
#[derive(Debug, Deserialize, ToSchema)]
pub struct AclBody {
    /// `PRIVATE` or `PUBLIC`.
    #[schema(example = "PUBLIC")]
    pub(super) acl: String,
}

/// Body of a request for a token.
#[derive(Deserialize, ToSchema)]
pub struct TokenBody {
    /// The client's key.
    pub(super) key: String,
    /// The client's secret.
    pub(super) secret: String,
}

impl TokenBody {
    /// From a body's fields; none when one is missing or empty.
    pub(super) fn of(fields: &[(String, String)]) -> Option<Self> {
        let text = |name| fields::find(fields, name).map(str::to_owned);
        Some(Self { key: text("key")?, secret: text("secret")? })
    }
}

/// Answer with a token.
#[derive(Serialize, ToSchema)]
pub struct TokenAnswer {
    data: TokenData,
    /// Always null here.
    errors: Option<Vec<String>>,
}

#[derive(Serialize, ToSchema)]
struct TokenData {
    /// A JSON Web Token.
    #[serde(rename = "accessToken")]
    access_token: String,
    /// Seconds for which it is good.
    #[serde(rename = "ttlSeconds")]
    #[schema(example = 300)]
    ttl_seconds: u64,
}

impl TokenAnswer {
    pub(super) fn new(access_token: String, ttl_seconds: u64) -> Self {
        Self { data: TokenData { access_token, ttl_seconds }, errors: None }
    }
}

/// The error object of this API.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorAnswer {
    /// The HTTP status.
    code: u16,
    /// `false`, as text.
    #[schema(example = "false")]
    status: String,
    /// What is wrong and what to do.
    message: String,
    /// 4000 when access is denied, 4001 when an outside identity provider can't be asked.
    #[serde(rename = "errorCode", skip_serializing_if = "Option::is_none")]
    error_code: Option<u16>,
}

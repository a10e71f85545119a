//! What goes over the wire, apart from errors.

use serde::Serialize;
use utoipa::ToSchema;

/// Answer to an upload.
#[derive(Debug, Serialize, ToSchema)]
pub struct Uploaded {
    /// `success`, or `server` for Webix.
    #[schema(example = "success")]
    status: &'static str,
    /// The image.
    data: UploadedData,
}

#[derive(Debug, Serialize, ToSchema)]
struct UploadedData {
    /// Identity of the image, in lower case.
    #[schema(example = "0190a6c0-2f4e-7c1a-9b7e-3f1d2c4b5a69")]
    uuid: String,
    /// `server`, for Webix only.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
}

impl Uploaded {
    pub(super) fn new(uuid: String, is_webix: bool) -> Self {
        let status = if is_webix { "server" } else { "success" };
        Self { status, data: UploadedData { uuid, status: is_webix.then_some("server") } }
    }
}

/// Answer of `/csrfToken`.
#[derive(Debug, Serialize, ToSchema)]
pub struct CsrfToken {
    /// Bound to the session; good for as long as the session is.
    #[serde(rename = "_csrf")]
    pub(super) csrf: String,
}

/// Answer to a login.
#[derive(Debug, Serialize, ToSchema)]
pub struct LoggedIn {
    /// `success`.
    #[schema(example = "success")]
    status: &'static str,
    data: LoggedInData,
}

#[derive(Debug, Serialize, ToSchema)]
struct LoggedInData {
    /// The login as it is stored.
    username: String,
}

impl LoggedIn {
    pub(super) fn new(username: String) -> Self {
        Self { status: "success", data: LoggedInData { username } }
    }
}

/// Answer to a logout.
#[derive(Debug, Serialize, ToSchema)]
pub struct LoggedOut {
    /// `success`.
    #[schema(example = "success")]
    status: &'static str,
    data: serde_json::Value,
}

impl LoggedOut {
    pub(super) fn new() -> Self {
        Self { status: "success", data: serde_json::json!({}) }
    }
}

/// The error envelope of this API.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorEnvelope {
    /// `error`.
    #[schema(example = "error")]
    status: String,
    /// A name such as `E_NOTFOUND`; the number 5 when nobody is logged in.
    id: serde_json::Value,
    /// The HTTP status.
    code: u16,
    /// For people.
    message: String,
    /// Key of the message in the portal's translations.
    #[serde(rename = "mlKey")]
    ml_key: String,
    /// `missingParams`, `reason`, `maxBytes` or `requestId`, as the case may be.
    data: serde_json::Value,
}

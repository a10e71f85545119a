//! Every route of the service, on one page. `docs/openapi.json` is made from the same handlers; a test holds the two together.

use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, Method, header};
use axum::routing::{any, delete, get, post, put};
use tower::layer::layer_fn;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use utoipa::OpenApi;

use crate::api::dropbox::{avatars, login, pictures};
use crate::api::file_service::{self, files, token};
use crate::api::native::{record, show};
use crate::api::opsportal::{base64, read, site, upload};
use crate::api::s3;
use crate::serve::Service;
use crate::surrounded::Surrounded;
use crate::{guard, health, pages, proxy_probe};

/// For so long browsers keep what they were told of another origin; Chromium keeps nothing for longer than two hours.
const PREFLIGHT_SECONDS_MAX: Duration = Duration::from_secs(7200);

/// All routes with all layers.
pub fn router(service: Service) -> Router {
    let router = Router::new()
        // OpsPortal: images and files
        .route("/opsportal/image", post(upload::image))
        .route("/opsportal/image/{appKey}/{permission}/{isWebix}", post(upload::image_by_path).get(guard::not_found))
        .route("/opsportal/image/{appKey}/{uuid}", get(read::image))
        .route("/opsportal/imageBase64", post(base64::upload))
        .route("/opsportal/imageBase64/{appKey}/{uuid}", get(read::image_base64))
        .route("/opsportal/file", post(upload::file))
        .route("/opsportal/file/{appKey}/{permission}/{isWebix}", post(upload::file_by_path).get(guard::not_found))
        .route("/opsportal/file/{appKey}/{uuid}", get(read::file))
        // OpsPortal: the site
        .route("/csrfToken", get(site::csrf_token))
        .route("/site/login", get(site::login_form).post(site::login))
        .route("/site/logout", get(site::logout_by_link).post(site::logout))
        // File service
        .route("/api_gateway/file-service/handles/{file_handle}", get(files::by_handle))
        .route(
            "/api_gateway/file-service/{namespace}/{filename}",
            post(file_service::upload::upload).get(files::record).delete(files::delete),
        )
        .route("/api_gateway/file-service/{namespace}/{filename}/versions", get(files::versions))
        .route("/api_gateway/file-service/{namespace}/{filename}/acl", put(files::set_acl))
        .route("/api_gateway/file-service/{namespace}/{filename}/restore", post(files::restore))
        .route("/v3/oauth/token/generate", post(token::generate))
        // Dropbox: pictures and avatars
        .route("/api/dropbox/pictures", post(pictures::add))
        .route("/api/dropbox/pictures/{PictureID}", get(pictures::show).put(pictures::crop))
        .route("/api/{service}/{ID}/avatar", get(avatars::show).put(avatars::take))
        .route("/api/{service}/{ID}/avatars/{AvatarVersionID}", get(avatars::show_version))
        .route("/api/users/{ID}/picture", delete(avatars::drop_picture))
        .route("/api/login", post(login::log_in))
        .route("/api/login/renewToken", post(login::renew))
        .route("/api/logout", post(login::log_out))
        // Native: any image at any size, and what is known of it
        .route("/i/{id}/{transform}", get(show::show))
        .route("/i/{id}/{transform}/{name}", get(show::show_named))
        .route("/v1/images/{id}", get(record::show))
        .route("/v1/images/{id}/focus", put(record::set_focus).delete(record::clear_focus))
        .route("/v1/images/{id}/variants", delete(record::purge))
        // Links
        .route("/imagewell/{namespace}/{org}/{blob}", any(s3::read))
        // Operation
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/v1/doctor", post(proxy_probe::show))
        // Pages
        .route("/", get(pages::home))
        .route("/openapi.json", get(pages::openapi))
        .route("/assets/{name}", get(pages::asset));
    let router = if service.demo.is_some() {
        router
            .route("/demo", get(pages::demo))
            .route("/demo/avatar", get(pages::avatar_demo))
            .route("/demo/transforms", get(pages::transforms))
    } else {
        router
    };
    let router = router.fallback(guard::not_found);
    let router = if service.settings.server.cors_origins.is_empty() { router } else { router.layer(cors(&service)) };
    // One layer for what surrounds every route: a request copies what lies within each.
    let surroundings = service.clone();
    router.layer(layer_fn(move |inner| Surrounded { inner, service: surroundings.clone() })).with_state(service)
}

/// A fixed list of origins; an origin that isn't on it gets no header that lets it in.
fn cors(service: &Service) -> CorsLayer {
    let origins = service.settings.server.cors_origins.iter().filter_map(|origin| origin.0.parse().ok());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
        // Names of headers hold names of orgs: X-Csrf-Token_{org}.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([
            header::ACCEPT_RANGES,
            header::CONTENT_DISPOSITION,
            header::CONTENT_LENGTH,
            header::CONTENT_RANGE,
            header::ETAG,
            header::RETRY_AFTER,
            HeaderName::from_static("x-request-id"),
        ])
        .max_age(PREFLIGHT_SECONDS_MAX)
}

/// The API reference.
#[derive(OpenApi)]
#[openapi(
    info(title = "imagewell", description = "The service that applications hand their images to."),
    paths(
        upload::image,
        upload::image_by_path,
        read::image,
        base64::upload,
        read::image_base64,
        upload::file,
        upload::file_by_path,
        read::file,
        site::csrf_token,
        site::login_form,
        site::login,
        site::logout_by_link,
        site::logout,
        file_service::upload::upload,
        files::record,
        files::versions,
        files::by_handle,
        files::set_acl,
        files::delete,
        files::restore,
        token::generate,
        pictures::add,
        pictures::show,
        pictures::crop,
        avatars::take,
        avatars::show,
        avatars::show_version,
        avatars::drop_picture,
        login::log_in,
        login::renew,
        login::log_out,
        show::show,
        show::show_named,
        record::show,
        record::set_focus,
        record::clear_focus,
        record::purge,
        s3::read,
        health::alive,
        health::ready,
        health::metrics,
        proxy_probe::show,
    )
)]
pub struct ApiReference;

/// The API reference as JSON, for `docs/openapi.json` and `/openapi.json`.
#[must_use]
pub fn openapi_json() -> String {
    let mut text = ApiReference::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

//! A service that shows itself: sample accounts, one photograph uploaded through each API's front door, and what to try next.

use std::net::{IpAddr, Ipv4Addr};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, Request, header};
use imagewell_core::model::{AccountKind, ActionKey, BlobKey, Org, OrgId};
use imagewell_core::provision::{self, AccountPlan, Plan, Role, Secret};
use tower::ServiceExt as _;

use super::serve::{Hangup, Hangups, lock, random_password, until_signal};
use super::{Outcome, explained};
use crate::auth::address::ClientAddress;
use crate::config::Settings;
use crate::pages::DemoPage;
use crate::serve::Service;
use crate::{router, telemetry};

const ORG: &str = "acmepaymentscorp";
const APP_KEY: &str = "opstool";
const TILL: &str = "till01";
const CLIENT: &str = "backoffice";
const PERMISSION: &str = "opstool.AB_Crew.view";
/// A NASA portrait in the public domain; see testdata/README.md.
const PHOTOGRAPH: &[u8] = include_bytes!("../../../../testdata/photos/astronaut-512.jpg");
/// A cat, in the public domain too.
const CAT: &[u8] = include_bytes!("../../../../testdata/photos/chelsea.png");

pub(super) async fn run(mut settings: Settings) -> Outcome {
    if settings.service.log == "info" {
        settings.service.log = "warn".into();
    }
    telemetry::init_logs(&settings);
    // Unless a folder is named, the demo leaves nothing behind.
    let folder = tempfile::Builder::new().prefix("imagewell-demo-").tempdir()?;
    if settings.service.data_dir == Settings::default().service.data_dir {
        settings.service.data_dir = folder.path().to_path_buf();
    }
    let _lock = lock(&settings)?;
    let service = Service::open(settings, std::env::current_exe()?).await.map_err(explained)?;
    let sample = accounts(&service).await?;
    let router = router::router(service.clone());
    let (login, password) = (sample.users[0].0, sample.users[0].1.clone());
    let image = upload(&router, login, &password).await?;
    let file = upload_file(&router, &sample).await?;
    let service = service.with_demo(DemoPage {
        accounts: sample.users.clone(),
        images: vec![image.clone()],
        files: vec![BlobKey::from_stored(file)],
        app_key: APP_KEY,
        permission: PERMISSION,
    });
    let demo = service.demo.clone();
    until_signal(service, Hangups::new(Hangup::End)?, |url| {
        if let Some(demo) = demo {
            explain(url, &demo, &image);
            explain_files(url, &sample);
            explain_avatars(url, &sample);
            explain_transforms(url, &image);
            println!("\nStop it with Ctrl-C.");
        }
    })
    .await
}

/// Accounts of the demo, with secrets that are made at every start.
struct Sample {
    users: Vec<(&'static str, String, &'static str)>,
    till_password: String,
    client_secret: String,
}

async fn accounts(service: &Service) -> Result<Sample, Box<dyn std::error::Error>> {
    let samples = [
        ("ada", "crew", "uploads and sees images"),
        ("bob", "uploader", "uploads, but may not see the crew's images"),
        ("admin", "site-admin", "may do everything in this org"),
    ];
    let action = |key: &str| ActionKey::parse(key).map_err(|error| error.to_string());
    let crew = Role { org: ORG.into(), name: "crew".into(), actions: vec![action(PERMISSION)?, action(ActionKey::UPLOAD)?] };
    let mut plan = Plan { orgs: vec![Org { id: OrgId(100_606), name: ORG.into() }], roles: vec![crew], ..Plan::default() };
    let mut shown = Vec::new();
    for (login, role, may) in samples {
        let password = random_password()?;
        plan.accounts.push(account(AccountKind::User, login, &password, &[role]));
        shown.push((login, password, may));
    }
    let (till_password, client_secret) = (random_password()?, random_password()?);
    plan.accounts.push(account(AccountKind::Till, TILL, &till_password, &[]));
    plan.accounts.push(account(AccountKind::Client, CLIENT, &client_secret, &[]));
    provision::apply(&service.app, plan).await.map_err(explained)?;
    Ok(Sample { users: shown, till_password, client_secret })
}

fn account(kind: AccountKind, login: &str, secret: &str, roles: &[&str]) -> AccountPlan {
    AccountPlan {
        kind,
        org: ORG.into(),
        login: login.into(),
        email: (kind == AccountKind::User).then(|| format!("{login}@example.com")),
        secret: Secret::Plain(secret.to_owned()),
        roles: roles.iter().map(ToString::to_string).collect(),
        token_ttl_seconds: None,
        disabled: false,
    }
}

/// Gets a token and uploads with it, as a back office would. Gives the key of the bytes.
async fn upload_file(router: &Router, sample: &Sample) -> Result<String, Box<dyn std::error::Error>> {
    let credentials = serde_json::json!({ "key": CLIENT, "secret": sample.client_secret }).to_string();
    let (_, answer) = send(router, Request::post("/v3/oauth/token/generate").body(Body::from(credentials))?).await?;
    let token = answer["data"]["accessToken"].as_str().ok_or_else(|| format!("there is no token: {answer}"))?;
    let request = Request::post("/api_gateway/file-service/rewards/chelsea.png")
        .header("x-cap-api-oauth-token", token)
        .body(Body::from(CAT))?;
    let (_, answer) = send(router, request).await?;
    let key = answer["file"]["s3_token"].as_str().ok_or_else(|| format!("the upload was refused: {answer}"))?;
    Ok(key.to_owned())
}

/// Logs in and uploads as a client would, through every layer but the socket.
async fn upload(router: &Router, login: &str, password: &str) -> Result<String, Box<dyn std::error::Error>> {
    let (visitor, csrf) = csrf_token(router, None).await?;
    let credentials = serde_json::json!({ "username": login, "password": password }).to_string();
    let request = Request::post("/site/login")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::COOKIE, visitor)
        .header("x-csrf-token", csrf)
        .body(Body::from(credentials))?;
    let (session, _) = send(router, request).await?;
    let session = session.ok_or("the login set no cookie")?;
    let (_, csrf) = csrf_token(router, Some(&session)).await?;
    let boundary = "imagewell-demo-boundary";
    let part = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"image\"; filename=\"astronaut.jpg\"\r\nContent-Type: image/jpeg\r\n\r\n"
    );
    let body = [part.as_bytes(), PHOTOGRAPH, format!("\r\n--{boundary}--\r\n").as_bytes()].concat();
    let request = Request::post(format!("/opsportal/image/{APP_KEY}/{PERMISSION}/false"))
        .header(header::CONTENT_TYPE, format!("multipart/form-data; boundary={boundary}"))
        .header(header::COOKIE, session)
        .header("x-csrf-token", csrf)
        .body(Body::from(body))?;
    let (_, answer) = send(router, request).await?;
    let uuid = answer["data"]["uuid"].as_str().ok_or_else(|| format!("the upload was refused: {answer}"))?;
    Ok(format!("/opsportal/image/{APP_KEY}/{uuid}"))
}

async fn csrf_token(router: &Router, session: Option<&str>) -> Result<(String, String), Box<dyn std::error::Error>> {
    let request = Request::get("/csrfToken").header(header::COOKIE, session.unwrap_or_default()).body(Body::empty())?;
    let (cookie, answer) = send(router, request).await?;
    let token = answer["_csrf"].as_str().ok_or("there is no CSRF token")?.to_owned();
    Ok((cookie.unwrap_or_default(), token))
}

/// The cookie that an answer sets, and its JSON.
async fn send(
    router: &Router,
    mut request: Request<Body>,
) -> Result<(Option<String>, serde_json::Value), Box<dyn std::error::Error>> {
    request.extensions_mut().insert(ClientAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
    let response = router.clone().oneshot(request).await?;
    let cookie = response.headers().get(header::SET_COOKIE).and_then(|value| value.to_str().ok());
    let cookie = cookie.and_then(|value| value.split(';').next()).map(str::to_owned);
    let body = to_bytes(response.into_body(), 1024 * 1024).await?;
    Ok((cookie, serde_json::from_slice(&body)?))
}

fn explain(url: &str, demo: &DemoPage, image: &str) {
    let (login, password, _) = &demo.accounts[0];
    println!("imagewell is running. Two photographs are uploaded already.\n");
    println!("Open in a browser, log in, upload and look:\n\n    {url}/demo\n");
    for (login, password, may) in &demo.accounts {
        println!("    {login:<6} {password}   {may}");
    }
    println!("\nThe same with curl:\n");
    println!("    portal=$(mktemp)");
    println!("    token() {{ curl -s -b $portal -c $portal {url}/csrfToken | sed 's/.*:\"//; s/\".*//'; }}");
    println!(
        "    curl -w '\\n' -b $portal -c $portal -H \"X-CSRF-Token: $(token)\" {url}/site/login -d username={login} -d password={password}"
    );
    println!("    curl -b $portal -o photo.jpg {url}{image}");
    println!(
        "    curl -w '\\n' -b $portal -H \"X-CSRF-Token: $(token)\" -F image=@photo.jpg {url}/opsportal/image/{APP_KEY}/{PERMISSION}/false"
    );
}

fn explain_avatars(url: &str, sample: &Sample) {
    let (login, password, _) = &sample.users[0];
    println!("\nAvatars: put a picture into the dropbox, select a part of it, take it. Open {url}/demo/avatar or type\n");
    println!("    jar=$(mktemp)");
    println!("    curl -s -c $jar {url}/api/login -d '{{\"email\":\"{login}\",\"password\":\"{password}\"}}'; echo");
    println!("    csrf=\"X-Csrf-Token_{ORG}: $(sed -n 's/.*Csrf-Token_{ORG}\\t//p' $jar)\"");
    println!("    id=$(curl -s -b $jar -H \"$csrf\" -F Profile=@photo.jpg {url}/api/dropbox/pictures)");
    println!("    curl -s -b $jar -H \"$csrf\" -X PUT {url}/api/dropbox/pictures/$id -d x=170 -d y=10 -d w=180 -d h=180");
    println!("    curl -o cropped.jpg {url}/api/dropbox/pictures/$id?size=256");
    println!(
        "    curl -w '\\n' -b $jar -H \"$csrf\" -X PUT {url}/api/users/{login}/avatar -d \"{{\\\"PictureID\\\":\\\"$id\\\"}}\""
    );
    println!("    curl -b $jar -o avatar.jpg {url}/api/users/{login}/avatar?size=128");
}

fn explain_files(url: &str, sample: &Sample) {
    let Sample { till_password, client_secret, .. } = sample;
    println!("\nThe file service, as the till {TILL} (password {till_password}), whose password is sent as its MD5:\n");
    println!("    md5=$(printf %s {till_password} | md5sum | cut -d' ' -f1)");
    println!("    answer=$(curl -s -u {TILL}:$md5 --data-binary @photo.jpg {url}/api_gateway/file-service/rewards/photo.jpg)");
    println!("    echo \"$answer\"");
    println!("    curl -o again.jpg \"$(echo \"$answer\" | sed 's/.*secureFilePath\":\"//; s/\".*//')\"");
    println!("    curl -w '\\n' -u {TILL}:$md5 {url}/api_gateway/file-service/rewards/photo.jpg/versions");
    println!("\nOr with a token for the client {CLIENT}:\n");
    println!(
        "    token=$(curl -s {url}/v3/oauth/token/generate -d '{{\"key\":\"{CLIENT}\",\"secret\":\"{client_secret}\"}}' | \
         sed 's/.*accessToken\":\"//; s/\".*//')"
    );
    println!("    curl -w '\\n' -H \"X-CAP-API-OAUTH-TOKEN: $token\" {url}/api_gateway/file-service/rewards/chelsea.png");
}

fn explain_transforms(url: &str, image: &str) {
    let id = image.rsplit('/').next().unwrap_or_default();
    println!(
        "\nTransforms: every size, crop and format of one photograph. Log in and open {url}/demo/transforms or, logged in as above, type\n"
    );
    println!("    curl -b $portal -o small.webp {url}/i/{id}/w_300,h_200,fit_cover,g_attention,f_webp");
    println!("    curl -w '\\n' -b $portal {url}/v1/images/{id}");
}

//! A service that shows itself: sample accounts, one photograph uploaded through the front door, and what to try next.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use imagewell_core::model::{AccountKind, ActionKey, Org, OrgId};
use imagewell_core::provision::{self, AccountPlan, Plan, Role};
use tower::ServiceExt as _;

use super::serve::{lock, random_password, until_signal};
use super::{Outcome, explained};
use crate::auth::address::Peer;
use crate::config::Settings;
use crate::pages::DemoPage;
use crate::serve::Service;
use crate::{router, telemetry};

const ORG: &str = "acmepaymentscorp";
const APP_KEY: &str = "opstool";
const PERMISSION: &str = "opstool.AB_Crew.view";
/// A NASA portrait in the public domain; see testdata/README.md.
const PHOTOGRAPH: &[u8] = include_bytes!("../../../../testdata/photos/astronaut-512.jpg");

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
    let mut service = Service::open(settings, std::env::current_exe()?).await.map_err(explained)?;
    let accounts = accounts(&service).await?;
    let (login, password) = (accounts[0].0, accounts[0].1.clone());
    let image = upload(&router::router(service.clone()), login, &password).await?;
    service.demo = Some(Arc::new(DemoPage { accounts, images: vec![image.clone()], app_key: APP_KEY, permission: PERMISSION }));
    let demo = service.demo.clone();
    until_signal(service, |url| {
        if let Some(demo) = demo {
            explain(url, &demo, &image);
        }
    })
    .await
}

async fn accounts(service: &Service) -> Result<Vec<(&'static str, String, &'static str)>, Box<dyn std::error::Error>> {
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
        plan.accounts.push(AccountPlan {
            kind: AccountKind::User,
            org: ORG.into(),
            login: login.into(),
            email: Some(format!("{login}@example.com")),
            secret: password.clone(),
            roles: vec![role.into()],
            token_ttl_seconds: None,
            disabled: false,
        });
        shown.push((login, password, may));
    }
    provision::apply(&service.app, plan).await.map_err(explained)?;
    Ok(shown)
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
    request.extensions_mut().insert(Peer(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)));
    let response = router.clone().oneshot(request).await?;
    let cookie = response.headers().get(header::SET_COOKIE).and_then(|value| value.to_str().ok());
    let cookie = cookie.and_then(|value| value.split(';').next()).map(str::to_owned);
    let body = to_bytes(response.into_body(), 1024 * 1024).await?;
    Ok((cookie, serde_json::from_slice(&body)?))
}

fn explain(url: &str, demo: &DemoPage, image: &str) {
    let (login, password, _) = &demo.accounts[0];
    println!("imagewell is running. One photograph is uploaded already.\n");
    println!("Open in a browser, log in, upload and look:\n\n    {url}/demo\n");
    for (login, password, may) in &demo.accounts {
        println!("    {login:<6} {password}   {may}");
    }
    println!("\nThe same with curl:\n");
    println!("    jar=$(mktemp)");
    println!("    token() {{ curl -s -b $jar -c $jar {url}/csrfToken | sed 's/.*:\"//; s/\".*//'; }}");
    println!(
        "    curl -w '\\n' -b $jar -c $jar -H \"X-CSRF-Token: $(token)\" {url}/site/login -d username={login} -d password={password}"
    );
    println!("    curl -b $jar -o photo.jpg {url}{image}");
    println!(
        "    curl -w '\\n' -b $jar -H \"X-CSRF-Token: $(token)\" -F image=@photo.jpg {url}/opsportal/image/{APP_KEY}/{PERMISSION}/false"
    );
    println!("\nStop it with Ctrl-C.");
}

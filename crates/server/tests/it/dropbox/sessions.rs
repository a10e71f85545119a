//! Logging in, renewing, logging out, and the CSRF token, with the org's name in every cookie and header.

use std::time::Duration;

use super::{PICTURES, Portal, form, refused};
use crate::app::{Answer, PASSWORD, TestApp};
use crate::fixtures::png;

const SESSION: &str = "AtmoAuthToken_acme";
const CSRF: &str = "Csrf-Token_acme";

#[tokio::test]
async fn a_login_sets_the_cookies_of_the_users_org() {
    let app = TestApp::start().await;
    let mut ada = Portal::visitor(&app);
    let answer = ada.log_in("ada@example.com", PASSWORD).await;
    assert_eq!(answer.json(), serde_json::json!({ "login": "ada", "fedmemberid": "acme" }));
    let cookies: Vec<&str> = answer.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().expect("text")).collect();
    assert_eq!(cookies.len(), 2);
    assert!(cookies[0].starts_with(&format!("{SESSION}=TokenID%3D")) && cookies[0].contains("; HttpOnly"), "{}", cookies[0]);
    assert!(cookies[0].contains("Max-Age=1800") && cookies[0].contains("SameSite=Lax"));
    for field in ["%2Cclaimed%5Fid%3Dada%2C", "issueTime%3D", "expirationTime%3D", "%2Csig%3D"] {
        assert!(cookies[0].contains(field), "{field}: {}", cookies[0]);
    }
    let token = &ada.cookies[CSRF];
    assert!(token.starts_with("TokenID%3D") && token.contains("%2CexpirationTime%3D") && !cookies[1].contains("HttpOnly"));
    assert_eq!(token.len(), "TokenID%3D".len() + 36 + "%2CexpirationTime%3D".len() + 13);
    refused(&Portal::visitor(&app).log_in("ada", "wrong").await, 401);
    refused(&Portal::visitor(&app).log_in("nobody", PASSWORD).await, 401);
    let nonsense = Answer::of(ada.request("POST", "/api/login").body("email=ada")).await;
    assert!(refused(&nonsense, 400).contains("JSON"));
    assert!(Portal::user(&app, "eve").await.cookies.contains_key("AtmoAuthToken_other"));
}

#[tokio::test]
async fn without_the_login_or_the_csrf_header_nothing_is_changed() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    let bob = Portal::user(&app, "bob").await;
    let before = app.stored().await;
    let post = async |portal: &Portal, header: Option<(&str, &str)>| {
        let mut request = portal.request("POST", PICTURES).multipart(form("Profile", png(8, 8, 1)));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        Answer::of(request).await
    };
    let header = format!("X-{CSRF}");
    let token = ada.cookies[CSRF].clone();
    let decoded = token.replace("%3D", "=").replace("%2C", ",");
    let later = format!("{}9999999999999", &token[..token.len() - 13]);
    for (what, value) in [
        ("none", None),
        ("empty", Some("")),
        ("another's", Some(bob.cookies[CSRF].as_str())),
        ("decoded", Some(decoded.as_str())),
        ("a later end", Some(later.as_str())),
        ("cut", Some(&token[..40])),
    ] {
        let answer = post(&ada, value.map(|value| (header.as_str(), value))).await;
        assert!(refused(&answer, 401).contains("X-Csrf-Token_"), "{what}");
    }
    refused(&post(&ada, Some(("X-Csrf-Token_other", &token))).await, 401);
    for (name, value) in [(SESSION, "TokenID%3Dx".to_owned()), ("AtmoAuthToken_other", ada.cookies[SESSION].clone())] {
        let mut bent = ada.clone();
        bent.cookies.remove(SESSION);
        bent.cookies.insert(name.to_owned(), value);
        assert!(refused(&post(&bent, Some((&header, &token))).await, 401).contains("log in"));
    }
    refused(&post(&Portal::visitor(&app), Some((&header, &token))).await, 401);
    assert_eq!(app.stored().await, before);
    assert_eq!(post(&ada, Some((&header.to_uppercase(), &token))).await.status.as_u16(), 200, "names of headers know no case");
}

#[tokio::test]
async fn a_session_is_renewed_while_it_is_good_and_ends_with_its_logout() {
    let app = TestApp::with(&[("dropbox.session_seconds", "2")]).await;
    let mut ada = Portal::user(&app, "ada").await;
    let before = ada.clone();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let renewed = Answer::of(ada.change("POST", "/api/login/renewToken")).await;
    assert_eq!(renewed.status.as_u16(), 200, "{}", renewed.text());
    ada.keep_cookies(&renewed);
    assert_ne!(ada.cookies[SESSION], before.cookies[SESSION]);
    refused(&before.add(png(8, 8, 1)).await, 401);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(ada.add(png(8, 8, 1)).await.status.as_u16(), 200, "past the first session's end");
    tokio::time::sleep(Duration::from_millis(1000)).await;
    refused(&Answer::of(ada.change("POST", "/api/login/renewToken")).await, 401);

    let mut ada = Portal::user(&app, "ada").await;
    let last = ada.clone();
    let logout = Answer::of(ada.change("POST", "/api/logout")).await;
    assert_eq!(logout.status.as_u16(), 200);
    ada.keep_cookies(&logout);
    assert_eq!((ada.cookies[SESSION].as_str(), ada.cookies[CSRF].as_str()), ("", ""));
    refused(&last.add(png(8, 8, 1)).await, 401);
    refused(&Answer::of(last.change("POST", "/api/logout")).await, 401);
}

#[tokio::test]
async fn csrf_may_be_asked_for_on_reads_and_not_on_writes() {
    let app = TestApp::with(&[("dropbox.csrf_on_reads", "true")]).await;
    let ada = Portal::user(&app, "ada").await;
    refused(&ada.get("/api/users/ada/avatar").await, 401);
    assert_eq!(Answer::of(ada.change("GET", "/api/users/ada/avatar")).await.status.as_u16(), 200);

    let app = TestApp::with(&[("dropbox.csrf_on_writes", "false")]).await;
    let ada = Portal::user(&app, "ada").await;
    assert!(!ada.cookies.contains_key(CSRF));
    assert_eq!(ada.add(png(8, 8, 1)).await.status.as_u16(), 200);
    // What the browser says of its origin is heard all the same.
    let foreign = ada.request("POST", PICTURES).header("sec-fetch-site", "cross-site").multipart(form("Profile", png(8, 8, 1)));
    refused(&Answer::of(foreign).await, 401);
}

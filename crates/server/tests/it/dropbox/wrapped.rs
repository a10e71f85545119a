//! Answers for pages that post through an iframe: HTML around the same text and status.

use reqwest::multipart::{Form, Part};

use super::{PICTURES, Portal, form};
use crate::app::{Answer, TestApp};
use crate::fixtures::png;

const WRAPPED: &str = "/api/dropbox/pictures?wrapInHTML=true&document.domain=";

/// Asserts the wrapping and gives the text of the body.
#[track_caller]
fn unwrapped(answer: &Answer, status: u16) -> String {
    let page = answer.text();
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (status, "text/html; charset=utf-8"), "{page}");
    assert!(page.len() > 512, "{}", page.len());
    let text = if status == 200 { "success" } else { "error" };
    assert!(
        page.starts_with(&format!("<!DOCTYPE html><html lang=\"en\" status=\"{status}\" statusText=\"{text}\"><head>")),
        "{page}"
    );
    for meta in
        ["http-equiv=\"Content-Type\"", "content=\"IE=edge\" http-equiv=\"X-UA-Compatible\"", "<meta name=\"description\""]
    {
        assert!(page.contains(meta), "{meta}");
    }
    let opening = format!("<body status=\"{status}\" statusText=\"{text}\">");
    let body = page.split(&opening).nth(1).unwrap_or_else(|| panic!("{page}"));
    body.strip_suffix("</body></html>").expect("nothing behind the body").to_owned()
}

/// A post as an iframe makes it: no header but the cookies; the token in a field before the picture.
async fn post(portal: &Portal, query: &str, field: Option<(String, String)>, bytes: Vec<u8>) -> Answer {
    let mut body = Form::new();
    if let Some((name, value)) = field {
        body = body.text(name, value);
    }
    let body = body.part("Profile", Part::bytes(bytes).file_name("avatar.png"));
    Answer::of(portal.request("POST", &format!("{WRAPPED}{query}")).multipart(body)).await
}

fn token(portal: &Portal) -> (String, String) {
    ("X-Csrf-Token_acme".to_owned(), portal.cookies["Csrf-Token_acme"].clone())
}

#[tokio::test]
async fn a_post_through_an_iframe_is_answered_in_html() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    let answer = post(&ada, "", Some(token(&ada)), png(8, 8, 1)).await;
    let ticket = unwrapped(&answer, 200);
    assert_eq!(ada.get(&format!("{PICTURES}/{ticket}")).await.status.as_u16(), 200);
    assert_eq!(answer.header("content-security-policy"), "default-src 'none'", "it may stand in a frame, and runs nothing");
    // In the query, as it is, encoded once more, or as the header.
    let (name, value) = token(&ada);
    for query in [format!("&{name}={value}"), format!("&{name}={}", value.replace('%', "%25"))] {
        unwrapped(&post(&ada, &query, None, png(8, 8, 1)).await, 200);
    }
    let by_header = ada.change("POST", WRAPPED).multipart(form("Profile", png(8, 8, 1)));
    unwrapped(&Answer::of(by_header).await, 200);
    let other_case = (name.to_lowercase(), value.replace("%3D", "=").replace("%2C", ","));
    unwrapped(&post(&ada, "", Some(other_case), png(8, 8, 1)).await, 200);
}

/// With a domain whose pages may read the answers.
const LISTED: [(&str, &str); 1] = [("dropbox.document_domains", "b.example, Portal.example.com")];

#[tokio::test]
async fn a_domain_is_set_by_a_script_that_the_policy_knows() {
    let app = TestApp::with(&LISTED).await;
    let ada = Portal::user(&app, "ada").await;
    let answer = post(&ada, "portal.example.com", Some(token(&ada)), png(8, 8, 1)).await;
    unwrapped(&answer, 200);
    assert!(answer.text().contains("<script>document.domain=\"portal.example.com\";</script></head>"));
    assert!(answer.header("content-security-policy").starts_with("default-src 'none'; script-src 'sha256-"));
    assert_eq!(answer.header("origin-agent-cluster"), "?0");
    let before = app.stored().await;
    for domain in ["%3Cscript%3Ealert(1)%3C%2Fscript%3E", "a%22%3Balert(1)%2F%2F", "a..b", "-a.com", "a%0Ab"] {
        let answer = post(&ada, domain, Some(token(&ada)), png(8, 8, 1)).await;
        assert_eq!(unwrapped(&answer, 400), "Not accepted: document.domain is no domain.");
        assert!(!answer.text().contains("<script") && !answer.text().contains("alert"), "{}", answer.text());
    }
    assert_eq!(app.stored().await, before);
}

/// Row H11: who can read an answer, and with it whatever the browser has open of this host, is for the operator to say.
#[tokio::test]
async fn a_domain_that_is_not_listed_is_refused_without_a_script() {
    let anybody = TestApp::start().await;
    let listed = TestApp::with(&LISTED).await;
    for (app, domains) in [
        (&anybody, &["example.com", "portal.example.com", "localhost"][..]),
        (&listed, &["example.com", "com", "www.portal.example.com", "portal.example.com.", "example"]),
    ] {
        let ada = Portal::user(app, "ada").await;
        let before = app.stored().await;
        for domain in domains {
            let answer = post(&ada, domain, Some(token(&ada)), png(8, 8, 1)).await;
            assert!(unwrapped(&answer, 400).contains("document.domain"), "{domain}");
            assert!(!answer.text().contains("<script") && answer.header("origin-agent-cluster").is_empty(), "{domain}");
        }
        assert_eq!(app.stored().await, before);
    }
}

/// A page on a sibling host would read the CSRF cookie from the frame of a refusal.
#[tokio::test]
async fn nobody_who_has_not_proved_itself_gets_a_script() {
    let app = TestApp::with(&LISTED).await;
    let (ada, bob) = (Portal::user(&app, "ada").await, Portal::user(&app, "bob").await);
    let before = app.stored().await;
    let domain = "portal.example.com";
    for (portal, field) in [(&Portal::visitor(&app), None), (&ada, None), (&ada, Some(token(&bob)))] {
        let answer = post(portal, domain, field, png(8, 8, 1)).await;
        unwrapped(&answer, 401);
        assert!(!answer.text().contains("<script"), "{}", answer.text());
    }
    for (method, path) in [("PUT", "/api/dropbox/pictures/1001"), ("PUT", "/api/users/ada/avatar")] {
        let path = format!("{path}?wrapInHTML=true&document.domain={domain}");
        let unproved = Answer::of(ada.request(method, &path).body("x=1")).await;
        unwrapped(&unproved, 401);
        assert!(!unproved.text().contains("<script"), "{path}");
        let proved = Answer::of(ada.change(method, &path).body("x=1")).await;
        assert!(proved.text().contains("<script>"), "{path}: {}", proved.text());
    }
    // Whoever is proved reads from the frame why its picture is refused.
    let refused = post(&ada, domain, Some(token(&ada)), b"no picture".to_vec()).await;
    assert!(unwrapped(&refused, 400).contains("accepted are") && refused.text().contains("<script>"));
    assert_eq!(app.stored().await, before);
}

/// Row A2: the token alone is not enough where the browser says that another site sends it.
#[tokio::test]
async fn a_token_in_the_hands_of_another_site_is_refused() {
    let app = TestApp::with(&LISTED).await;
    let ada = Portal::user(&app, "ada").await;
    let before = app.stored().await;
    let send = async |domain: &str, site: &str, origin: &str| {
        let body = form("Profile", png(8, 8, 1));
        let request = ada.change("POST", &format!("{WRAPPED}{domain}")).header("sec-fetch-site", site).header("origin", origin);
        Answer::of(request.multipart(body)).await
    };
    for (domain, site, origin) in [
        ("", "same-site", "http://other.example.com"),
        ("", "same-site", "http://www.portal.example.com"),
        ("", "cross-site", "null"),
        ("portal.example.com", "same-site", "http://other.example.com"),
        ("portal.example.com", "cross-site", "https://evilportal.example.com"),
        ("b.example", "same-site", "http://www.portal.example.com"),
    ] {
        let answer = send(domain, site, origin).await;
        unwrapped(&answer, 401);
        assert!(!answer.text().contains("<script"), "{origin}");
    }
    let plain = ada.change("POST", PICTURES).header("sec-fetch-site", "same-site").header("origin", "http://other.example.com");
    assert_eq!(Answer::of(plain.multipart(form("Profile", png(8, 8, 1)))).await.status.as_u16(), 401);
    assert_eq!(app.stored().await, before);
    unwrapped(&send("portal.example.com", "same-site", "http://www.portal.example.com:8080").await, 200);
    unwrapped(&send("", "same-origin", "http://images.example.com").await, 200);
}

#[tokio::test]
async fn refusals_come_wrapped_too_and_leave_nothing() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    let bob = Portal::user(&app, "bob").await;
    let before = app.stored().await;
    assert!(unwrapped(&post(&Portal::visitor(&app), "", None, png(8, 8, 1)).await, 401).contains("log in"));
    assert!(unwrapped(&post(&ada, "", None, png(8, 8, 1)).await, 401).contains("X-Csrf-Token_"));
    assert!(unwrapped(&post(&ada, "", Some(token(&bob)), png(8, 8, 1)).await, 401).contains("X-Csrf-Token_"));
    assert!(unwrapped(&post(&ada, "", Some(token(&ada)), b"<b>no picture</b>".to_vec()).await, 400).contains("accepted are"));
    // Behind the picture a field comes too late.
    let (name, value) = token(&ada);
    let late = Form::new().part("Profile", Part::bytes(png(8, 8, 1)).file_name("a")).text(name, value);
    unwrapped(&Answer::of(ada.request("POST", WRAPPED).multipart(late)).await, 401);
    // Without the wrapping a field is no header.
    let (name, value) = token(&ada);
    let plain = Form::new().text(name, value).part("Profile", Part::bytes(png(8, 8, 1)).file_name("a"));
    assert_eq!(Answer::of(ada.request("POST", PICTURES).multipart(plain)).await.status.as_u16(), 401);
    assert_eq!(app.stored().await, before);
}

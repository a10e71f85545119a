//! Links and plain addresses: what opens without a login, for how long, and what doesn't.

use std::time::{Duration, Instant};

use imagewell_core::model::KeyPurpose;
use reqwest::{Client, Method};

use super::{FileAnswer as _, Machine, open, s3_error};
use crate::app::{Answer, FOLDER, TestApp};
use crate::fixtures::{photograph, png, png_of_bytes};

async fn asked(method: &str, link: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Client::new().request(method.parse::<Method>().expect("method"), link);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request).await
}

fn is_altered(answer: &Answer) -> bool {
    let message = s3_error(answer, 403, "AccessDenied");
    message.contains("sign") || message.contains("X-Amz") || message.contains("parameter")
}

#[tokio::test]
async fn a_link_opens_without_a_login_with_ranges_head_and_conditions() {
    let app = TestApp::with(&[FOLDER]).await;
    let till = Machine::till(&app, "till01");
    let bytes = png_of_bytes(2_500_000, 1);
    for (name, bytes) in [("small.jpg", photograph()), ("large.png", bytes)] {
        let link = till.upload(name, bytes.clone()).await.link();
        let names: Vec<String> =
            link.split(['?', '&']).skip(1).map(|pair| pair.split('=').next().expect("name").to_owned()).collect();
        let expected =
            ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"];
        assert_eq!(names, expected);
        assert!(link.starts_with(&format!("{}/imagewell/rewards/100606/", app.url(""))) && link.contains("X-Amz-Expires=3600&"));
        let whole = open(&link).await;
        assert!(whole.status.as_u16() == 200 && whole.body == bytes);
        assert_eq!(whole.header("content-disposition"), format!("inline; filename=\"{name}\""));
        assert_eq!((whole.header("referrer-policy"), whole.header("x-content-type-options")), ("no-referrer", "nosniff"));
        assert_eq!(whole.header("cross-origin-resource-policy"), "cross-origin", "any page may show what it has a link to");
        assert!(whole.header("cache-control").starts_with("private") && !whole.headers.contains_key("set-cookie"));

        let head = asked("HEAD", &link, &[]).await;
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), bytes.len().to_string());
        let part = asked("GET", &link, &[("range", "bytes=1000-1999")]).await;
        assert!(part.status.as_u16() == 206 && part.body == bytes[1000..2000]);
        let past = asked("GET", &link, &[("range", "bytes=9999999-")]).await;
        assert_eq!((past.status.as_u16(), past.header("content-range")), (416, format!("bytes */{}", bytes.len()).as_str()));
        assert_eq!(asked("GET", &link, &[("if-none-match", whole.header("etag"))]).await.status.as_u16(), 304);
        assert_eq!(asked("GET", &link, &[("if-match", "\"other\"")]).await.status.as_u16(), 412);
    }
}

#[tokio::test]
async fn a_link_altered_in_any_byte_opens_nothing() {
    let app = TestApp::with(&[FOLDER]).await;
    let till = Machine::till(&app, "till01");
    let link = till.upload("a.png", png(8, 8, 1)).await.link();
    let path_at = link.find("/imagewell/").expect("path") + "/imagewell/".len();
    let signature_at = link.find("X-Amz-Signature").expect("signature");
    let client = Client::new();
    let mut tried = 0;
    for index in path_at..link.len() {
        // Every byte of the signature, and of the rest every one too; what can't stand in a URL is left out.
        for replacement in if index < signature_at { &b"0aA"[..] } else { &b"0f"[..] } {
            let mut bent = link.clone().into_bytes();
            if bent[index] == *replacement || matches!(bent[index], b'%' | b'/') {
                continue;
            }
            bent[index] = *replacement;
            let bent = String::from_utf8(bent).expect("text");
            let answer = Answer::of(client.get(&bent)).await;
            // A changed path may also leave the shape that links have.
            assert!(matches!(answer.status.as_u16(), 403), "{bent}: {}", answer.text());
            s3_error(&answer, 403, "AccessDenied");
            tried += 1;
        }
    }
    assert!(tried > 500, "{tried}");
    assert_eq!(open(&link).await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_link_is_good_for_its_path_its_method_and_its_version_alone() {
    let app = TestApp::with(&[FOLDER]).await;
    let till = Machine::till(&app, "till01");
    let first = till.upload("a.png", png(8, 8, 1)).await;
    let second = till.upload("a.png", png(8, 8, 2)).await;
    let other = till.upload("b.png", png(8, 8, 3)).await;
    let foreign = Machine::till(&app, "till02").upload("a.png", png(8, 8, 4)).await;
    let before = app.stored().await;
    let (link, key) = (first.link(), first.file()["s3_token"].as_str().expect("key").to_owned());
    for answer in [&second, &other, &foreign] {
        let moved = link.replace(&key, answer.file()["s3_token"].as_str().expect("key"));
        assert!(is_altered(&open(&moved).await));
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        s3_error(&asked(method, &link, &[]).await, 403, "AccessDenied");
    }
    assert_eq!(app.stored().await, before);
    let query = link.split('?').nth(1).expect("query");
    let swapped = query.split('&').rev().collect::<Vec<_>>().join("&");
    assert_eq!(open(&link.replace(query, &swapped)).await.status.as_u16(), 200, "the order of parameters means nothing");
    for altered in [
        format!("{link}&versionId=1"),
        format!("{link}&response-content-type=text%2Fhtml"),
        format!("{link}&X-Amz-Expires=3600"),
        link.replace("X-Amz-SignedHeaders=host&", ""),
        link.replace("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders=host%3Brange"),
        link.replace("X-Amz-Expires=3600", "X-Amz-Expires=604800"),
        link.replace("X-Amz-Expires=3600", "X-Amz-Expires=604801"),
        link.replace("X-Amz-Expires=3600", "X-Amz-Expires=-1"),
        link.replace("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"),
        link.replace("us-east-1", "eu-west-1"),
        link.replace("%2Fs3%2F", "%2Fiam%2F"),
        link.replace("127.0.0.1", "localhost"),
    ] {
        assert!(is_altered(&open(&altered).await), "{altered}");
    }
    for bent in [
        "/rew%20ards/",
        "/rewards%00/",
        "/%22rewards/",
        "/%FF/",
        "/rewards%2F/",
        "/%F0%9F%98%80/",
        "/rewards%3Fx/",
        "/rewards%23/",
    ] {
        s3_error(&open(&link.replace("/rewards/", bent)).await, 403, "AccessDenied");
    }
    let nothing = link.split('?').next().expect("path");
    for link in [nothing.to_owned(), format!("{nothing}?"), nothing.replace("/100606/", "/1/"), app.url("/imagewell/x/y/z")] {
        s3_error(&open(&link).await, 403, "AccessDenied");
    }
    s3_error(&open(&app.url("/imagewell/x")).await, 403, "AccessDenied");
}

#[tokio::test]
async fn a_link_ends_with_its_seconds() {
    let app = TestApp::with(&[FOLDER, ("file_service.link_ttl_seconds", "2")]).await;
    let link = Machine::till(&app, "till01").upload("a.png", png(8, 8, 1)).await.link();
    assert_eq!(open(&link).await.status.as_u16(), 200);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    for method in ["GET", "HEAD"] {
        assert_eq!(asked(method, &link, &[]).await.status.as_u16(), 403);
    }
    assert_eq!(s3_error(&open(&link).await, 403, "AccessDenied"), "Request has expired");
}

/// A signer whose clock is ahead may be ahead by a quarter of an hour, as at S3.
#[tokio::test]
async fn links_of_a_clock_that_is_off_are_refused() {
    let app = TestApp::with(&[FOLDER]).await;
    let answer = Machine::till(&app, "till01").upload("a.png", png(8, 8, 1)).await;
    let key = app.service.app.keys.current(KeyPurpose::Links).expect("key");
    let address = answer.link().split('?').next().expect("path").to_owned();
    for (offset_seconds, opens) in [(-3500, true), (0, true), (800, true), (1000, false), (86_400, false), (-3700, false)] {
        let link = signed_elsewhere(&key.id, &key.secret, &address, offset_seconds);
        assert_eq!(open(&link).await.status.as_u16(), if opens { 200 } else { 403 }, "{offset_seconds}");
    }
    let stranger = signed_elsewhere("IWLAAAAAAAAAAAAAAAA", "secret", &address, 0);
    assert!(is_altered(&open(&stranger).await));
}

/// The computation by its specification (AWS, "Authenticating Requests: Using Query Parameters"), apart from the library.
/// `others` are further parameters, escaped.
fn signed_with(id: &str, secret: &str, address: &str, offset_seconds: i64, others: &str) -> String {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    use sha2::{Digest as _, Sha256};
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mac = |key: &[u8], text: &str| {
        let mut mac = <Hmac<Sha256>>::new_from_slice(key).expect("key");
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    let time = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(offset_seconds);
    let time = time.strftime("%Y%m%dT%H%M%SZ").to_string();
    let (host, path) = address.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("address");
    let scope = format!("{}/us-east-1/s3/aws4_request", &time[..8]);
    let query = format!(
        "{others}&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={id}%2F{}&X-Amz-Date={time}&X-Amz-Expires=3600&X-Amz-SignedHeaders=host",
        scope.replace('/', "%2F")
    );
    let mut pairs: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    pairs.sort_unstable();
    let query = pairs.join("&");
    let request = format!("GET\n/{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(request.as_bytes())));
    let key = ["us-east-1", "s3", "aws4_request"]
        .iter()
        .fold(mac(format!("AWS4{secret}").as_bytes(), &time[..8]), |key, part| mac(&key, part));
    format!("{address}?{query}&X-Amz-Signature={}", hex(&mac(&key, &text)))
}

fn signed_elsewhere(id: &str, secret: &str, address: &str, offset_seconds: i64) -> String {
    signed_with(id, secret, address, offset_seconds, "")
}

/// The SDK for JavaScript signs `x-id` and more, boto3 `response-content-disposition`.
#[tokio::test]
async fn further_parameters_count_where_they_are_signed() {
    let app = TestApp::with(&[FOLDER]).await;
    let till = Machine::till(&app, "till01");
    let link = till.upload("a.png", png(8, 8, 1)).await.link();
    let address = link.split('?').next().expect("address");
    let key = app.service.app.keys.current(KeyPurpose::Links).expect("key");
    let read = async |others: &str| open(&signed_with(&key.id, &key.secret, address, 0, others)).await;
    let javascript = "&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&x-amz-checksum-mode=ENABLED&x-id=GetObject";
    let cases = [
        (javascript, "inline; filename=\"a.png\""),
        ("&response-content-disposition=attachment%3B%20filename%3D%22b.png%22", "attachment; filename=\"b.png\""),
        ("&response-content-disposition=inline&x=a%20b", "inline"),
        ("&response-content-type=text%2Fhtml", "inline; filename=\"a.png\""),
    ];
    for (others, disposition) in cases {
        let answer = read(others).await;
        assert_eq!(answer.status.as_u16(), 200, "{others}: {}", answer.text());
        assert_eq!((answer.header("content-disposition"), answer.header("content-type")), (disposition, "image/png"));
        let signed = signed_with(&key.id, &key.secret, address, 0, others);
        let taken_away = others.split('&').next_back().expect("a parameter");
        let shortened = signed.replace(&format!("&{taken_away}"), "").replace(&format!("?{taken_away}"), "?");
        assert!(shortened != signed && is_altered(&open(&shortened).await), "{taken_away} was taken away");
    }
}

#[tokio::test]
async fn public_files_have_a_plain_address_and_private_ones_have_none() {
    let app = TestApp::with(&[FOLDER]).await;
    let till = Machine::till(&app, "till01");
    let uploaded = till.upload("a.png", png(8, 8, 1)).await;
    let plain = app.url(&format!("/imagewell/{}", uploaded.file()["s3_token"].as_str().expect("key")));
    assert_eq!(s3_error(&open(&plain).await, 403, "AccessDenied"), "Access Denied");
    let set = async |body: &str| Answer::of(till.request("PUT", "rewards/a.png/acl").body(body.to_owned())).await;
    for body in ["{\"acl\":\"PUBLIC\"}", "PUBLIC", "\"PUBLIC\""] {
        let public = set(body).await;
        assert_eq!((&public.file()["acl"], &public.json()["publicFilePath"]), (&"PUBLIC".into(), &plain.clone().into()));
    }
    let read = open(&plain).await;
    assert!(read.status.as_u16() == 200 && read.body == png(8, 8, 1));
    assert_eq!(
        (read.header("cache-control"), read.header("cross-origin-resource-policy")),
        ("public, max-age=2, stale-while-revalidate=3", "cross-origin")
    );
    // Later versions are public too, and the answer to an upload keeps its form.
    let later = till.upload("a.png", png(8, 8, 2)).await;
    assert_eq!((&later.file()["acl"], later.json().get("publicFilePath")), (&"PUBLIC".into(), None));
    let later = app.url(&format!("/imagewell/{}", later.file()["s3_token"].as_str().expect("key")));
    assert_eq!(open(&later).await.status.as_u16(), 200);
    // Caches and statistics add what signs nothing.
    for query in ["v=1", "utm_source=mail&utm_medium=x", "", "v=1&v=2", "=", "x-id=GetObject"] {
        let read = open(&format!("{plain}?{query}")).await;
        assert_eq!((read.status.as_u16(), read.header("access-control-allow-origin")), (200, "*"), "{query}");
    }
    // A signature that is there must be right, also where none is needed.
    assert!(is_altered(&open(&format!("{plain}?X-Amz-Signature=0")).await));

    let before = app.stored().await;
    for body in ["", "public", "{\"acl\":\"NONE\"}", "{}", "[]"] {
        assert!(set(body).await.failed(400).contains("PRIVATE"), "{body}");
    }
    set(&"P".repeat(2000)).await.failed(413);
    assert_eq!(app.stored().await, before);
    set("PRIVATE").await.file();
    for address in [&plain, &later] {
        s3_error(&open(address).await, 403, "AccessDenied");
    }
    assert_eq!(open(&uploaded.link()).await.status.as_u16(), 200, "links open private files");
}

#[tokio::test]
async fn a_deleted_file_is_gone_from_links_and_plain_addresses_at_once() {
    let app = TestApp::with(&[FOLDER]).await;
    let till = Machine::till(&app, "till01");
    let uploaded = till.upload("a.png", png(8, 8, 1)).await;
    Answer::of(till.request("PUT", "rewards/a.png/acl").body("PUBLIC")).await.file();
    let link = uploaded.link();
    let plain = link.split('?').next().expect("path").to_owned();
    for address in [&link, &plain] {
        assert_eq!(open(address).await.status.as_u16(), 200);
    }
    till.send("DELETE", "rewards/a.png").await.file();
    s3_error(&open(&link).await, 404, "NoSuchKey");
    s3_error(&open(&plain).await, 403, "AccessDenied");
    till.send("POST", "rewards/a.png/restore").await.file();
    for address in [&link, &plain] {
        assert_eq!(open(address).await.status.as_u16(), 200);
    }
}

#[tokio::test]
async fn the_key_of_links_rotates_apart_from_every_other() {
    let app = TestApp::with(&[FOLDER]).await;
    let till = Machine::till(&app, "till01");
    let bearer = Machine::bearer(&app, &super::token(&app, "backoffice").await);
    let before = till.upload("a.png", png(8, 8, 1)).await.link();
    let keys = &app.service.app.keys;
    keys.rotate(KeyPurpose::Links, false).await.expect("rotates");
    let after = till.send("GET", "rewards/a.png").await.link();
    let credential = |link: &str| link.split("X-Amz-Credential=").nth(1).expect("credential")[..19].to_owned();
    assert_ne!(credential(&before), credential(&after));
    for link in [&before, &after] {
        assert_eq!(open(link).await.status.as_u16(), 200);
    }
    keys.rotate(KeyPurpose::Links, true).await.expect("rotates");
    for link in [&before, &after] {
        assert!(is_altered(&open(link).await));
    }
    assert_eq!(open(&till.send("GET", "rewards/a.png").await.link()).await.status.as_u16(), 200);
    bearer.send("GET", "rewards/a.png").await.file();
}

#[tokio::test]
async fn links_lead_to_the_public_url_where_there_is_one() {
    let app = TestApp::with(&[FOLDER, ("public_url", "https://images.example.com")]).await;
    let till = Machine::till(&app, "till01");
    let answer = till.upload("a.png", png(8, 8, 1)).await;
    assert!(answer.link().starts_with("https://images.example.com/imagewell/rewards/100606/"));
    for header in ["x-forwarded-host", "forwarded", "x-host"] {
        let asked = Answer::of(till.request("GET", "rewards/a.png").header(header, "host=evil.example")).await;
        assert!(asked.link().starts_with("https://images.example.com/"), "{header}");
    }
    // A proxy that keeps the host, and one that puts its own in its place.
    let inside = answer.link().replace("https://images.example.com", &app.url(""));
    assert_eq!(asked("GET", &inside, &[("host", "images.example.com")]).await.status.as_u16(), 200);
    assert_eq!(asked("GET", &inside, &[]).await.status.as_u16(), 200);
}

/// What another process revoked is not forgotten because the keys could not be read at that moment.
#[tokio::test]
async fn a_revocation_that_could_not_be_read_is_read_later() {
    let app = TestApp::with(&[FOLDER]).await;
    let link = Machine::till(&app, "till01").upload("a.png", png(8, 8, 1)).await.link();
    assert_eq!(open(&link).await.status.as_u16(), 200);
    app.execute(&[
        "UPDATE signing_keys SET honoured_until_us = 1 WHERE purpose = 'links'",
        "ALTER TABLE signing_keys RENAME TO hidden_keys",
        "UPDATE access_generation SET value = value + 1",
    ])
    .await;
    let begun = Instant::now();
    while app.service.app.refresh_rights().await.is_ok() {
        // The service may have asked a moment before it was changed.
        assert!(begun.elapsed() < Duration::from_secs(30), "there are no keys to read");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    app.execute(&["ALTER TABLE hidden_keys RENAME TO signing_keys"]).await;
    app.service.app.refresh_rights().await.expect("reads them");
    s3_error(&open(&link).await, 403, "AccessDenied");
}

//! Forms, base64 texts, logins and addresses as clients really write them.

use serde_json::json;

use crate::app::{APP_KEY, Actor, Answer, PASSWORD, PERMISSION, TestApp};
use crate::file_service::{FileAnswer as _, Machine};
use crate::fixtures::{BOUNDARY, multipart, multipart_type, png};

const PART: &str = "Content-Disposition: form-data; name=\"image\"; filename=\"a.png\"";

fn path() -> String {
    format!("/opsportal/image/{APP_KEY}/{PERMISSION}/0")
}

/// A form of one boundary, from headers and bytes of its parts.
fn form(boundary: &str, parts: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (headers, bytes) in parts {
        let part = [b"--", boundary.as_bytes(), b"\r\n", *headers, b"\r\n\r\n", *bytes, b"\r\n"].concat();
        body.extend(part);
    }
    body.extend(format!("--{boundary}--\r\n").into_bytes());
    body
}

async fn send(actor: &Actor, content_type: &str, body: Vec<u8>) -> Answer {
    Answer::of(actor.change(&path()).await.header("content-type", content_type).body(body)).await
}

#[tokio::test]
async fn a_form_is_read_whatever_its_client_makes_of_the_grammar() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let image = png(8, 8, 1);
    let headers: [&[u8]; 9] = [
        b"Content-Disposition: form-data; filename*=UTF-8''na%C3%AFve.png; name=\"image\"",
        b"content-disposition: FORM-DATA; NAME=image; FILENAME=a.png",
        b"Content-Disposition: form-data; name=\"image\"; filename=\"M\xF6bel.png\"",
        b"Content-Disposition: form-data; name=\"image\"; filename=\"\xD5\xD5\xC6\xAC.png\"",
        b"Content-Disposition: form-data; name=\"image\"; filename=\"C:\\photos\\\"",
        b"Content-Disposition: form-data; name=\"image\"; filename=\"\"",
        b"Content-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\nContent-Type: image/png\r\nContent-Length: 5",
        b"Content-Disposition: form-data; name=\"image\"; filename=\"a\\\"b.png\"\r\nContent-Transfer-Encoding: BINARY",
        b"Content-Type: image/png\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"",
    ];
    for headers in headers {
        let answer = send(&ada, &multipart_type(), form(BOUNDARY, &[(headers, &image)])).await;
        assert_eq!(answer.status.as_u16(), 200, "{}: {}", String::from_utf8_lossy(headers), answer.text());
    }
    for boundary in ["*****", "----=_Part_0_1.2", "a=b", "a/b", "a:b", "a?b", "a'b"] {
        for named in [format!("boundary={boundary}"), format!("Boundary=\"{boundary}\"; charset=utf-8")] {
            let content_type = format!("Multipart/Form-Data; {named}");
            let answer = send(&ada, &content_type, form(boundary, &[(PART.as_bytes(), &image)])).await;
            assert_eq!(answer.status.as_u16(), 200, "{content_type}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn parts_that_nobody_asked_for_are_read_past_whatever_they_hold() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let image = png(8, 8, 1);
    let long = vec![b'x'; 200_000];
    let others: [(&[u8], &[u8]); 7] = [
        (b"Content-Disposition: form-data; name=\"note\"", &long),
        (b"Content-Disposition: form-data; name=\"note\"", b"\xFF\xFE"),
        (b"Content-Disposition: form-data", b"x"),
        (b"Content-Disposition: form-data; name=\"\"", b"x"),
        (b"Content-Disposition: form-data; name=\"n\"\r\nContent-Type: multipart/mixed; boundary=y", b"x"),
        (b"Content-Disposition: form-data; name=\"n\"\r\nContent-Transfer-Encoding: base64", b"eA=="),
        (b"Content-Disposition: form-data; name=\"thumbnail\"; filename=\"t.exe\"", b"MZ"),
    ];
    for other in others {
        for parts in [[other, (PART.as_bytes(), &image)], [(PART.as_bytes(), &image), other]] {
            let answer = send(&ada, &multipart_type(), form(BOUNDARY, &parts)).await;
            assert_eq!(answer.status.as_u16(), 200, "{}: {}", String::from_utf8_lossy(other.0), answer.text());
        }
    }
    // Of who has not shown a token, only so much is read.
    let before = app.stored().await;
    for other in [others[0], (b"Content-Disposition: form-data; name=\"n\"; filename=\"n\"", long.as_slice())] {
        let request = ada.post(&path()).header("content-type", multipart_type());
        let body = form(BOUNDARY, &[other, (PART.as_bytes(), &image)]);
        Answer::of(request.body(body)).await.refused(403, "\"E_CSRF\"");
    }
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn an_empty_file_input_is_no_file() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let till = Machine::till(&app, "till01");
    let image = png(8, 8, 1);
    let empty = ("image", Some(""), &b""[..]);
    let real = ("image", Some("a.png"), image.as_slice());
    assert_eq!(send(&ada, &multipart_type(), multipart(&[empty, real])).await.status.as_u16(), 200);
    let upload = async |parts: &[crate::fixtures::Part<'_>]| {
        let request = till.request("POST", "rewards/a.png").header("content-type", multipart_type());
        Answer::of(request.body(multipart(parts))).await
    };
    assert_eq!(upload(&[empty, real]).await.file()["version"], 1);

    let before = app.stored().await;
    let refused = send(&ada, &multipart_type(), multipart(&[empty])).await.refused(422, "\"E_MISSINGPARAM\"");
    assert_eq!(refused["data"]["missingParams"], json!(["image"]));
    let message = upload(&[empty]).await.failed(400);
    assert!(message.contains("holds no file"), "{message}");
    assert_eq!(app.stored().await, before, "the picture stays the newest version");
}

#[tokio::test]
async fn a_picture_without_a_file_name_is_missing_and_the_message_says_what_to_add() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let before = app.stored().await;
    // Longer than a text may be, and no text either.
    let image = crate::fixtures::png_of_bytes(100_000, 1);
    let refused = send(&ada, &multipart_type(), multipart(&[("image", None, &image)])).await;
    let refused = refused.refused(422, "\"E_MISSINGPARAM\"");
    let message = refused["message"].as_str().expect("text");
    assert!(message.contains("without a file name") && message.contains("filename="), "{message}");
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn text_parts_are_in_the_encoding_that_they_say() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let image = png(8, 8, 1);
    let token = ada.csrf().await;
    // A token in UTF-16, and an app key in Latin-1: both are plain letters, told apart from UTF-8 only where they are decoded.
    let wide: Vec<u8> = token.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let parts: [(&[u8], &[u8]); 2] = [
        (b"Content-Disposition: form-data; name=\"_csrf\"\r\nContent-Type: text/plain; charset=utf-16le", &wide),
        (PART.as_bytes(), &image),
    ];
    let request = ada.post(&path()).header("content-type", multipart_type());
    assert_eq!(Answer::of(request.body(form(BOUNDARY, &parts))).await.status.as_u16(), 200);
}

#[tokio::test]
async fn base64_is_read_with_line_breaks_in_both_alphabets_and_behind_a_byte_order_mark() {
    use base64::Engine as _;
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let image = crate::fixtures::png_of_bytes(3_001, 7);
    let plain = base64::engine::general_purpose::STANDARD.encode(&image);
    assert!(plain.contains('+') && plain.contains('/') && plain.ends_with('='), "another seed");
    let lines = |end: &str| plain.as_bytes().chunks(76).map(|line| format!("{}{end}", String::from_utf8_lossy(line))).collect();
    let texts: [String; 5] = [
        lines("\r\n"),
        lines("\n"),
        lines("\n\t"),
        plain.replace('+', "-").replace('/', "_"),
        plain.trim_end_matches('=').to_owned(),
    ];
    let parameters = format!("appKey={APP_KEY}&permission={PERMISSION}");
    for text in &texts {
        let json = json!({ "appKey": APP_KEY, "permission": PERMISSION, "note": "x".repeat(100_000), "image": text });
        let marked = [b"\xEF\xBB\xBF", serde_json::to_vec(&json).expect("json").as_slice()].concat();
        let escaped: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
        let bodies = [
            ("application/json", serde_json::to_vec(&json).expect("json")),
            ("Application/JSON; charset=utf-8", marked),
            ("application/x-www-form-urlencoded", format!("{parameters}&image={escaped}").into_bytes()),
            // A plus sign that was not escaped.
            ("application/x-www-form-urlencoded", format!("{parameters}&image={}", text.replace(' ', "%20")).into_bytes()),
            (
                &multipart_type(),
                multipart(&[
                    ("appKey", None, APP_KEY.as_bytes()),
                    ("permission", None, PERMISSION.as_bytes()),
                    ("image", None, text.as_bytes()),
                ]),
            ),
        ];
        for (content_type, body) in bodies {
            let request = ada.change("/opsportal/imageBase64").await.header("content-type", content_type).body(body);
            let uuid = Answer::of(request).await.uuid();
            assert_eq!(ada.read(&uuid).await.body, image, "{content_type}: {}", &text[..100]);
        }
    }
    let before = app.stored().await;
    for body in ["", "{}"] {
        let request = ada.change("/opsportal/imageBase64").await;
        let request = if body.is_empty() { request } else { request.header("content-type", "application/json") };
        let refused = Answer::of(request.body(body)).await.refused(422, "\"E_MISSINGPARAM\"");
        assert_eq!(refused["data"]["missingParams"], json!(["appKey", "permission", "image"]), "{body:?}");
    }
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn logins_and_tokens_take_json_forms_and_parts_of_any_media_type() {
    let app = TestApp::start().await;
    let bodies = |first: &str, first_value: &str, second: &str, second_value: &str| {
        let json = json!({ first: first_value, second: second_value }).to_string();
        let pair = form_urlencoded::Serializer::new(String::new())
            .append_pair(first, first_value)
            .append_pair(second, second_value)
            .finish();
        let parts = multipart(&[(first, None, first_value.as_bytes()), (second, None, second_value.as_bytes())]);
        [
            (Some("application/json".to_owned()), json.clone().into_bytes()),
            (Some("APPLICATION/JSON; charset=UTF-8".to_owned()), json.clone().into_bytes()),
            (None, json.clone().into_bytes()),
            (None, format!("\u{FEFF}{json}").into_bytes()),
            (Some("text/plain".to_owned()), json.into_bytes()),
            (Some("application/x-www-form-urlencoded".to_owned()), pair.clone().into_bytes()),
            (Some("Application/X-WWW-Form-Urlencoded; charset=utf-8".to_owned()), pair.into_bytes()),
            (Some(multipart_type()), parts),
        ]
    };
    let send = async |path: &str, (content_type, body): (Option<String>, Vec<u8>), is_site: bool| {
        let visitor = app.visitor();
        let request = if is_site { visitor.change(path).await } else { visitor.post(path) };
        let request = if let Some(content_type) = &content_type { request.header("content-type", content_type) } else { request };
        let answer = Answer::of(request.body(body)).await;
        assert_eq!(answer.status.as_u16(), 200, "{path} {content_type:?}: {}", answer.text());
    };
    for body in bodies("username", "ada", "password", PASSWORD) {
        send("/site/login", body, true).await;
    }
    for body in bodies("email", "ada", "password", PASSWORD) {
        send("/api/login", body, false).await;
    }
    for body in bodies("key", "backoffice", "secret", PASSWORD) {
        send("/v3/oauth/token/generate", body, false).await;
    }
}

#[tokio::test]
async fn names_with_two_extensions_are_names() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    for name in ["IMG_1.HEIC.png", "photo.png.png", "node.js.png", "a.php.png"] {
        assert_eq!(till.upload(name, png(8, 8, 1)).await.file()["name"], name);
    }
}

#[tokio::test]
async fn slashes_that_mean_nothing_reach_the_route() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let image = png(8, 8, 1);
    for path in [format!("{}/", path()), path().replacen('/', "//", 2), format!("/{}//", path())] {
        let request = ada.change(&path).await.header("content-type", multipart_type());
        let answer = Answer::of(request.body(multipart(&[("image", Some("a.png"), &image)]))).await;
        assert_eq!(answer.status.as_u16(), 200, "{path}: {}", answer.text());
    }
}

//! What goes in, and what is refused with a reason and leaves nothing behind.

use imagewell_core::verify;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use super::{FileAnswer as _, Machine, open};
use crate::app::{Answer, FOLDER, TestApp};
use crate::fixtures::{photograph, png, png_claiming, png_of_bytes, testdata};

#[tokio::test]
async fn an_upload_is_answered_with_these_names_in_this_order() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    let first = till.upload("test.png", png(8, 8, 1)).await;
    let answer = till.upload("test.png", png(8, 8, 2)).await;
    let size = png(8, 8, 2).len();

    let keys: Vec<String> = answer.json().as_object().expect("object").keys().cloned().collect();
    assert_eq!(keys, ["code", "status", "message", "file", "secureFilePath"]);
    let (file, before) = (answer.file(), first.file());
    let keys: Vec<&String> = file.as_object().expect("object").keys().collect();
    let expected = [
        "name",
        "namespace",
        "version",
        "acl",
        "fileSize",
        "file_handle",
        "content_type",
        "s3_token",
        "latest_version",
        "last_modified",
        "s3_url",
    ];
    assert_eq!(keys, expected);
    assert_eq!(answer.json()["message"], "Successfully uploaded file");
    assert_eq!((&file["name"], &file["namespace"], &file["acl"]), (&json!("test.png"), &json!("rewards"), &json!("PRIVATE")));
    assert_eq!((&file["version"], &file["latest_version"]), (&json!(2), &json!(2)));
    assert_eq!((&file["fileSize"], &file["content_type"]), (&json!(size.to_string()), &json!("image/png")));
    assert_eq!((&before["version"], &before["latest_version"]), (&json!(1), &json!(1)));
    assert_eq!(file["file_handle"], before["file_handle"], "one handle for all versions");
    assert_ne!(file["s3_token"], before["s3_token"], "one key for each version");
    let token = text(&file["s3_token"]);
    let uuid = token.strip_prefix("rewards/100606/").and_then(|rest| rest.strip_suffix(".png")).expect("form of the key");
    assert!(uuid::Uuid::try_parse(uuid).is_ok() && uuid.len() == 36, "{token}");
    let key = imagewell_core::model::BlobKey::from_stored(token.clone());
    let address = app.service.app.storage.address(&key);
    assert_eq!(file["s3_url"], address.unwrap_or_else(|| format!("s3://imagewell/{token}")));
    assert!(app.blobs().join(&token).exists(), "the token is the key of the bytes");
    let modified = text(&file["last_modified"]);
    let shape: String = modified.chars().map(|character| if character.is_ascii_digit() { '0' } else { character }).collect();
    assert_eq!(shape, "0000-00-00 00:00:00");
    assert!(open(&first.link()).await.body == png(8, 8, 1), "older versions stay");
    assert!(open(&answer.link()).await.body == png(8, 8, 2));
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

#[tokio::test]
async fn bodies_of_any_content_type_are_the_file() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    let types = [
        None,
        Some("application/x-www-form-urlencoded"),
        Some("application/octet-stream"),
        Some("text/plain"),
        Some("image/gif"),
        Some("nonsense"),
    ];
    for (index, content_type) in types.into_iter().enumerate() {
        let mut request = till.request("POST", "rewards/photo.jpg").body(photograph());
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let answer = Answer::of(request).await;
        assert_eq!(answer.file()["version"], index + 1, "{content_type:?}");
        assert_eq!(answer.file()["content_type"], "image/jpeg", "what the bytes are, not what is said of them");
        let read = open(&answer.link()).await;
        assert!(read.body == photograph());
        assert_eq!(read.header("content-type"), "image/jpeg");
    }
}

#[tokio::test]
async fn the_first_file_of_a_form_is_taken_and_never_the_form() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    let file = |bytes: Vec<u8>| Part::bytes(bytes).file_name("anything.exe");
    let form = Form::new().text("note", "x").part("a", file(png(8, 8, 1))).part("b", file(png(8, 8, 2))).text("after", "y");
    let answer = Answer::of(till.request("POST", "rewards/test.png").multipart(form)).await;
    assert_eq!(answer.file()["name"], "test.png", "the name is the path's");
    assert!(open(&answer.link()).await.body == png(8, 8, 1));

    let before = app.stored().await;
    let none = Answer::of(till.request("POST", "rewards/test.png").multipart(Form::new().text("file", "@x.png"))).await;
    assert!(none.failed(400).contains("holds no file"));
    let cut = till.request("POST", "rewards/test.png").header("content-type", "multipart/form-data; boundary=b");
    let cut = cut.body("--b\r\nContent-Disposition: form-data; name=\"a\"; filename=\"a\"\r\n\r\nxyz");
    assert!(Answer::of(cut).await.failed(400).contains("ends before its final boundary"));
    let no_boundary = till.request("POST", "rewards/test.png").header("content-type", "multipart/form-data").body("x");
    assert!(Answer::of(no_boundary).await.failed(400).contains("boundary"));
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn an_empty_body_makes_a_placeholder_that_the_next_upload_fills() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    let empty = till.upload("later.jpg", Vec::new()).await;
    assert_eq!((&empty.file()["fileSize"], &empty.file()["version"]), (&json!("0"), &json!(1)));
    assert_eq!(empty.file()["content_type"], "image/jpeg", "what the name promises");
    let opened = open(&empty.link()).await;
    assert_eq!((opened.status.as_u16(), opened.body.len()), (200, 0));
    assert_eq!(till.send("GET", "rewards/later.jpg").await.file()["fileSize"], "0");

    let checked = verify::run(&app.service.app, |_| {}).await.expect("reads");
    assert_eq!((checked.versions, checked.broken.as_slice()), (1, [].as_slice()), "no bytes are what its row says");

    let filled = till.upload("later.jpg", photograph()).await.file();
    assert_eq!((&filled["version"], &filled["file_handle"]), (&json!(2), &empty.file()["file_handle"]));
    let emptied = Answer::of(
        till.request("POST", "rewards/later.jpg").multipart(Form::new().part("f", Part::bytes(Vec::new()).file_name("f"))),
    )
    .await;
    assert_eq!((&emptied.file()["version"], &emptied.file()["fileSize"]), (&json!(3), &json!("0")), "a version like any other");
}

#[tokio::test]
async fn bytes_must_be_an_image_of_the_kind_that_the_name_says() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    till.upload("kept.png", png(8, 8, 1)).await.file();
    let before = app.stored().await;
    let mut cut = photograph();
    cut.truncate(40_000);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a.png", photograph(), "the bytes are JPEG and the name says PNG"),
        ("a.jpg", png(8, 8, 1), "give it a name that ends in .png"),
        ("a.heif", testdata("formats/small.avif"), "the bytes are AVIF"),
        ("a.png", png_of_bytes(200_000, 1).iter().rev().copied().collect(), "accepted are JPEG, PNG"),
        ("a.png", b"%PDF-1.7 x".to_vec(), "PDF"),
        ("a.png", b"<!doctype html><script>alert(1)</script>".to_vec(), "HTML"),
        ("a.png", b"hello".to_vec(), "accepted are JPEG, PNG"),
        ("a.jpg", cut, "truncated"),
        ("a.png", png_claiming(30_000, 30_000), "pixels"),
        ("kept.png", b"hello".to_vec(), "accepted are JPEG, PNG"),
    ];
    for (name, bytes, reason) in cases {
        let message = till.upload(name, bytes).await.failed(400);
        assert!(message.contains(reason), "{name}: {message}");
    }
    assert_eq!(app.stored().await, before);
    assert_eq!(till.send("GET", "rewards/kept.png").await.file()["version"], 1);
}

/// The manual's own example, sent literally, is 51 bytes long, which is also the size in the manual's answer.
#[tokio::test]
async fn a_path_sent_in_place_of_a_file_is_answered_with_what_to_type() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    let before = app.stored().await;
    let literal = "@/Users/nikhil/Downloads/IMG_20220730_180352311.jpg";
    assert_eq!(literal.len(), 51);
    for body in [literal.to_owned(), format!("{literal}\n"), "@photo.jpg".to_owned()] {
        let message = till.upload("test.png", body.clone().into_bytes()).await.failed(400);
        assert!(message.contains(&format!("--data-binary \"{}\"", body.trim())), "{message}");
    }
    // What curl's -d makes of a photograph.
    let stripped: Vec<u8> = photograph().into_iter().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)).collect();
    let request = till.request("POST", "rewards/test.jpg").header("content-type", "application/x-www-form-urlencoded");
    let message = Answer::of(request.body(stripped)).await.failed(400);
    assert!(message.contains("--data-binary sends it as it is"), "{message}");
    // A mistake of another kind is not put down to curl.
    let request = till.request("POST", "rewards/test.png").header("content-type", "application/x-www-form-urlencoded");
    let message = Answer::of(request.body(photograph())).await.failed(400);
    assert!(message.contains("the name says PNG") && !message.contains("curl"), "{message}");
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn names_come_back_as_they_were_sent() {
    let app = TestApp::with(&[FOLDER]).await;
    let till = Machine::till(&app, "till01");
    let long = format!("{}.png", "n".repeat(251));
    let names = [
        ("test.png", "test.png"),
        ("TEST.PNG", "TEST.PNG"),
        ("a%20b%26c%3Fd%23e%25f.png", "a b&c?d#e%f.png"),
        ("%F0%9F%98%80%E2%80%8D.png", "😀\u{200D}.png"),
        ("%D7%A9%D7%9C%D7%95%D7%9D.png", "שלום.png"),
        ("e%CC%81.png", "é.png"),
        ("%22quote%22%3B%20x.png", "\"quote\"; x.png"),
        (&long, &long),
    ];
    for (sent, name) in names {
        let answer = till.upload(sent, png(8, 8, 1)).await;
        assert_eq!((&answer.file()["name"], &answer.file()["version"]), (&json!(name), &json!(1)), "{sent}");
        assert_eq!(till.send("GET", &format!("rewards/{sent}")).await.file()["name"], name);
        let read = open(&answer.link()).await;
        assert!(read.body == png(8, 8, 1) && read.header("content-disposition").starts_with("inline; filename="), "{sent}");
        assert!(!answer.file()["s3_token"].as_str().expect("key").contains(name.trim_end_matches(".png")), "{sent}");
    }
    assert_eq!(till.upload("%C3%A9.png", png(8, 8, 2)).await.file()["version"], 2, "one name, however it is composed");
}

#[tokio::test]
async fn names_that_deceive_are_refused_and_leave_nothing() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    let before = app.stored().await;
    let long = format!("{}.png", "n".repeat(252));
    let names = [
        ("test", "extension"),
        (".png", "extension"),
        ("test.", "extension"),
        ("test.txt", ".jpg, .jpeg, .png"),
        ("test.svg", ".jpg, .jpeg, .png"),
        ("test.png.exe", ".jpg, .jpeg, .png"),
        ("..%2Fx.png", "separator"),
        ("..%5Cx.png", "separator"),
        ("%2Fetc%2Fx.png", "separator"),
        ("a%00.png", "control"),
        ("a%0D%0ASet-Cookie:x.png", "control"),
        ("%E2%80%AEgnp.png", "direction of writing"),
        ("%FF.png", "UTF-8"),
        (&long, "1 to 255 bytes"),
    ];
    for (name, reason) in names {
        let message = till.upload(name, png(8, 8, 1)).await.failed(400);
        assert!(message.contains(reason), "{name}: {message}");
    }
    // More segments than the API has are no name at all.
    for path in ["rewards/a/b.png", "rewards", "a.png/"] {
        let answer = Answer::of(till.request("POST", path).body(png(8, 8, 1))).await;
        assert!(matches!(answer.status.as_u16(), 404 | 405), "{path}: {}", answer.text());
        assert_eq!(answer.json()["status"], "false", "{path}");
    }
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn exactly_the_limit_is_refused_and_one_byte_less_is_accepted() {
    let app = TestApp::with(&[("file_service.upload_bytes_max", "100000")]).await;
    let till = Machine::till(&app, "till01");
    let before = app.stored().await;
    assert!(till.upload("a.png", png_of_bytes(100_000, 1)).await.failed(413).contains("100000 bytes"));
    let (chunk, body) =
        (bytes::Bytes::from(png_of_bytes(100_000, 1)), futures_util::stream::once(async { Ok::<_, std::io::Error>(()) }));
    let body = futures_util::StreamExt::map(body, move |unit| unit.map(|()| chunk.clone()));
    let undeclared = till.request("POST", "rewards/a.png").body(reqwest::Body::wrap_stream(body));
    Answer::of(undeclared).await.failed(413);
    let form = Form::new().part("f", Part::bytes(png_of_bytes(100_000, 1)).file_name("f"));
    Answer::of(till.request("POST", "rewards/a.png").multipart(form)).await.failed(413);
    assert_eq!(app.stored().await, before);

    assert_eq!(till.upload("a.png", png_of_bytes(99_999, 1)).await.file()["fileSize"], "99999");
    let form = Form::new().part("f", Part::bytes(png_of_bytes(99_999, 1)).file_name("f"));
    assert_eq!(Answer::of(till.request("POST", "rewards/a.png").multipart(form)).await.file()["version"], 2);
}

#[tokio::test]
async fn who_it_was_sent_for_is_recorded() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    let request = till.request("POST", "rewards/a.png").body(png(8, 8, 1));
    let request =
        request.header("X-CAP-API-ATTRIBUTION-ENTITY-TYPE", "TILL").header("X-CAP-API-ATTRIBUTION-ENTITY-CODE", "x".repeat(300));
    let answer = Answer::of(request).await;
    let handle = text(&answer.file()["file_handle"]);
    let (id, kind, code, login): (String, String, String, String) = app
        .row("SELECT image_id, attribution_entity_type, attribution_code, a.login FROM versions v JOIN accounts a ON a.id = v.created_by")
        .await;
    assert_eq!((id, kind.as_str(), code.len(), login.as_str()), (handle, "TILL", 255, "till01"));
}

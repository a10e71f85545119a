//! Renderings: the mobile size, upright serving, and the worker's sandbox.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;

use crate::app::{APP_KEY, Answer, TestApp, image_path, program};
use crate::fixtures::{photograph, png, testdata};

fn size_of(bytes: &[u8]) -> (u32, u32) {
    let facts = imagewell_imaging::inspect(std::io::Cursor::new(bytes), &imagewell_imaging::Limits::default()).expect("image");
    (facts.width, facts.height)
}

/// A JPEG with an EXIF block that says: turn right, taken at a place.
fn sideways() -> Vec<u8> {
    let jpeg = photograph();
    let exif = [
        b"MM\0*\0\0\0\x08\0\x02".as_slice(),
        b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0",
        b"\x01\x0E\0\x02\0\0\0\x0C\0\0\0\x26",
        b"\0\0\0\0",
        b"GPS here\0\0\0\0",
    ]
    .concat();
    [&jpeg[..2], &[0xFF, 0xE1], &(exif.len() as u16 + 8).to_be_bytes(), b"Exif\0\0", &exif, &jpeg[2..]].concat()
}

#[tokio::test]
async fn large_originals_come_smaller_to_mobiles() {
    let app = TestApp::with(&[("opsportal.mobile_bytes_min", "20000")]).await;
    let ada = app.actor("ada").await;
    let large = png(3000, 1500, 1);
    assert!(large.len() > 20_000);
    let (large_uuid, small_uuid) = (ada.upload(large.clone()).await.uuid(), ada.upload(png(8, 8, 1)).await.uuid());
    let get = async |uuid: &str, query: &str| {
        let answer = Answer::of(ada.get(&format!("/opsportal/imageBase64/{APP_KEY}/{uuid}{query}"))).await;
        STANDARD.decode(answer.json()["data"]["image"].as_str().expect("text")).expect("base64")
    };
    assert_eq!(size_of(&get(&large_uuid, "?isMobile=true").await), (2000, 1000));
    assert!(get(&large_uuid, "?isMobile=false").await == large);
    assert!(get(&large_uuid, "").await == large);
    assert_eq!(size_of(&get(&small_uuid, "?isMobile=true").await), (8, 8));
    // The second time it comes from the store.
    let variants = app.stored().await.files.iter().filter(|file| file.to_string_lossy().contains("/variants/")).count();
    assert_eq!(variants, 1);
    assert_eq!(size_of(&get(&large_uuid, "?isMobile=true").await), (2000, 1000));
}

#[tokio::test]
async fn what_is_not_decoded_comes_to_mobiles_as_it_is() {
    let app = TestApp::with(&[("opsportal.mobile_bytes_min", "100"), ("images.heic", "false")]).await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(testdata("formats/small.heic")).await.uuid();
    let answer = Answer::of(ada.get(&format!("/opsportal/imageBase64/{APP_KEY}/{uuid}?isMobile=true"))).await;
    assert_eq!(answer.json()["data"]["image"], STANDARD.encode(testdata("formats/small.heic")));
}

#[tokio::test]
async fn upright_serving_turns_and_cleans_without_touching_the_original() {
    let app = TestApp::start().await;
    let uuid = app.actor("ada").await.upload(sideways()).await.uuid();
    let app = app.restart(&[("opsportal.serve_upright", "true")]).await;
    let ada = app.actor("ada").await;
    let read = ada.read(&uuid).await;
    assert_eq!((read.status, read.header("content-type")), (StatusCode::OK, "image/jpeg"));
    assert!(!read.body.windows(8).any(|window| window == b"GPS here"));
    assert_ne!(read.header("etag"), "", "a rendering has a validator of its own");
    let part = Answer::of(ada.get(&image_path(&uuid)).header("range", "bytes=0-1")).await;
    assert_eq!((part.status, part.body.as_slice()), (StatusCode::PARTIAL_CONTENT, &b"\xFF\xD8"[..]));
    let app = app.restart(&[]).await;
    assert!(app.actor("ada").await.read(&uuid).await.body == sideways());
}

#[tokio::test]
async fn an_image_that_is_broken_inside_is_refused_clearly_and_the_service_goes_on() {
    let app = TestApp::with(&[("opsportal.serve_upright", "true")]).await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(crate::fixtures::png_claiming(500, 500)).await.uuid();
    let envelope = ada.read(&uuid).await.refused(422, "\"E_INVALIDPARAMS\"");
    assert!(envelope["data"]["reason"].as_str().expect("reason").contains("can't be rendered"), "{envelope}");
    let good = ada.upload(photograph()).await.uuid();
    assert_eq!(ada.read(&good).await.status, StatusCode::OK);
}

/// Gives a worker these jobs, one after the other, and reads its answers.
fn worker(jobs: &[(&str, &[u8])]) -> Vec<(u8, Vec<u8>)> {
    let mut child =
        Command::new(program()).arg("render-worker").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let (mut stdin, mut stdout) = (child.stdin.take().expect("pipe"), child.stdout.take().expect("pipe"));
    let answers = jobs
        .iter()
        .map(|(transform, source)| {
            let transform = transform.as_bytes();
            let lengths = ((transform.len() as u32).to_be_bytes(), (source.len() as u64).to_be_bytes());
            stdin.write_all(&[&lengths.0, transform, &lengths.1, source].concat()).expect("takes");
            let mut head = [0; 9];
            stdout.read_exact(&mut head).expect("answers");
            let mut answer = vec![0; u64::from_be_bytes(head[1..].try_into().expect("eight")) as usize];
            stdout.read_exact(&mut answer).expect("answers");
            (head[0], answer)
        })
        .collect();
    drop(stdin);
    assert!(child.wait().expect("ends").success(), "it ends with its input");
    answers
}

#[test]
fn the_worker_can_open_no_file_and_no_socket_and_start_nothing() {
    let output = Command::new(program()).args(["render-worker", "probe"]).env_clear().output().expect("runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("landlock") && text.contains("seccomp enforced"), "{text}");
    assert!(
        text.contains("file refused, socket refused, process refused, thread refused, signal refused, 0 variables"),
        "{text}"
    );
}

#[test]
fn a_worker_renders_and_refuses_and_goes_on() {
    let answers = worker(&[
        ("inside-100x100_jpeg", &photograph()),
        ("cover-64x64_png", b"no image"),
        ("nonsense", &photograph()),
        ("crop-0-0-50-50_cover-64x64_enlarge_png", &photograph()),
    ]);
    let kinds: Vec<char> = answers.iter().map(|(kind, _)| char::from(*kind)).collect();
    assert_eq!(kinds, ['+', '-', '-', '+']);
    assert_eq!((size_of(&answers[0].1), size_of(&answers[3].1)), ((100, 100), (64, 64)));
    assert!(String::from_utf8_lossy(&answers[1].1).contains("text"));
}

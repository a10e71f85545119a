//! Putting pictures in, cropping them, looking at them, and their end.

use std::time::Duration;

use imagewell_core::sweep::{self, Mode};
use reqwest::multipart::{Form, Part};

use super::{BLUE, GREEN, PICTURES, Portal, RED, alike, form, refused, seen, stripes};
use crate::app::{Answer, TestApp};
use crate::fixtures::{photograph, png, png_claiming, png_of_bytes, testdata};
use crate::records::eventually;

#[tokio::test]
async fn a_picture_gets_a_number_and_is_shown_to_everyone() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    let answer = ada.add(photograph()).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "text/plain; charset=utf-8"));
    assert_eq!((answer.header("expires"), answer.header("cache-control")), ("Thu, 01 Jan 1970 00:00:00 GMT", "no-store"));
    let ticket = answer.text();
    let number: u64 = ticket.parse().expect("a decimal number and nothing else");
    assert!((1..1 << 53).contains(&number) && ticket == number.to_string());
    assert_ne!(ada.ticket(photograph()).await, ticket);
    let visitor = Portal::visitor(&app);
    let shown = visitor.get(&format!("{PICTURES}/{ticket}?size=512&s=1715139659000")).await;
    assert_eq!(seen(&shown, 0, 0).0, 512);
    assert_eq!((shown.header("content-type"), shown.header("cross-origin-resource-policy")), ("image/jpeg", "cross-origin"));
    assert!(shown.headers.get_all("vary").iter().any(|value| value == "Accept"));
    assert_eq!((seen(&visitor.get(&format!("{PICTURES}/{ticket}")).await, 0, 0).0), 512, "as large as it is");
    let again = Answer::of(
        visitor.request("GET", &format!("{PICTURES}/{ticket}?size=512")).header("if-none-match", shown.header("etag")),
    );
    assert_eq!(again.await.status.as_u16(), 304);
}

#[tokio::test]
async fn the_first_part_with_a_filename_is_the_picture_whatever_it_is_called() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    for name in ["InMultiPart", "Profile", "file", "x[]"] {
        let answer = Answer::of(ada.change("POST", PICTURES).multipart(form(name, png(8, 8, 1)))).await;
        assert_eq!(answer.status.as_u16(), 200, "{name}: {}", answer.text());
    }
    let two = Form::new()
        .text("note", "x")
        .part("a", Part::bytes(stripes(30, 30)).file_name("a"))
        .part("b", Part::bytes(png(8, 8, 1)).file_name("b"));
    let ticket = Answer::of(ada.change("POST", PICTURES).multipart(two)).await.text();
    assert_eq!(seen(&ada.get(&format!("{PICTURES}/{ticket}")).await, 0, 0).0, 30);
}

#[tokio::test]
async fn what_is_no_picture_or_too_large_is_refused_and_leaves_nothing() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    let before = app.stored().await;
    let mut cut = photograph();
    cut.truncate(30_000);
    for (bytes, reason) in [
        (b"%PDF-1.7 named .png".to_vec(), "PDF"),
        (Vec::new(), "empty"),
        (b"hello".to_vec(), "accepted are"),
        (testdata("formats/lossy.webp"), "accepted are JPEG, GIF, BMP, PNG"),
        (testdata("formats/tiled.tiff"), "accepted are JPEG, GIF, BMP, PNG"),
        (cut, "truncated"),
        (png_claiming(20_000, 20_000), "pixels"),
        (png_of_bytes(4 * 1024 * 1024 + 1, 1), "more than 4194304 bytes"),
    ] {
        let message = refused(&ada.add(bytes).await, 400);
        assert!(message.contains(reason), "{reason}: {message}");
    }
    let none = Answer::of(ada.change("POST", PICTURES).multipart(Form::new().text("Profile", "x"))).await;
    assert!(refused(&none, 400).contains("holds no picture"));
    let plain = Answer::of(ada.change("POST", PICTURES).body(png(8, 8, 1))).await;
    assert!(refused(&plain, 400).contains("multipart/form-data"));
    assert_eq!(app.stored().await, before);
    assert_eq!(ada.add(png_of_bytes(4 * 1024 * 1024, 1)).await.status.as_u16(), 200, "exactly the limit");
}

#[tokio::test]
async fn a_size_is_square_and_within_its_limits() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    let ticket = ada.ticket(stripes(600, 300)).await;
    for size in [1, 48, 512, 1024] {
        let shown = seen(&ada.get(&format!("{PICTURES}/{ticket}?size={size}")).await, size / 2, size / 2);
        assert_eq!((shown.0, shown.1), (size, size));
        assert!(size == 1 || alike(shown.2, GREEN), "the middle: {shown:?}");
    }
    for size in ["0", "-1", "abc", "100000", "1025", "", "1.5", "%31%30%30x"] {
        assert!(refused(&ada.get(&format!("{PICTURES}/{ticket}?size={size}")).await, 400).contains("from 1 to 1024"), "{size}");
    }
    for number in ["1", "0", "-1", "abc", "9007199254740992", "1e3"] {
        refused(&ada.get(&format!("{PICTURES}/{number}")).await, 404);
    }
}

/// 600×300 fits into 512×512 as 512×256: the stripes are 170 and two thirds wide there.
#[tokio::test]
async fn a_crop_is_obeyed_by_every_later_rendering() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    let ticket = ada.ticket(stripes(600, 300)).await;
    let colour = async |size: u32| seen(&ada.get(&format!("{PICTURES}/{ticket}?size={size}")).await, size / 2, size / 2).2;
    let cropped = ada.crop(&ticket, "x=0&y=0&w=100&h=100").await;
    assert_eq!((cropped.status.as_u16(), cropped.header("content-type")), (200, "application/json"));
    assert_eq!(cropped.text(), ticket);
    assert!(alike(colour(64).await, RED) && alike(colour(500).await, RED));
    ada.crop(&ticket, "x=400.5&y=10.25&w=100.75&h=99.5").await;
    assert!(alike(colour(64).await, BLUE));
    let (width, height, _) = seen(&ada.get(&format!("{PICTURES}/{ticket}")).await, 0, 0);
    assert_eq!((width, height), (118, 117), "the crop, in the picture's own pixels");
    // Over the edge is clamped; all of it is no crop.
    ada.crop(&ticket, "x=-50&y=-50&w=120&h=400").await;
    assert!(alike(colour(64).await, RED));
    ada.crop(&ticket, "x=0&y=0&w=512&h=512").await;
    assert!(alike(colour(64).await, GREEN));

    ada.crop(&ticket, "x=0&y=0&w=100&h=100").await;
    let before = app.stored().await;
    for fields in [
        "",
        "x=0&y=0&w=100",
        "x=0&y=0&w=0&h=10",
        "x=0&y=0&w=10&h=-10",
        "x=NaN&y=0&w=10&h=10",
        "x=inf&y=0&w=10&h=10",
        "x=a&y=0&w=10&h=10",
        "x=513&y=0&w=10&h=10",
        "x=0&y=300&w=10&h=10",
        "x=-20&y=0&w=10&h=10",
    ] {
        refused(&ada.crop(&ticket, fields).await, 400);
    }
    assert!(alike(colour(64).await, RED), "a refused crop changes nothing");
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn only_the_uploader_and_site_admins_crop() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    let ticket = ada.ticket(stripes(60, 60)).await;
    let fields = "x=0&y=0&w=100&h=100";
    refused(&Portal::user(&app, "bob").await.crop(&ticket, fields).await, 403);
    refused(&Portal::user(&app, "oroot").await.crop(&ticket, fields).await, 404);
    refused(&Portal::visitor(&app).crop(&ticket, fields).await, 401);
    assert_eq!(Portal::user(&app, "root").await.crop(&ticket, fields).await.status.as_u16(), 200);
    refused(&ada.crop("1", fields).await, 404);
    refused(&Portal::user(&app, "vera").await.add(png(8, 8, 1)).await, 403);
}

#[tokio::test]
async fn pictures_are_turned_upright_and_lose_their_metadata() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    let jpeg = photograph();
    let exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0 GPS here".to_vec();
    let sideways = [&jpeg[..2], &[0xFF, 0xE1], &(exif.len() as u16 + 8).to_be_bytes(), b"Exif\0\0", &exif, &jpeg[2..]].concat();
    let (straight, turned) = (ada.ticket(jpeg).await, ada.ticket(sideways).await);
    let straight = image::load_from_memory(&ada.get(&format!("{PICTURES}/{straight}?size=64")).await.body).expect("picture");
    let shown = ada.get(&format!("{PICTURES}/{turned}?size=64")).await;
    assert!(!shown.body.windows(8).any(|window| window == b"GPS here"));
    let turned = image::load_from_memory(&shown.body).expect("picture").rotate270().into_rgb8();
    let apart: u64 = straight.into_rgb8().as_raw().iter().zip(turned.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    assert!(apart / (64 * 64 * 3) < 8, "{apart}");
}

/// At the second, by the clock, whether or not anything has been swept; then the bytes go, too.
#[tokio::test]
async fn a_picture_that_nobody_takes_is_gone_at_its_second_and_then_swept() {
    let app = TestApp::with(&[("dropbox.ticket_ttl_seconds", "1")]).await;
    let ada = Portal::user(&app, "ada").await;
    let before = app.stored().await;
    let ticket = ada.ticket(stripes(60, 60)).await;
    assert_eq!(ada.get(&format!("{PICTURES}/{ticket}?size=64")).await.status.as_u16(), 200);
    tokio::time::sleep(Duration::from_millis(1050)).await;
    refused(&ada.get(&format!("{PICTURES}/{ticket}?size=64")).await, 404);
    refused(&ada.crop(&ticket, "x=0&y=0&w=100&h=100").await, 404);
    refused(&ada.take("users/ada", &ticket).await, 404);
    let sweep = async |mode| sweep::run(&app.service.app, mode, |_| {}).await.expect("sweeps").expired;
    assert_eq!(sweep(Mode::DryRun).await, 1);
    assert_eq!(sweep(Mode::Remove).await, 1);
    assert_eq!(app.stored().await, before, "its rendering is gone, too");
}

#[tokio::test]
async fn the_original_series_and_privacy_are_settings() {
    let settings = [("dropbox.ticket_numbers", "series"), ("dropbox.pictures_for_everyone", "false")];
    let app = TestApp::with(&settings).await;
    let ada = Portal::user(&app, "ada").await;
    assert_eq!(ada.ticket(stripes(60, 60)).await, "1001");
    assert_eq!(ada.ticket(stripes(60, 60)).await, "1002");
    assert_eq!(ada.get(&format!("{PICTURES}/1001")).await.status.as_u16(), 200);
    refused(&Portal::visitor(&app).get(&format!("{PICTURES}/1001")).await, 401);
    refused(&Portal::user(&app, "bob").await.get(&format!("{PICTURES}/1001")).await, 403);
    refused(&Portal::user(&app, "oroot").await.get(&format!("{PICTURES}/1001")).await, 404);
    assert_eq!(Portal::user(&app, "root").await.get(&format!("{PICTURES}/1001")).await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_picture_that_is_broken_inside_is_refused_when_it_is_shown() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    let broken = ada.ticket(png_claiming(500, 500)).await;
    assert!(refused(&ada.get(&format!("{PICTURES}/{broken}?size=64")).await, 400).contains("can't be rendered"));
    let good = ada.ticket(photograph()).await;
    assert_eq!(ada.get(&format!("{PICTURES}/{good}?size=64")).await.status.as_u16(), 200);
}

/// Under more renderings than may wait, callers are told when to come back, and the service goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn too_many_renderings_at_once_are_told_to_come_back() {
    let app = TestApp::with(&[("workers.concurrent_max", "1"), ("workers.queue_max", "2")]).await;
    let ada = Portal::user(&app, "ada").await;
    let ticket = ada.ticket(stripes(2000, 2000)).await;
    let show = |size: u32| {
        let (ada, path) = (ada.clone(), format!("{PICTURES}/{ticket}?size={size}"));
        tokio::spawn(async move { ada.get(&path).await })
    };
    let mut busy = 0;
    for answer in futures_util::future::join_all((100..130).map(show)).await {
        let answer = answer.expect("answers");
        if answer.status.as_u16() == 429 {
            assert!(answer.header("retry-after").parse::<u64>().expect("seconds") > 0);
            assert!(refused(&answer, 429).contains("Too many requests"));
            busy += 1;
        } else {
            assert_eq!(answer.status.as_u16(), 200);
        }
    }
    assert!(busy > 0, "nobody was told to come back");
    // As soon as those who were let in have been served.
    eventually(async || (show(64).await.expect("answers").status.as_u16() == 200).then_some(())).await;
}

/// However many ask for one rendering at once, it is made once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rendering_is_made_once_and_kept() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    let ticket = ada.ticket(stripes(2000, 2000)).await;
    let path = format!("{PICTURES}/{ticket}?size=128");
    let many = (0..20).map(|_| ada.get(&path));
    let answers = futures_util::future::join_all(many).await;
    assert!(answers.iter().all(|answer| answer.status.as_u16() == 200 && answer.body == answers[0].body));
    let variants = app.stored().await.files.iter().filter(|file| file.to_string_lossy().contains("/variants/")).count();
    assert_eq!(variants, 1);
}

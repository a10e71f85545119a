//! Reading back: records, versions, handles.

use serde_json::{Value, json};

use super::{FileAnswer as _, Machine, open};
use crate::app::{Answer, TestApp};
use crate::fixtures::png;

/// A file with its link taken out, which is a fresh one every time.
fn versions(answer: &Answer) -> Vec<u64> {
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    let list = answer.json()["versions"].as_array().expect("list").clone();
    list.iter().map(|entry| entry["file"]["version"].as_u64().expect("number")).collect()
}

#[tokio::test]
async fn a_record_is_found_by_name_by_version_and_by_handle() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    let first = till.upload("a.png", png(8, 8, 1)).await;
    let second = till.upload("a.png", png(8, 8, 2)).await;
    let reader = Machine::till(&app, "reader");

    let newest = reader.send("GET", "rewards/a.png").await;
    assert_eq!(newest.file(), second.file());
    assert_eq!(newest.header("cache-control"), "no-store", "a link grows old");
    assert!(open(&newest.link()).await.body == png(8, 8, 2));
    let older = reader.send("GET", "rewards/a.png?version=1").await;
    let mut expected = first.file();
    expected["latest_version"] = json!(2);
    assert_eq!(older.file(), expected);
    assert!(open(&older.link()).await.body == png(8, 8, 1));
    let handle = second.file()["file_handle"].as_str().expect("handle").to_owned();
    for handle in [handle.clone(), handle.to_uppercase()] {
        assert_eq!(reader.send("GET", &format!("handles/{handle}")).await.file(), second.file());
    }
    assert_eq!(versions(&reader.send("GET", "rewards/a.png/versions").await), [2, 1]);
    let list = reader.send("GET", "rewards/a.png/versions").await.json();
    assert_eq!(list["versions"][0]["file"], second.file());
    assert!(open(list["versions"][1]["secureFilePath"].as_str().expect("link")).await.body == png(8, 8, 1));
    let head = reader.send("HEAD", "rewards/a.png").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}

#[tokio::test]
async fn versions_come_in_pages() {
    let app = TestApp::with(&[("file_service.versions_per_answer_max", "3")]).await;
    let till = Machine::till(&app, "till01");
    for salt in 0..7 {
        till.upload("a.png", png(8, 8, salt)).await.file();
    }
    let mut seen = Vec::new();
    let mut query = String::new();
    loop {
        let page = till.send("GET", &format!("rewards/a.png/versions{query}")).await;
        assert!(versions(&page).len() <= 3);
        seen.extend(versions(&page));
        match page.json()["nextBefore"].as_u64() {
            Some(before) => query = format!("?before={before}"),
            None => break,
        }
    }
    assert_eq!(seen, [7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(versions(&till.send("GET", "rewards/a.png/versions?before=1").await), [0; 0]);
}

#[tokio::test]
async fn what_is_not_there_is_404_with_a_reason() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    till.upload("a.png", png(8, 8, 1)).await.file();
    let before = app.stored().await;
    let unknown = "73e78929-1e07-4cc5-a738-b54470a7dc8c";
    for (method, path, reason) in [
        ("GET", "rewards/b.png".to_owned(), "no such file"),
        ("GET", "rewards/A.png".to_owned(), "no such file"),
        ("GET", "rewards/a.png?version=2".to_owned(), "no such file or version"),
        ("GET", "rewards/a.png?version=4294967295".to_owned(), "no such file or version"),
        ("GET", "rewards/b.png/versions".to_owned(), "no such file"),
        ("GET", "nowhere/a.png".to_owned(), "no such namespace"),
        ("GET", "opsportal-images/a.png".to_owned(), "no such namespace"),
        ("POST", "nowhere/a.png".to_owned(), "no such namespace"),
        ("GET", format!("handles/{unknown}"), "no file with this handle"),
        ("GET", "handles/nonsense".to_owned(), "no file with this handle"),
        ("PUT", "rewards/b.png/acl".to_owned(), "The body is"),
        ("DELETE", "rewards/b.png".to_owned(), "no such file"),
        ("DELETE", "rewards/a.png?version=2".to_owned(), "no such file or version"),
        ("POST", "rewards/a.png/restore".to_owned(), "nothing deleted"),
        ("POST", "rewards/b.png/restore".to_owned(), "nothing deleted"),
        ("GET", "rewards/a.png/nothing".to_owned(), "nothing at this path"),
    ] {
        let status = if path.ends_with("/acl") { 400 } else { 404 };
        let message = Answer::of(till.request(method, &path)).await.failed(status);
        assert!(message.contains(reason), "{method} {path}: {message}");
    }
    for query in ["version=0", "version=-1", "version=x", "version=", "version=1&version=1", "version=%2B1", "version=4294967296"]
    {
        till.send("GET", &format!("rewards/a.png?{query}")).await.failed(400);
        till.send("DELETE", &format!("rewards/a.png?{query}")).await.failed(400);
    }
    assert_eq!(app.stored().await, before);
}

/// Row A5: an org's names and handles mean nothing in another.
#[tokio::test]
async fn orgs_do_not_see_each_other() {
    let app = TestApp::start().await;
    let (till, other) = (Machine::till(&app, "till01"), Machine::till(&app, "till02"));
    let ours = till.upload("a.png", png(8, 8, 1)).await.file();
    let handle = ours["file_handle"].as_str().expect("handle");
    other.send("GET", "rewards/a.png").await.failed(404);
    other.send("GET", &format!("handles/{handle}")).await.failed(404);
    other.send("DELETE", "rewards/a.png").await.failed(404);
    other.send("PUT", "rewards/a.png/acl").await.failed(400);
    let acl = Answer::of(other.request("PUT", "rewards/a.png/acl").body("PUBLIC")).await;
    acl.failed(404);

    let theirs = other.upload("a.png", png(8, 8, 2)).await.file();
    assert_eq!(theirs["version"], 1, "each org counts for itself");
    assert_ne!(theirs["file_handle"], ours["file_handle"]);
    assert!(theirs["s3_token"].as_str().expect("key").starts_with("rewards/2/"));
    assert_eq!(till.send("GET", "rewards/a.png").await.file(), ours);
}

/// One object model: what an OpsPortal user uploaded has no name here, and a handle of it opens nothing.
#[tokio::test]
async fn images_of_other_apis_keep_their_own_rules() {
    let app = TestApp::start().await;
    let uuid = app.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
    let till = Machine::till(&app, "till01");
    till.send("GET", &format!("handles/{uuid}")).await.failed(404);
    let handle: Value = till.upload("a.png", png(8, 8, 1)).await.file()["file_handle"].clone();
    let portal = app.actor("root").await.read(handle.as_str().expect("handle")).await;
    portal.refused(404, "\"E_NOTFOUND\"");
}

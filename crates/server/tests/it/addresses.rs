//! One store under two addresses is one store to a move: its bytes stay, and it keeps its identity.

use std::path::Path;
use std::sync::Arc;

use imagewell::serve::{database_place, storage_place};
use imagewell_core::DatabasePlace;
use imagewell_core::moving::{Move, Plan, Progress};
use imagewell_core::storage::{BucketPlace, Place};

use crate::app::{Data, TestApp, files_below};
use crate::fixtures::png;

/// The same bucket, said otherwise.
fn otherwise(bucket: &BucketPlace) -> [BucketPlace; 2] {
    let (mut with_slash, mut with_host) = (bucket.clone(), bucket.clone());
    with_slash.url = format!("{}/", bucket.url.as_str().trim_end_matches('/')).parse().expect("an address");
    with_host.endpoint = bucket.endpoint.replace("127.0.0.1", "localhost");
    assert!(with_slash.url != bucket.url && with_host.endpoint != bucket.endpoint);
    [with_slash, with_host]
}

/// Files of the store with their bytes, its identity among them.
fn contents(blobs: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let identity = blobs.join(".imagewell");
    let files = files_below(blobs, blobs).into_iter().filter(|file| !file.to_string_lossy().contains("/variants/"));
    files.chain([identity]).map(|file| (file.clone(), std::fs::read(file).expect("reads"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_named_otherwise_on_both_sides_is_the_same_to_a_move() {
    for way in 0..2 {
        let data = Data::outgrown();
        let app = TestApp::on(Arc::clone(&data), &[]).await;
        let uuid = app.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
        let settings = Arc::clone(&app.service.settings);
        app.stop().await;
        let Place::Bucket(bucket) = storage_place(&settings) else { panic!("it is a bucket") };
        let before = contents(&data.blobs());
        let moved = data.folder().join("moved.db");
        let plan = Plan {
            from_database: database_place(&settings),
            to_database: DatabasePlace::File { file: moved.clone(), readers_max: 2 },
            to_storage: Place::Bucket(Box::new(otherwise(&bucket)[way].clone())),
            from_storage: Place::Bucket(bucket),
            spool_folder: data.folder().join("spool"),
            bytes_per_second_max: 0,
            without_damaged: false,
        };
        let mut under_way = Move::open(plan, |_: Progress| {}).await.expect("opens");
        under_way.copy().await.expect("copies");
        under_way.cut_over(|| Ok(())).await.expect("moves");
        assert!(contents(&data.blobs()) == before, "something was written");
        let there = format!("sqlite://{}", moved.display());
        let app = TestApp::on(data, &[("database_url", &there)]).await;
        assert_eq!(app.actor("ada").await.read(&uuid).await.body, png(8, 8, 1));
        app.service.app.verify_identity().await.expect("they belong together");
    }
}

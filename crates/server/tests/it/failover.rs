//! The machine of the database dies, and its synchronous standby takes over at the same address.

use std::time::{Duration, Instant};

use imagewell_core::verify;
use imagewell_engines::failover::Pair;

use crate::app::{Data, Outgrown, TestApp};
use crate::faults::{Load, ready};
use crate::file_service::{FileAnswer as _, Machine};
use crate::fixtures::png;

#[tokio::test(flavor = "multi_thread")]
async fn when_a_standby_takes_over_nothing_acknowledged_is_lost_and_nodes_go_on_by_themselves() {
    let mut pair = tokio::task::spawn_blocking(Pair::start).await.expect("starts");
    let (outgrown, address) = Outgrown::with_standby(&pair);
    let patient = TestApp::on(Data::on(outgrown), &[]).await;
    let impatient = patient.another_node(&[("database.wait_seconds_max", "1")]).await;
    let ada = patient.actor("ada").await;
    let nodes = [&patient, &impatient, &patient, &impatient];
    let load = Load::start(nodes.into_iter().map(|node| ada.at_node(&node.url("")))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    // For a while the address leads to what is still a standby: it answers, but takes no writes.
    address.lead_to(pair.second());
    pair.kill_first();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(ready(&impatient).await, 503);
    let promoting = tokio::task::spawn_blocking(move || {
        pair.promote_second();
        pair
    });
    let begun = Instant::now();
    while ready(&patient).await != 200 || ready(&impatient).await != 200 {
        assert!(begun.elapsed() < Duration::from_secs(10), "a node stays unready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (kept, refused) = load.finish().await;
    println!("{} acknowledged, {refused} refused", kept.len());
    assert!(kept.len() > 10);

    // A node that holds nothing in memory.
    let third = patient.another_node(&[]).await;
    for (uuid, bytes) in &kept {
        assert!(ada.at_node(&third.url("")).read(uuid).await.body == *bytes, "{uuid}");
    }
    let checked = verify::run(&third.service.app, |_| {}).await.expect("reads");
    assert!(checked.broken.is_empty() && checked.versions >= kept.len() as u64, "{checked:?}");

    // And nodes hear each other again.
    let (till, there) = (Machine::till(&patient, "till01"), Machine::till(&impatient, "till01"));
    till.upload("a.png", png(8, 8, 1)).await.file();
    assert_eq!(there.send("GET", "rewards/a.png").await.file()["version"], 1);
    till.upload("a.png", png(8, 8, 2)).await.file();
    let begun = Instant::now();
    while there.send("GET", "rewards/a.png").await.file()["version"] != 2 {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(promoting.await);
}

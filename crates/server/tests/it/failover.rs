//! The machine of the database dies, and its synchronous standby takes over at the same address.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use imagewell_core::verify;
use imagewell_engines::failover::Pair;

use crate::app::{Actor, Answer, Data, Outgrown, TestApp};
use crate::faults::ready;
use crate::file_service::{FileAnswer as _, Machine};
use crate::fixtures::{png, png_of_bytes};

/// Uploads one image after the other until told to stop: those that were acknowledged, and how many were refused.
async fn lane(ada: Actor, lane: u64, stop: Arc<AtomicBool>) -> (HashMap<String, Vec<u8>>, u32) {
    let token = ada.csrf().await;
    let (mut kept, mut refused) = (HashMap::new(), 0);
    for round in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let bytes = png_of_bytes(20_000, lane * 100_000 + round);
        let answer = Answer::of(ada.uploading(&token, &bytes)).await;
        match answer.status.as_u16() {
            200 => drop(kept.insert(answer.uuid(), bytes)),
            status => {
                assert!(matches!(status, 500 | 503), "{status}: {}", answer.text());
                refused += 1;
            }
        }
    }
    (kept, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_standby_takes_over_nothing_acknowledged_is_lost_and_nodes_go_on_by_themselves() {
    let mut pair = tokio::task::spawn_blocking(Pair::start).await.expect("starts");
    let (outgrown, address) = Outgrown::with_standby(&pair);
    let patient = TestApp::on(Data::on(outgrown), &[]).await;
    let impatient = patient.another_node(&[("database.wait_seconds_max", "1")]).await;
    let ada = patient.actor("ada").await;
    let stop = Arc::new(AtomicBool::new(false));
    let lanes = (0..4).map(|index| {
        let node = if index % 2 == 0 { &patient } else { &impatient };
        tokio::spawn(lane(ada.at_node(&node.url("")), index, Arc::clone(&stop)))
    });
    let lanes: Vec<_> = lanes.collect();
    tokio::time::sleep(Duration::from_secs(1)).await;

    // For a while the address leads to what is still a standby: it answers, but takes no writes.
    address.lead_to(pair.second());
    pair.kill_first();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(ready(&impatient).await, 503);
    let mut pair = tokio::task::spawn_blocking(move || {
        pair.promote_second();
        pair
    });
    let begun = Instant::now();
    while ready(&patient).await != 200 || ready(&impatient).await != 200 {
        assert!(begun.elapsed() < Duration::from_secs(10), "a node stays unready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::SeqCst);
    let (mut kept, mut refused) = (HashMap::new(), 0);
    for lane in lanes {
        let (more, count) = lane.await.expect("every answer is one that is expected");
        kept.extend(more);
        refused += count;
    }
    println!("{} acknowledged, {refused} refused", kept.len());

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
    drop((&mut pair).await);
}

//! Workers that hang, die, pile up and are used again, and what callers hear of it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imagewell_core::Error;
use imagewell_core::model::OrgId;
use imagewell_core::spool::Content;
use imagewell_core::workers::{WorkerLimits, Workers};
use imagewell_imaging::transform::{Fit, Transform};
use imagewell_imaging::{Facts, Limits};

use crate::app::program;
use crate::fixtures::{photograph, png};
use crate::process::{Process, provision};

const LIMITS: WorkerLimits = WorkerLimits {
    concurrent_max: 2,
    memory_bytes_max: 512 * 1024 * 1024,
    queue_max: 64,
    queue_per_org_max: 64,
    wait_max: Duration::from_secs(10),
    jobs_max: 50,
    time_max: Duration::from_secs(20),
    images: Limits::DEFAULT,
};

const ORG: OrgId = OrgId(1);

/// A program of one line in the place of the worker's.
fn script(folder: &tempfile::TempDir, line: &str) -> PathBuf {
    let path = folder.path().join("worker");
    std::fs::write(&path, format!("#!/bin/bash\n{line}\n")).expect("writes");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("permits");
    path
}

fn source(bytes: Vec<u8>) -> (Content, Facts) {
    let facts = imagewell_imaging::inspect(std::io::Cursor::new(&bytes), &Limits::default()).expect("image");
    (Content::Memory(bytes.into()), facts)
}

fn square(side: u32) -> Transform {
    Transform::of(Fit::square(side))
}

#[tokio::test]
async fn a_decode_that_hangs_is_given_up_and_the_next_one_works() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let limits = WorkerLimits { time_max: Duration::from_millis(300), ..LIMITS };
    let (content, facts) = source(photograph());
    let hanging = Workers::new(script(&folder, "exec sleep 60"), limits);
    let started = Instant::now();
    let refused = hanging.render(ORG, &content, Some(&facts), &square(64)).await.expect_err("hangs");
    assert!(matches!(&refused, Error::Invalid { reason } if reason.contains("too long")), "{refused:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
    let dying = Workers::new(script(&folder, "head -c 1000 >/dev/null; exit 1"), LIMITS);
    let refused = dying.render(ORG, &content, Some(&facts), &square(64)).await.expect_err("dies");
    assert!(matches!(&refused, Error::Invalid { reason } if reason.contains("more than is allowed")), "{refused:?}");
    let lying = Workers::new(script(&folder, "printf '+\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff'; sleep 60"), LIMITS);
    lying.render(ORG, &content, Some(&facts), &square(64)).await.expect_err("claims to answer without end");
}

#[tokio::test]
async fn more_than_can_wait_are_told_to_come_back() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let limits = WorkerLimits { concurrent_max: 1, queue_max: 3, time_max: Duration::from_millis(800), ..LIMITS };
    let workers = Arc::new(Workers::new(script(&folder, "exec sleep 60"), limits));
    let (content, facts) = source(photograph());
    let many = (0..20).map(|side| {
        let (workers, content) = (Arc::clone(&workers), content.clone());
        async move { workers.render(ORG, &content, Some(&facts), &square(side + 1)).await }
    });
    let outcomes = futures_util::future::join_all(many).await;
    let busy = outcomes.iter().filter(|outcome| matches!(outcome, Err(Error::Busy { .. }))).count();
    assert_eq!(busy, 16, "one works and three wait");
}

/// Pictures that would take the memory of all others wait until they are alone.
#[tokio::test]
async fn admission_is_by_memory() {
    assert_eq!(most_at_once(64 * 1024 * 1024).await, 1, "each takes all of it");
    assert!(most_at_once(2 * 1024 * 1024 * 1024).await > 1, "there is room for several");
}

/// How many workers are there at once for six large pictures, by what the workers themselves see.
async fn most_at_once(memory_bytes_max: u64) -> usize {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (present, seen) = (folder.path().join("present"), folder.path().join("seen"));
    std::fs::create_dir(&present).expect("makes");
    let (here, log) = (present.display(), seen.display());
    let line = format!("touch {here}/$$; sleep 0.2; ls {here} | wc -l >> {log}; rm {here}/$$; exit 1");
    let limits = WorkerLimits { concurrent_max: 8, memory_bytes_max, ..LIMITS };
    let workers = Arc::new(Workers::new(script(&folder, &line), limits));
    let (content, facts) = source(png(4000, 3000, 1));
    let many = (0..6).map(|side| {
        let (workers, content) = (Arc::clone(&workers), content.clone());
        async move { workers.render(ORG, &content, Some(&facts), &square(64 + side)).await }
    });
    futures_util::future::join_all(many).await;
    let seen = std::fs::read_to_string(&seen).expect("workers ran");
    seen.lines().map(|count| count.trim().parse().expect("number")).max().expect("workers ran")
}

#[tokio::test]
async fn a_worker_is_used_again_and_replaced_after_so_many_jobs() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let starts = folder.path().join("starts");
    let line = format!("echo >> {}; exec {} \"$@\"", starts.display(), program().display());
    let limits = WorkerLimits { concurrent_max: 1, jobs_max: 3, ..LIMITS };
    let workers = Workers::new(script(&folder, &line), limits);
    let (content, facts) = source(photograph());
    for side in 1..=7 {
        workers.render(ORG, &content, Some(&facts), &square(side)).await.expect("renders");
    }
    assert_eq!(std::fs::read_to_string(&starts).expect("file").lines().count(), 3, "seven jobs, three each");
    assert_eq!(workers.end_idle(Duration::from_secs(60)), 0, "it may be needed again soon");
    assert_eq!(workers.end_idle(Duration::ZERO), 1);
    workers.render(ORG, &content, Some(&facts), &square(9)).await.expect("renders, in a new one");
}

/// Whatever an earlier picture did to a worker is not put down to a later one.
#[tokio::test]
async fn a_worker_that_dies_between_jobs_is_replaced_unnoticed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    provision(&data);
    let process = Process::serve(&data);
    let ada = process.actor("ada").await;
    let path = |uuid: &str| format!("/opsportal/imageBase64/opstool/{uuid}?isMobile=true");
    let large = |salt| crate::fixtures::png_of_bytes(2_000_000, salt);
    for salt in 0..3 {
        let uuid = ada.upload(large(salt)).await.uuid();
        let answer = crate::app::Answer::of(ada.get(&path(&uuid))).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        let parent = process.child.id().to_string();
        let killed =
            std::process::Command::new("pkill").args(["-KILL", "-P", &parent, "-f", "render-worker"]).status().expect("runs");
        assert!(killed.success(), "a worker waits for its next job");
    }
    assert!(process.terminate().success());
}

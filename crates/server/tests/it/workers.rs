//! Workers that hang, die, pile up and are used again, and what callers hear of it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imagewell_core::Error;
use imagewell_core::model::OrgId;
use imagewell_core::spool::Content;
use imagewell_core::workers::{Failure, Given, WorkerLimits, Workers};
use imagewell_imaging::transform::{Fit, Transform};
use imagewell_imaging::{Facts, Limits};

use crate::app::{Actor, Answer, Data, TestApp, program};
use crate::fixtures::{photograph, png};
use crate::process::{Process, provision};
use crate::records::eventually;

const LIMITS: WorkerLimits = WorkerLimits {
    concurrent_max: 2,
    memory_bytes_max: 512 * 1024 * 1024,
    queue_max: 64,
    queue_per_org_max: 64,
    wait_max: Duration::from_secs(10),
    jobs_max: 50,
    time_max: Duration::from_secs(20),
    drawing_time_max: Duration::from_secs(20),
    look_time_max: Duration::from_secs(20),
    avif_pixels_max: 12_000_000,
    lossless_webp_pixels_max: 16_000_000,
    refused_for: Duration::from_secs(3600),
    // Most of these programs can't say what their sandbox is made of.
    allow_without_sandbox: true,
    images: Limits::DEFAULT,
};

const ORG: OrgId = OrgId(1);

/// A program of one line in the place of the worker's. It is called with `render-worker serve` or `render-worker probe`.
pub fn script(folder: &tempfile::TempDir, line: &str) -> PathBuf {
    let path = folder.path().join("worker");
    std::fs::write(&path, format!("#!/bin/bash\n{line}\n")).expect("writes");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("permits");
    path
}

/// A program that notes each of its starts as a worker, does this, and goes on as the real one.
pub fn counting_script(folder: &tempfile::TempDir, line: &str) -> PathBuf {
    let (starts, program) = (folder.path().join("starts"), program());
    let (starts, program) = (starts.display(), program.display());
    let line = format!("[ \"$2\" = probe ] && exec {program} \"$@\"; echo >> {starts}; {line}; exec {program} \"$@\"");
    script(folder, &line)
}

/// How often a [`counting_script`] was started.
pub fn starts(folder: &tempfile::TempDir) -> usize {
    std::fs::read_to_string(folder.path().join("starts")).map_or(0, |text| text.lines().count())
}

fn source(bytes: Vec<u8>) -> (Content, Facts) {
    let facts = imagewell_imaging::inspect(std::io::Cursor::new(&bytes), &Limits::default()).expect("image");
    (Content::Memory(bytes.into()), facts)
}

fn square(side: u32) -> Transform {
    Transform::of(Fit::square(side))
}

/// Renders with this program in the place of the worker's.
async fn rendered_by(line: &str, limits: WorkerLimits) -> Failure {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (content, facts) = source(photograph());
    let workers = Workers::new(script(&folder, line), limits);
    workers.render(ORG, &Given { content: &content, facts: Some(&facts) }, &square(64)).await.expect_err("fails")
}

#[tokio::test]
async fn a_decode_that_hangs_is_given_up_and_the_next_one_works() {
    let limits = WorkerLimits { time_max: Duration::from_millis(300), ..LIMITS };
    let started = Instant::now();
    let hanging = rendered_by("cat >/dev/null & exec sleep 60", limits).await;
    assert!(matches!(&hanging, Failure::Overtaxed(reason) if reason.contains("too long")), "{hanging:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
    let lying = rendered_by("cat >/dev/null & printf '+\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff'; sleep 60", LIMITS).await;
    assert!(matches!(&lying, Failure::Overtaxed(_)), "it claims to answer without end: {lying:?}");
}

/// What its own limits end is the picture's doing; what others end says nothing about it.
#[tokio::test]
async fn a_death_is_a_verdict_only_when_the_picture_brought_it_about() {
    for signal in ["ABRT", "SEGV", "XCPU", "SYS"] {
        let died = rendered_by(&format!("head -c 1000 >/dev/null; kill -{signal} $$"), LIMITS).await;
        assert!(matches!(&died, Failure::Overtaxed(reason) if reason.contains("more than is allowed")), "{signal}: {died:?}");
    }
    for end in ["kill -KILL $$", "kill -TERM $$", "kill -INT $$", "exit 1", "exit 127"] {
        let killed = rendered_by(&format!("head -c 1000 >/dev/null; {end}"), LIMITS).await;
        assert!(matches!(killed, Failure::Killed), "{end}: {killed:?}");
        assert!(matches!(Error::from(killed), Error::Busy { .. }), "{end}");
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let (content, facts) = source(photograph());
    let given = Given { content: &content, facts: Some(&facts) };
    let absent = Workers::new(folder.path().join("replaced"), LIMITS).render(ORG, &given, &square(64)).await;
    assert!(matches!(absent, Err(Failure::Passing(Error::Busy { .. }))), "{absent:?}");
    // While the service stops, nothing is a verdict.
    let stopping = Workers::new(script(&folder, "head -c 1000 >/dev/null; kill -SEGV $$"), LIMITS);
    stopping.drain();
    let died = stopping.render(ORG, &given, &square(64)).await;
    assert!(matches!(died, Err(Failure::Passing(Error::Busy { .. }))), "{died:?}");
}

#[tokio::test]
async fn drawing_and_looking_have_limits_of_their_own() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let short = Duration::from_millis(300);
    let limits = WorkerLimits { drawing_time_max: short, look_time_max: short, time_max: Duration::from_secs(300), ..LIMITS };
    let workers = Workers::new(script(&folder, "cat >/dev/null & exec sleep 60"), limits);
    let (content, facts) = source(photograph());
    let given = Given { content: &content, facts: Some(&facts) };
    let drawn = workers.rasterise(ORG, &given).await;
    assert!(matches!(&drawn, Err(Error::Invalid { reason }) if reason.contains("too long")), "{drawn:?}");
    let looked = workers.look(ORG, &given).await;
    assert!(matches!(&looked, Err(Failure::Overtaxed(_))), "{looked:?}");
}

/// A picture as large as any that is taken, beside another org's that hold all workers and most of the memory for longer than others wait.
#[tokio::test]
async fn the_largest_picture_of_an_org_does_not_wait_for_the_slow_ones_of_another() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = counting_script(&folder, "[ $(wc -l < $(dirname $0)/starts) -le 2 ] && exec sleep 60");
    let limits = WorkerLimits { time_max: Duration::from_secs(60), ..LIMITS };
    let workers = Arc::new(Workers::new(program, limits));
    let (large, large_facts) = source(png(7000, 7000, 1));
    let hogs: Vec<_> = [large_facts, source(photograph()).1]
        .map(|facts| {
            let (workers, content) = (Arc::clone(&workers), large.clone());
            tokio::spawn(async move { workers.render(ORG, &Given { content: &content, facts: Some(&facts) }, &square(9)).await })
        })
        .into();
    eventually(async || (starts(&folder) == 2).then_some(())).await;
    let given = Given { content: &large, facts: Some(&large_facts) };
    let rendered = workers.render(OrgId(2), &given, &square(64)).await.expect("it has its turn, and a worker that works");
    assert!(!rendered.is_empty() && hogs.iter().all(|hog| !hog.is_finished()), "they are at it all the time");
    hogs.into_iter().for_each(|task| task.abort());
}

/// One org's renderings that run for as long as they may are in nobody else's way.
#[tokio::test]
async fn an_org_that_keeps_every_worker_busy_leaves_one_to_the_others() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let hog = photograph().len() as u64;
    // It hangs over the first two pictures, which are recognised by the job's text.
    let line =
        format!("head -c 4 >/dev/null; [ $(head -c 6) = inside ] && exec sleep 60; head -c {hog} >/dev/null; kill -SEGV $$");
    let workers = Arc::new(Workers::new(script(&folder, &line), LIMITS));
    let (content, facts) = source(photograph());
    let hogging: Vec<_> = (0..4)
        .map(|side| {
            let (workers, content) = (Arc::clone(&workers), content.clone());
            tokio::spawn(async move {
                let given = Given { content: &content, facts: Some(&facts) };
                workers.render(ORG, &given, &Transform::of(Fit::Inside(side + 1, 9))).await
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let given = Given { content: &content, facts: Some(&facts) };
    let other = tokio::time::timeout(Duration::from_secs(5), workers.render(OrgId(2), &given, &square(64))).await;
    assert!(matches!(other, Ok(Err(Failure::Overtaxed(_)))), "it had its turn, and its worker ended: {other:?}");
    hogging.into_iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn more_than_can_wait_are_told_to_come_back() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let limits = WorkerLimits { concurrent_max: 1, queue_max: 3, time_max: Duration::from_millis(800), ..LIMITS };
    let workers = Arc::new(Workers::new(script(&folder, "exec sleep 60"), limits));
    let (content, facts) = source(photograph());
    let many = (0..20).map(|side| {
        let (workers, content) = (Arc::clone(&workers), content.clone());
        async move { workers.render(ORG, &Given { content: &content, facts: Some(&facts) }, &square(side + 1)).await }
    });
    let outcomes = futures_util::future::join_all(many).await;
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, Err(Failure::Passing(Error::TooMany { .. })))).count();
    assert_eq!(refused, 16, "one works and three wait");
}

/// A balancer must not take the answer to one org for a node's state, and the org has to know that it
/// is its own doing.
#[tokio::test(flavor = "multi_thread")]
async fn a_rendering_that_waits_for_its_own_org_gets_429_and_one_that_waits_for_another_org_503() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let hanging = script(&folder, "cat >/dev/null & exec sleep 60");
    let settings = [
        ("workers.concurrent_max", "1"),
        ("workers.wait_seconds_max", "1"),
        ("workers.time_seconds_max", "6"),
        ("workers.queue_per_org_max", "1"),
        ("workers.allow_without_sandbox", "true"),
        ("images.looks", "false"),
    ];
    let app = TestApp::with_workers(Data::fresh(), &settings, hanging).await;
    let (ada, eve) = (app.actor("ada").await, app.actor("eve").await);
    let (own, other) = (ada.upload(photograph()).await.uuid(), eve.upload(photograph()).await.uuid());
    let before = app.stored().await;
    let holds = tokio::spawn(Answer::of(ada.get(&format!("/i/{own}/w_10"))));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (waits, full, waits_for_another) = tokio::join!(
        Answer::of(ada.get(&format!("/i/{own}/w_11"))),
        async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Answer::of(ada.get(&format!("/i/{own}/w_12"))).await
        },
        Answer::of(eve.get(&format!("/i/{other}/w_10")))
    );
    for (what, answer, status) in [
        ("too long behind its own", waits, 429),
        ("its own queue is full", full, 429),
        ("too long behind another one's", waits_for_another, 503),
    ] {
        assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.text());
        assert!(!answer.header("retry-after").is_empty(), "{what}");
    }
    assert_eq!(holds.await.expect("answers").status.as_u16(), 422, "it was given up");
    assert_eq!(app.stored().await, before);
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
        async move { workers.render(ORG, &Given { content: &content, facts: Some(&facts) }, &square(64 + side)).await }
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
    let given = Given { content: &content, facts: Some(&facts) };
    for side in 1..=7 {
        workers.render(ORG, &given, &square(side)).await.expect("renders");
    }
    assert_eq!(std::fs::read_to_string(&starts).expect("file").lines().count(), 3, "seven jobs, three each");
    assert_eq!(workers.end_idle(Duration::from_secs(60)), 0, "it may be needed again soon");
    assert_eq!(workers.end_idle(Duration::ZERO), 1);
    workers.render(ORG, &given, &square(9)).await.expect("renders, in a new one");
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
        let answer = Answer::of(ada.get(&path(&uuid))).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        let parent = process.child.id().to_string();
        let killed =
            std::process::Command::new("pkill").args(["-KILL", "-P", &parent, "-f", "render-worker"]).status().expect("runs");
        assert!(killed.success(), "a worker waits for its next job");
    }
    assert!(process.terminate().success());
}

/// Processes that this one has started to render in.
fn workers_of(process: &Process) -> Vec<String> {
    let parent = process.child.id().to_string();
    let found = std::process::Command::new("pgrep").args(["-P", &parent, "-f", "render-worker"]).output().expect("runs");
    String::from_utf8(found.stdout).expect("numbers").lines().map(str::to_owned).collect()
}

/// Begins a rendering that takes a while, and waits until a worker is at it.
async fn begun(process: &Process, ada: &Actor, uuid: &str) -> (tokio::task::JoinHandle<Answer>, Vec<String>) {
    let asking = tokio::spawn(Answer::of(ada.get(&format!("/i/{uuid}/w_700,f_avif"))));
    let workers = eventually(async || Some(workers_of(process)).filter(|workers| !workers.is_empty())).await;
    // It has read the picture.
    tokio::time::sleep(Duration::from_millis(400)).await;
    (asking, workers)
}

fn signal(name: &str, processes: &[String]) {
    let sent = std::process::Command::new("kill").arg(format!("-{name}")).args(processes).status().expect("runs");
    assert!(sent.success(), "{name}");
}

/// As a service manager and a terminal send them to all processes of a service.
#[tokio::test]
async fn a_signal_to_all_processes_ends_no_rendering() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    provision(&data);
    let mut process = Process::serve_with(&data, &[("IMAGEWELL_IMAGES_LOOKS", "false")]);
    let ada = process.actor("ada").await;
    let uuid = ada.upload(png(3000, 2500, 1)).await.uuid();
    let (asking, workers) = begun(&process, &ada, &uuid).await;
    for worker in &workers {
        let group = std::process::Command::new("ps").args(["-o", "pgid=", "-p", worker]).output().expect("runs");
        assert_eq!(String::from_utf8_lossy(&group.stdout).trim(), worker, "it has a group of its own");
    }
    signal("INT", &workers);
    signal("TERM", &workers);
    signal("TERM", &[process.child.id().to_string()]);
    let answer = asking.await.expect("answers");
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    assert!(process.wait(Duration::from_secs(40)).success());
}

/// As a kernel does that is out of memory.
#[tokio::test]
async fn a_worker_that_somebody_kills_is_no_verdict_over_the_image() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    provision(&data);
    let process = Process::serve_with(&data, &[("IMAGEWELL_IMAGES_LOOKS", "false")]);
    let ada = process.actor("ada").await;
    let uuid = ada.upload(png(3000, 2500, 1)).await.uuid();
    let (asking, workers) = begun(&process, &ada, &uuid).await;
    signal("KILL", &workers);
    let answer = asking.await.expect("answers");
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "1"), "{}", answer.text());
    let again = Answer::of(ada.get(&format!("/i/{uuid}/w_700,f_avif"))).await;
    assert_eq!(again.status.as_u16(), 200, "{}", again.text());
    assert!(process.terminate().success());
}

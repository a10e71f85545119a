//! Random uploads, deletions, restorations and reads, against a model of what the specification says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::{FileAnswer as _, Machine, open};
use crate::app::{Answer, FOLDER, TestApp};
use crate::fixtures::png;

const NAMES: [&str; 3] = ["a.png", "A.png", "b.png"];

#[derive(Debug, Clone)]
enum Step {
    Upload { name: usize, salt: u64 },
    Placeholder { name: usize },
    Refused { name: usize },
    Delete { name: usize, version: Option<u32> },
    Restore { name: usize, version: Option<u32> },
    Acl { name: usize, public: bool },
    Read { name: usize, version: Option<u32> },
}

fn step() -> impl Strategy<Value = Step> {
    let (name, version) = (0..NAMES.len(), proptest::option::of(1..6_u32));
    prop_oneof![
        4 => (name.clone(), any::<u64>()).prop_map(|(name, salt)| Step::Upload { name, salt }),
        1 => name.clone().prop_map(|name| Step::Placeholder { name }),
        1 => name.clone().prop_map(|name| Step::Refused { name }),
        3 => (name.clone(), version.clone()).prop_map(|(name, version)| Step::Delete { name, version }),
        3 => (name.clone(), version.clone()).prop_map(|(name, version)| Step::Restore { name, version }),
        1 => (name.clone(), any::<bool>()).prop_map(|(name, public)| Step::Acl { name, public }),
        3 => (name, version).prop_map(|(name, version)| Step::Read { name, version }),
    ]
}

/// A version as the model sees it: its bytes, and which deletion it is gone by.
#[derive(Debug)]
struct Version {
    bytes: Vec<u8>,
    deleted_by: Option<usize>,
}

#[derive(Debug, Default)]
struct File {
    versions: Vec<Version>,
    public: bool,
    handle: Option<String>,
    deletions: usize,
}

impl File {
    /// Numbers that can be read, newest first.
    fn readable(&self) -> Vec<u32> {
        let numbered = self.versions.iter().zip(1..);
        let mut numbers: Vec<u32> =
            numbered.filter(|(version, _)| version.deleted_by.is_none()).map(|(_, number)| number).collect();
        numbers.reverse();
        numbers
    }

    fn upload(&mut self, bytes: Vec<u8>) -> u32 {
        self.versions.push(Version { bytes, deleted_by: None });
        u32::try_from(self.versions.len()).expect("few")
    }

    /// Whether anything was there to delete.
    fn delete(&mut self, version: Option<u32>) -> bool {
        let numbers: Vec<u32> =
            self.readable().into_iter().filter(|number| version.is_none_or(|wanted| wanted == *number)).collect();
        self.deletions += 1;
        for number in &numbers {
            self.versions[*number as usize - 1].deleted_by = Some(self.deletions);
        }
        !numbers.is_empty()
    }

    /// Whether anything was there to restore.
    fn restore(&mut self, version: Option<u32>) -> bool {
        let last = self.versions.iter().filter_map(|version| version.deleted_by).max();
        let mut restored = false;
        for (one, number) in self.versions.iter_mut().zip(1..) {
            let named = version.is_some_and(|wanted| wanted == number) && one.deleted_by.is_some();
            let in_last = version.is_none() && one.deleted_by.is_some() && one.deleted_by == last;
            if named || in_last {
                one.deleted_by = None;
                restored = true;
            }
        }
        restored
    }
}

async fn check(machine: &Machine, path: &str, file: &mut File, answer: &Answer, number: u32) {
    let record = answer.file();
    assert_eq!(record["version"], number, "{path}");
    assert_eq!(
        Some(&record["latest_version"]),
        file.readable().first().map(|newest| serde_json::json!(newest)).as_ref(),
        "{path}"
    );
    assert_eq!(record["acl"], if file.public { "PUBLIC" } else { "PRIVATE" }, "{path}");
    let bytes = &file.versions[number as usize - 1].bytes;
    assert_eq!(record["fileSize"], bytes.len().to_string(), "{path}");
    let handle = record["file_handle"].as_str().expect("handle").to_owned();
    assert_eq!(*file.handle.get_or_insert_with(|| handle.clone()), handle, "one handle for ever");
    let link = answer.link();
    assert!(open(&link).await.body == *bytes, "{path}");
    let plain = open(link.split('?').next().expect("path")).await;
    assert_eq!(plain.status.as_u16(), if file.public { 200 } else { 403 }, "{path}");
    let by_handle = machine.send("GET", &format!("handles/{handle}")).await.file();
    assert_eq!(Some(by_handle["version"].as_u64()), file.readable().first().map(|newest| Some(u64::from(*newest))));
}

async fn take(machine: &Machine, files: &mut BTreeMap<usize, File>, folder: usize, step: &Step) {
    let path = |name: usize, version: Option<u32>| {
        let query = version.map(|version| format!("?version={version}")).unwrap_or_default();
        (format!("rewards/{folder}-{}", NAMES[name]), query)
    };
    match *step {
        Step::Upload { name, salt } => {
            let (path, _) = path(name, None);
            let file = files.entry(name).or_default();
            let number = file.upload(png(4, 4, salt));
            let answer = Answer::of(machine.request("POST", &path).body(png(4, 4, salt))).await;
            check(machine, &path, file, &answer, number).await;
        }
        Step::Placeholder { name } => {
            let (path, _) = path(name, None);
            let file = files.entry(name).or_default();
            let number = file.upload(Vec::new());
            check(machine, &path, file, &machine.send("POST", &path).await, number).await;
        }
        Step::Refused { name } => {
            Answer::of(machine.request("POST", &path(name, None).0).body("no image")).await.failed(400);
        }
        Step::Delete { name, version } => {
            let (path, query) = path(name, version);
            let answer = machine.send("DELETE", &format!("{path}{query}")).await;
            if files.entry(name).or_default().delete(version) {
                answer.file();
            } else {
                answer.failed(404);
            }
        }
        Step::Restore { name, version } => {
            let (path, query) = path(name, version);
            let answer = machine.send("POST", &format!("{path}/restore{query}")).await;
            let file = files.entry(name).or_default();
            if file.restore(version) {
                let number = version.unwrap_or_else(|| file.readable()[0]);
                check(machine, &path, file, &answer, number).await;
            } else {
                answer.failed(404);
            }
        }
        Step::Acl { name, public } => {
            let file = files.entry(name).or_default();
            let word = if public { "PUBLIC" } else { "PRIVATE" };
            let answer = Answer::of(machine.request("PUT", &format!("{}/acl", path(name, None).0)).body(word)).await;
            if file.readable().is_empty() {
                answer.failed(404);
            } else {
                file.public = public;
                answer.file();
            }
        }
        Step::Read { name, version } => {
            let (path, query) = path(name, version);
            let file = files.entry(name).or_default();
            let readable = file.readable();
            let number = version.or(readable.first().copied()).filter(|number| readable.contains(number));
            let answer = machine.send("GET", &format!("{path}{query}")).await;
            match number {
                Some(number) => check(machine, &path, file, &answer, number).await,
                None => {
                    answer.failed(404);
                }
            }
            let list = machine.send("GET", &format!("{path}/versions")).await;
            if readable.is_empty() {
                list.failed(404);
            } else {
                let listed: Vec<u32> = list.json()["versions"]
                    .as_array()
                    .expect("list")
                    .iter()
                    .map(|entry| u32::try_from(entry["file"]["version"].as_u64().expect("number")).expect("small"))
                    .collect();
                assert_eq!(listed, readable, "{path}");
            }
        }
    }
}

#[test]
fn any_order_of_changes_ends_where_the_model_does() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let app = runtime.block_on(TestApp::with(&[FOLDER]));
    let machine = Machine::till(&app, "till01");
    let cases = AtomicUsize::new(0);
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, max_shrink_iters: 200, ..Config::default() });
    let outcome = runner.run(&proptest::collection::vec(step(), 1..25), |steps| {
        // Names of its own for each case: nothing of an earlier one may be in the way.
        let case = cases.fetch_add(1, Ordering::Relaxed);
        let walk = async {
            let mut files = BTreeMap::new();
            for step in &steps {
                take(&machine, &mut files, case, step).await;
            }
        };
        let walked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(walk)));
        walked.map_err(|_| TestCaseError::fail("the service and the model disagree"))
    });
    runtime.block_on(app.stop());
    outcome.expect("agrees with the model");
}

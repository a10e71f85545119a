//! The real program in a process of its own, to be killed, starved and read back.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant, SystemTime};

use imagewell::config::environment_name;

use crate::app::{Actor, Answer, Outgrown, PASSWORD, SANDBOXED, program};

/// Two users in one org; ada uploads and sees.
pub const PLAN: &str = include_str!("../../../../testdata/accounts.toml");

/// Of the log of a process whose test has failed.
const LINES_SHOWN: usize = 60;

/// A running `imagewell serve`.
pub struct Process {
    pub child: Child,
    pub url: String,
    log: Arc<Mutex<String>>,
}

/// The program with cheap password hashes on this folder, without anything of the surroundings' settings.
pub fn imagewell(data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    configure(command.args(arguments), data_dir);
    command
}

/// Databases and buckets by data folder; none for what stays on SQLite and a folder.
static OUTGROWN: LazyLock<Mutex<HashMap<PathBuf, Option<Arc<Outgrown>>>>> = LazyLock::new(Mutex::default);

/// What a process on this folder is told, when the tests run on PostgreSQL and an S3 store.
fn outgrown(data_dir: &Path) -> Vec<(String, String)> {
    let mut all = OUTGROWN.lock().expect("map");
    let outgrown =
        all.entry(data_dir.to_owned()).or_insert_with(|| imagewell_engines::outgrown().then(|| Arc::new(Outgrown::new())));
    let settings = outgrown.as_ref().map(|outgrown| outgrown.settings()).unwrap_or_default();
    settings.into_iter().map(|(key, value)| (environment_name(key), value)).collect()
}

/// For tests of SQLite and the disk themselves.
pub fn stay_on_disk(data_dir: &Path) {
    OUTGROWN.lock().expect("map").insert(data_dir.to_owned(), None);
}

/// Processes on these folders share one database and one bucket, whatever the other tests run on.
pub fn share(data_dirs: &[&Path]) -> Arc<Outgrown> {
    let outgrown = Arc::new(Outgrown::new());
    for data_dir in data_dirs {
        OUTGROWN.lock().expect("map").insert(data_dir.to_path_buf(), Some(Arc::clone(&outgrown)));
    }
    outgrown
}

/// Where the blobs of a data folder lie as files.
pub fn blobs(data_dir: &Path) -> PathBuf {
    let all = OUTGROWN.lock().expect("map");
    let outgrown = all.get(data_dir).and_then(Option::as_ref);
    outgrown.map_or_else(|| data_dir.join("blobs"), |outgrown| outgrown.blobs().to_owned())
}

fn configure(command: &mut Command, data_dir: &Path) {
    command
        .envs(outgrown(data_dir))
        .current_dir(data_dir.parent().expect("parent"))
        .env("IMAGEWELL_DATA_DIR", data_dir)
        .env("IMAGEWELL_LISTEN", "127.0.0.1:0")
        .env("IMAGEWELL_PASSWORDS_MEMORY_KIB", "8")
        .env("IMAGEWELL_PASSWORDS_PASSES", "1")
        .env("IMAGEWELL_LOG_FORMAT", "json")
        .env("IMAGEWELL_STORAGE_FREE_BYTES_MIN", "0")
        .env("IMAGEWELL_STORAGE_FREE_INODES_MIN", "0")
        .env("IMAGEWELL_WORKERS_ALLOW_WITHOUT_SANDBOX", if *SANDBOXED { "false" } else { "true" });
}

pub fn run(data_dir: &Path, arguments: &[&str]) -> Output {
    imagewell(data_dir, arguments).output().expect("runs")
}

/// Longer than sweeps leave young blobs alone.
pub const TWO_DAYS: Duration = Duration::from_secs(2 * 86_400);

/// Makes a file, or all files of a folder, as old as that.
pub fn age(path: &Path, age: Duration) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("folder").flatten() {
            self::age(&entry.path(), age);
        }
        return;
    }
    let file = std::fs::File::options().write(true).open(path).expect("opens");
    file.set_modified(SystemTime::now() - age).expect("sets");
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Makes the accounts.
pub fn provision(data_dir: &Path) {
    let file = data_dir.parent().expect("parent").join("plan.toml");
    std::fs::write(&file, PLAN).expect("writes");
    let output = run(data_dir, &["provision", &file.to_string_lossy()]);
    assert!(output.status.success(), "{}", text(&output));
}

/// A data folder with accounts, on SQLite and disk whatever the other tests run on. It goes with what keeps it.
pub fn accounts_on_disk() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    stay_on_disk(&data);
    provision(&data);
    (folder, data)
}

impl Process {
    pub fn serve(data_dir: &Path) -> Self {
        Self::start(imagewell(data_dir, &["serve"]))
    }

    /// With variables of the test's own.
    pub fn serve_with(data_dir: &Path, settings: &[(&str, &str)]) -> Self {
        let mut command = imagewell(data_dir, &["serve"]);
        command.envs(settings.iter().copied());
        Self::start(command)
    }

    /// Serves from a small file system of its own that is mounted on the folder, in namespaces of its own.
    pub fn serve_on_tmpfs(data_dir: &Path, options: &str, settings: &[(&str, &str)]) -> Self {
        let folder = data_dir.to_string_lossy();
        let program = program();
        let script = format!(
            "mount -t tmpfs -o {options} none {folder} && {program} provision plan.toml >&2 && exec {program} serve",
            program = program.display()
        );
        std::fs::create_dir_all(data_dir).expect("makes");
        std::fs::write(data_dir.parent().expect("parent").join("plan.toml"), PLAN).expect("writes");
        let mut command = Command::new("unshare");
        stay_on_disk(data_dir);
        configure(command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]), data_dir);
        command.envs(settings.iter().copied());
        Self::start(command)
    }

    /// Starts and waits until it listens.
    pub fn start(mut command: Command) -> Self {
        command.stdout(Stdio::null());
        Self::started(command)
    }

    /// As [`Process::start`], with standard output to be read by [`Process::output`].
    pub fn start_and_keep_output(mut command: Command) -> Self {
        command.stdout(Stdio::piped());
        Self::started(command)
    }

    fn started(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("starts");
        let mut lines = BufReader::new(child.stderr.take().expect("pipe"));
        let log = Arc::new(Mutex::new(String::new()));
        let url = loop {
            let mut line = String::new();
            if lines.read_line(&mut line).expect("reads") == 0 {
                panic!("it ended before it listened: {}", log.lock().expect("log"));
            }
            log.lock().expect("log").push_str(&line);
            if let Some(url) = line.split("\"url\":\"").nth(1).and_then(|rest| rest.split('"').next()) {
                break url.to_owned();
            }
        };
        let collecting = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut log = collecting.lock().expect("log");
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, url, log }
    }

    /// All of standard output, once it has ended.
    pub fn output(&mut self) -> String {
        let mut text = String::new();
        self.child.stdout.take().expect("pipe").read_to_string(&mut text).expect("reads");
        text
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("log").clone()
    }

    pub async fn actor(&self, login: &str) -> Actor {
        let actor = Actor::at(&self.url);
        let answer = actor.log_in(login, PASSWORD).await;
        assert_eq!(answer.status.as_u16(), 200, "{login}: {}", answer.text());
        actor
    }

    pub async fn metric(&self, name: &str) -> f64 {
        let text = Answer::of(Actor::at(&self.url).get("/metrics")).await.text();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or_default()
    }

    pub fn terminate(mut self) -> ExitStatus {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().expect("runs");
        assert!(sent.success());
        self.wait(Duration::from_secs(40))
    }

    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("waits") {
                return status;
            }
            assert!(started.elapsed() < patience, "it still runs: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let telling: Vec<&str> = log.lines().filter(|line| !line.contains("\"status\":2")).collect();
            eprintln!("what its log tells at last:\n{}", telling[telling.len().saturating_sub(LINES_SHOWN)..].join("\n"));
        }
    }
}

/// A command that is held at a certain line of its output.
pub struct Held {
    child: Child,
    said: String,
    rest: BufReader<std::process::ChildStderr>,
}

impl Held {
    /// Starts it and stops it as soon as a line of standard error has this.
    pub fn at(mut command: Command, needle: &str) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let (mut rest, mut said) = (BufReader::new(child.stderr.take().expect("pipe")), String::new());
        while !said.contains(needle) {
            assert!(rest.read_line(&mut said).expect("reads") > 0, "it ended before it said {needle:?}: {said}");
        }
        let held = Self { child, said, rest };
        held.send("-STOP");
        held
    }

    fn send(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("runs");
        assert!(sent.success());
    }

    pub fn kill(mut self) {
        self.child.kill().expect("kills");
        self.child.wait().expect("ends");
    }

    /// Lets it run to its end.
    pub fn go_on(mut self) -> Output {
        self.send("-CONT");
        self.rest.read_to_string(&mut self.said).expect("reads");
        let output = self.child.wait_with_output().expect("ends");
        Output { stderr: self.said.into_bytes(), ..output }
    }
}

/// Reads a child's output up to the end of the line that says this; for programs that go on running.
pub fn read_until(child: &mut Child, needle: &str) -> String {
    let mut stdout = child.stdout.take().expect("pipe");
    let mut seen = Vec::new();
    let mut byte = [0];
    while !(seen.ends_with(b"\n") && String::from_utf8_lossy(&seen).contains(needle)) {
        assert_eq!(stdout.read(&mut byte).expect("reads"), 1, "it ended: {}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

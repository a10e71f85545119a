//! File systems that are mounted and unmounted, in namespaces of their own: nothing outside of them changes.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::process::text;

/// Namespaces of users and mounts, which last until this is dropped.
pub struct Mounts(Child);

impl Mounts {
    pub fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", "echo made; exec sleep 600"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("pipe")).read_line(&mut line).expect("reads");
        assert_eq!(line, "made\n");
        Self(child)
    }

    /// The same command in these namespaces.
    pub fn enter(&self, command: &Command) -> Command {
        let mut entered = Command::new("nsenter");
        entered.args(["--user", "--preserve-credentials", "--mount", "--target", &self.0.id().to_string()]);
        entered.arg("--").arg(command.get_program()).args(command.get_args());
        entered.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        entered
    }

    pub fn run(&self, command: &Command) -> Output {
        self.enter(command).output().expect("runs")
    }

    #[track_caller]
    fn done(&self, program: &str, arguments: &[&str]) {
        let output = self.run(Command::new(program).args(arguments));
        assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output));
    }

    /// Mounts an empty file system on a folder, with options as in `size=4M`.
    pub fn mount(&self, folder: &Path, options: &str) {
        self.done("mount", &["-t", "tmpfs", "-o", options, "none", &folder.to_string_lossy()]);
    }

    /// As an operator does whom "target is busy" does not stop.
    pub fn unmount(&self, folder: &Path) {
        self.done("umount", &["--lazy", &folder.to_string_lossy()]);
    }

    /// The same path as it is in these namespaces.
    pub fn inside(&self, path: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.0.id(), path.display()))
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

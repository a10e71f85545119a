//! Certificates that are renewed while the service runs, and those that end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cli::certificate;
use crate::connections::try_tls;
use crate::process::{Process, accounts_on_disk, imagewell, run, text};

const TLS: [&str; 4] = ["--set", "tls.certificate_file=cert.pem", "--set", "tls.private_key_file=key.pem"];

fn hang_up(process: &Process) {
    let pid = Pid::from_child(&process.child);
    kill_process(pid, Signal::HUP).expect("a signal");
}

/// Puts a fresh pair in place of the one in a folder, as programs do that renew certificates. Gives a copy of the certificate.
fn renew(folder: &Path, name: &str) -> PathBuf {
    let new = folder.join(name);
    std::fs::create_dir(&new).expect("a folder");
    certificate(&new);
    for file in ["cert.pem", "key.pem"] {
        std::fs::copy(new.join(file), new.join("copy")).expect("copies");
        std::fs::rename(new.join("copy"), folder.join(file)).expect("renames");
    }
    new.join("cert.pem")
}

fn wait_for_log(process: &Process, line: &str) {
    let begun = Instant::now();
    while !process.log().contains(line) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", process.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn wait_for(address: SocketAddr, certificate: &Path, what: &str) {
    let begun = Instant::now();
    while try_tls(address, certificate, b"h2").await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: it is not shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_without_a_restart_and_hanging_up_ends_nothing() {
    let (folder, data) = accounts_on_disk();
    let first = folder.path().join("first.pem");
    std::fs::copy(certificate(folder.path()), &first).expect("copies");
    for (reload, name) in [("tls.reload_seconds=1", "by itself"), ("tls.reload_seconds=3600", "by SIGHUP")] {
        let process = Process::start(imagewell(&data, &[&["serve", "--set", reload], &TLS[..]].concat()));
        let address: SocketAddr = process.url.trim_start_matches("https://").parse().expect("address");
        let before = renew(folder.path(), &format!("before {name}"));
        if name == "by SIGHUP" {
            hang_up(&process);
        }
        wait_for(address, &before, name).await;
        assert!(try_tls(address, &first, b"h2").await.is_err(), "{name}: the old one is shown, too");
        // What can't be used leaves the certificate as it is.
        for file in ["cert.pem", "key.pem"] {
            std::fs::write(folder.path().join(file), "nothing").expect("writes");
        }
        hang_up(&process);
        wait_for_log(&process, "can't be read again");
        wait_for(address, &before, name).await;
        let after = renew(folder.path(), &format!("after {name}"));
        hang_up(&process);
        wait_for(address, &after, name).await;
        assert!(process.terminate().success());
    }
}

#[test]
fn hanging_up_ends_nothing_without_tls() {
    let (_folder, data) = accounts_on_disk();
    let mut command = imagewell(&data, &["serve"]);
    command.env("IMAGEWELL_LOG", "info");
    let process = Process::start(command);
    hang_up(&process);
    wait_for_log(&process, "there is no certificate to be read again");
    assert!(process.terminate().success());
}

#[test]
fn a_certificate_that_ends_soon_or_has_ended_is_named() {
    let (folder, data) = accounts_on_disk();
    certificate(folder.path());
    let check = || run(&data, &[&["check"], &TLS[..]].concat());
    let soon = check();
    assert!(soon.status.success() && text(&soon).contains("the certificate ends soon: "), "{}", text(&soon));
    let later = run(&data, &[&["check", "--set", "tls.expiry_warning_days=1"], &TLS[..]].concat());
    assert!(text(&later).contains("certificate and key fit"), "{}", text(&later));
    let made = Command::new("openssl")
        .args(["x509", "-in", "cert.pem", "-signkey", "key.pem", "-days", "-1", "-out", "cert.pem"])
        .current_dir(folder.path())
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "{}", text(&made));
    let ended = check();
    assert!(!ended.status.success() && text(&ended).contains("the certificate has ended: "), "{}", text(&ended));
}

//! The command line as an operator and a script use it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::app::{Actor, Answer, PASSWORD, program};
use crate::process::{PLAN, Process, TWO_DAYS, accounts_on_disk, age, imagewell, provision, read_until, run, text};

#[test]
fn help_names_every_command_and_misuse_exits_with_2() {
    let help = Command::new(program()).arg("--help").output().expect("runs");
    for command in ["serve", "demo", "provision", "doctor", "check", "sweep", "adopt", "keys", "Exit codes"] {
        assert!(text(&help).contains(command), "{command}");
    }
    assert!(!text(&help).contains("render-worker"));
    for misuse in [&["nonsense"][..], &[], &["provision"], &["serve", "--set", "x"]] {
        assert_eq!(Command::new(program()).args(misuse).output().expect("runs").status.code(), Some(2), "{misuse:?}");
    }
}

#[tokio::test]
async fn the_first_start_makes_an_admin_whose_password_stands_in_a_private_file_alone() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let mut process = Process::start_and_keep_output(imagewell(&data, &["serve"]));
    let file = data.join("first-admin-password");
    let password = std::fs::read_to_string(&file).expect("written").trim_end().to_owned();
    let permissions =
        |path: &Path| std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).expect("is there").permissions()) & 0o777;
    assert_eq!((permissions(&data), permissions(&file)), (0o700, 0o600), "nobody else can look into it");
    assert_eq!(Actor::at(&process.url).log_in("admin", &password).await.status.as_u16(), 200);
    process.child.kill().expect("kills");
    let printed = process.output();
    assert!(printed.contains(&*file.to_string_lossy()), "{printed}");
    assert!(!printed.contains(&password) && !process.log().contains(&password), "a journal keeps what is printed");

    let mut second = Process::start_and_keep_output(imagewell(&data, &["serve"]));
    assert!(file.exists(), "the password is still good");
    second.child.kill().expect("kills");
    assert_eq!(second.output(), "", "it is said once");
    let plan = folder.path().join("plan.toml");
    std::fs::write(&plan, "[[users]]\norg = 'default'\nlogin = 'admin'\nroles = ['site-admin']\npassword = 'another one'\n")
        .expect("writes");
    let changed = text(&run(&data, &["provision", &plan.to_string_lossy()]));
    assert!(changed.contains("first-admin-password") && !file.exists(), "{changed}");
}

/// Another node may have changed the password, and whoever starts a terminal wants to read it there.
#[tokio::test]
async fn a_terminal_is_told_the_password_and_a_file_that_is_no_longer_good_goes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let served = imagewell(&data, &["serve"]);
    let mut command = Command::new("script");
    command.args(["-qefc", &format!("timeout 90 {} serve", served.get_program().to_string_lossy()), "/dev/null"]);
    command.envs(served.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(folder.path());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("script(1) runs");
    let printed = read_until(&mut child, "also lies in");
    child.kill().expect("kills");
    child.wait().expect("ends");
    let file = data.join("first-admin-password");
    let password = std::fs::read_to_string(&file).expect("written").trim_end().to_owned();
    assert!(printed.contains(&password), "{printed}");

    // The terminal is gone, and the service drains, whether it was listening yet or not.
    let lock = std::fs::File::open(data.join("imagewell.lock")).expect("is there");
    let ended = async {
        while lock.try_lock().is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), ended).await.expect("it ends");
    drop(lock);
    std::fs::write(&file, "one from before\n").expect("writes");
    let process = Process::serve(&data);
    assert!(!file.exists(), "{}", process.log());
}

#[tokio::test]
async fn provisioning_is_idempotent_and_reaches_a_running_service() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let process = Process::serve(&data);
    let file = folder.path().join("plan.toml");
    std::fs::write(&file, PLAN).expect("writes");
    let apply = || text(&run(&data, &["provision", &file.to_string_lossy()]));
    let first = apply();
    for line in ["org 100606 acme: added", "role acme/crew: added", "user acme/ada: added"] {
        assert!(first.contains(line), "{first}");
    }
    assert_eq!(apply(), "nothing to change\n");
    let ada = process.actor("ada").await;
    let uuid = ada.upload(crate::fixtures::png(8, 8, 1)).await.uuid();
    // A right that is taken away elsewhere is gone here within a moment.
    std::fs::write(&file, PLAN.replace("\"opstool.AB_Crew.view\", ", "")).expect("writes");
    assert!(apply().contains("role acme/crew: now allows imagewell.upload"));
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    ada.read(&uuid).await.refused(403, "\"E_NOTPERMITTED\"");
    assert!(process.terminate().success());
}

/// The one place where the key of links is shown; the other commands keep it to themselves.
#[test]
fn keys_are_listed_shown_and_replaced() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    provision(&data);
    let list = || text(&run(&data, &["keys", "list"]));
    let shown = text(&run(&data, &["keys", "show"]));
    let value = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)).expect("line").to_owned();
    let (id, secret) = (value("AWS_ACCESS_KEY_ID="), value("AWS_SECRET_ACCESS_KEY="));
    assert_eq!((secret.len(), value("AWS_REGION=").as_str()), (40, "us-east-1"));
    assert_eq!(list().matches("signs").count(), 3, "{}", list());
    assert!(list().contains(&id) && !list().contains(&secret));
    assert!(text(&run(&data, &["keys", "rotate", "links"])).contains("signs links from now on"));
    assert_eq!((list().matches("signs").count(), list().matches("honoured until").count()), (3, 1));
    assert!(text(&run(&data, &["keys", "rotate", "tokens", "--revoke"])).contains("signs tokens from now on"));
    assert_eq!((list().matches("signs").count(), list().matches("honoured until").count()), (3, 2));
    assert_eq!(run(&data, &["keys", "rotate", "nothing"]).status.code(), Some(2));
    run(&data, &["sweep"]);
    assert_eq!(list().matches("honoured until").count(), 1, "what is not honoured any more is swept: {}", list());
}

#[test]
fn a_faulty_plan_changes_nothing_and_says_why() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("plan.toml");
    let cases = [
        ("[[users]]\norg = 'nowhere'\nlogin = 'a'\npassword = 'b'", "there is no org nowhere"),
        ("[[orgs]]\nid = 1\nname = 'a'\n[[users]]\norg = 'a'\nlogin = 'x'\npassword = 'b'\nroles = ['none']", "no role none"),
        ("[[orgs]]\nid = 1\nname = 'a'\n[[orgs]]\nid = 2\nname = 'a'", "same name"),
        ("[[orgs]]\nid = 1\nname = '200'", "digits alone"),
        ("[[orgs]]\nid = 1", "missing field"),
        ("orgs = 1", "invalid type"),
    ];
    for (number, (plan, expected)) in cases.into_iter().enumerate() {
        let data = folder.path().join(format!("data{number}"));
        std::fs::write(&file, plan).expect("writes");
        let output = run(&data, &["provision", &file.to_string_lossy()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains(expected), "{}", text(&output));
        // Had the faulty plan left its org, this would be a new name for it.
        std::fs::write(&file, "[[orgs]]\nid = 1\nname = 'probe'").expect("writes");
        let clean = text(&run(&data, &["provision", &file.to_string_lossy()]));
        assert_eq!(clean, "org 1 probe: added\n", "{plan}");
    }
    let absent = run(&folder.path().join("data"), &["provision", "nowhere.toml"]);
    assert!(absent.status.code() == Some(1) && text(&absent).contains("nowhere.toml"));
}

#[test]
fn check_reports_all_faults_at_once() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    provision(&data);
    let good = run(&data, &["check", "--blobs"]);
    assert!(good.status.success(), "{}", text(&good));
    for line in ["ok     database", "ok     store", "ok     blobs: 0 images"] {
        assert!(text(&good).contains(line), "{}", text(&good));
    }
    let faulty = run(&data, &["check", "--set", "images.pixels_max=many", "--set", "nothing=1", "--listen", "x"]);
    assert_eq!(faulty.status.code(), Some(78));
    assert_eq!(text(&faulty).matches("FAULT  settings").count(), 3, "{}", text(&faulty));
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, b"x").expect("writes");
    let unusable = run(&blocked, &["check", "--set", "tls.certificate_file=a.pem", "--set", "tls.private_key_file=b.pem"]);
    assert_eq!(unusable.status.code(), Some(1));
    for line in ["FAULT  tls", "FAULT  files", "FAULT  database"] {
        assert!(text(&unusable).contains(line), "{}", text(&unusable));
    }
}

#[tokio::test]
async fn database_and_images_can_lie_elsewhere() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let (database, images) = (folder.path().join("db/a.sqlite"), folder.path().join("images"));
    let mut plan = imagewell(&data, &["provision", "plan.toml"]);
    let mut serve = imagewell(&data, &["serve"]);
    std::fs::write(folder.path().join("plan.toml"), PLAN).expect("writes");
    for command in [&mut plan, &mut serve] {
        command.env("IMAGEWELL_DATABASE_URL", format!("sqlite://{}", database.display()));
        command.env("IMAGEWELL_STORAGE_URL", format!("file://{}", images.display()));
    }
    assert!(plan.output().expect("runs").status.success());
    let process = Process::start(serve);
    process.actor("ada").await.upload(crate::fixtures::png(8, 8, 1)).await.uuid();
    assert!(database.exists() && images.join("opsportal-images/100606").exists());
    assert!(!data.join("imagewell.db").exists() && !data.join("blobs").exists());
    for (name, value) in [("IMAGEWELL_DATABASE_URL", "mysql://x/y"), ("IMAGEWELL_STORAGE_URL", "s3://bucket/folder")] {
        let refused = imagewell(&data, &["check"]).env(name, value).output().expect("runs");
        assert_eq!(refused.status.code(), Some(78));
        assert!(text(&refused).contains("expected"), "{}", text(&refused));
    }
}

#[test]
fn two_services_do_not_share_a_folder() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let process = Process::serve(&data);
    let second = run(&data, &["serve"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second).contains("in use by another imagewell"), "{}", text(&second));
    assert!(process.terminate().success());
}

#[test]
fn a_setting_that_would_refuse_everything_is_refused_at_the_start() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let mut command =
        imagewell(&data, &["serve", "--set", "uploads.memory_bytes_max=0", "--set", "opsportal.upload_bytes_max=1"]);
    let refused = command.env("IMAGEWELL_SERVER_HTTP2_STREAMS_MAX", "0").output().expect("runs");
    let said = text(&refused);
    assert_eq!(refused.status.code(), Some(78), "{said}");
    for fault in [
        "uploads.memory_bytes_max: at least 65536",
        "opsportal.upload_bytes_max: at least 2",
        "server.http2_streams_max: at least 1",
    ] {
        assert!(said.contains(fault), "{fault:?} in {said}");
    }
    assert!(!data.exists(), "nothing is made");
}

#[tokio::test]
async fn sweep_says_what_it_would_remove_and_why() {
    let (_folder, data) = accounts_on_disk();
    let orphan = data.join("blobs/opsportal-images/100606/0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png");
    std::fs::create_dir_all(orphan.parent().expect("parent")).expect("makes");
    std::fs::write(&orphan, b"orphan").expect("writes");
    let kept = text(&run(&data, &["sweep", "--dry-run"]));
    assert!(kept.contains("would remove 0 expired pictures, 0 deleted versions, 0 orphans"), "the grace period holds: {kept}");
    let too_short = run(&data, &["sweep", "--set", "sweep.grace_seconds=3599"]);
    assert_eq!(too_short.status.code(), Some(78));
    assert!(text(&too_short).contains("sweep.grace_seconds: at least 3600"), "{}", text(&too_short));
    age(&orphan, TWO_DAYS);
    let dry = text(&run(&data, &["sweep", "--dry-run"]));
    assert!(dry.contains("would move opsportal-images/100606/") && dry.contains("no image points at it"), "{dry}");
    assert!(orphan.exists());
    let stopped = run(&data, &["sweep"]);
    assert_eq!(stopped.status.code(), Some(1));
    let said = text(&stopped);
    assert!(said.contains("1 of 1 blobs have no row") && said.contains("imagewell sweep --confirm"), "{said}");
    assert!(said.contains("removed 0 expired pictures, 0 deleted versions, 0 orphans") && orphan.exists(), "{said}");
    assert!(said.contains("0 sessions, 0 bytes"), "what stays is not counted: {said}");
    let real = run(&data, &["sweep", "--confirm"]);
    assert!(
        real.status.success() && text(&real).contains("removed 0 expired pictures, 0 deleted versions, 1 orphans"),
        "{}",
        text(&real)
    );
    assert!(!orphan.exists());
    let restored = text(&run(&data, &["sweep", "--restore-trash"]));
    assert!(restored.contains("0 blobs brought back; 1 stay in the trash") && !orphan.exists(), "{restored}");
}

/// Row A14: no secret stands in any log, even at the most talkative level, and a failed login is logged once.
#[tokio::test]
async fn logs_tell_who_and_never_the_secret() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    provision(&data);
    let mut command = imagewell(&data, &["serve"]);
    command.env("IMAGEWELL_LOG", "trace");
    let process = Process::start(command);
    let actor = Actor::at(&process.url);
    actor.log_in("ada\r\nforged", "canary-password-1").await;
    let login = actor.log_in("ada", PASSWORD).await;
    let cookie = login.header("set-cookie").split(['=', ';']).nth(1).expect("cookie").to_owned();
    let token = actor.csrf().await;
    let read = actor.read("0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab").await;
    let id = read.header("x-request-id").to_owned();
    // Machines: a wrong till and a right client, its token, and a link.
    let mut secrets = machine_secrets(&process.url).await;
    // The number of a picture is all that it takes to see it.
    let number = "6193872361955";
    for path in [number.to_owned(), format!("{number}?size=8"), format!("{number}/")] {
        Answer::of(actor.get(&format!("/api/dropbox/pictures/{path}"))).await;
    }
    secrets.push(number.to_owned());
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let log = process.log();
    for secret in ["canary-password-1", PASSWORD, &cookie[1..], &token].into_iter().chain(secrets.iter().map(String::as_str)) {
        assert!(!log.contains(secret), "a secret is in the log: {secret}");
    }
    assert_eq!(log.matches("login refused").count(), 2);
    assert_eq!(log.matches("proved itself").count(), 1);
    assert_eq!(log.matches("logged in").count(), 1);
    assert!(log.lines().all(|line| line.starts_with('{')), "line breaks are escaped");
    assert!(log.lines().any(|line| line.contains(&id) && line.contains("answered")));
}

/// Uses a till's, a client's and a link's secrets once, and names them.
async fn machine_secrets(url: &str) -> Vec<String> {
    let visitor = Actor::at(url);
    let wrong = visitor.get("/api_gateway/file-service/rewards/a.png").basic_auth("till01", Some("c".repeat(32)));
    assert_eq!(Answer::of(wrong).await.status.as_u16(), 401);
    let body = serde_json::json!({ "key": "backoffice", "secret": "canary-secret-1" });
    let token = Answer::of(visitor.post("/v3/oauth/token/generate").json(&body)).await.json()["data"]["accessToken"].clone();
    let token = token.as_str().expect("token").to_owned();
    let upload = visitor.post("/api_gateway/file-service/rewards/a.png").bearer_auth(&token).body(crate::fixtures::png(8, 8, 1));
    let link = Answer::of(upload).await.json()["secureFilePath"].as_str().expect("link").to_owned();
    let signature = link.split("X-Amz-Signature=").nth(1).expect("signature").to_owned();
    assert_eq!(crate::file_service::open(&link).await.status.as_u16(), 200);
    let signed = token.rsplit('.').next().expect("signature").to_owned();
    vec!["c".repeat(32), "canary-secret-1".to_owned(), signed, signature]
}

/// The demo prints lines to type; they are typed here.
#[test]
fn what_the_demo_prints_works() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut child = Command::new(program())
        .args(["demo", "--listen", "127.0.0.1:0"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let printed = read_until(&mut child, "Stop it with Ctrl-C.");
    let script: String = printed
        .lines()
        .skip_while(|line| !line.contains("portal="))
        .filter(|line| line.starts_with("    "))
        .collect::<Vec<_>>()
        .join("\n");
    let typed = Command::new("bash").args(["-euc", &script]).current_dir(folder.path()).output().expect("bash and curl run");
    // Asked to end, it takes its folder with it.
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("runs").success());
    assert!(child.wait().expect("ends").success());
    assert!(typed.status.success(), "{}", text(&typed));
    let answers = String::from_utf8_lossy(&typed.stdout).into_owned();
    assert!(answers.contains("\"username\":\"ada\"") && answers.contains("\"uuid\":\""), "{answers}");
    for expected in ["\"message\":\"Successfully uploaded file\"", "\"versions\":[", "\"name\":\"chelsea.png\"", "\"sha256\":\""]
    {
        assert!(answers.contains(expected), "{expected}: {answers}");
    }
    for (saved, size) in [("cropped.jpg", (256, 256)), ("avatar.jpg", (128, 128)), ("small.webp", (300, 200))] {
        let picture = image::open(folder.path().join(saved)).unwrap_or_else(|error| panic!("{saved}: {error}"));
        assert_eq!((picture.width(), picture.height()), size, "{saved}");
    }
    for saved in ["photo.jpg", "again.jpg"] {
        assert!(std::fs::read(folder.path().join(saved)).expect("saved") == crate::fixtures::photograph(), "{saved}");
    }
}

/// The README shows lines to type; they are typed here, but for the address.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_readme_shows_works() {
    let app = crate::app::TestApp::start().await;
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).expect("reads");
    let section = readme.split("## Talk to it").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("lines to type");
    let blocks: Vec<&str> = section.split("```").skip(1).step_by(2).map(|block| block.trim_start_matches("sh")).collect();
    assert_eq!(blocks.len(), 4, "one for each API");
    let script = blocks.concat().replace("http://127.0.0.1:8080", &app.url(""));
    let folder = tempfile::tempdir().expect("temporary folder");
    std::fs::write(folder.path().join("photo.jpg"), crate::fixtures::photograph()).expect("writes");
    let typed = Command::new("bash")
        .args(["-euc", &script])
        .env("PASSWORD", PASSWORD)
        .env("TILL_PASSWORD", PASSWORD)
        .env("SECRET", PASSWORD)
        .current_dir(folder.path())
        .output()
        .expect("bash and curl run");
    assert!(typed.status.success() && text(&typed).contains("\"uuid\":\""), "{}", text(&typed));
    assert!(text(&typed).contains("\"version\":1") && text(&typed).contains("\"version\":2"), "{}", text(&typed));
    let small = image::open(folder.path().join("small.jpg")).expect("saved");
    assert_eq!((small.width(), small.height()), (300, 200));
    let avatar = image::open(folder.path().join("avatar.jpg")).expect("saved");
    assert_eq!((avatar.width(), avatar.height()), (128, 128));
    for saved in ["again.jpg", "linked.jpg"] {
        assert!(std::fs::read(folder.path().join(saved)).expect("saved") == crate::fixtures::photograph(), "{saved}");
    }
}

/// Makes `cert.pem`, for localhost, and `key.pem` in a folder; gives the former.
pub fn certificate(folder: &Path) -> PathBuf {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .current_dir(folder)
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "{}", text(&made));
    folder.join("cert.pem")
}

#[tokio::test]
async fn tls_is_spoken_when_a_certificate_is_named() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    certificate(folder.path());
    let mut command =
        imagewell(&data, &["serve", "--set", "tls.certificate_file=cert.pem", "--set", "tls.private_key_file=key.pem"]);
    command.env("IMAGEWELL_LOG", "info");
    let process = Process::start(command);
    let port = process.url.rsplit(':').next().expect("port");
    for version in ["--http1.1", "--http2"] {
        let output = Command::new("curl")
            .args(["-sSi", version, "--cacert", "cert.pem", &format!("https://localhost:{port}/csrfToken"), "--resolve"])
            .arg(format!("localhost:{port}:127.0.0.1"))
            .current_dir(folder.path())
            .output()
            .expect("curl runs");
        let answer = text(&output).to_lowercase();
        assert!(answer.contains("set-cookie: __host-imagewell_session=") && answer.contains("; secure"), "{answer}");
        assert!(answer.contains("strict-transport-security"), "{answer}");
        assert!(answer.starts_with(if version == "--http2" { "http/2 200" } else { "http/1.1 200" }), "{answer}");
        // A browser that knows no Sec-Fetch-Site is judged by its Origin, over either version.
        for (origin, allowed) in [(format!("https://localhost:{port}"), true), ("https://evil.test".to_owned(), false)] {
            let output = Command::new("curl")
                .args(["-sS", version, "--cacert", "cert.pem", "-H", &format!("Origin: {origin}")])
                .args([&format!("https://localhost:{port}/csrfToken"), "--resolve", &format!("localhost:{port}:127.0.0.1")])
                .current_dir(folder.path())
                .output()
                .expect("curl runs");
            assert_eq!(text(&output).contains("_csrf"), allowed, "{version} {origin}: {}", text(&output));
        }
    }
    assert!(process.terminate().success());
}

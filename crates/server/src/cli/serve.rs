use std::fs::{File, TryLockError};
use std::io::IsTerminal as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use imagewell_core::Error;
use imagewell_core::durable::{make_folder, make_private};
use imagewell_core::model::{AccountKind, Org, OrgId, SessionToken};
use imagewell_core::provision::{self, AccountPlan, Plan, Secret};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::{EXIT_STORAGE, Outcome, explained};
use crate::admin_password;
use crate::config::Settings;
use crate::serve::{Ended, Service, open_files_needed, start};
use crate::telemetry;

pub(super) async fn run(settings: Settings) -> Outcome {
    telemetry::init_logs(&settings);
    // From here on, also while the database is being opened: it would end the process.
    let _hangup = signal(SignalKind::hangup())?;
    let _lock = lock(&settings)?;
    allow_open_files(&settings);
    let service = Service::open(settings, std::env::current_exe()?).await.map_err(explained)?;
    if service.app.storage.is_bucket() {
        match service.app.storage.probe().await {
            // It is unready until the store is back.
            Err(Error::Busy { .. }) => {}
            probed => probed.map_err(explained)?,
        }
    }
    first_start(&service).await?;
    until_signal(service, Hangup::Reload, |_| {}).await
}

/// Two services on one folder would not see each other's changes.
pub(super) fn lock(settings: &Settings) -> Result<File, Box<dyn std::error::Error>> {
    let folder = &settings.service.data_dir;
    make_folder(folder).map_err(|error| format!("making the folder {}: {error}", folder.display()))?;
    let path = folder.join("imagewell.lock");
    let file = make_private(&path, true).and_then(|()| File::create(&path));
    let file = file.map_err(|error| format!("opening {}: {error}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            warn_of_others(folder);
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            Err(format!("{} is in use by another imagewell: stop that one, or choose another --data-dir", folder.display())
                .into())
        }
        Err(TryLockError::Error(error)) => Err(format!("locking {}: {error}", path.display()).into()),
    }
}

/// As many open files as the system lets us have: shells and some units allow fewer at first, for programs that use select(2).
fn allow_open_files(settings: &Settings) {
    let limit = getrlimit(Resource::Nofile);
    // What can't be raised stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let (allowed, needed) = (limit.maximum.unwrap_or(u64::MAX), open_files_needed(settings));
    if allowed < needed {
        tracing::warn!(
            allowed,
            needed,
            "connections may be refused before their limit for want of open files: raise `ulimit -n`"
        );
    }
}

/// The files are private by themselves, but who may write to the folder may exchange them.
fn warn_of_others(folder: &Path) {
    let mode = folder.metadata().map_or(0, |folder| folder.permissions().mode()) & 0o777;
    if mode & 0o077 != 0 {
        let folder = folder.display();
        tracing::warn!("others may enter the folder {folder} (mode {mode:o}): run `chmod 700 {folder}`");
    }
}

/// Makes an org and an admin when there is nobody yet.
async fn first_start(service: &Service) -> Result<(), Box<dyn std::error::Error>> {
    if !provision::is_empty(&service.app).await.map_err(explained)? {
        admin_password::remove_if_outdated(&service.app, &service.settings.service.data_dir).await.map_err(explained)?;
        return Ok(());
    }
    let password = random_password()?;
    let data_dir = &service.settings.service.data_dir;
    // Before the account is there: a password that is in no file is lost with a terminal that nobody reads.
    let file = admin_password::write(data_dir, &password)
        .map_err(|error| format!("writing {}: {error}", admin_password::file(data_dir).display()))?;
    let admin = AccountPlan {
        kind: AccountKind::User,
        org: admin_password::ORG.into(),
        login: admin_password::LOGIN.into(),
        email: None,
        secret: Secret::Plain(password.clone()),
        roles: vec!["site-admin".into()],
        token_ttl_seconds: None,
        disabled: false,
    };
    let orgs = vec![Org { id: OrgId(1), name: admin_password::ORG.into() }];
    let plan = Plan { orgs, accounts: vec![admin], ..Plan::default() };
    // Several nodes may start for the first time at once; one of them makes the admin and tells the password.
    match provision::apply_first(&service.app, plan).await {
        Ok(Some(_)) => {}
        Ok(None) => return Ok(admin_password::remove(data_dir)?),
        Err(error) => {
            admin_password::remove(data_dir)?;
            return Err(explained(error));
        }
    }
    println!("First start: made the org `default` and the user `admin`.");
    if std::io::stdout().is_terminal() {
        println!("Password (shown only now): {password}");
        println!("It also lies in {}: remove that file once you keep the password elsewhere.", file.display());
    } else {
        // What is printed here may be kept in a journal, which others read.
        println!("The password lies in {}: remove that file once you keep the password elsewhere.", file.display());
    }
    Ok(())
}

/// 80 random bits, easy to type.
pub(super) fn random_password() -> Result<String, Box<dyn std::error::Error>> {
    let digits = SessionToken::mint().map_err(explained)?.to_hex();
    Ok(digits.as_bytes()[..20].chunks(5).map(|group| String::from_utf8_lossy(group)).collect::<Vec<_>>().join("-"))
}

/// What SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hangup {
    /// Read the certificate again.
    Reload,
    /// The terminal is gone: drain.
    End,
}

/// Serves until SIGTERM or SIGINT.
pub(super) async fn until_signal(service: Service, hangup: Hangup, announce: impl FnOnce(&str)) -> Outcome {
    let scheme = if service.settings.tls.certificate_file.is_some() { "https" } else { "http" };
    // Before the first request: a signal that came sooner would cut it off.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hung_up = signal(SignalKind::hangup())?;
    let running = start(service).await.map_err(explained)?;
    let certificates = running.certificates();
    let url = format!("{scheme}://{}", running.address);
    tracing::info!(url, "listening");
    announce(&url);
    let stop = async {
        loop {
            tokio::select! {
                _ = terminate.recv() => return tracing::info!("SIGTERM: draining"),
                _ = interrupt.recv() => return tracing::info!("SIGINT: draining"),
                _ = hung_up.recv() => match (hangup, &certificates) {
                    (Hangup::End, _) => return tracing::info!("SIGHUP: draining"),
                    (Hangup::Reload, Some(certificates)) => certificates.reload(true),
                    (Hangup::Reload, None) => tracing::info!("SIGHUP: there is no certificate to be read again"),
                },
            }
        }
    };
    Ok(match running.until(stop).await {
        Ended::Drained => {
            tracing::info!("every request answered");
            ExitCode::SUCCESS
        }
        Ended::CutOff => {
            tracing::warn!("some requests were cut off: they took longer than server.drain_timeout_seconds");
            ExitCode::FAILURE
        }
        Ended::Halted => ExitCode::from(EXIT_STORAGE),
    })
}

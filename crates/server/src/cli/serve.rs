use std::fs::{File, TryLockError};
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use imagewell_core::Error;
use imagewell_core::durable::{make_folder, make_private};
use imagewell_core::model::{AccountKind, Org, OrgId, SessionToken};
use imagewell_core::provision::{self, AccountPlan, Plan, Secret};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{EXIT_STORAGE, Outcome, explained};
use crate::admin_password;
use crate::config::Settings;
use crate::serve::{Ended, Service, open_files_needed, start};
use crate::telemetry;

pub(super) async fn run(settings: Settings) -> Outcome {
    telemetry::init_logs(&settings);
    // From here on, also while the database is being opened: it would end the process.
    let hangups = Hangups::new(Hangup::Reload)?;
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
    until_signal(service, hangups, |_| {}).await
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
    let mut text = "First start: made the org `default` and the user `admin`.\n".to_owned();
    // What does not go to a terminal may be kept in a journal, which others read.
    let lies = if std::io::stdout().is_terminal() {
        text.push_str(&format!("Password (shown only now): {password}\n"));
        "It also lies"
    } else {
        "The password lies"
    };
    text.push_str(&format!("{lies} in {}: remove that file once you keep the password elsewhere.\n", file.display()));
    // The file has it, should the terminal have gone.
    let _ = std::io::stdout().write_all(text.as_bytes());
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
    /// Drain.
    End,
}

/// SIGHUPs from its making on; until then one ends the process.
#[derive(Debug)]
pub(super) struct Hangups {
    signals: Signal,
    meaning: Hangup,
    on_terminal: bool,
}

impl Hangups {
    pub(super) fn new(meaning: Hangup) -> std::io::Result<Self> {
        let signals = signal(SignalKind::hangup())?;
        Ok(Self { signals, meaning, on_terminal: std::io::stderr().is_terminal() })
    }

    /// What the next one means. The system sends one, too, when the terminal is closed: that ends the service.
    async fn next(&mut self) -> Hangup {
        self.signals.recv().await;
        // A terminal that was closed answers with an error.
        if self.on_terminal && !std::io::stderr().is_terminal() { Hangup::End } else { self.meaning }
    }
}

/// Serves until SIGTERM or SIGINT, or until the terminal that it was started on is closed.
pub(super) async fn until_signal(service: Service, mut hangups: Hangups, announce: impl FnOnce(&str)) -> Outcome {
    let scheme = if service.settings.tls.certificate_file.is_some() { "https" } else { "http" };
    // Before the first request: a signal that came sooner would cut it off.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
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
                hangup = hangups.next() => match (hangup, &certificates) {
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

use std::process::ExitCode;

use imagewell_core::{Error, verify};

use super::{Outcome, explained};
use crate::config::{Settings, Value as _};
use crate::serve::Service;
use crate::tls;

/// Settings were checked by being loaded. This tries everything that they point at, and goes on after a fault.
pub(super) async fn run(settings: Settings, blobs: bool) -> Outcome {
    let mut faults = 0;
    let mut report = |what: &str, outcome: Result<String, Error>| match outcome {
        Ok(text) => println!("ok     {what}: {text}"),
        Err(error) => {
            faults += 1;
            println!("FAULT  {what}: {}", explained(error));
        }
    };
    report("settings", Ok("no faults".into()));
    report(
        "tls",
        tls::acceptor(&settings.tls).map(|tls| if tls.is_some() { "certificate and key fit".into() } else { "off".into() }),
    );
    let listen = settings.service.listen;
    let bound = tokio::net::TcpListener::bind(listen).await;
    report(
        "listen",
        match bound {
            Ok(_) => Ok(format!("{listen} is free")),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                Ok(format!("{listen} is in use, by a running service or something else"))
            }
            Err(error) => Err(Error::internal(&format!("listening on {listen}"), &error)),
        },
    );
    let (database, store) = (settings.database_url().show(), settings.storage_url().show());
    match Service::open(settings, std::env::current_exe()?).await {
        Err(error) => report("data", Err(error)),
        Ok(service) => {
            report("database", service.app.database.ping().await.map(|()| format!("{database} opens and is up to date")));
            let identity = service.app.verify_identity().await;
            report("identity", identity.map(|()| "the store belongs to this database".into()));
            report("store", service.app.storage.probe().await.map(|()| format!("{store} takes, keeps and gives back bytes")));
            if let Some(provider) = &service.provider {
                let fetched = provider.fetch().await.map_err(|detail| Error::Internal { detail });
                report("identity provider", fetched.map(|keys| format!("it publishes {} keys", keys.keys.len())));
            }
            if blobs {
                report("blobs", verified(&service).await);
            }
            service.app.close().await;
        }
    }
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn verified(service: &Service) -> Result<String, Error> {
    let summary = verify::run(&service.app, |done| eprint!("\r{done} blobs read")).await?;
    eprintln!();
    if summary.broken.is_empty() {
        return Ok(format!("{} images, {} versions, every digest right", summary.images, summary.versions));
    }
    let detail =
        format!("{} of {} are gone or have changed:\n{}", summary.broken.len(), summary.versions, summary.broken.join("\n"));
    Err(Error::Internal { detail })
}

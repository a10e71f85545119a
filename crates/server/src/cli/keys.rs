use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use imagewell_core::model::{KeyPurpose, OrgReference};

use super::{Outcome, explained};
use crate::config::Settings;
use crate::serve::Service;
use crate::signed::org_secret;

#[derive(Subcommand)]
pub(super) enum Action {
    /// List the keys without their secrets
    List,
    /// Print the key that signs links, as S3 clients want it. Whoever has it can read everything
    Show,
    /// Print the secret with which an org's applications sign transforms. Whoever has it can have any size of its public images made, and
    /// look at its private ones
    Transforms {
        /// The org's name
        org: String,
    },
    /// Make a new key that signs from now on. What the old one signed opens until it ends by itself
    Rotate {
        /// What the key signs
        purpose: Purpose,
        /// End at once what the old keys signed, because one of them has leaked
        #[arg(long)]
        revoke: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Purpose {
    /// OAuth access tokens
    Tokens,
    /// Links to bytes
    Links,
    /// Transforms in addresses: every org gets a new secret
    Transforms,
}

pub(super) async fn run(settings: Settings, action: Action) -> Outcome {
    let program = std::env::current_exe()?;
    let service = match action {
        Action::List | Action::Show | Action::Transforms { .. } => Service::look(settings, program).await,
        Action::Rotate { .. } => Service::open(settings, program).await,
    };
    let service = service.map_err(explained)?;
    let keys = &service.app.keys;
    match action {
        Action::List => {
            for key in keys.all().iter() {
                let made = httpdate::fmt_http_date(key.created.to_system_time());
                let state = match key.honoured_until {
                    None => "signs".to_owned(),
                    Some(until) => format!("honoured until {}", httpdate::fmt_http_date(until.to_system_time())),
                };
                println!("{:<10} {}  made {made}  {state}", key.purpose.as_str(), key.id);
            }
        }
        Action::Show => {
            let key = keys.current(KeyPurpose::Links).map_err(explained)?;
            println!("AWS_ACCESS_KEY_ID={}", key.id);
            println!("AWS_SECRET_ACCESS_KEY={}", key.secret);
            println!("AWS_REGION={}", service.settings.file_service.link_region);
        }
        Action::Transforms { org } => {
            let key = keys.current(KeyPurpose::Transforms).map_err(explained)?;
            let Some(found) = service.app.accounts.org(&OrgReference::of_text(&org)).await.map_err(explained)? else {
                return Err(format!("there is no org {org:?}").into());
            };
            println!("{}", org_secret(&key, found.id));
        }
        Action::Rotate { purpose, revoke } => {
            let purpose = match purpose {
                Purpose::Tokens => KeyPurpose::Tokens,
                Purpose::Links => KeyPurpose::Links,
                Purpose::Transforms => KeyPurpose::Transforms,
            };
            let key = keys.rotate(purpose, revoke).await.map_err(explained)?;
            println!("{} signs {} from now on", key.id, purpose.as_str());
        }
    }
    service.app.close().await;
    Ok(ExitCode::SUCCESS)
}

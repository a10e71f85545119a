//! The command line.
//!
//! Exit codes: 0 done, 1 failed, 2 misused, 74 storage failed while serving, 78 faulty settings (sysexits.h).

mod adopt;
mod backup;
mod demo;
mod doctor;
mod keys;
mod migrate;
mod plan;
mod progress;
mod provision;
mod ready;
mod render_worker;
mod restore;
mod serve;
mod sweep;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rustix::fs::Mode;

use crate::config::{self, Settings, Sources};
use crate::{allocator, router};

/// Storage failed while serving: EX_IOERR.
const EXIT_STORAGE: u8 = 74;
/// The settings are faulty: EX_CONFIG.
const EXIT_SETTINGS: u8 = 78;

/// The service that applications hand their images to.
#[derive(Parser)]
#[command(name = "imagewell", version, propagate_version = true)]
#[command(after_help = "Start with `imagewell demo`. Settings: imagewell.toml, IMAGEWELL_… variables, or flags; \
    `imagewell doctor` tells what is wrong, with remedies.\nExit codes: 0 done, 1 failed, 2 misused, 74 storage failed, 78 faulty settings.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service. On an empty folder it makes an org, and an admin whose password it writes into a file of that folder
    Serve(SettingFlags),
    /// Run the service with sample accounts and a sample image, and print what to open and what to type
    Demo(SettingFlags),
    /// Make orgs, roles and accounts as a TOML file says. Idempotent; prints what changed. Works while the service runs
    Provision {
        /// The file; docs/provisioning.md has its format
        file: PathBuf,
        #[command(flatten)]
        flags: SettingFlags,
    },
    /// Look for everything that can be wrong with a deployment, and say what to do about it. Changes nothing. Exits with 1 at a fault
    Doctor {
        #[command(flatten)]
        examination: doctor::Examination,
        #[command(flatten)]
        flags: SettingFlags,
    },
    /// What `doctor --quick` says, under the name that it had before
    Check {
        /// Also read every stored image back and compare it with its digest, as `doctor --digests` does
        #[arg(long)]
        blobs: bool,
        #[command(flatten)]
        flags: SettingFlags,
    },
    /// Ask the service on this machine whether it is ready. Exits with 1 where it isn't
    Ready(SettingFlags),
    /// Remove deleted versions past their undo window, blobs that were in the trash for long enough, staging files and ended sessions, and move blobs without a row to
    /// the trash, as the service does by itself every hour
    Sweep {
        /// Only say what would be removed, and why
        #[arg(long)]
        dry_run: bool,
        /// Go on although a sweep was stopped: more blobs without a row than sweep.orphans_percent_max allows, a clock that is far ahead, or another
        /// database's mark on the store
        #[arg(long, conflicts_with = "dry_run")]
        confirm: bool,
        /// Only bring blobs back from the trash: those that an image points at
        #[arg(long, conflicts_with_all = ["dry_run", "confirm"])]
        restore_trash: bool,
        #[command(flatten)]
        flags: SettingFlags,
    },
    /// Pair a database and a store that the service refuses, once you are sure that they belong together. Shows what both hold, and changes nothing
    /// unless all of it matches
    Adopt {
        /// Pair them although they do not match
        #[arg(long)]
        confirm: bool,
        #[command(flatten)]
        flags: SettingFlags,
    },
    /// Move all data to another database and store while the service runs, and let it go on there. What is cut off goes on when started again
    Migrate {
        #[command(flatten)]
        migrate: migrate::Migrate,
        #[command(flatten)]
        flags: SettingFlags,
    },
    /// Copy database and images into a folder, while the service runs; a second run copies what is new. It holds keys and hashes of passwords
    Backup {
        #[command(flatten)]
        backup: backup::Backup,
        #[command(flatten)]
        flags: SettingFlags,
    },
    /// Put a backup into the configured database and store, which must be empty; or with --dry-run read all of it and compare every digest
    Restore {
        #[command(flatten)]
        restore: restore::Restore,
        #[command(flatten)]
        flags: SettingFlags,
    },
    /// List, show or replace the keys that sign tokens and links. Works while the service runs
    Keys {
        #[command(subcommand)]
        action: keys::Action,
        #[command(flatten)]
        flags: SettingFlags,
    },
    /// Print a generated reference
    #[command(hide = true)]
    Reference {
        /// `settings` or `openapi`
        what: String,
    },
    /// Render images from standard input to standard output; the service runs this in a sandbox
    #[command(hide = true)]
    RenderWorker {
        /// `probe` says what the sandbox is made of
        #[arg(default_value = "serve")]
        what: String,
        /// Bounds on images and renderings
        limits: Option<imagewell_imaging::Limits>,
    },
}

/// Settings given on the command line outweigh the environment, which outweighs the file.
#[derive(Args)]
struct SettingFlags {
    /// Settings file; without one, imagewell.toml in the working folder if there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port to listen on, as in 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Folder of the database and the images
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<String>,
    /// Any other setting, as in --set opsportal.upload_bytes_max=20000000
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl SettingFlags {
    fn sources(self) -> Sources {
        let mut flags = self.set;
        flags.extend(self.listen.map(|value| ("listen".to_owned(), value)));
        flags.extend(self.data_dir.map(|value| ("data_dir".to_owned(), value)));
        Sources { file: self.config, environment: std::env::vars().collect(), flags }
    }
}

/// What a command came to.
type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

/// Runs the command that the process was started with.
#[must_use]
pub fn run() -> ExitCode {
    // Whatever is made is its owner's alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    match Cli::parse().command {
        Command::Reference { what } => reference(&what),
        Command::RenderWorker { what, limits } => render_worker::run(&what, limits.unwrap_or_default()),
        Command::Serve(flags) => with_settings(flags, serve::run),
        Command::Demo(flags) => with_settings(flags, demo::run),
        Command::Provision { file, flags } => with_settings(flags, async move |settings| provision::run(settings, &file).await),
        Command::Ready(flags) => with_settings(flags, ready::run),
        Command::Doctor { examination, flags } => doctor::start(examination, flags),
        Command::Check { blobs, flags } => doctor::start(doctor::Examination::of_check(blobs), flags),
        Command::Adopt { confirm, flags } => with_settings(flags, async move |settings| adopt::run(settings, confirm).await),
        Command::Migrate { migrate, flags } => with_settings(flags, async move |settings| migrate::run(settings, migrate).await),
        Command::Backup { backup, flags } => with_settings(flags, async move |settings| backup::run(settings, backup).await),
        Command::Restore { restore, flags } => with_settings(flags, async move |settings| restore::run(settings, restore).await),
        Command::Keys { action, flags } => with_settings(flags, async move |settings| keys::run(settings, action).await),
        Command::Sweep { restore_trash: true, flags, .. } => with_settings(flags, sweep::restore_trash),
        Command::Sweep { dry_run, confirm, flags, .. } => {
            let mode = sweep::mode(dry_run, confirm);
            with_settings(flags, async move |settings| sweep::run(settings, mode).await)
        }
    }
}

fn with_settings(flags: SettingFlags, command: impl AsyncFnOnce(Settings) -> Outcome) -> ExitCode {
    let settings = match config::load(&flags.sources()) {
        Ok(settings) => settings,
        Err(faults) => {
            eprint!("imagewell: the settings are faulty\n{faults}");
            return ExitCode::from(EXIT_SETTINGS);
        }
    };
    run_with(settings, command)
}

fn run_with(settings: Settings, command: impl AsyncFnOnce(Settings) -> Outcome) -> ExitCode {
    allocator::give_large_blocks_back();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match runtime.block_on(command(settings)) {
        Ok(code) => code,
        Err(error) => failed(error.as_ref()),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("imagewell: {error}");
    ExitCode::FAILURE
}

fn reference(what: &str) -> ExitCode {
    match what {
        "settings" => print!("{}", config::reference()),
        "openapi" => print!("{}", router::openapi_json()),
        _ => {
            eprintln!("imagewell: there are the references `settings` and `openapi`");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// An error for the operator's own terminal, where the private detail is what helps.
fn explained(error: imagewell_core::Error) -> Box<dyn std::error::Error> {
    match error {
        imagewell_core::Error::Internal { detail } => detail.into(),
        other => other.into(),
    }
}

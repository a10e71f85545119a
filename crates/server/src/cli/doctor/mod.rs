//! `imagewell doctor`: everything that can be wrong with a deployment, each finding with its remedy. It looks, and makes, migrates and
//! removes nothing, but for an object of its own in a bucket, which is the only way to find out what its keys may do.

mod data;
mod files;
mod proxy;
mod report;
mod settings;
mod system;

use std::process::ExitCode;

use clap::Args;

use self::report::Report;
use super::{EXIT_SETTINGS, Outcome, SettingFlags, run_with};
use crate::config::{self, Settings};

/// What is to be looked at.
#[derive(Args)]
pub(super) struct Examination {
    /// Print all findings as one JSON object
    #[arg(long)]
    json: bool,
    /// Leave out what takes longer the more images there are: rows and blobs are not compared, the database is not read as a whole
    #[arg(long, conflicts_with = "digests")]
    quick: bool,
    /// Also read every stored byte back and compare it with its digest
    #[arg(long)]
    digests: bool,
    /// Bytes that --digests reads in a second; 0 is as many as it can
    #[arg(long, value_name = "BYTES", default_value_t = 0, requires = "digests")]
    bytes_per_second_max: u64,
    /// Go on with --digests after this key: the one that an earlier run named when it was stopped
    #[arg(long, value_name = "KEY", requires = "digests")]
    after: Option<String>,
    /// Also send a signed request to the running service through what stands before it, and say what of it does not arrive
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Rows and blobs are not compared with each other.
    #[arg(skip)]
    without_inventory: bool,
}

impl Examination {
    /// What `imagewell check` does.
    pub(super) fn of_check(blobs: bool) -> Self {
        Self {
            json: false,
            quick: !blobs,
            digests: blobs,
            bytes_per_second_max: 0,
            after: None,
            url: None,
            without_inventory: true,
        }
    }
}

/// Reads the settings, whose faults are findings too, and looks at the rest.
pub(super) fn start(examination: Examination, flags: SettingFlags) -> ExitCode {
    let sources = flags.sources();
    let file = sources.found_file();
    match config::load(&sources) {
        Ok(settings) => run_with(settings, async move |settings| run(settings, &examination, file.as_deref()).await),
        Err(faults) => {
            let mut report = Report::new(examination.json);
            for fault in &faults.0 {
                report.fault("settings", fault.clone(), "correct it: docs/configuration.md lists all settings");
            }
            report.end();
            ExitCode::from(EXIT_SETTINGS)
        }
    }
}

async fn run(settings: Settings, examination: &Examination, settings_file: Option<&std::path::Path>) -> Outcome {
    let mut report = Report::new(examination.json);
    settings::examine(&settings, &mut report);
    system::examine(&settings, &mut report).await?;
    files::examine(&settings, settings_file, &mut report);
    data::examine(settings, examination, &mut report).await?;
    Ok(report.end())
}

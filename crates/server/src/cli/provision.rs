use std::path::Path;
use std::process::ExitCode;

use imagewell_core::provision::apply;

use super::{Outcome, explained, plan};
use crate::admin_password;
use crate::config::Settings;
use crate::serve::Service;

pub(super) async fn run(settings: Settings, file: &Path) -> Outcome {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{} can't be read: {error}", file.display()))?;
    let plan = plan::parse(&text, settings.images.transform_side_px_max)
        .map_err(|faults| format!("{} is faulty\n{}", file.display(), faults.join("\n")))?;
    let service = Service::open(settings, std::env::current_exe()?).await.map_err(explained)?;
    let changes = apply(&service.app, plan).await.map_err(explained)?;
    for change in &changes {
        println!("{}", change.0);
    }
    if changes.is_empty() {
        println!("nothing to change");
    }
    let data_dir = &service.settings.service.data_dir;
    if admin_password::remove_if_outdated(&service.app, data_dir).await.map_err(explained)? {
        println!("removed {}: the admin has another password", admin_password::file(data_dir).display());
    }
    service.app.close().await;
    Ok(ExitCode::SUCCESS)
}

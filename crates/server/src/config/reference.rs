use std::fmt::Write as _;

use super::{Settings, environment_name};

/// The settings reference as Markdown; `docs/configuration.md` is this text.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from(
        "# Settings\n\n\
         <!-- Made from crates/server/src/config/settings.rs. UPDATE_DOCS=1 cargo test -p imagewell docs:: writes it anew. -->\n\n\
         Settings come from `imagewell.toml` in the working folder (or `--config FILE`), from the environment, and from flags \
         (`--set KEY=VALUE`, `--listen`, `--data-dir`); the later outweigh the earlier. `imagewell doctor` reports every fault at \
         once, unknown names included. Any variable may end in `_FILE` and name a file that holds the value. Lists are \
         separated by commas, in the file they may be arrays.\n",
    );
    let entries = Settings::entries();
    for (section, doc) in Settings::sections() {
        let (title, prefix) =
            if section == "service" { ("Top of the file".to_owned(), None) } else { (format!("`[{section}]`"), Some(section)) };
        let _ = write!(text, "\n## {title}\n\n{doc}\n\n| setting | default | value | meaning |\n|---|---|---|---|\n");
        for entry in entries.iter().filter(|entry| entry.key.split_once('.').map(|(section, _)| section) == prefix) {
            let name = entry.key.rsplit('.').next().unwrap_or_default();
            let default = if entry.default.is_empty() { "–".to_owned() } else { format!("`{}`", entry.default) };
            let variable = environment_name(&entry.key);
            let _ = writeln!(text, "| `{name}`<br>`{variable}` | {default} | {} | {} |", entry.kind, entry.doc);
        }
    }
    text
}

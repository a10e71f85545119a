//! Settings from a file, the environment and flags, in rising order of weight. Unknown keys are faults, and all faults are
//! reported at once.

mod bounds;
mod domain;
mod reference;
mod settings;
mod value;

use std::fmt;
use std::path::{Path, PathBuf};

pub use domain::Domain;
pub use reference::reference;
pub use settings::{Entry, IdentityProviderSettings, Settings, TlsSettings};
pub use value::{DatabaseUrl, LogFormat, Origin, ResourcePolicy, StorageUrl, TicketNumbering, Value, WebUrl, Zone};

/// Environment variables of ours start with this.
const PREFIX: &str = "IMAGEWELL_";
/// Read when no other file is named and this one exists.
const DEFAULT_FILE: &str = "imagewell.toml";

/// Everything that is wrong, one line a fault.
#[derive(Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|fault| writeln!(out, "{fault}"))
    }
}

impl std::error::Error for Faults {}

/// Where settings come from.
#[derive(Debug, Default)]
pub struct Sources {
    /// A file that must exist; without one, `imagewell.toml` in the working folder if it is there.
    pub file: Option<PathBuf>,
    /// The environment, as names and values.
    pub environment: Vec<(String, String)>,
    /// `key=value` from flags.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// The file that is read, if there is one.
    #[must_use]
    pub fn found_file(&self) -> Option<PathBuf> {
        let default = || Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists());
        self.file.clone().or_else(default)
    }
}

/// Reads all sources.
///
/// # Errors
/// Every fault of every source.
pub fn load(sources: &Sources) -> Result<Settings, Faults> {
    let mut loading = Loading { settings: Settings::default(), faults: Vec::new() };
    if let Some(file) = sources.found_file() {
        loading.file(&file);
    }
    loading.environment(&sources.environment);
    for (key, value) in &sources.flags {
        loading.set(key, value, &format!("flag {key}"));
    }
    loading.faults.extend(contradictions(&loading.settings));
    if loading.faults.is_empty() { Ok(loading.settings) } else { Err(Faults(loading.faults)) }
}

struct Loading {
    settings: Settings,
    faults: Vec<String>,
}

impl Loading {
    fn set(&mut self, key: &str, value: &str, place: &str) {
        match self.settings.set(key, value) {
            Some(Ok(())) => {}
            // What may hold a password is not said again.
            Some(Err(hint)) if key == "database_url" => self.faults.push(format!("{place}: {hint}")),
            Some(Err(hint)) => self.faults.push(format!("{place}: {hint}, not {value:?}")),
            None => self.faults.push(format!("{place}: there is no setting {key}{}", suggestion(key))),
        }
    }

    fn file(&mut self, file: &Path) {
        let place = file.display();
        let table = match std::fs::read_to_string(file) {
            Err(error) => return self.faults.push(format!("{place}: can't be read: {error}")),
            Ok(text) => match text.parse::<toml::Table>() {
                Err(error) => return self.faults.push(format!("{place}: is no valid TOML: {}", error.message())),
                Ok(table) => table,
            },
        };
        for (key, value) in table {
            match value {
                toml::Value::Table(section) => {
                    for (name, value) in section {
                        self.file_value(&format!("{key}.{name}"), &value, file);
                    }
                }
                value => self.file_value(&key, &value, file),
            }
        }
    }

    fn file_value(&mut self, key: &str, value: &toml::Value, file: &Path) {
        let place = format!("{}: {key}", file.display());
        match text_of(value) {
            Some(text) => self.set(key, &text, &place),
            None => self.faults.push(format!("{place}: expected a text, a number, true or false, or a list of these")),
        }
    }

    fn environment(&mut self, environment: &[(String, String)]) {
        let names: Vec<(String, String)> =
            Settings::entries().into_iter().map(|entry| (environment_name(&entry.key), entry.key)).collect();
        for (variable, value) in environment {
            if !variable.starts_with(PREFIX) {
                continue;
            }
            if let Some((_, key)) = names.iter().find(|(name, _)| name == variable) {
                self.set(key, value, variable);
            } else if let Some((_, key)) = names.iter().find(|(name, _)| variable.strip_suffix("_FILE") == Some(name)) {
                match std::fs::read_to_string(value) {
                    Ok(text) => self.set(key, text.trim_end_matches(['\r', '\n']), variable),
                    Err(error) => self.faults.push(format!("{variable}: {value} can't be read: {error}")),
                }
            } else {
                self.faults.push(format!("{variable}: there is no such setting"));
            }
        }
    }
}

impl Settings {
    /// Where the database is: in the data folder, if nothing else is said.
    #[must_use]
    pub fn database_url(&self) -> DatabaseUrl {
        let in_folder = || DatabaseUrl::File(self.service.data_dir.join("imagewell.db"));
        self.service.database_url.clone().unwrap_or_else(in_folder)
    }

    /// Where the blobs are: in the data folder, if nothing else is said.
    #[must_use]
    pub fn storage_url(&self) -> StorageUrl {
        let in_folder = || StorageUrl::Folder(self.service.data_dir.join("blobs"));
        self.service.storage_url.clone().unwrap_or_else(in_folder)
    }

    /// Sets what a file says, and leaves the rest as it is.
    ///
    /// # Errors
    /// Every fault of the file.
    pub fn read_file(&mut self, file: &Path) -> Result<(), Faults> {
        let mut loading = Loading { settings: self.clone(), faults: Vec::new() };
        loading.file(file);
        if loading.faults.is_empty() {
            *self = loading.settings;
            return Ok(());
        }
        Err(Faults(loading.faults))
    }

    /// Whether browsers reach the service through TLS, ours or a proxy's.
    #[must_use]
    pub fn is_https(&self) -> bool {
        let public = self.service.public_url.as_ref();
        self.tls.certificate_file.is_some() || public.is_some_and(|url| url.0.starts_with("https://"))
    }
}

/// `opsportal.upload_bytes_max` → `IMAGEWELL_OPSPORTAL_UPLOAD_BYTES_MAX`.
#[must_use]
pub fn environment_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Array(items) => items.iter().map(text_of).collect::<Option<Vec<_>>>().map(|items| items.join(",")),
        _ => None,
    }
}

/// The setting whose last word is the same, if there is one.
fn suggestion(key: &str) -> String {
    let name = key.rsplit('.').next().unwrap_or(key);
    let similar = Settings::entries().into_iter().find(|entry| entry.key.rsplit('.').next() == Some(name));
    similar.map(|entry| format!(", did you mean {}?", entry.key)).unwrap_or_default()
}

/// What single values can't tell.
fn contradictions(settings: &Settings) -> Vec<String> {
    let mut faults = bounds::faults(settings);
    let mut fault = |wrong: bool, text: &str| {
        if wrong {
            faults.push(text.to_owned());
        }
    };
    let tls = &settings.tls;
    fault(
        tls.certificate_file.is_some() != tls.private_key_file.is_some(),
        "tls.certificate_file and tls.private_key_file go together: set both or none",
    );
    fault(settings.oauth.issuer.is_empty(), "oauth.issuer: may not be empty");
    let provider = &settings.identity_provider;
    fault(
        !provider.issuer.is_empty() && provider.audience.is_empty(),
        "identity_provider.audience: needed beside the issuer, or tokens for other services would be accepted",
    );
    fault(
        !provider.issuer.is_empty() && provider.issuer == settings.oauth.issuer,
        "identity_provider.issuer: must differ from oauth.issuer",
    );
    fault(
        !provider.issuer.is_empty() && provider.jwks_url.is_none() && WebUrl::parse(&provider.issuer).is_err(),
        "identity_provider.jwks_url: needed where the issuer is no https URL that tells where its keys are",
    );
    fault(
        tracing_subscriber::EnvFilter::try_new(&settings.service.log).is_err(),
        "log: expected error, warn, info, debug, trace or a filter as in info,imagewell_core=debug",
    );
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_fault_of_every_source_is_reported_at_once() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("a.toml");
        std::fs::write(&file, "listen = 'nowhere'\nupload_bytes_max = 5\n[opsportal]\nserve_upright = 3\n").expect("writes");
        let faults = load(&Sources {
            file: Some(file),
            environment: pairs(&[("IMAGEWELL_LISTENN", "x"), ("IMAGEWELL_SERVER_CONNECTIONS_MAX", "-1"), ("HOME", "/")]),
            flags: pairs(&[("tls.certificate_file", "a.pem")]),
        })
        .expect_err("faulty");
        let expected = [
            "expected an address and a port",
            "did you mean opsportal.upload_bytes_max?",
            "serve_upright: expected true or false",
            "IMAGEWELL_LISTENN: there is no such setting",
            "IMAGEWELL_SERVER_CONNECTIONS_MAX: expected a whole number",
            "go together",
        ];
        assert_eq!(faults.0.len(), expected.len(), "{faults}");
        for text in expected {
            assert!(faults.0.iter().any(|fault| fault.contains(text)), "{text} is missing in {faults}");
        }
    }

    #[test]
    fn flags_outweigh_the_environment_which_outweighs_the_file() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (file, secret) = (folder.path().join("a.toml"), folder.path().join("log"));
        std::fs::write(&file, "listen = '127.0.0.1:1'\nlog = 'warn'\n[images]\nframes_max = 7\n").expect("writes");
        std::fs::write(&secret, "debug\n").expect("writes");
        let settings = load(&Sources {
            file: Some(file),
            environment: pairs(&[("IMAGEWELL_LISTEN", "127.0.0.1:2"), ("IMAGEWELL_LOG_FILE", &secret.to_string_lossy())]),
            flags: pairs(&[("listen", "127.0.0.1:3")]),
        })
        .expect("valid");
        assert_eq!(settings.service.listen.port(), 3);
        assert_eq!(settings.service.log, "debug");
        assert_eq!(settings.images.frames_max, 7);
    }

    #[test]
    fn places_are_understood_and_passwords_are_not_shown() {
        for good in ["sqlite:///var/lib/a.db", "sqlite://a.db", "postgres://u:p@h/d", "postgresql://h/d?sslmode=require"] {
            assert!(DatabaseUrl::parse(good).is_ok(), "{good}");
        }
        for bad in ["sqlite://", "mysql://h/d", "/var/lib/a.db", "postgres//h"] {
            assert!(DatabaseUrl::parse(bad).is_err(), "{bad}");
        }
        for good in ["file:///srv/images", "s3://images", "s3://images/", "gs://images", "az://images"] {
            assert!(StorageUrl::parse(good).is_ok(), "{good}");
        }
        for bad in ["file://", "s3://", "s3://images/folder", "http://images", "images"] {
            assert!(StorageUrl::parse(bad).is_err(), "{bad}");
        }
        let mut settings = Settings::default();
        for (key, value) in [("database_url", "postgres://ada:hidden@db/x"), ("storage.secret_access_key", "hidden")] {
            settings.set(key, value).expect("is a setting").expect("valid");
        }
        assert!(!format!("{settings:?}{:?}", crate::serve::database_place(&settings)).contains("hidden"));
        let url = DatabaseUrl::parse("postgres://ada:secret@db:5433/images").expect("valid");
        assert_eq!(
            (url.show().as_str(), url.text().as_str()),
            ("postgres://ada:…@db:5433/images", "postgres://ada:secret@db:5433/images")
        );
    }
}

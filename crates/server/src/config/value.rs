use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;

use imagewell_core::DatabaseAddress;
use ipnet::IpNet;

/// Something that a setting can hold. Files, environment and flags all arrive as text.
pub trait Value: Sized {
    /// What the reference calls it.
    const KIND: &'static str;
    /// Reads it.
    ///
    /// # Errors
    /// What a valid value looks like.
    fn parse(text: &str) -> Result<Self, String>;
    /// Writes it as it would be read.
    fn show(&self) -> String;
}

macro_rules! plain_value {
    ($($type:ty: $kind:literal, $hint:literal;)*) => {$(
        impl Value for $type {
            const KIND: &'static str = $kind;
            fn parse(text: &str) -> Result<Self, String> {
                parse_or(text.trim(), $hint)
            }
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

plain_value! {
    u64: "whole number", "expected a whole number, 0 or more";
    u32: "whole number", "expected a whole number from 0 to 4294967295";
    usize: "whole number", "expected a whole number, 0 or more";
    NonZeroU32: "whole number", "expected a whole number, 1 or more";
    bool: "true or false", "expected true or false";
    SocketAddr: "address:port", "expected an address and a port, as in 127.0.0.1:8080 or [::1]:8080";
}

fn parse_or<T: FromStr>(text: &str, hint: &str) -> Result<T, String> {
    text.parse().map_err(|_| hint.to_owned())
}

impl Value for String {
    const KIND: &'static str = "text";
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
    fn show(&self) -> String {
        self.clone()
    }
}

impl Value for PathBuf {
    const KIND: &'static str = "path";
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("expected a path".into()) } else { Ok(text.into()) }
    }
    fn show(&self) -> String {
        self.display().to_string()
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(…)")
    }
}

impl Value for Secret {
    const KIND: &'static str = "text";
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }
    fn show(&self) -> String {
        if self.0.is_empty() { String::new() } else { "…".into() }
    }
}

/// Where the database is.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// An SQLite file.
    File(PathBuf),
    /// A PostgreSQL database, with its password.
    Postgres(String),
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "DatabaseUrl({})", self.show())
    }
}

impl DatabaseUrl {
    /// As it would be set, with the password.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::File(_) => self.show(),
            Self::Postgres(text) => text.clone(),
        }
    }
}

impl Value for DatabaseUrl {
    const KIND: &'static str = "`sqlite://PATH` or `postgres://…`";
    fn parse(text: &str) -> Result<Self, String> {
        let file = text.strip_prefix("sqlite://").filter(|path| !path.is_empty());
        let is_server = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
        match file {
            Some(path) => Ok(Self::File(path.into())),
            None if is_server => DatabaseAddress::parse(text).map(|_| Self::Postgres(text.to_owned())),
            None => Err("expected sqlite://PATH, as in sqlite:///var/lib/imagewell/imagewell.db, or postgres://USER:PASSWORD@HOST/DATABASE".into()),
        }
    }
    /// Without the password.
    fn show(&self) -> String {
        match self {
            Self::File(path) => format!("sqlite://{}", path.display()),
            Self::Postgres(text) => DatabaseAddress::parse(text).map(|address| address.shown()).unwrap_or_default(),
        }
    }
}

/// Where the blobs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageUrl {
    /// A folder.
    Folder(PathBuf),
    /// A bucket of its own: `s3://`, `gs://` or `az://` with a name and nothing behind it.
    Bucket(url::Url),
}

impl Value for StorageUrl {
    const KIND: &'static str = "`file://PATH`, `s3://BUCKET`, `gs://BUCKET` or `az://CONTAINER`";
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("file://").filter(|path| !path.is_empty()) {
            return Ok(Self::Folder(path.into()));
        }
        let bucket = url::Url::parse(text).ok().filter(|url| {
            ["s3", "gs", "az"].contains(&url.scheme())
                && url.host_str().is_some()
                && matches!(url.path(), "" | "/")
                && url.query().is_none()
        });
        bucket.map(Self::Bucket).ok_or_else(|| {
            "expected file://PATH, as in file:///srv/images, or a bucket of its own, as in s3://images, gs://images or az://images".into()
        })
    }
    fn show(&self) -> String {
        match self {
            Self::Folder(path) => format!("file://{}", path.display()),
            Self::Bucket(url) => url.as_str().trim_end_matches('/').to_owned(),
        }
    }
}

/// Absent when empty.
impl<T: Value> Value for Option<T> {
    const KIND: &'static str = T::KIND;
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { T::parse(text).map(Some) }
    }
    fn show(&self) -> String {
        self.as_ref().map(T::show).unwrap_or_default()
    }
}

/// Separated by commas.
impl<T: Value + ListItem> Value for Vec<T> {
    const KIND: &'static str = T::LIST_KIND;
    fn parse(text: &str) -> Result<Self, String> {
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(T::parse).collect()
    }
    fn show(&self) -> String {
        self.iter().map(T::show).collect::<Vec<_>>().join(",")
    }
}

/// What may stand in a list.
pub trait ListItem {
    /// What the reference calls the list.
    const LIST_KIND: &'static str;
}

/// An origin as browsers send it: scheme, host and port, no path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(pub String);

impl ListItem for Origin {
    const LIST_KIND: &'static str = "list of origins";
}

impl Value for Origin {
    const KIND: &'static str = "origin";
    fn parse(text: &str) -> Result<Self, String> {
        // Apps have schemes of their own: capacitor://localhost, ionic://localhost.
        let is_scheme = |scheme: &str| {
            scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        };
        match text.split_once("://") {
            Some((scheme, host)) if is_scheme(scheme) && !host.is_empty() && !host.contains(['/', '*', '?', '#', '@', ' ']) => {
                Ok(Self(text.to_ascii_lowercase()))
            }
            _ => Err("expected origins as in https://portal.example.com, without a path".into()),
        }
    }
    fn show(&self) -> String {
        self.0.clone()
    }
}

impl ListItem for IpNet {
    const LIST_KIND: &'static str = "list of networks";
}

impl Value for IpNet {
    const KIND: &'static str = "network";
    fn parse(text: &str) -> Result<Self, String> {
        let single = text.parse::<std::net::IpAddr>().map(IpNet::from);
        single.or_else(|_| parse_or(text, "expected addresses or networks as in 10.0.0.0/8 or ::1"))
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

/// A URL that is fetched: https, or http on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebUrl(pub String);

impl Value for WebUrl {
    const KIND: &'static str = "URL";
    fn parse(text: &str) -> Result<Self, String> {
        let url = reqwest::Url::parse(text.trim()).map_err(|_| "expected a URL as in https://login.example.com/keys")?;
        match url.scheme() {
            "https" => Ok(Self(url.into())),
            "http" if is_loopback(&url) => Ok(Self(url.into())),
            _ => Err("expected https, or http on this machine: keys that anybody on the way can change prove nothing".into()),
        }
    }
    fn show(&self) -> String {
        self.0.clone()
    }
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone(jiff::tz::TimeZone, String);

impl Zone {
    /// A moment as `yyyy-MM-dd HH:mm:ss` by the clocks of this zone.
    #[must_use]
    pub fn format(&self, moment: imagewell_core::model::Timestamp) -> String {
        let moment = jiff::Timestamp::from_microsecond(moment.0).unwrap_or_default();
        moment.to_zoned(self.0.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
    }
}

impl Value for Zone {
    const KIND: &'static str = "time zone";
    fn parse(text: &str) -> Result<Self, String> {
        let offset = jiff::fmt::strtime::parse("%:z", text).ok().and_then(|parsed| parsed.offset());
        let zone = match offset {
            Some(offset) => Some(jiff::tz::TimeZone::fixed(offset)),
            None => jiff::tz::TimeZone::get(text).ok(),
        };
        let zone = zone.ok_or("expected an IANA time zone as in Asia/Kolkata, UTC, or an offset as in +05:30")?;
        Ok(Self(zone, text.to_owned()))
    }
    fn show(&self) -> String {
        self.1.clone()
    }
}

/// Defines a setting type whose values are a few words.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)*
        }

        impl $name {
            /// The word of the setting, which is also what goes on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl Value for $name {
            const KIND: &'static str = concat!("one of", $(" `", $word, "`"),*);
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(format!("expected {}", Self::KIND)),
                }
            }
            fn show(&self) -> String {
                self.as_str().to_owned()
            }
        }
    };
}

choice! {
    /// How log lines look.
    LogFormat {
        /// For people on a terminal, JSON elsewhere.
        Auto = "auto",
        /// One JSON object a line.
        Json = "json",
        /// For people.
        Text = "text",
    }
}

choice! {
    /// How temporary pictures get their ids.
    TicketNumbering {
        /// Drawn, so that nobody can count upwards.
        Random = "random",
        /// One after the other.
        Series = "series",
    }
}

choice! {
    /// Who may embed images: the value of `Cross-Origin-Resource-Policy`.
    ResourcePolicy {
        /// Pages of the same origin.
        SameOrigin = "same-origin",
        /// Pages of the same site.
        SameSite = "same-site",
        /// Any page.
        CrossOrigin = "cross-origin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The moment of the file-service API's sample, which was answered in UTC+05:30.
    #[test]
    fn zones_are_names_or_offsets() {
        let moment = imagewell_core::model::Timestamp(1_715_139_659_000_000);
        for (zone, expected) in [
            ("UTC", "2024-05-08 03:40:59"),
            ("+05:30", "2024-05-08 09:10:59"),
            ("Asia/Kolkata", "2024-05-08 09:10:59"),
            ("-08:00", "2024-05-07 19:40:59"),
            ("Europe/Berlin", "2024-05-08 05:40:59"),
        ] {
            assert_eq!(Zone::parse(zone).expect(zone).format(moment), expected, "{zone}");
        }
        for zone in ["", "Mars/Olympus", "5:30", "+5", "local"] {
            assert!(Zone::parse(zone).is_err(), "{zone:?}");
        }
    }

    #[test]
    fn keys_are_fetched_over_https_or_on_this_machine() {
        for url in ["https://login.example.com/keys", "http://127.0.0.1:9/keys", "http://[::1]:9/", "http://localhost/k"] {
            assert!(WebUrl::parse(url).is_ok(), "{url}");
        }
        for url in ["http://login.example.com/keys", "ftp://127.0.0.1/", "keys", "http://127.0.0.1.example.com/"] {
            assert!(WebUrl::parse(url).is_err(), "{url}");
        }
    }
}

//! Addresses of PostgreSQL databases as libpq takes them (PostgreSQL 15, 34.1.1.2 "Connection URIs"), but for lists of hosts.
//!
//! Errors never repeat a part of the address: what is taken for a host may be a piece of a password.

use std::fmt::Write as _;
use std::str::FromStr as _;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sqlx::postgres::PgConnectOptions;

/// What libpq calls them, and this program obeys.
const PARAMETERS: [&str; 14] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "application_name",
    "options",
    "connect_timeout",
    "target_session_attrs",
];
/// The driver's own names of some of them.
const ALIASES: [(&str, &str); 5] = [
    ("ssl-mode", "sslmode"),
    ("ssl-root-cert", "sslrootcert"),
    ("ssl-ca", "sslrootcert"),
    ("ssl-cert", "sslcert"),
    ("ssl-key", "sslkey"),
];
/// What a node needs of a server anyway, or is content with.
const SESSION_ATTRIBUTES: [&str; 3] = ["any", "read-write", "primary"];

/// An address, taken apart. What is said twice counts as it was said last.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    parameters: Vec<(&'static str, String)>,
}

/// Without the password.
impl std::fmt::Debug for Address {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.shown())
    }
}

impl Address {
    /// Reads `postgres://[user[:password]@][host][:port][/database][?parameter=value…]`.
    ///
    /// # Errors
    /// What is wrong, without a word of the address.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        let rest = rest.ok_or("expected postgres://USER:PASSWORD@HOST/DATABASE")?;
        let mut address = Self { parameters: Vec::new() };
        let rest = match rest.find(['@', '/']) {
            Some(at) if rest[at..].starts_with('@') => {
                let (user, password) = rest[..at].split_once(':').map_or((&rest[..at], None), |(user, it)| (user, Some(it)));
                address.set("user", user)?;
                address.set("password", password.unwrap_or_default())?;
                &rest[at + 1..]
            }
            _ => rest,
        };
        let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        if place.contains('@') {
            return Err(
                "there is a second @: in a user's name or password, write @ as %40, / as %2F, : as %3A and % as %25".into()
            );
        }
        let (server, database) = place.split_once('/').unwrap_or((place, ""));
        address.set_server(server)?;
        address.set("dbname", database)?;
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            address.set_parameter(parameter)?;
        }
        // The driver's own rules for the rest: numbers, modes, files.
        address.options().map(|_| address)
    }

    fn set_server(&mut self, server: &str) -> Result<(), String> {
        if server.contains(',') {
            return Err("several hosts are not taken: name one address that leads to whichever server takes writes".into());
        }
        let (host, port) = match server.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or("the ] after an IPv6 address is missing")?;
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err("between [ and ] is no IPv6 address".into());
                }
                let port = rest.strip_prefix(':').or_else(|| rest.is_empty().then_some(""));
                (host, port.ok_or("expected : and a port, or /, after the ] of an IPv6 address")?)
            }
            None => server.split_once(':').unwrap_or((server, "")),
        };
        self.set("host", host)?;
        self.set("port", port)
    }

    fn set_parameter(&mut self, parameter: &str) -> Result<(), String> {
        let (name, value) = parameter.split_once('=').ok_or("expected = after the name of each parameter")?;
        let name = decoded(name)?;
        let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name.as_str(), |(_, name)| *name);
        let Some(name) = PARAMETERS.iter().find(|known| **known == name) else {
            return Err(format!("there is a parameter that is not known: known are {}", PARAMETERS.join(", ")));
        };
        match (*name, value) {
            ("host" | "hostaddr" | "port", list) if list.contains(',') => {
                Err("several hosts are not taken: name one address that leads to whichever server takes writes".into())
            }
            ("target_session_attrs", value) if !SESSION_ATTRIBUTES.contains(&value) => {
                Err(format!("target_session_attrs: expected one of {}", SESSION_ATTRIBUTES.join(", ")))
            }
            ("connect_timeout", value) if value.parse::<u32>().is_err() => Err("connect_timeout: expected whole seconds".into()),
            _ => self.set(name, value),
        }
    }

    /// An empty value counts as none.
    fn set(&mut self, name: &'static str, value: &str) -> Result<(), String> {
        let value = decoded(value)?;
        if !value.is_empty() {
            self.parameters.retain(|(other, _)| *other != name);
            self.parameters.push((name, value));
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_str())
    }

    /// Seconds after which an attempt to connect is given up, if the address says so.
    pub(super) fn connect_timeout(&self) -> Option<std::time::Duration> {
        let seconds = self.get("connect_timeout")?.parse().ok().filter(|seconds| *seconds > 0)?;
        Some(std::time::Duration::from_secs(seconds))
    }

    /// What the driver is told. What the address leaves open is taken from libpq's variables, as `PGPASSWORD`, and from its file of passwords.
    pub(super) fn options(&self) -> Result<PgConnectOptions, String> {
        let obeyed = |name: &str| !["connect_timeout", "target_session_attrs"].contains(&name);
        let mut url = String::from("postgres:///?");
        for (name, value) in self.parameters.iter().filter(|(name, _)| obeyed(name)) {
            let _ = write!(url, "{name}={}&", utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
        PgConnectOptions::from_str(&url).map_err(|_| "expected a number as port, and a known sslmode".into())
    }

    /// As it would be set, without its password.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut text = String::from("postgres://");
        let encoded = |value: &str| utf8_percent_encode(value, SHOWN).to_string();
        if let Some(user) = self.get("user") {
            text += &encoded(user);
            text += if self.get("password").is_some() { ":…@" } else { "@" };
        } else if self.get("password").is_some() {
            text += ":…@";
        }
        let host = self.get("host").unwrap_or_default();
        let is_socket = host.starts_with('/');
        if host.contains(':') {
            let _ = write!(text, "[{host}]");
        } else if !is_socket {
            text += &encoded(host);
        }
        if let Some(port) = self.get("port") {
            let _ = write!(text, ":{port}");
        }
        let _ = write!(text, "/{}", encoded(self.get("dbname").unwrap_or_default()));
        let in_front = ["user", "password", "port", "dbname"];
        let behind = self.parameters.iter().filter(|(name, _)| !in_front.contains(name) && (*name != "host" || is_socket));
        for (index, (name, value)) in behind.enumerate() {
            let _ = write!(text, "{}{name}={}", if index == 0 { '?' } else { '&' }, encoded(value));
        }
        text
    }
}

/// What would end a part of an address.
const SHOWN: &percent_encoding::AsciiSet =
    &percent_encoding::CONTROLS.add(b' ').add(b'%').add(b'@').add(b':').add(b'?').add(b'#').add(b'&').add(b'=').add(b',');

fn decoded(text: &str) -> Result<String, String> {
    let is_whole = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if text.split('%').skip(1).any(|rest| !is_whole(rest)) {
        return Err("there is a % without two hexadecimal digits behind it: write % as %25".into());
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| "what is percent-encoded is not UTF-8: write % as %25")?;
    if decoded.contains('\0') {
        return Err("%00 is not allowed".into());
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, u16, String, Option<String>) {
        let options = Address::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).options().expect("options");
        let host = options.get_socket().map_or_else(|| options.get_host().to_owned(), |socket| socket.display().to_string());
        (host, options.get_port(), options.get_username().to_owned(), options.get_database().map(str::to_owned))
    }

    #[test]
    fn addresses_are_read_as_libpq_reads_them() {
        for (text, host, port, user, database) in [
            ("postgres://ada@db/images", "db", 5432, "ada", "images"),
            ("postgresql://ada:p@db:5433/images", "db", 5433, "ada", "images"),
            ("postgres://ada@[::1]/images", "::1", 5432, "ada", "images"),
            ("postgres://ada@[2001:db8::7]:5433/images?sslmode=require", "2001:db8::7", 5433, "ada", "images"),
            ("postgres://ada@/images?host=/run/postgresql", "/run/postgresql", 5432, "ada", "images"),
            ("postgres://ada@%2Frun%2Fpostgresql/images", "/run/postgresql", 5432, "ada", "images"),
            ("postgres://ada:a#b?c:d[e@db/images", "db", 5432, "ada", "images"),
            ("postgres://a%40b:p%2F%40%25@db/im%2Fages", "db", 5432, "a@b", "im/ages"),
            ("postgres:///images?host=::1&user=ada&port=5433&connect_timeout=3", "::1", 5433, "ada", "images"),
            ("postgres://ada@db/images?target_session_attrs=read-write&hostaddr=127.0.0.1", "127.0.0.1", 5432, "ada", "images"),
        ] {
            let expected = (host.to_owned(), port, user.to_owned(), Some(database.to_owned()));
            assert_eq!(parts(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_a_word_of_the_address() {
        for (text, part) in [
            ("postgres://ada:hid@den/w:rd@db:5432/images", "%40"),
            ("postgres://ada:hid/den@db/images", "%2F"),
            ("postgres://ada:hid@den@db/images", "%40"),
            ("postgres://ada:hid%den@db/images", "%25"),
            ("postgres://ada:hid%0@db/images", "%25"),
            ("postgres://ada:hidden@db:port/images", "port"),
            ("postgres://ada:hidden@[::1/images", "]"),
            ("postgres://ada:hidden@[hidden]/images", "IPv6"),
            ("postgres://ada:hidden@a,b/images", "several hosts"),
            ("postgres://ada@a/images?host=a,b", "several hosts"),
            ("postgres://ada:hidden@a/images?sslmode=hidden", "sslmode"),
            ("postgres://ada:hidden@a/images?hidden=1", "known are host"),
            ("postgres://ada:hidden@a/images?target_session_attrs=standby", "read-write"),
            ("postgres://ada:hidden@a/images?connect_timeout=hidden", "whole seconds"),
            ("mysql://ada:hidden@a/images", "postgres://USER"),
        ] {
            let error = Address::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
            assert!(!["hid", "den", "w:rd"].iter().any(|secret| error.contains(secret)), "{text}: {error}");
        }
    }

    #[test]
    fn no_password_is_shown_wherever_it_stands() {
        for (text, shown) in [
            ("postgres://ada:hidden@db:5433/images", "postgres://ada:…@db:5433/images"),
            ("postgres://db/images?user=ada&password=hidden", "postgres://ada:…@db/images"),
            ("postgres://ada:x@[::1]/images?password=hidden", "postgres://ada:…@[::1]/images"),
            ("postgres://ada@/images?host=/run&sslmode=require", "postgres://ada@/images?host=/run&sslmode=require"),
        ] {
            let address = Address::parse(text).expect(text);
            assert_eq!((address.shown().as_str(), format!("{address:?}").as_str()), (shown, shown), "{text}");
        }
    }
}

//! Host names as settings have them.

use super::value::{ListItem, Value};

/// A host name (RFC 1123 §2.1) in lower case: nothing in it means anything to HTML or to a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain(pub String);

impl Domain {
    /// Whether a host is this one, or one below it.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let above = host.len().checked_sub(self.0.len()).map(|length| host.split_at_checked(length));
        let Some(Some((below, domain))) = above else { return false };
        domain.eq_ignore_ascii_case(&self.0) && (below.is_empty() || below.ends_with('.'))
    }
}

impl ListItem for Domain {
    const LIST_KIND: &'static str = "list of domains";
}

impl Value for Domain {
    const KIND: &'static str = "domain";
    fn parse(text: &str) -> Result<Self, String> {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() <= 253 && text.split('.').all(is_label) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err("expected host names as in example.com".into())
        }
    }
    fn show(&self) -> String {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_names_are_domains_and_they_cover_what_is_below() {
        for domain in ["example.com", "a", "a-b.c1.example", "localhost", "127.0.0.1"] {
            assert!(Domain::parse(domain).is_ok(), "{domain}");
        }
        let long = "a".repeat(64);
        for domain in ["", ".", "a..b", "-a.com", "a-.com", "a b", "\";alert(1)//", "</script>", "exämple.com", "a/b", &long] {
            assert!(Domain::parse(domain).is_err(), "{domain:?}");
        }
        let domain = Domain::parse("Portal.test").expect("a domain");
        for (host, covered) in [
            ("portal.test", true),
            ("www.PORTAL.test", true),
            ("xportal.test", false),
            ("test", false),
            ("portal.test.evil", false),
            ("é", false),
        ] {
            assert_eq!(domain.covers(host), covered, "{host}");
        }
    }
}

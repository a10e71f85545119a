use std::fmt;

use super::ParseError;
use super::action::is_plain_key;

/// The kinds of resources that have avatars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// APIs.
    Apis,
    /// Applications.
    Apps,
    /// Groups of people.
    Groups,
    /// People.
    Users,
    /// Businesses.
    Businesses,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Apis, Self::Apps, Self::Groups, Self::Users, Self::Businesses];

    /// As stored and in paths.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apis => "apis",
            Self::Apps => "apps",
            Self::Groups => "groups",
            Self::Users => "users",
            Self::Businesses => "businesses",
        }
    }

    /// From its name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.as_str() == text)
    }
}

/// Something of an org that has an avatar: `users/ada`, `apps/42`. What it is beyond that is the application's business.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resource {
    /// What kind.
    pub service: Service,
    id: String,
}

impl Resource {
    /// Longest id, in bytes.
    pub const ID_BYTES_MAX: usize = 128;

    /// With an id of the application's.
    ///
    /// # Errors
    /// When it is empty, longer than [`Resource::ID_BYTES_MAX`], starts with a dot, or holds anything but letters, digits and
    /// `. _ - : @`.
    pub fn new(service: Service, id: &str) -> Result<Self, ParseError> {
        // An e-mail address may be one.
        if !is_plain_key(&id.replace('@', "-"), Self::ID_BYTES_MAX) {
            return Err(ParseError("a resource's id has 1 to 128 letters, digits or any of . _ - : @"));
        }
        Ok(Self { service, id: id.to_owned() })
    }

    /// Its id among the resources of its kind.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The action keys that let somebody edit it: one for it alone, one for its kind.
    #[must_use]
    pub fn edit_actions(&self) -> [String; 2] {
        let service = self.service.as_str();
        [format!("imagewell.{service}.{}.edit", self.id), format!("imagewell.{service}.edit")]
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.service.as_str(), self.id)
    }
}

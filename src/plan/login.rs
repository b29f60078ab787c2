//! Who a user is to registries. Travels in requests, is never stored and never shown.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What one registry is shown. Empty parts are absent.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Login {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password: String,
    /// A refresh token of an OAuth2 token service, in place of a password.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub identity_token: String,
    /// A token for the registry itself, in place of everything else.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub registry_token: String,
}

/// A log or a message that shows a request must not show this.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

impl Login {
    pub fn is_empty(&self) -> bool {
        *self == Login::default()
    }
}

/// Logins by registry, as a reference names it: `docker.io`, `localhost:5000`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logins(pub BTreeMap<String, Login>);

impl Logins {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn of(&self, registry: &str) -> Option<&Login> {
        self.0.get(registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_never_shown() {
        let login = Login {
            username: "me".to_owned(),
            password: "s3cret".to_owned(),
            ..Login::default()
        };
        let logins = Logins(BTreeMap::from([("docker.io".to_owned(), login)]));
        let shown = format!("{logins:?}");
        assert!(
            !shown.contains("s3cret") && !shown.contains("me\""),
            "{shown}"
        );
        let json = serde_json::to_string(&logins).unwrap();
        assert_eq!(
            json,
            r#"{"docker.io":{"username":"me","password":"s3cret"}}"#
        );
    }
}

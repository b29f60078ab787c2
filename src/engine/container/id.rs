//! Container ids.

use std::fmt;

use serde::{Deserialize, Serialize};

/// 64 lower-case hex digits, random.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(String);

impl ContainerId {
    /// A new id. Fails only if the kernel has no randomness, which it blocks for instead.
    pub fn random() -> ContainerId {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).expect("getrandom(2) works on every supported kernel");
        ContainerId(hex::encode(bytes))
    }

    /// `None` unless the text is 64 lower-case hex digits.
    pub fn parse(text: &str) -> Option<ContainerId> {
        let is_digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        (text.len() == 64 && text.bytes().all(is_digit)).then(|| ContainerId(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as Docker shows them.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

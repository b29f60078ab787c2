//! The names of what happens to values on their way to the canonical form, as histories keep them
//! and `config --explain` shows them.

pub const REPLACE: &str = "replace";
pub const REPLACE_DRIVER: &str = "replace-driver";
pub const OVERRIDE: &str = "override";
pub const MERGE: &str = "merge";
pub const MERGE_SUBNET: &str = "merge-subnet";
pub const APPEND: &str = "append";
pub const UNIQUE_VALUE: &str = "unique-value";
pub const UNIQUE_TARGET: &str = "unique-target";
pub const UNIQUE_PATH: &str = "unique-path";
pub const UNIQUE_PORT: &str = "unique-port";
pub const EXTENDS: &str = "extends";
pub const INCLUDE: &str = "include";
pub const ENV_FILE: &str = "env-file";
pub const DEFAULT: &str = "default";
pub const DEFAULT_NETWORK: &str = "default-network";
pub const RESOURCE_NAME: &str = "resource-name";
pub const IMPLIED_DEPENDENCY: &str = "implied-dependency";

/// Whether the rule puts a value into the place of another one.
pub fn replaces(rule: &str) -> bool {
    rule.starts_with("replace") || rule.starts_with("unique") || rule == OVERRIDE
}

/// What a rule did, as the beginning of a sentence that a place ends.
pub fn sentence(rule: &str) -> &'static str {
    match rule {
        REPLACE => "replaces the value of",
        REPLACE_DRIVER => "replaces, because the driver is another one,",
        OVERRIDE => "replaces, by `!override`,",
        MERGE => "merged, key by key, with",
        MERGE_SUBNET => "merged, subnet by subnet, with",
        APPEND => "appended the entries of",
        UNIQUE_VALUE => "replaces the same entry of",
        UNIQUE_TARGET => "replaces the entry with the same path in the container of",
        UNIQUE_PATH => "replaces the entry with the same path of",
        UNIQUE_PORT => "replaces the entry with the same address and ports of",
        EXTENDS => "inherited by `extends` of",
        INCLUDE => "included by",
        ENV_FILE => "read because of `env_file` or `label_file` of",
        DEFAULT => "default, because nothing is said at",
        DEFAULT_NETWORK => "default, because no network is named at",
        RESOURCE_NAME => "made of the project's name and the key of",
        IMPLIED_DEPENDENCY => "implied by",
        _ => "by",
    }
}

//! `wharf version`.

use clap::{Args, ValueEnum};

use super::globals::Context;
use super::output::Failure;

/// Print the version
///
/// The CLI's own; needs no engine. `wharf engine status` tells the engine's.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf version --short        the number, for scripts\n  \
    wharf version -f json        as JSON")]
pub struct Version {
    /// How to print it
    #[arg(short = 'f', long, value_name = "FORMAT", default_value = "pretty")]
    pub format: Format,
    /// The number only
    #[arg(long)]
    pub short: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Pretty,
    Json,
}

impl Version {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let version = env!("CARGO_PKG_VERSION");
        let text = match (self.short, self.format) {
            (true, _) => version.to_owned(),
            (false, Format::Pretty) => format!("wharf version {version}"),
            (false, Format::Json) => serde_json::json!({ "version": version }).to_string(),
        };
        context.output.line(&text)
    }
}

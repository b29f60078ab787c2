//! `wharf logout`.

use clap::Args;

use super::credentials::{ConfigFile, registry_of_server};
use super::globals::Context;
use super::output::Failure;

/// Forget the login to a registry
#[derive(Debug, Args)]
pub struct Logout {
    /// Registry, as it stands in image names [default: Docker Hub]
    #[arg(value_name = "SERVER", default_value = "", hide_default_value = true)]
    pub server: String,
}

impl Logout {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let registry = registry_of_server(&self.server);
        let was_there = ConfigFile::read()?.erase(registry)?;
        match was_there {
            true => context
                .output
                .line(&format!("Removing login credentials for {registry}")),
            // As docker: nothing to forget is no failure.
            false => context.output.line(&format!("Not logged in to {registry}")),
        }
    }
}

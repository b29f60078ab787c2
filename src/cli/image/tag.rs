//! `wharf image tag`.

use clap::Args;

use crate::cli::command::with_engine;
use crate::cli::globals::Context;
use crate::cli::output::Failure;

/// Give an image a further name
#[derive(Debug, Args)]
pub struct Tag {
    /// Name or id
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    pub source: String,
    /// The further name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    pub target: String,
}

impl Tag {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        with_engine(context, async |client| {
            Ok(client.tag_image(&self.source, &self.target).await?)
        })
    }
}

//! `wharf image push`.

use clap::Args;

use super::pull::{refuse_a_tag_of_all, show, shown_name};
use super::require_platform;
use crate::api::wire::registry::ImageTransfer;
use crate::cli::command::with_engine;
use crate::cli::credentials;
use crate::cli::globals::Context;
use crate::cli::output::Failure;

/// Hand an image to the registry that its name says
///
/// Layers that the registry has already are not sent.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf image tag app registry.example.com/team/app:1\n  \
    wharf image push registry.example.com/team/app:1\n  \
    wharf image push -a registry.example.com/team/app     all tags that are here")]
pub struct Push {
    /// Name of the image, with its registry and tag [default tag: latest]
    #[arg(value_name = "NAME[:TAG]")]
    pub name: String,
    /// Hand over every tag that is here under this name
    #[arg(short, long)]
    pub all_tags: bool,
    /// Print the name only
    #[arg(short, long)]
    pub quiet: bool,
    /// Only if it is made for this platform, as in linux/arm64
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Without effect: there is no content trust, and scripts that switch it off may go on
    #[arg(long, hide = true)]
    pub disable_content_trust: bool,
}

impl Push {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        refuse_a_tag_of_all(self.all_tags, &self.name)?;
        let transfer = ImageTransfer {
            all_tags: self.all_tags,
            logins: credentials::for_references(context, std::iter::once(self.name.as_str())),
            reference: self.name,
            ..ImageTransfer::default()
        };
        let platform = self.platform;
        with_engine(context, async |client| {
            require_platform(&client, &[&transfer.reference], platform.as_deref()).await?;
            let reports = client.push_image(&transfer).await?;
            show(context, reports, self.quiet).await
        })?;
        context.output.line(&shown_name(&transfer))
    }
}

//! `wharf image pull`.

use clap::Args;

use crate::api::client::Reports;
use crate::api::wire::registry::ImageTransfer;
use crate::cli::command::{self, Ended, Interrupts, with_engine};
use crate::cli::credentials;
use crate::cli::globals::Context;
use crate::cli::output::{Failure, Kind, ProgressMode};

/// Fetch an image from its registry
///
/// Layers that are there already are not fetched again. An interrupted pull goes on where it was.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf image pull nginx:1.29                      from Docker Hub\n  \
    wharf image pull ghcr.io/org/app@sha256:…        exactly this one\n  \
    wharf image pull --platform linux/arm64 alpine   for another machine\n  \
    wharf image pull -a localhost:5000/app           all of its tags")]
pub struct Pull {
    /// Name of the image, with a tag or digest [default tag: latest]
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub name: String,
    /// Fetch everything that the registry has under this name
    #[arg(short, long)]
    pub all_tags: bool,
    /// Platform, where the image is made for several
    #[arg(
        long,
        value_name = "OS/ARCH",
        env = "DOCKER_DEFAULT_PLATFORM",
        hide_env = true
    )]
    pub platform: Option<String>,
    /// Print the name only
    #[arg(short, long)]
    pub quiet: bool,
    /// Without effect: there is no content trust, and scripts that switch it off may go on
    #[arg(long, hide = true)]
    pub disable_content_trust: bool,
}

impl Pull {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        refuse_a_tag_of_all(self.all_tags, &self.name)?;
        let transfer = ImageTransfer {
            logins: credentials::for_references(context, std::iter::once(self.name.as_str())),
            reference: self.name,
            platform: self.platform,
            all_tags: self.all_tags,
        };
        with_engine(context, async |client| {
            let reports = client.pull_image(&transfer).await?;
            show(context, reports, self.quiet).await
        })?;
        context.output.line(&shown_name(&transfer))
    }
}

pub(super) fn refuse_a_tag_of_all(all_tags: bool, name: &str) -> Result<(), Failure> {
    let last = name.rsplit('/').next().unwrap_or_default();
    match all_tags && last.contains([':', '@']) {
        true => Err(Failure::new(
            Kind::Usage,
            "a tag or digest cannot be given with --all-tags",
        )),
        false => Ok(()),
    }
}

/// The whole name of what was transferred, for scripts.
pub(super) fn shown_name(transfer: &ImageTransfer) -> String {
    let mut name = credentials::full_name(&transfer.reference);
    if transfer.all_tags && name.ends_with(":latest") {
        name.truncate(name.len() - ":latest".len());
    }
    name
}

/// Shows a transfer to its end. Leaving gives it up; what was fetched is kept for the next one.
pub(super) async fn show(
    context: &Context,
    mut reports: Reports,
    is_quiet: bool,
) -> Result<(), Failure> {
    let mut interrupts = Interrupts::new()?;
    let progress = match is_quiet {
        true => crate::cli::output::Progress::new(ProgressMode::Quiet, context.output),
        false => command::progress(context),
    };
    match command::show(context, progress, &mut reports, &mut interrupts).await? {
        Ended::Done => Ok(()),
        Ended::Failed(failure) => Err(failure),
        Ended::Interrupted => Err(Failure::interrupted()),
    }
}

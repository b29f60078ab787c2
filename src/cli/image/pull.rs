//! `wharf image pull`.

use clap::Args;

use crate::api::client::Reports;
use crate::api::wire::registry::ImageTransfer;
use crate::cli::command::{self, Ended, Interrupts, with_engine};
use crate::cli::credentials;
use crate::cli::globals::Context;
use crate::cli::output::{Failure, ProgressMode};

/// Fetch an image from its registry
///
/// Layers that are there already are not fetched again. An interrupted pull goes on where it was.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf image pull nginx:1.29                      from Docker Hub\n  \
    wharf image pull ghcr.io/org/app@sha256:…        exactly this one\n  \
    wharf image pull --platform linux/arm64 alpine   for another machine")]
pub struct Pull {
    /// Name of the image, with a tag or digest [default tag: latest]
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub name: String,
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
        let transfer = ImageTransfer {
            logins: credentials::for_references(context, std::iter::once(self.name.as_str())),
            reference: self.name,
            platform: self.platform,
        };
        with_engine(context, async |client| {
            let reports = client.pull_image(&transfer).await?;
            show(context, reports, self.quiet).await
        })?;
        context.output.line(&full_name(&transfer.reference))
    }
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

/// As Docker prints it last: with registry and tag.
fn full_name(reference: &str) -> String {
    let Some(registry) = credentials::registry_of(reference) else {
        return reference.to_owned();
    };
    let rest = match reference.split_once('/') {
        Some((host, rest))
            if credentials::registry_of(&format!("{host}/x")) == Some(registry)
                && (host.contains(['.', ':']) || host == "localhost") =>
        {
            rest
        }
        _ => reference,
    };
    let library = match registry == "docker.io" && !rest.contains('/') {
        true => "library/",
        false => "",
    };
    let last = rest.rsplit('/').next().unwrap_or(rest);
    let tag = match last.contains([':', '@']) {
        true => "",
        false => ":latest",
    };
    format!("{registry}/{library}{rest}{tag}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printed_in_full() {
        for (reference, full) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("a/b:1", "docker.io/a/b:1"),
            ("docker.io/alpine:3", "docker.io/library/alpine:3"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("ghcr.io/a/b@sha256:00", "ghcr.io/a/b@sha256:00"),
        ] {
            assert_eq!(full_name(reference), full, "{reference}");
        }
    }
}

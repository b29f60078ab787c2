//! `wharf image rm`.

use clap::Args;

use super::require_platform;
use crate::api::client::ClientError;
use crate::api::wire::image::DeleteItem;
use crate::cli::command::with_engine;
use crate::cli::globals::Context;
use crate::cli::output::Failure;
use crate::reconcile::FailureKind;

/// Remove images
///
/// A name is taken away; with its last name an image goes, and with it the layers that no other
/// image has.
#[derive(Debug, Args)]
pub struct Rm {
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Images with several names or with stopped containers, too; no failure if there is none
    #[arg(short = 'f', long)]
    pub force: bool,
    /// Accepted for scripts: there are no untagged parents
    #[arg(long)]
    pub no_prune: bool,
    /// Only if it is made for this platform, as in linux/arm64
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
}

impl Rm {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        with_engine(context, async |client| {
            let mut failures = Vec::new();
            for image in &self.images {
                let platform = self.platform.as_deref();
                if let Err(failure) = require_platform(&client, &[image], platform).await {
                    failures.push(failure);
                    continue;
                }
                match client.remove_image(image, self.force).await {
                    Ok(items) => context.output.out(lines(&items).as_bytes())?,
                    Err(ClientError::Engine(error))
                        if self.force && error.kind == FailureKind::NotFound => {}
                    // The others are removed all the same.
                    Err(error @ ClientError::Engine(_)) => failures.push(Failure::from(error)),
                    Err(error) => return Err(error.into()),
                }
            }
            let last = failures.pop();
            for failure in &failures {
                context.output.fail(failure);
            }
            last.map_or(Ok(()), Err)
        })
    }
}

fn lines(items: &[DeleteItem]) -> String {
    let mut text = String::new();
    for item in items {
        if let Some(name) = &item.untagged {
            text.push_str(&format!("Untagged: {name}\n"));
        }
        if let Some(id) = &item.deleted {
            text.push_str(&format!("Deleted: {id}\n"));
        }
    }
    text
}

//! `wharf image check`: ours, Docker has nothing of the kind.

use clap::Args;

use super::{NONE, short_id};
use crate::cli::command::with_engine;
use crate::cli::globals::Context;
use crate::cli::output::{Failure, Kind, visible};

/// Find damaged images, and heal them
///
/// Reads every file of every layer and compares it with the digest that the image had when it came.
/// Only what is damaged is got again: at once from a layout or an archive, otherwise with the next
/// pull or load.
#[derive(Debug, Args)]
pub struct Check {
    /// Names or ids; all images when none is named
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
}

impl Check {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let verdicts = with_engine(context, async |client| {
            Ok(client.check_images(&self.images).await?)
        })?;
        let mut n_damaged = 0;
        for verdict in &verdicts {
            let name = verdict.names.first().map_or(NONE, String::as_str);
            let head = format!("{} ({})", visible(name), short_id(&verdict.id));
            if verdict.damage.is_empty() && verdict.healed.is_empty() {
                context.output.line(&format!("{head}: undamaged"))?;
            }
            for what in &verdict.healed {
                context
                    .output
                    .line(&format!("{head}: healed: {}", visible(what)))?;
            }
            for what in &verdict.damage {
                context
                    .output
                    .line(&format!("{head}: damaged: {}", visible(what)))?;
            }
            n_damaged += usize::from(!verdict.damage.is_empty());
        }
        match n_damaged {
            0 => Ok(()),
            n => Err(
                Failure::new(Kind::Engine, format!("{n} images are damaged")).hint(
                    "pull or load them again: only what is damaged is fetched; containers made \
                     from them have to be removed first",
                ),
            ),
        }
    }
}

//! `wharf image prune`.

use std::io::{BufRead, IsTerminal};

use clap::Args;

use super::{filter, filters_json};
use crate::cli::command::with_engine;
use crate::cli::globals::Context;
use crate::cli::output::{Failure, Kind, long_size};

/// Remove images that nobody needs
///
/// Those without a name; with --all, every image that no container was made from.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf image prune -f                         without asking\n  \
    wharf image prune -a -f --filter until=240h  what is older than ten days and not in use")]
pub struct Prune {
    /// All images without a container, not only those without a name
    #[arg(short = 'a', long)]
    pub all: bool,
    /// Do not ask
    #[arg(short = 'f', long)]
    pub force: bool,
    /// Only what matches: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long = "filter", value_name = "KEY=VALUE", value_parser = filter)]
    pub filters: Vec<(String, String)>,
}

impl Prune {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let what = match self.all {
            true => "all images without at least one container associated to them",
            false => "all dangling images",
        };
        if !self.force && !is_sure(context, what)? {
            return Ok(());
        }
        let mut filters = self.filters;
        if self.all {
            filters.push(("dangling".to_owned(), "false".to_owned()));
        }
        let filters = filters_json(&filters);
        let pruned = with_engine(context, async |client| {
            Ok(client.prune_images(&filters).await?)
        })?;
        let mut text = String::new();
        if let Some(items) = pruned.images_deleted {
            text.push_str("Deleted Images:\n");
            for item in items {
                if let Some(name) = item.untagged {
                    text.push_str(&format!("untagged: {name}\n"));
                }
                if let Some(id) = item.deleted {
                    text.push_str(&format!("deleted: {id}\n"));
                }
            }
            text.push('\n');
        }
        let reclaimed = long_size(pruned.space_reclaimed);
        text.push_str(&format!("Total reclaimed space: {reclaimed}\n"));
        context.output.out(text.as_bytes())
    }
}

/// Asks on the terminal; nobody there is a no.
fn is_sure(context: &Context, what: &str) -> Result<bool, Failure> {
    let stdin = std::io::stdin();
    let question =
        format!("WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] ");
    context.output.out(question.as_bytes())?;
    let mut answer = String::new();
    stdin
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::system("cannot read the answer", &error))?;
    if answer.is_empty() && !stdin.is_terminal() {
        context.output.line("")?;
        return Err(Failure::new(Kind::Usage, "nobody answered").hint("write --force"));
    }
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

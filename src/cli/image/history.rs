//! `wharf image history`. Docker's `-H` is the engine's socket in every command of ours.

use clap::Args;

use super::{age, require_platform, short_id};
use crate::api::wire::image::HistoryItem;
use crate::cli::clock::now_ns;
use crate::cli::command::with_engine;
use crate::cli::globals::Context;
use crate::cli::output::{Failure, Rows, short_size};

/// The steps by which an image was made, newest first
#[derive(Debug, Args)]
pub struct History {
    /// Name or id
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// `table`, `table TEMPLATE`, `json`, or a Go template for each line
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
    /// Sizes and dates for people
    #[arg(long, value_name = "BOOL", default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub human: bool,
    /// Whole ids and instructions
    #[arg(long)]
    pub no_trunc: bool,
    /// Ids only
    #[arg(short = 'q', long)]
    pub quiet: bool,
    /// Only if it is made for this platform, as in linux/arm64
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
}

/// A moment as Docker has it in a history, unlike in its lists.
fn rfc3339(created: i64) -> String {
    let at = jiff::Timestamp::from_second(created)
        .ok()
        .filter(|_| created > 0);
    at.map_or("N/A".to_owned(), |at| {
        let at = at.to_zoned(jiff::tz::TimeZone::system());
        let text = at.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        // Go's zero offset.
        text.replace("+00:00", "Z")
    })
}

/// As many characters of an instruction as Docker shows.
const CREATED_BY_CHARS: usize = 45;

impl History {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let steps = with_engine(context, async |client| {
            require_platform(&client, &[&self.image], self.platform.as_deref()).await?;
            Ok(client.image_history(&self.image).await?)
        })?;
        let text = self.render(&steps, now_ns())?;
        context.output.out(text.as_bytes())
    }

    fn render(&self, steps: &[HistoryItem], now_ns: u64) -> Result<String, Failure> {
        let id = |step: &HistoryItem| match self.no_trunc {
            true => step.id.clone(),
            false => short_id(&step.id).to_owned(),
        };
        if self.quiet {
            return Ok(steps.iter().map(|step| id(step) + "\n").collect());
        }
        let rows = steps.iter().map(|step| {
            let by = step.created_by.replace('\t', " ");
            vec![
                id(step),
                age(step.created, now_ns),
                rfc3339(step.created),
                match self.no_trunc || by.chars().count() <= CREATED_BY_CHARS {
                    true => by,
                    false => by.chars().take(CREATED_BY_CHARS - 1).chain(['…']).collect(),
                },
                match self.human {
                    true => short_size(step.size),
                    false => step.size.to_string(),
                },
                step.comment.clone(),
            ]
        });
        let created = if self.human {
            "CreatedSince"
        } else {
            "CreatedAt"
        };
        let rows = Rows {
            columns: &[
                ("ID", "IMAGE"),
                ("CreatedSince", "CREATED"),
                ("CreatedAt", "CREATED AT"),
                ("CreatedBy", "CREATED BY"),
                ("Size", "SIZE"),
                ("Comment", "COMMENT"),
            ],
            shown: vec!["ID", created, "CreatedBy", "Size", "Comment"],
            rows: rows.collect(),
        };
        rows.render(&self.format)
    }
}

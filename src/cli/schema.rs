//! `schema`: the JSON Schema of Compose files, for editors. Asks nobody.

use clap::Args;

use super::globals::Context;
use super::output::Failure;
use crate::compose::json_schema::json_schema_text;

/// Print the JSON Schema of Compose files, for editors
#[derive(Debug, Args)]
pub struct Schema {}

impl Schema {
    pub fn run(&self, context: &Context) -> Result<(), Failure> {
        context.output.line(json_schema_text().trim_end())
    }
}

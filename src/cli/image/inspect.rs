//! `wharf image inspect`.

use clap::Args;

use crate::api::client::ClientError;
use crate::cli::command::with_engine;
use crate::cli::globals::Context;
use crate::cli::output::{Failure, Kind, Template};
use crate::reconcile::FailureKind;

/// Everything about images, as JSON
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf image inspect app:1\n  \
    wharf image inspect -f '{{json .Config.Env}}' app:1")]
pub struct Inspect {
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// A Go template for each image, or `json`
    #[arg(short = 'f', long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Only if it is made for this platform, as in linux/arm64
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
}

impl Inspect {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let template = match self.format.as_deref() {
            None | Some("json") => None,
            Some(text) => {
                Some(Template::parse(text).map_err(|why| Failure::new(Kind::Usage, why))?)
            }
        };
        let mut found = Vec::new();
        let mut missing = Vec::new();
        with_engine(context, async |client| {
            for name in &self.images {
                let platform = self.platform.as_deref();
                match client.inspect_image_for(name, platform).await {
                    Ok(image) => found.push(image),
                    Err(ClientError::Engine(error)) if error.kind == FailureKind::NotFound => {
                        missing.push(error.message);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        })?;
        let unprintable =
            |error: serde_json::Error| Failure::new(Kind::System, format!("cannot print: {error}"));
        let found = serde_json::to_value(&found).map_err(unprintable)?;
        match (&template, self.format.is_some()) {
            (Some(template), _) => {
                for image in found.as_array().into_iter().flatten() {
                    let line = template
                        .render(image)
                        .map_err(|why| Failure::new(Kind::Usage, why))?;
                    context.output.line(&line)?;
                }
            }
            (None, true) => context.output.line(&found.to_string())?,
            (None, false) => {
                let text = serde_json::to_string_pretty(&found).map_err(unprintable)?;
                context.output.line(&text)?;
            }
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(Kind::Engine, missing.join("; "))),
        }
    }
}

//! `wharf image import`.

use clap::Args;
use futures_util::StreamExt;
use tokio_util::io::ReaderStream;

use super::load::{show, stdin_stream};
use crate::cli::command::with_engine;
use crate::cli::globals::Context;
use crate::cli::output::{Failure, Kind};

/// Make an image of a file system in a tar
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tar -C rootfs -c . | wharf image import - base:1\n  \
    wharf image import -c 'CMD [\"sh\"]' rootfs.tar.gz base:1")]
pub struct Import {
    /// The tar, `-` for standard input
    #[arg(value_name = "FILE|-")]
    pub file: String,
    /// What to call the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub reference: Option<String>,
    /// A Dockerfile instruction for the image; repeat for several
    #[arg(short = 'c', long = "change", value_name = "INSTRUCTION")]
    pub changes: Vec<String>,
    /// What the history says about it
    #[arg(short = 'm', long, value_name = "TEXT")]
    pub message: Option<String>,
    /// What it is made for
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
}

impl Import {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        if self.file.starts_with("http://") || self.file.starts_with("https://") {
            return Err(
                Failure::new(Kind::Usage, "an archive on another machine is not fetched").hint(
                    format!("write `curl -L {} | wharf image import - …`", self.file),
                ),
            );
        }
        let message = self.message.clone().unwrap_or(match self.file.as_str() {
            "-" => "Imported from -".to_owned(),
            file => format!("Imported from {file}"),
        });
        let mut pairs = vec![("message", message.as_str())];
        pairs.extend(self.reference.iter().map(|name| ("repo", name.as_str())));
        pairs.extend(
            self.platform
                .iter()
                .map(|platform| ("platform", platform.as_str())),
        );
        pairs.extend(
            self.changes
                .iter()
                .map(|change| ("changes", change.as_str())),
        );
        with_engine(context, async |client| {
            let archive = match self.file.as_str() {
                "-" => stdin_stream()?,
                path => {
                    let file = tokio::fs::File::open(path)
                        .await
                        .map_err(|error| Failure::system(&format!("cannot open {path}"), &error))?;
                    ReaderStream::with_capacity(file, 256 * 1024).boxed()
                }
            };
            let mut lines = client.import_image(&pairs, archive).await?;
            show(context, &mut lines, true).await
        })
    }
}

//! `wharf image load`.

use std::io::{self, IsTerminal, Write};

use bytes::Bytes;
use clap::Args;
use futures_util::Stream;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use super::layout;
use crate::api::client::images::Lines;
use crate::cli::command::with_engine;
use crate::cli::globals::Context;
use crate::cli::output::{Failure, Kind, visible};

/// Load images from an archive or a layout
///
/// Reads what `docker save`, `podman save` and `skopeo copy` write, compressed or not, from a file
/// or from standard input.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf image load -i app.tar.gz\n  \
    docker save app:1 | wharf image load\n  \
    wharf image load -i oci:./layout         an OCI layout directory")]
pub struct Load {
    /// The archive, or oci:DIR for a layout; standard input when it is not given
    #[arg(short = 'i', long, value_name = "FILE")]
    pub input: Option<String>,
    /// The image for this platform, of an archive for several
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// No progress
    #[arg(short = 'q', long)]
    pub quiet: bool,
}

impl Load {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        with_engine(context, async |client| {
            let archive = match &self.input {
                Some(input) => input_stream(input).await?,
                None => stdin_stream()?,
            };
            let platform = self.platform.as_deref().unwrap_or_default();
            let mut lines = client.load_images(platform, archive).await?;
            show(context, &mut lines, self.quiet).await
        })
    }
}

/// A file, or a layout as an archive.
async fn input_stream(input: &str) -> Result<BoxStream<'static, io::Result<Bytes>>, Failure> {
    if let Some(directory) = layout::directory(input) {
        if !directory.join("index.json").is_file() {
            let message = format!(
                "{} is no OCI layout: it has no index.json",
                directory.display()
            );
            return Err(Failure::new(Kind::System, message));
        }
        return Ok(written(move |out| layout::pack(&directory, out)).boxed());
    }
    let path = layout::file(input);
    if path.is_dir() {
        let message = format!("{} is a directory", path.display());
        let hint = format!("an OCI layout is loaded by `wharf image load -i oci:{input}`");
        return Err(Failure::new(Kind::System, message).hint(&hint));
    }
    let file = tokio::fs::File::open(&path).await;
    let file =
        file.map_err(|error| Failure::system(&format!("cannot open {}", path.display()), &error))?;
    Ok(ReaderStream::with_capacity(file, CHUNK).boxed())
}

const CHUNK: usize = 256 * 1024;
const BACKLOG: usize = 4;

/// Standard input, unless it is a person.
pub fn stdin_stream() -> Result<BoxStream<'static, io::Result<Bytes>>, Failure> {
    if io::stdin().is_terminal() {
        return Err(Failure::new(
            Kind::Usage,
            "requested load from stdin, but stdin is a terminal",
        )
        .hint("name a file, or write `… < FILE`"));
    }
    Ok(ReaderStream::with_capacity(tokio::io::stdin(), CHUNK).boxed())
}

/// What a function writes, as a stream.
fn written(
    write: impl FnOnce(Pipe) -> io::Result<()> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = write(Pipe(sender.clone())) {
            // A receiver that is gone needs no reason.
            let _ = sender.blocking_send(Err(error));
        }
    });
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    })
}

struct Pipe(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints the result; what happens meanwhile only where somebody looks at it.
pub async fn show(context: &Context, lines: &mut Lines, quiet: bool) -> Result<(), Failure> {
    let is_watched = !quiet && context.output.is_status_terminal();
    while let Some(line) = lines.next().await {
        let line = line?;
        if let Some(text) = line.stream {
            context.output.line(&visible(text.trim_end()))?;
        } else if let (Some(status), Some(id), true) = (&line.status, &line.id, is_watched) {
            if line
                .progress_detail
                .as_ref()
                .is_some_and(|detail| detail.current == 0)
            {
                context
                    .output
                    .note(&format!("{}: {}", visible(id), visible(status)));
            }
        } else if let (Some(status), None) = (&line.status, &line.id) {
            context.output.line(&visible(status))?;
        }
    }
    Ok(())
}

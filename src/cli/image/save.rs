//! `wharf image save`.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::{layout, require_platform};
use crate::api::client::Client;
use crate::cli::command::with_engine;
use crate::cli::globals::Context;
use crate::cli::output::{Failure, Kind};

/// Save images to an archive or a layout
///
/// The archive is what `docker save` writes: Docker, podman and skopeo read it. A name without a
/// tag stands for all tags of its repository.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf image save -o app.tar app:1 db:1\n  \
    wharf image save app:1 | ssh host docker load\n  \
    wharf image save -o oci:./layout app:1   an OCI layout directory")]
pub struct Save {
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// The archive, or oci:DIR for a layout; standard output when it is not given
    #[arg(short = 'o', long, value_name = "FILE")]
    pub output: Option<String>,
    /// Only if they are made for this platform, as in linux/arm64
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
}

impl Save {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let Some(output) = &self.output else {
            if io::stdout().is_terminal() {
                return Err(
                    Failure::new(Kind::Usage, "cowardly refusing to save to a terminal")
                        .hint("use -o, or redirect"),
                );
            }
            return with_engine(context, async |client| {
                self.require_platform(&client).await?;
                let mut archive = client.save_images(&self.images).await?;
                while let Some(piece) = archive.next().await {
                    context.output.out(&piece.map_err(broken_off)?)?;
                }
                Ok(())
            });
        };
        let directory = layout::directory(output);
        let file = match &directory {
            // Beside the layout, and gone before anybody sees it.
            Some(directory) => directory.with_extension("archive"),
            None => layout::file(output),
        };
        let mut partial = Partial::create(&file)?;
        with_engine(context, async |client| {
            self.require_platform(&client).await?;
            let mut archive = client.save_images(&self.images).await?;
            while let Some(piece) = archive.next().await {
                partial.write(&piece.map_err(broken_off)?)?;
            }
            Ok(())
        })?;
        match directory {
            Some(directory) => layout::unpack(partial.reopen()?, &directory),
            None => partial.keep(),
        }
    }
}

impl Save {
    async fn require_platform(&self, client: &Client) -> Result<(), Failure> {
        let images: Vec<&str> = self.images.iter().map(String::as_str).collect();
        require_platform(client, &images, self.platform.as_deref()).await
    }
}

fn broken_off(error: crate::api::client::ClientError) -> Failure {
    Failure::from(error).hint(
        "`wharf image check` tells whether the image is damaged, `wharf engine logs` what happened",
    )
}

/// A file that has its name only when it is complete.
struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl Partial {
    fn create(target: &Path) -> Result<Partial, Failure> {
        let failed = |error: io::Error| {
            Failure::system(&format!("cannot write {}", target.display()), &error)
        };
        // A device or a pipe is written as it is.
        let is_special = std::fs::metadata(target).is_ok_and(|metadata| !metadata.is_file());
        let path = match is_special {
            true => target.to_owned(),
            false => {
                let mut name = std::ffi::OsString::from(".");
                name.push(target.file_name().unwrap_or_default());
                name.push(format!(".{}", std::process::id()));
                target.with_file_name(name)
            }
        };
        let file = match is_special {
            true => File::options().write(true).open(&path),
            false => File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path),
        };
        Ok(Partial {
            file: file.map_err(failed)?,
            path,
            target: target.to_owned(),
        })
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::system(&format!("cannot write {}", self.target.display()), error)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| self.failed(&error))
    }

    fn keep(mut self) -> Result<(), Failure> {
        if self.path != self.target {
            let renamed = std::fs::rename(&self.path, &self.target);
            renamed.map_err(|error| self.failed(&error))?;
            self.path.clone_from(&self.target);
        }
        Ok(())
    }

    fn reopen(&self) -> Result<File, Failure> {
        File::open(&self.path).map_err(|error| self.failed(&error))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.path != self.target {
            // It may never have come that far.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

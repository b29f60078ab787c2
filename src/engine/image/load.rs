//! Images out of archives.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::archive::Source;
use super::content::ContentError;
use super::images::Images;
use super::platform::Platform;
use super::source::{self, SourceError};
use super::{ImageError, Reference};
use crate::engine::store::Batch;
use crate::reconcile::ImageProgress;

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// `sha256:…`.
    pub id: String,
    /// The names that it was given, as Docker shows them; none if the archive has none.
    pub names: Vec<String>,
}

impl Images {
    /// A file without a name in the store, for an archive that comes as a stream.
    pub fn scratch_file(&self) -> Result<File, ContentError> {
        self.inner.content.scratch_file()
    }

    /// Reads every image of an archive (what Docker saves, or an OCI layout in a tar) and gives it
    /// the names that it has there.
    pub fn load(
        &self,
        archive: File,
        platform: Option<&str>,
        progress: &(dyn Fn(ImageProgress) + Sync),
    ) -> Result<Vec<Loaded>, ImageError> {
        let wanted = platform.map(Platform::parse).transpose()?;
        let shown = Path::new("input");
        let source = Arc::new(Source::archive_file(shown, archive, &self.inner.content)?);
        let mut loaded = Vec::new();
        for (names, found) in source::all_in(&source, wanted.as_ref())? {
            let references: Vec<Reference> = names.iter().filter_map(|name| full(name)).collect();
            let names = references.iter().map(Reference::to_string).collect();
            let image =
                self.inner
                    .install_as(found, &references, None, Batch::default(), progress)?;
            loaded.push(Loaded {
                id: image.id.to_string(),
                names,
            });
        }
        if loaded.is_empty() {
            return Err(SourceError::Missing {
                path: shown.to_owned(),
                name: "image".to_owned(),
            }
            .into());
        }
        Ok(loaded)
    }
}

/// A bare tag such as `v1` of a layout would become an image of that name, so only names that say
/// more count.
fn full(name: &str) -> Option<Reference> {
    match Reference::parse(name) {
        Ok(reference @ Reference::Registry { .. }) if name.contains([':', '@', '/']) => {
            Some(reference)
        }
        _ => None,
    }
}

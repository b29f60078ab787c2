//! Everything that talks to a registry.
//!
//! ```text
//! reference ─endpoint─▶ where to ask      settings, hosts: mirrors, insecure registries, certs.d
//!           ─repository─▶ manifests, blobs  auth: challenges, tokens     retry: patience
//!           ─resolve─▶ the image for a platform
//!           ─artifact─▶ what is no image, read into memory
//!           ─layer_blob─▶ bytes of a layer, kept for another attempt     transport, tls: the wire
//! ```
//!
//! Asynchronous inside; callers are blocking threads that hand in the runtime. Writes nothing but
//! downloads, and must not know what becomes of an image.

mod artifact;
mod auth;
mod challenge;
mod endpoint;
mod error;
mod hosts;
mod layer_blob;
mod proxies;
mod repository;
mod resolve;
mod retry;
mod settings;
mod tags;
mod tls;
mod transport;
mod upload;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use artifact::{Artifact, ArtifactBlob};
pub use error::{RegistryError, TransportError};
pub use layer_blob::LayerBlob;
pub use repository::{DOCKER_MANIFEST, OCI_MANIFEST, Repository};
pub use resolve::{Described, Resolved};

use super::platform::Platform;
use super::{Digest, ImageError};
use crate::plan::Login;
use auth::Authorizer;
use endpoint::Endpoint;
use settings::Settings;
use transport::Transport;

/// The connections of one engine to all registries.
#[derive(Default)]
pub struct Registries {
    transport: Arc<Transport>,
}

/// Who asks for what.
pub struct Visit<'a> {
    /// As a reference names it.
    pub registry: &'a str,
    pub repository: &'a str,
    pub login: Option<&'a Login>,
    pub cancelled: &'a CancellationToken,
}

/// What a registry says about a name.
pub enum Looked {
    /// It is what is known already.
    Unchanged(Digest),
    Found {
        repository: Arc<Repository>,
        image: Box<Resolved>,
    },
}

impl Registries {
    /// Looks a tag or digest up, at mirrors first. `known` is what was found the last time.
    pub async fn look_up(
        &self,
        visit: &Visit<'_>,
        tag_or_digest: &str,
        known: Option<&Digest>,
        wanted: Option<&Platform>,
    ) -> Result<Looked, ImageError> {
        self.at_first(visit, tag_or_digest, |repository| async move {
            look_up_at(&repository, tag_or_digest, known, wanted).await
        })
        .await
    }

    /// What is under a tag or digest, without any of it being fetched but documents.
    pub async fn describe(
        &self,
        visit: &Visit<'_>,
        tag_or_digest: &str,
    ) -> Result<Described, ImageError> {
        self.at_first(visit, tag_or_digest, |repository| async move {
            let top = repository.manifest(tag_or_digest, false).await?;
            resolve::describe(&repository, top).await
        })
        .await
    }

    /// Fetches an artifact of one of the kinds.
    pub async fn artifact(
        &self,
        visit: &Visit<'_>,
        tag_or_digest: &str,
        kinds: &[String],
    ) -> Result<Artifact, ImageError> {
        self.at_first(visit, tag_or_digest, |repository| async move {
            artifact::fetch(&repository, tag_or_digest, kinds).await
        })
        .await
    }

    /// Asks mirrors and then the registry itself; the first that can tell is believed.
    async fn at_first<T, F: Future<Output = Result<T, ImageError>>>(
        &self,
        visit: &Visit<'_>,
        tag_or_digest: &str,
        ask: impl Fn(Arc<Repository>) -> F,
    ) -> Result<T, ImageError> {
        let settings = Arc::new(Settings::read()?);
        let endpoints = endpoint::for_pull(visit.registry, &settings)?;
        let mut failure = None;
        for endpoint in endpoints {
            let is_mirror = endpoint.is_mirror;
            if !endpoint.resolves && is_mirror && !tag_or_digest.contains(':') {
                continue;
            }
            let is_plain = endpoint.api.scheme() == "http";
            let rights = format!("repository:{}:pull", visit.repository);
            let repository = Arc::new(self.repository(visit, endpoint, &settings, rights));
            let error = match ask(Arc::clone(&repository)).await {
                Ok(told) => return Ok(told),
                Err(error) => error,
            };
            let is_silent = matches!(
                error,
                ImageError::Registry(
                    RegistryError::Unreachable { .. } | RegistryError::Untrusted { .. }
                )
            );
            if matches!(error, ImageError::Registry(RegistryError::Cancelled)) {
                return Err(error);
            }
            if is_mirror {
                tracing::warn!(
                    mirror = repository.host(),
                    error = &error as &dyn std::error::Error,
                    "a mirror does not help"
                );
            } else if !is_silent {
                return Err(error);
            }
            // Of two ways that both lead nowhere the encrypted one was the better attempt, unless
            // nobody is there at all, which both say.
            if failure.is_none() || !is_plain {
                failure = Some(error);
            }
        }
        Err(failure.unwrap_or_else(|| no_address(visit.registry).into()))
    }

    /// A repository to push to. `sources` are others of the same registry that blobs may be taken
    /// over from.
    pub async fn open_for_push(
        &self,
        visit: &Visit<'_>,
        sources: &[String],
    ) -> Result<Arc<Repository>, RegistryError> {
        let mut scope = format!("repository:{}:pull,push", visit.repository);
        for source in sources {
            scope.push_str(&format!(" repository:{source}:pull"));
        }
        self.reachable(visit, &scope).await
    }

    /// The tags of a repository, of the registry itself: a mirror has those that somebody wanted.
    pub async fn tags(&self, visit: &Visit<'_>) -> Result<Vec<String>, RegistryError> {
        let rights = format!("repository:{}:pull", visit.repository);
        self.reachable(visit, &rights).await?.tags().await
    }

    /// What the registry itself has under a tag now: the digest of its index or manifest.
    pub async fn digest(&self, visit: &Visit<'_>, tag: &str) -> Result<Digest, RegistryError> {
        let rights = format!("repository:{}:pull", visit.repository);
        let repository = self.reachable(visit, &rights).await?;
        // Fetched, so that the digest is that of bytes that were seen.
        Ok(repository.manifest(tag, false).await?.digest)
    }

    /// Asks a registry whether it knows the user.
    pub async fn authenticate(&self, visit: &Visit<'_>) -> Result<(), RegistryError> {
        self.reachable(visit, "").await?.authenticate().await
    }

    /// The first endpoint of the registry itself that answers.
    async fn reachable(
        &self,
        visit: &Visit<'_>,
        scope: &str,
    ) -> Result<Arc<Repository>, RegistryError> {
        let settings = Arc::new(Settings::read()?);
        let mut failure = None;
        for endpoint in endpoint::for_push(visit.registry, &settings)? {
            let is_plain = endpoint.api.scheme() == "http";
            let repository = self.repository(visit, endpoint, &settings, scope.to_owned());
            match repository.reach().await {
                Ok(()) => return Ok(Arc::new(repository)),
                Err(RegistryError::Cancelled) => return Err(RegistryError::Cancelled),
                Err(error) if failure.is_none() || !is_plain => failure = Some(error),
                Err(_) => {}
            }
        }
        Err(failure.unwrap_or_else(|| no_address(visit.registry)))
    }

    fn repository(
        &self,
        visit: &Visit<'_>,
        endpoint: Endpoint,
        settings: &Arc<Settings>,
        scope: String,
    ) -> Repository {
        let login = visit.login.filter(|_| !endpoint.is_mirror).cloned();
        Repository {
            transport: Arc::clone(&self.transport),
            settings: Arc::clone(settings),
            endpoint,
            authorizer: Arc::new(Authorizer::new(login)),
            name: visit.repository.to_owned(),
            scope,
            cancelled: visit.cancelled.clone(),
        }
    }
}

fn no_address(registry: &str) -> RegistryError {
    RegistryError::Unreachable {
        host: registry.to_owned(),
        source: TransportError::new("its name is not a possible address"),
    }
}

async fn look_up_at(
    repository: &Arc<Repository>,
    tag_or_digest: &str,
    known: Option<&Digest>,
    wanted: Option<&Platform>,
) -> Result<Looked, ImageError> {
    if let Some(known) = known
        && repository.digest_of(tag_or_digest).await?.as_ref() == Some(known)
    {
        return Ok(Looked::Unchanged(known.clone()));
    }
    let top = repository.manifest(tag_or_digest, false).await?;
    if known == Some(&top.digest) {
        return Ok(Looked::Unchanged(top.digest));
    }
    let image = resolve::resolve(repository, top, wanted).await?;
    Ok(Looked::Found {
        repository: Arc::clone(repository),
        image: Box::new(image),
    })
}

//! Registry references made present: whether to ask, what to fetch, who else is fetching it.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::config::CheckedConfig;
use super::digest::chain_ids;
use super::images::{Image, Inner, ReferenceRecord, lock, now, tag_or_digest};
use super::layer::Expected;
use super::platform::Platform;
use super::pull_policy::PullPolicy;
use super::registry::{
    LayerBlob, Looked, RegistryError, Repository, Resolved, TransportError, Visit,
};
use super::source::{Found, FoundLayer, MAX_LAYERS, SourceError};
use super::{Digest, ImageError, Reference};
use crate::engine::store::{Batch, Table};
use crate::plan::Login;
use crate::reconcile::ImageProgress;

/// How an image is wished for.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    pub policy: PullPolicy,
    /// `None`: this machine's, or whatever is there.
    pub platform: Option<Platform>,
    /// For the reference's own registry.
    pub login: Option<Login>,
    /// Whoever wished for it has gone.
    pub cancelled: CancellationToken,
}

/// Layers that a pull is bringing: who needs one of them, too, waits for it.
///
/// All of a pull's layers are claimed at once or none is, so nobody waits while being waited for.
#[derive(Default)]
pub struct Claims {
    claimed: Mutex<HashSet<Digest>>,
    freed: Condvar,
}

struct Claim<'a> {
    claims: &'a Claims,
    digests: Vec<Digest>,
}

impl Claims {
    /// Waits until nobody is bringing any of the layers. `on_wait` is told if that takes time.
    fn claim(&self, digests: Vec<Digest>, on_wait: impl FnOnce()) -> Claim<'_> {
        let mut claimed = lock(&self.claimed);
        let mut on_wait = Some(on_wait);
        while digests.iter().any(|digest| claimed.contains(digest)) {
            if let Some(on_wait) = on_wait.take() {
                on_wait();
            }
            claimed = self
                .freed
                .wait(claimed)
                .unwrap_or_else(PoisonError::into_inner);
        }
        claimed.extend(digests.iter().cloned());
        Claim {
            claims: self,
            digests,
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claimed = lock(&self.claims.claimed);
        for digest in &self.digests {
            claimed.remove(digest);
        }
        self.claims.freed.notify_all();
    }
}

impl Inner {
    /// Asks the registry if the policy says so; whatever is there and good is not fetched again.
    pub(super) fn ensure_pulled(
        &self,
        reference: &Reference,
        record: Option<ReferenceRecord>,
        wish: &Wish,
        progress: &(dyn Fn(ImageProgress) + Sync),
    ) -> Result<Image, ImageError> {
        let wanted = wish.platform.as_ref();
        // What is damaged counts as missing: pulling it again heals it. So does what is made for
        // another platform than the one that is asked for.
        let mut other_platform = None;
        let present = record.as_ref().and_then(|record| {
            let image = self.image(&record.image).ok()?;
            let made_for = Platform::of_config(&image.config);
            match wanted {
                Some(wanted) if !wanted.accepts(&made_for) => {
                    other_platform = Some(ImageError::OtherPlatform {
                        image: reference.to_string(),
                        present: made_for.to_string(),
                        wanted: wanted.to_string(),
                    });
                    None
                }
                _ => Some(image),
            }
        });
        let is_due = match wish.policy {
            PullPolicy::Always => true,
            PullPolicy::Every(age) => {
                let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
                let asked_at = record.as_ref().and_then(|record| record.pulled_at);
                asked_at.is_none_or(|at| now().saturating_sub(at) >= age)
            }
            PullPolicy::Missing | PullPolicy::Never | PullPolicy::Build => false,
        };
        match (present, wish.policy) {
            (Some(image), _) if !is_due => Ok(image),
            (None, policy @ (PullPolicy::Never | PullPolicy::Build)) => Err(other_platform
                .unwrap_or_else(|| ImageError::NotPresent {
                    image: reference.to_string(),
                    policy,
                })),
            (present, _) => self
                .pull(reference, record, present, wish, progress)
                .map_err(|error| match error {
                    ImageError::Registry(source) => ImageError::Pull {
                        image: reference.to_string(),
                        source: Box::new(source),
                    },
                    ImageError::Source(SourceError::NoPlatform { wanted, present }) => {
                        ImageError::OtherPlatform {
                            image: reference.to_string(),
                            present,
                            wanted,
                        }
                    }
                    error => error,
                }),
        }
    }

    fn pull(
        &self,
        reference: &Reference,
        record: Option<ReferenceRecord>,
        present: Option<Image>,
        wish: &Wish,
        progress: &(dyn Fn(ImageProgress) + Sync),
    ) -> Result<Image, ImageError> {
        let Reference::Registry {
            registry,
            repository,
            ..
        } = reference
        else {
            return Err(ImageError::NoImage {
                path: reference.to_string().into(),
            });
        };
        let runtime = Handle::try_current().map_err(|error| RegistryError::Unreachable {
            host: registry.clone(),
            source: TransportError::new(error.to_string()),
        })?;
        let whole = |status: &str| {
            progress(ImageProgress {
                part: reference.to_string(),
                status: status.to_owned(),
                current_bytes: 0,
                total_bytes: 0,
            });
        };
        whole("resolving");
        let asked = tag_or_digest(reference);
        let known = record
            .as_ref()
            .filter(|_| present.is_some())
            .and_then(|record| record.digest.as_ref());
        let visit = Visit {
            registry,
            repository,
            login: wish.login.as_ref(),
            cancelled: &wish.cancelled,
        };
        let looked = self
            .registries
            .look_up(&visit, &asked, known, wish.platform.as_ref());
        match (runtime.block_on(looked)?, present, record) {
            (Looked::Unchanged(digest), Some(image), Some(record)) => {
                let record = ReferenceRecord {
                    digest: Some(digest),
                    pulled_at: Some(now()),
                    ..record
                };
                self.store
                    .put(Table::References, &reference.canonical(), &record)?;
                whole("up to date");
                Ok(image)
            }
            (Looked::Unchanged(_), ..) => Err(ImageError::NotFound {
                name: reference.to_string(),
            }),
            (
                Looked::Found {
                    repository,
                    image: resolved,
                },
                ..,
            ) => self.take_in(
                reference,
                &repository,
                *resolved,
                wish.platform.as_ref(),
                runtime,
                progress,
            ),
        }
    }

    /// Fetches the layers that are missing and records the image.
    fn take_in(
        &self,
        reference: &Reference,
        repository: &Arc<Repository>,
        resolved: Resolved,
        wanted: Option<&Platform>,
        runtime: Handle,
        progress: &(dyn Fn(ImageProgress) + Sync),
    ) -> Result<Image, ImageError> {
        let Resolved {
            digest,
            manifest,
            id,
            config_bytes,
            checked,
            layers: descriptors,
        } = resolved;
        check_fit(&checked, descriptors.len(), wanted)?;
        let mut layers = Vec::with_capacity(descriptors.len());
        for (descriptor, diff_id) in descriptors.iter().zip(&checked.diff_ids) {
            let blob = Digest::parse(descriptor.digest().as_ref()).map_err(SourceError::from)?;
            layers.push(FoundLayer {
                expected: Expected {
                    blob: Some(blob.clone()),
                    blob_bytes: Some(descriptor.size()),
                    diff_id: diff_id.clone(),
                },
                origin: Box::new(LayerBlob {
                    repository: Arc::clone(repository),
                    digest: blob,
                    n_bytes: descriptor.size(),
                    urls: descriptor.urls().clone().unwrap_or_default(),
                    content: Arc::clone(&self.content),
                    runtime: runtime.clone(),
                }),
            });
        }
        let chain = chain_ids(&checked.diff_ids);
        let part = |position: usize| -> ImageProgress {
            let expected: &Expected = &layers[position].expected;
            let part = expected.blob.as_ref().unwrap_or(&expected.diff_id);
            ImageProgress {
                part: part.short().to_owned(),
                status: "waiting".to_owned(),
                current_bytes: 0,
                total_bytes: expected.blob_bytes.unwrap_or(0),
            }
        };
        let mut missing = Vec::new();
        for (position, chain_id) in chain.iter().enumerate() {
            let is_there = self.snapshot(chain_id)?.is_some();
            let status = match is_there {
                true => "already there",
                false => "waiting",
            };
            progress(ImageProgress {
                status: status.to_owned(),
                ..part(position)
            });
            if !is_there {
                missing.push(chain_id.clone());
            }
        }
        let claim = self.claims.claim(missing, || {
            progress(ImageProgress {
                part: reference.to_string(),
                status: "waiting for another pull of the same layers".to_owned(),
                current_bytes: 0,
                total_bytes: 0,
            });
        });
        let found = Found {
            id,
            config_bytes,
            checked,
            manifest: Some(manifest),
            layers,
        };
        let image = self.install(found, reference, None, Batch::default(), progress)?;
        drop(claim);
        let record = ReferenceRecord {
            image: image.id.digest().clone(),
            name: reference.to_string(),
            stamp: None,
            digest: Some(digest),
            pulled_at: Some(now()),
        };
        self.store
            .put(Table::References, &reference.canonical(), &record)?;
        Ok(image)
    }
}

fn check_fit(
    checked: &CheckedConfig,
    n_layers: usize,
    wanted: Option<&Platform>,
) -> Result<(), SourceError> {
    if n_layers > MAX_LAYERS {
        return Err(SourceError::TooManyLayers { n_layers });
    }
    if checked.diff_ids.len() != n_layers {
        return Err(SourceError::LayerCount {
            n_diff_ids: checked.diff_ids.len(),
            n_layers,
        });
    }
    let made_for = Platform::of_config(&checked.config);
    match wanted {
        Some(wanted) if !wanted.accepts(&made_for) => Err(SourceError::NoPlatform {
            wanted: wanted.to_string(),
            present: made_for.to_string(),
        }),
        _ => Ok(()),
    }
}

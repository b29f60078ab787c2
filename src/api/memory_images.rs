//! The images of the engine in memory: names and ids, and uploads that are counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;

use super::images::{Filtered, ImageFilters, ImageHost, Import};
use super::memory::Memory;
use super::wire::image::{
    DeleteItem, DiskUsage, ErrorDetail, HistoryItem, ImageInspect, ImageSummary, ImageVerdict,
    ImagesPruned, ProgressLine,
};
use super::wire::registry::{Artifact, DistributionDescriptor, DistributionInspect};
use crate::reconcile::{BackendError, FailureKind, ImageRequest};

fn not_found(name: &str) -> BackendError {
    BackendError {
        kind: FailureKind::NotFound,
        message: format!("no such image: {name}"),
        hints: Vec::new(),
    }
}

impl Memory {
    fn image(&self, name: &str) -> Result<ImageSummary, BackendError> {
        let images = self.images.lock().unwrap();
        let found = images
            .iter()
            .find(|image| image.id == name || image.repo_tags.iter().any(|tag| tag == name));
        found.cloned().ok_or_else(|| not_found(name))
    }
}

impl ImageHost for Memory {
    async fn images(&self, filters: ImageFilters) -> Result<Vec<ImageSummary>, BackendError> {
        let mut images = self.images.lock().unwrap().clone();
        images.retain(|image| {
            let filtered = Filtered {
                tags: &image.repo_tags,
                digests: &image.repo_digests,
                created: image.created,
                labels: &BTreeMap::new(),
            };
            filters.accept(&filtered, 0)
        });
        Ok(images)
    }

    async fn n_images(&self) -> Result<usize, BackendError> {
        Ok(self.images.lock().unwrap().len())
    }

    async fn inspect_image(
        &self,
        name: &str,
        _platform: Option<&str>,
    ) -> Result<ImageInspect, BackendError> {
        let image = self.image(name)?;
        let json = serde_json::json!({
            "Id": image.id, "RepoTags": image.repo_tags, "RepoDigests": [], "Parent": "",
            "Comment": "", "Created": "", "DockerVersion": "", "Author": "", "Config": {},
            "Architecture": "amd64", "Os": "linux", "Size": image.size,
            "GraphDriver": {"Data": {}, "Name": "overlay2"},
            "RootFS": {"Type": "layers", "Layers": []}, "Metadata": {"LastTagTime": ""},
        });
        Ok(serde_json::from_value(json).unwrap())
    }

    async fn image_history(&self, name: &str) -> Result<Vec<HistoryItem>, BackendError> {
        self.image(name).map(|_| Vec::new())
    }

    async fn remote_tags(&self, request: &ImageRequest) -> Result<Vec<String>, BackendError> {
        let name = &request.reference;
        Ok(vec![format!("{name}:1"), format!("{name}:2")])
    }

    async fn remote_digest(&self, _request: &ImageRequest) -> Result<String, BackendError> {
        Ok(format!("sha256:{:064}", 7))
    }

    async fn artifact(
        &self,
        request: &ImageRequest,
        _kinds: &[String],
    ) -> Result<Artifact, BackendError> {
        Err(not_found(&request.reference))
    }

    async fn describe_remote(
        &self,
        request: &ImageRequest,
    ) -> Result<DistributionInspect, BackendError> {
        let login = request.logins.0.values().next();
        match (request.reference.as_str(), login) {
            ("reg.example/private", None) => Err(BackendError {
                kind: FailureKind::Denied,
                message: "who are you".to_owned(),
                hints: Vec::new(),
            }),
            (name, login) => Ok(DistributionInspect {
                descriptor: DistributionDescriptor {
                    media_type: format!("{name} for {:?}", login.map(|login| &login.username)),
                    digest: format!("sha256:{:064}", 7),
                    size: 7,
                },
                platforms: Vec::new(),
            }),
        }
    }

    async fn tag_image(&self, name: &str, reference: &str) -> Result<(), BackendError> {
        let id = self.image(name)?.id;
        let mut images = self.images.lock().unwrap();
        let image = images.iter_mut().find(|image| image.id == id).unwrap();
        image.repo_tags.push(reference.to_owned());
        Ok(())
    }

    async fn delete_image(&self, name: &str, _: bool) -> Result<Vec<DeleteItem>, BackendError> {
        let id = self.image(name)?.id;
        self.images.lock().unwrap().retain(|image| image.id != id);
        Ok(vec![DeleteItem {
            untagged: None,
            deleted: Some(id),
        }])
    }

    async fn prune_images(&self, _: ImageFilters) -> Result<ImagesPruned, BackendError> {
        Ok(ImagesPruned {
            images_deleted: None,
            space_reclaimed: 0,
        })
    }

    async fn upload_file(&self) -> Result<File, BackendError> {
        Ok(tempfile::tempfile().unwrap())
    }

    async fn load_images(
        &self,
        mut archive: File,
        platform: Option<String>,
        lines: mpsc::UnboundedSender<ProgressLine>,
    ) {
        let mut bytes = Vec::new();
        archive.read_to_end(&mut bytes).unwrap();
        let status = ProgressLine {
            status: Some("Loading layer".to_owned()),
            ..ProgressLine::default()
        };
        lines.send(status).unwrap();
        let line = match bytes.is_empty() {
            true => ProgressLine {
                error: Some("it is empty".to_owned()),
                error_detail: Some(ErrorDetail {
                    message: "it is empty".to_owned(),
                    hints: vec!["send something".to_owned()],
                }),
                ..ProgressLine::default()
            },
            false => ProgressLine {
                stream: Some(format!("{} bytes for {platform:?}", bytes.len())),
                ..ProgressLine::default()
            },
        };
        lines.send(line).unwrap();
    }

    async fn save_images(
        &self,
        names: Vec<String>,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, BackendError> {
        for name in &names {
            self.image(name)?;
        }
        let pieces = names.into_iter().map(|name| Ok(Bytes::from(name)));
        Ok(futures_util::stream::iter(pieces).boxed())
    }

    async fn import_image(&self, _: File, import: Import) -> Result<String, BackendError> {
        Ok(format!("{import:?}"))
    }

    async fn check_images(&self, names: Vec<String>) -> Result<Vec<ImageVerdict>, BackendError> {
        for name in &names {
            self.image(name)?;
        }
        Ok(Vec::new())
    }

    async fn disk_usage(&self) -> Result<DiskUsage, BackendError> {
        Ok(DiskUsage {
            images: self.images.lock().unwrap().clone(),
            ..DiskUsage::default()
        })
    }
}

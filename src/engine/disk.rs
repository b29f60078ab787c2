//! What takes how much of the disk: images, writable layers of containers, volumes.

use super::image::{ImageUser, Usage, allocated_under};
use super::volume::{Volume, VolumeMount};
use super::{Engine, EngineError};
use crate::plan::ObservedContainer;

/// Everything that this engine keeps on the disk.
#[derive(Debug, Clone)]
pub struct DiskUsage {
    pub images: Usage,
    /// With the bytes of their writable layers and logs.
    pub containers: Vec<(ObservedContainer, u64)>,
    /// With their bytes, and how many containers use them.
    pub volumes: Vec<(Volume, VolumeUsage)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeUsage {
    /// `None` if it lies outside the engine's directories.
    pub bytes: Option<u64>,
    pub n_containers: usize,
}

impl Engine {
    /// Measures. Blocks for as long as `du` would on what was not measured before.
    pub fn disk_usage(&self) -> Result<DiskUsage, EngineError> {
        let views: Vec<_> = self.containers().iter().map(|c| c.view()).collect();
        let mut containers = Vec::new();
        for view in &views {
            let bytes = allocated_under(&self.shared.data_dir(&view.record.id));
            containers.push((view.observed(), bytes));
        }
        let mut volumes = Vec::new();
        for volume in self.shared.volumes.list()? {
            let bytes = match &volume.mount {
                VolumeMount::Directory(path) => Some(allocated_under(path)),
                VolumeMount::Mount { .. } => None,
            };
            let is_user = |view: &&std::sync::Arc<super::container::View>| {
                view.record
                    .volumes
                    .iter()
                    .any(|mount| mount.volume == volume.name)
            };
            let n_containers = views.iter().filter(is_user).count();
            volumes.push((
                volume,
                VolumeUsage {
                    bytes,
                    n_containers,
                },
            ));
        }
        Ok(DiskUsage {
            images: self.shared.images.usage()?,
            containers,
            volumes,
        })
    }

    pub fn images(&self) -> &super::image::Images {
        &self.shared.images
    }

    /// The images that containers were made from.
    pub fn image_users(&self) -> Vec<ImageUser> {
        self.containers()
            .iter()
            .map(|container| {
                let view = container.view();
                ImageUser {
                    image_id: view.record.image_id.clone(),
                    container: view.record.config.name.clone(),
                    is_running: view.is_running(),
                }
            })
            .collect()
    }
}

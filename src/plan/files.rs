//! Secrets and configs of a service: bind mounts for files, content for the rest (T1–T4).

use super::cause::locate;
use super::{FileConfig, MountConfig, MountSource, PlanError};
use crate::compose::{FileMount, FileObject, Location, Project, Service};

/// Docker's mode of a secret or config that the file gives no mode.
const DEFAULT_MODE: u32 = 0o444;

/// Appends the bind mounts and returns the files with content. A mount of the service's own on the
/// same target wins.
pub(super) fn place(
    project: &Project,
    service_name: &str,
    service: &Service,
    mounts: &mut Vec<MountConfig>,
    warnings: &mut Vec<String>,
) -> Result<Vec<FileConfig>, PlanError> {
    let mut files = Vec::new();
    let secrets = service
        .secrets
        .iter()
        .map(|f| ("secret", f, project.secrets.get(&f.source)));
    let configs = service
        .configs
        .iter()
        .map(|f| ("config", f, project.configs.get(&f.source)));
    for (kind, file, object) in secrets.chain(configs) {
        let use_path = format!("services.{service_name}.{kind}s");
        let object = object.ok_or_else(|| PlanError::Undefined {
            service: service_name.to_owned(),
            kind,
            name: file.source.clone(),
            location: locate(project, &use_path),
        })?;
        let location = locate(project, &format!("{kind}s.{}", file.source));
        if object.external || object.driver.is_some() {
            return Err(PlanError::ExternalFile {
                kind,
                name: file.source.clone(),
                location,
            });
        }
        if mounts.iter().any(|m| m.target == file.target) {
            continue;
        }
        if let Some(path) = &object.file {
            if file.uid.is_some() || file.gid.is_some() || file.mode.is_some() {
                warnings.push(format!(
                    "{kind} {:?} of service {service_name:?} is a file of the host: uid, gid and \
                     mode are those of the file",
                    file.source
                ));
            }
            mounts.push(MountConfig {
                source: MountSource::Bind {
                    path: path.clone(),
                    propagation: None,
                    create_host_path: false,
                    recursive: None,
                },
                target: file.target.clone(),
                read_only: true,
            });
        } else {
            files.push(with_content(kind, file, object, location)?);
        }
    }
    Ok(files)
}

fn with_content(
    kind: &'static str,
    file: &FileMount,
    object: &FileObject,
    location: Option<Location>,
) -> Result<FileConfig, PlanError> {
    let name = file.source.clone();
    let content = match (&object.content, &object.environment) {
        (Some(content), _) => content.clone().into_bytes(),
        (None, Some(variable)) => {
            return Err(PlanError::UnsetVariable {
                kind,
                name,
                variable: variable.clone(),
                location,
            });
        }
        (None, None) => {
            return Err(PlanError::NoContent {
                kind,
                name,
                location,
            });
        }
    };
    let number = |field: &'static str, value: &Option<String>| match value {
        None => Ok(0),
        Some(value) => value.parse::<u32>().map_err(|_| PlanError::BadOwner {
            field,
            value: value.clone(),
            kind,
            name: name.clone(),
            location: location.clone(),
        }),
    };
    Ok(FileConfig {
        target: file.target.clone(),
        content,
        uid: number("uid", &file.uid)?,
        gid: number("gid", &file.gid)?,
        mode: file.mode.unwrap_or(DEFAULT_MODE),
    })
}

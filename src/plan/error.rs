//! Why there is no plan: contradictions between the project, the options and the machine.

use crate::compose::Location;

/// Nothing was done when one of these is returned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("no such service: {service}")]
    UnknownService { service: String },
    #[error("service {service:?} depends on undefined service {dependency:?}")]
    UnknownDependency {
        service: String,
        dependency: String,
        location: Option<Location>,
    },
    #[error("dependency cycle detected: {}", path.join(" -> "))]
    Cycle {
        /// The services in order; the first is repeated at the end.
        path: Vec<String>,
        location: Option<Location>,
    },
    #[error("service {service:?} refers to undefined {kind} {name:?}")]
    Undefined {
        service: String,
        /// `network`, `volume`, `secret`, `config`.
        kind: &'static str,
        name: String,
        location: Option<Location>,
    },
    #[error("network {name} declared as external, but could not be found")]
    ExternalNetworkMissing {
        name: String,
        location: Option<Location>,
    },
    #[error("external volume {name:?} not found")]
    ExternalVolumeMissing {
        name: String,
        location: Option<Location>,
    },
    #[error("unsupported external {kind} {name}")]
    ExternalFile {
        kind: &'static str,
        name: String,
        location: Option<Location>,
    },
    #[error("environment variable {variable:?} required by {kind} {name:?} is not set")]
    UnsetVariable {
        kind: &'static str,
        name: String,
        variable: String,
        location: Option<Location>,
    },
    #[error("{kind} {name:?} has neither a file nor content")]
    NoContent {
        kind: &'static str,
        name: String,
        location: Option<Location>,
    },
    #[error("{field} {value:?} of {kind} {name:?} is not a number")]
    BadOwner {
        field: &'static str,
        value: String,
        kind: &'static str,
        name: String,
        location: Option<Location>,
    },
    #[error(
        "service {service:?} has the container name {name:?} and cannot have {n_replicas} replicas, \
         as container names are unique"
    )]
    NameScaled {
        service: String,
        name: String,
        n_replicas: u32,
        location: Option<Location>,
    },
    #[error("service {service:?} shares the {what} of service {parent:?}, which has no container")]
    NoNamespaceParent {
        service: String,
        what: &'static str,
        parent: String,
        location: Option<Location>,
    },
    #[error("service {service:?} has no container to start")]
    NothingToStart { service: String },
    #[error("cannot combine ignored orphans (COMPOSE_IGNORE_ORPHANS) and --remove-orphans")]
    OrphanOptions,
    #[error("cannot combine --force-recreate and --no-recreate")]
    RecreateOptions,
}

impl PlanError {
    /// The line of the user's file that is at fault.
    pub fn location(&self) -> Option<&Location> {
        match self {
            PlanError::UnknownDependency { location, .. }
            | PlanError::Cycle { location, .. }
            | PlanError::Undefined { location, .. }
            | PlanError::ExternalNetworkMissing { location, .. }
            | PlanError::ExternalVolumeMissing { location, .. }
            | PlanError::ExternalFile { location, .. }
            | PlanError::UnsetVariable { location, .. }
            | PlanError::NoContent { location, .. }
            | PlanError::BadOwner { location, .. }
            | PlanError::NameScaled { location, .. }
            | PlanError::NoNamespaceParent { location, .. } => location.as_ref(),
            PlanError::UnknownService { .. }
            | PlanError::NothingToStart { .. }
            | PlanError::OrphanOptions
            | PlanError::RecreateOptions => None,
        }
    }

    /// What the user can do, each a sentence; the place in the file comes first.
    pub fn hints(&self) -> Vec<String> {
        let mut hints: Vec<String> = self
            .location()
            .map(|location| format!("see {location}"))
            .into_iter()
            .collect();
        match self {
            PlanError::UnknownService { .. } => {
                hints.push("list the services with `wharf config --services`".to_owned());
            }
            PlanError::ExternalNetworkMissing { name, .. } => hints.push(format!(
                "create it with `wharf network create {name}`, or drop `external: true`"
            )),
            PlanError::ExternalVolumeMissing { name, .. } => hints.push(format!(
                "create it with `wharf volume create {name}`, or drop `external: true`"
            )),
            PlanError::ExternalFile { .. } => {
                hints.push("give it a `file:`, `content:` or `environment:`".to_owned());
            }
            PlanError::UnsetVariable { variable, .. } => {
                hints.push(format!("set {variable} in the environment or in .env"));
            }
            PlanError::NameScaled { .. } => {
                hints.push("remove `container_name` to scale the service".to_owned());
            }
            PlanError::NothingToStart { service } => {
                hints.push(format!("create it with `wharf up {service}`"));
            }
            _ => {}
        }
        hints
    }

    /// Whether something named does not exist, as against a contradiction.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            PlanError::UnknownService { .. }
                | PlanError::ExternalNetworkMissing { .. }
                | PlanError::ExternalVolumeMissing { .. }
        )
    }
}

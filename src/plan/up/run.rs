//! The plan of `run`: what a service depends on comes up, then one container more is made.
//!
//! The overrides of the command line (command, ports, environment …) are written into the service
//! by the caller, so that the container is described in one place.

use super::{Up, settle_scope};
use crate::compose::Project;
use crate::plan::cause::because;
use crate::plan::convert::{self, Converted, Identity};
use crate::plan::machine::Machine;
use crate::plan::{Action, Observed, Plan, PlanError, RunOptions, UpOptions, hash, labels};

/// Steps that make a one-off container of a service. Its name is
/// [`container_name`](convert::container_name) of the same slug.
///
/// # Errors
///
/// As [`up`](super::up).
pub fn run(
    project: &Project,
    observed: &Observed,
    options: &RunOptions,
) -> Result<Plan, PlanError> {
    let Some((name, service)) = project.services.get_key_value(&options.service) else {
        return Err(PlanError::UnknownService {
            service: options.service.clone(),
        });
    };
    let name = name.as_str();
    let up_options = UpOptions {
        services: vec![name.to_owned()],
        no_deps: options.no_deps,
        ignore_orphans: true,
        pull: options.pull.clone(),
        // A command that adds a container is no reason to touch those that run: what exists is used
        // as it is, and a changed network is told of and kept.
        no_recreate: true,
        ..UpOptions::default()
    };
    let machine = Machine::new(project, observed);
    let (scope, resources) = settle_scope(project, &machine, &up_options)?;
    let mut up = Up::new(project, &machine, &up_options, scope, &resources);
    up.left_alone = Some(name);
    up.compare_services()?;
    for warning in &resources.warnings {
        up.builder.warn(warning);
    }
    up.remove_what_is_too_many();
    up.make_resources(&resources);
    up.make_containers()?;
    up.start_containers();

    let identity = Identity::OneOff {
        slug: &options.slug,
        use_aliases: options.use_aliases,
    };
    let config_hash = hash::service_hash(service);
    let Converted {
        mut config,
        warnings,
    } = convert::container(project, name, service, identity, &config_hash, &up.names)?;
    for warning in warnings {
        up.builder.warn(warning);
    }
    if let Some(id) = observed.images.get(&config.image) {
        config.labels.insert(labels::IMAGE.to_owned(), id.clone());
    }
    let container = config.name.clone();
    let path = format!("services.{name}");
    let cause = because(
        project,
        format!("a run of service {name} was asked for"),
        &path,
    );
    let created = up.create(name, config, None, cause.clone());
    let mut last = created;
    if options.start {
        let action = Action::StartContainer {
            service: name.to_owned(),
            container,
        };
        last = up.builder.add(action, cause, [created]);
    }
    up.gate(name, &[last]);
    Ok(up.builder.finish())
}

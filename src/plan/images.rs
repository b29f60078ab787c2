//! The plans of `pull` and `push`: images for their own sake.

use std::collections::HashSet;

use super::build::PlanBuilder;
use super::cause::{asked, because};
use super::graph::{Follow, Scope};
use super::{Action, Plan, PlanError, PullOptions, PushOptions};
use crate::compose::Project;

fn follow(include_deps: bool) -> Follow {
    match include_deps {
        true => Follow::Dependencies,
        false => Follow::Nothing,
    }
}

/// Steps that fetch the images of the services; each image once, all of them at once.
///
/// # Errors
///
/// Unknown services and dependency cycles.
pub fn pull(project: &Project, options: &PullOptions) -> Result<Plan, PlanError> {
    let scope = Scope::select(project, &options.services, follow(options.include_deps))?;
    let mut builder = PlanBuilder::default();
    let mut seen = HashSet::new();
    for name in &scope.order {
        let service = &project.services[*name];
        // Without a name an image is only built.
        let Some(reference) = service.image.clone() else {
            continue;
        };
        if options.ignore_buildable && service.build.is_some() {
            continue;
        }
        let policy = options.policy.as_deref();
        let policy = match policy.or(service.pull_policy.as_deref()) {
            Some("never" | "build") => continue,
            // Whoever pulls wants news of a tag that is made to move (Compose's Q3).
            Some("missing" | "if_not_present") if !is_latest(&reference) => "missing",
            _ => "always",
        };
        if seen.insert((reference.clone(), service.platform.clone())) {
            let action = Action::PullImage {
                service: (*name).to_owned(),
                reference,
                pull_policy: policy.to_owned(),
                platform: service.platform.clone(),
                // What is built may never have been pushed.
                required: !options.ignore_failures && service.build.is_none(),
            };
            let reason = format!("service {name} is made from it");
            let path = format!("services.{name}.image");
            builder.add(action, because(project, reason, &path), []);
        }
    }
    Ok(builder.finish())
}

/// Steps that hand the images which the services build to their registries.
///
/// # Errors
///
/// Unknown services and dependency cycles.
pub fn push(project: &Project, options: &PushOptions) -> Result<Plan, PlanError> {
    let scope = Scope::select(project, &options.services, follow(options.include_deps))?;
    let mut builder = PlanBuilder::default();
    let mut seen = HashSet::new();
    for name in &scope.order {
        let service = &project.services[*name];
        match (&service.image, &service.build) {
            (Some(reference), Some(_)) => {
                if seen.insert(reference.clone()) {
                    let action = Action::PushImage {
                        service: (*name).to_owned(),
                        reference: reference.clone(),
                        required: !options.ignore_failures,
                    };
                    let reason = format!("service {name} builds it");
                    builder.add(action, asked(reason), []);
                }
            }
            (None, Some(_)) => builder.warn(format!(
                "service {name} builds an image without a name: give it one with `image:` to push it"
            )),
            (_, None) => {}
        }
    }
    Ok(builder.finish())
}

fn is_latest(reference: &str) -> bool {
    if reference.contains('@') {
        return false;
    }
    let last = reference.rsplit('/').next().unwrap_or(reference);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::{Build, ProjectName, Service};
    use crate::plan::testing::steps;

    fn project() -> Project {
        let mut project = Project::new(ProjectName::new("demo").unwrap());
        let mut add = |name: &str, image: Option<&str>, policy: Option<&str>, is_built: bool| {
            let service = Service {
                image: image.map(str::to_owned),
                pull_policy: policy.map(str::to_owned),
                build: is_built.then(Build::default),
                ..Service::default()
            };
            project.services.insert(name.to_owned(), service);
        };
        add("a", Some("one:1"), None, false);
        add("b", Some("one:1"), None, false);
        add("c", Some("two"), Some("missing"), false);
        add("d", Some("three:3"), Some("missing"), false);
        add("e", Some("four:4"), Some("never"), false);
        add("f", Some("five:5"), None, true);
        add("g", None, None, true);
        project
    }

    #[test]
    fn every_image_is_pulled_once_as_its_policy_says() {
        let plan = pull(&project(), &PullOptions::default()).unwrap();
        assert_eq!(
            steps(&plan),
            "1 pull one:1 always\n2 pull two always\n3 pull three:3 missing\n\
             4 pull five:5 always if possible\n"
        );
        let options = PullOptions {
            policy: Some("missing".to_owned()),
            ignore_buildable: true,
            services: vec!["a".to_owned(), "f".to_owned()],
            ..PullOptions::default()
        };
        assert_eq!(
            steps(&pull(&project(), &options).unwrap()),
            "1 pull one:1 missing\n"
        );
    }

    #[test]
    fn what_is_built_and_has_a_name_is_pushed() {
        let plan = push(&project(), &PushOptions::default()).unwrap();
        assert_eq!(steps(&plan), "1 push five:5\n");
        assert_eq!(plan.warnings.len(), 1);
    }
}

//! Tables: (project, observed) to steps; and the property that plans converge.

mod convert;

use super::testing::*;
use super::*;
use crate::compose::Project;
use insta::assert_snapshot;

fn options() -> UpOptions {
    UpOptions::default()
}

/// A machine on which the project is up.
fn upped(text: &str) -> (Project, World) {
    let project = project(text);
    let mut world = World::default();
    converge(&project, &mut world);
    (project, world)
}

fn converge(project: &Project, world: &mut World) {
    let plan = up(project, &world.observed, &options()).unwrap();
    world
        .apply(&plan)
        .unwrap_or_else(|error| panic!("{error}\n{}", plan.explain()));
}

fn planned(project: &Project, world: &World, options: &UpOptions) -> String {
    steps(&up(project, &world.observed, options).unwrap())
}

#[test]
fn from_nothing_everything_is_made_side_by_side_and_started_in_order() {
    let project = project("web: db?healthy job?completed port=80\ndb: check vol=data:/data\njob:");
    let plan = up(&project, &Observed::default(), &options()).unwrap();
    assert_snapshot!(steps(&plan), @r"
    1 network+ demo_default
    2 volume+ demo_data
    3 image app
    4 create demo-job-1 < 1 3
    5 create demo-db-1 < 1 2 3
    6 create demo-web-1 < 1 3
    7 start demo-job-1 < 4
    8 start demo-db-1 < 5
    9 await db ServiceHealthy < 8
    10 await job ServiceCompletedSuccessfully < 7
    11 start demo-web-1 < 6 9 10
    ");
}

#[test]
fn the_second_up_has_nothing_to_do() {
    let (project, world) =
        upped("web: db?healthy port=80\ndb: check scale=3 vol=data:/data anon=/x");
    let plan = up(&project, &world.observed, &options()).unwrap();
    assert_eq!(steps(&plan), "");
    assert_eq!(
        plan.running,
        ["demo-db-1", "demo-db-2", "demo-db-3", "demo-web-1"]
    );
    assert!(plan.warnings.is_empty());
    assert_eq!(plan.explain(), "nothing to do\n");
}

#[test]
fn r1_a_changed_service_is_replaced_and_keeps_its_anonymous_volumes() {
    let (mut project, mut world) = upped("web: anon=/x");
    let volume = world.observed.containers[0].volumes.clone();
    project.services["web"].tty = true;
    assert_snapshot!(planned(&project, &world, &options()), @r"
    1 create 000000000002_demo-web-1 for demo-web-1
    2 stop demo-web-1 < 1
    3 remove demo-web-1 < 2
    4 rename 000000000002_demo-web-1 demo-web-1 < 3
    5 start demo-web-1 < 4
    ");
    converge(&project, &mut world);
    assert_eq!(world.observed.containers[0].volumes, volume);
    assert_eq!(planned(&project, &world, &options()), "");
}

#[test]
fn renewed_anonymous_volumes_are_not_handed_over_and_not_removed() {
    let (project, mut world) = upped("web: anon=/x");
    let renew = UpOptions {
        renew_anon_volumes: true,
        ..options()
    };
    let plan = up(&project, &world.observed, &renew).unwrap();
    assert!(steps(&plan).contains("for demo-web-1 afresh"));
    world.apply(&plan).unwrap();
    assert_eq!(world.observed.volumes.len(), 2);
}

#[test]
fn r1_image_network_and_volume_make_a_container_outdated() {
    let (project, world) = upped("web: vol=data:/data");
    let reason = |world: &World| {
        let plan = up(&project, &world.observed, &options()).unwrap();
        let first = plan
            .graph
            .node_weights()
            .find(|s| matches!(s.action, Action::CreateContainer { .. }));
        first.map(|s| s.cause.reason.clone()).unwrap_or_default()
    };
    assert_eq!(reason(&world), "");
    let mut other = world.clone();
    other
        .observed
        .images
        .insert("app".into(), "sha256:newer".into());
    assert_eq!(reason(&other), "image app is a newer one now");
    let mut other = world.clone();
    other.observed.networks[0].id = "other".into();
    assert_eq!(reason(&other), "it is not attached to network demo_default");
    let mut other = world.clone();
    other.observed.containers[0].volumes.clear();
    assert_eq!(reason(&other), "it does not mount volume demo_data");
    let mut other = world;
    other.observed.containers[0].phase = Phase::Dead;
    assert_eq!(reason(&other), "it is dead");
}

#[test]
fn r1_force_concerns_the_named_and_always_recreate_deps_the_others() {
    let (project, world) = upped("web: db\ndb:");
    let named = UpOptions {
        services: vec!["web".into()],
        ..options()
    };
    let created = |options: UpOptions| {
        let plan = up(&project, &world.observed, &options).unwrap();
        plan.graph
            .node_weights()
            .filter_map(|s| match &s.action {
                Action::CreateContainer { service, .. } => Some(service.clone()),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(
        created(UpOptions {
            force_recreate: true,
            ..named.clone()
        }),
        ["web"]
    );
    assert_eq!(
        created(UpOptions {
            always_recreate_deps: true,
            ..named.clone()
        }),
        ["db"]
    );
    assert!(
        created(UpOptions {
            no_recreate: true,
            ..named
        })
        .is_empty()
    );
    assert_eq!(
        created(UpOptions {
            force_recreate: true,
            ..options()
        }),
        ["db", "web"]
    );
}

#[test]
fn r2_dependents_with_restart_are_stopped_first_and_started_later() {
    let (mut project, world) = upped("db:\nweb: db?restart\nother: db\nlast: web?restart");
    project.services["db"].tty = true;
    assert_snapshot!(planned(&project, &world, &options()), @r"
    1 create 000000000002_demo-db-1 for demo-db-1
    2 stop demo-last-1
    3 stop demo-web-1 < 2
    4 stop demo-db-1 < 1 3
    5 remove demo-db-1 < 4
    6 rename 000000000002_demo-db-1 demo-db-1 < 5
    7 start demo-db-1 < 6
    8 start demo-web-1 < 3 7
    9 start demo-last-1 < 2 8
    ");
}

#[test]
fn l6_who_shares_a_namespace_is_replaced_with_its_parent() {
    let (mut project, mut world) = upped("db:\nside: share=db");
    project.services["db"].tty = true;
    assert_snapshot!(planned(&project, &world, &options()), @r"
    1 create 000000000002_demo-db-1 for demo-db-1
    2 stop demo-db-1 < 1
    3 remove demo-db-1 < 2
    4 rename 000000000002_demo-db-1 demo-db-1 < 3
    5 create 000000000003_demo-side-1 for demo-side-1 < 4
    6 stop demo-side-1 < 5
    7 remove demo-side-1 < 6
    8 rename 000000000003_demo-side-1 demo-side-1 < 7
    9 start demo-db-1 < 4
    10 start demo-side-1 < 8 9
    ");
    // The same when the parent was replaced by a command that left the child out.
    let alone = UpOptions {
        services: vec!["db".into()],
        ..options()
    };
    let plan = up(&project, &world.observed, &alone).unwrap();
    world.apply(&plan).unwrap();
    let plan = up(&project, &world.observed, &options()).unwrap();
    assert!(
        plan.explain()
            .contains("it was made for an earlier container of service db")
    );
    converge(&project, &mut world);
    assert_eq!(planned(&project, &world, &options()), "");
}

#[test]
fn r2_an_interrupted_replacement_is_finished() {
    let (mut project, world) = upped("web:");
    project.services["web"].tty = true;
    let plan = up(&project, &world.observed, &options()).unwrap();
    let order = plan.in_order();
    // Whatever prefix was carried out, the next `up` leads to the same end.
    for n_done in 0..=order.len() {
        let mut world = world.clone();
        let mut part = plan.clone();
        part.graph
            .retain_nodes(|_, node| order[..n_done].contains(&node));
        world.apply(&part).unwrap();
        converge(&project, &mut world);
        let names: Vec<_> = world.observed.containers.iter().map(|c| &c.name).collect();
        assert_eq!(names, ["demo-web-1"], "after {n_done} steps");
        assert_eq!(planned(&project, &world, &options()), "");
    }
}

#[test]
fn r4_what_has_ended_is_started_again_and_not_replaced() {
    let (project, mut world) = upped("web: db\ndb:");
    world.exit("demo-db-1", 1).unwrap();
    assert_eq!(planned(&project, &world, &options()), "1 start demo-db-1\n");
}

#[test]
fn a_dependent_waits_through_a_service_that_runs_already() {
    let (project, mut world) = upped("a:\nb: a\nc: b");
    world.exit("demo-a-1", 0).unwrap();
    world.exit("demo-c-1", 0).unwrap();
    assert_eq!(
        planned(&project, &world, &options()),
        "1 start demo-a-1\n2 start demo-c-1 < 1\n"
    );
}

#[test]
fn a_met_condition_is_not_waited_for() {
    let (project, mut world) = upped("web: db?healthy\ndb: check");
    world.exit("demo-web-1", 0).unwrap();
    assert_eq!(
        planned(&project, &world, &options()),
        "1 start demo-web-1\n"
    );
    world.get("demo-db-1").unwrap().health = Some(Health::Unhealthy);
    assert_eq!(
        planned(&project, &world, &options()),
        "1 await db ServiceHealthy\n2 start demo-web-1 < 1\n"
    );
}

#[test]
fn r5_a_changed_network_is_made_again_with_its_users_and_their_data() {
    let (mut project, mut world) = upped("web: anon=/x\nother: net=front");
    project.networks.get_mut("default").unwrap().internal = true;
    assert_snapshot!(planned(&project, &world, &options()), @r"
    1 stop demo-web-1
    2 remove demo-web-1 < 1
    3 network- demo_default < 2
    4 network+ demo_default < 3
    5 create demo-web-1 < 2 4
    6 start demo-web-1 < 5
    ");
    let volume = world.find("demo-web-1").unwrap().volumes[0].volume.clone();
    converge(&project, &mut world);
    assert_eq!(world.find("demo-web-1").unwrap().volumes[0].volume, volume);
    assert_eq!(planned(&project, &world, &options()), "");
}

#[test]
fn r5_users_outside_the_command_take_part() {
    let (mut project, world) = upped("web:\nother:");
    project.networks.get_mut("default").unwrap().internal = true;
    let named = UpOptions {
        services: vec!["web".into()],
        ..options()
    };
    let text = planned(&project, &world, &named);
    assert!(text.contains("remove demo-other-1"), "{text}");
    let alone = UpOptions {
        no_deps: true,
        ..named
    };
    let plan = up(&project, &world.observed, &alone).unwrap();
    assert_eq!(steps(&plan), "");
    assert_eq!(
        plan.warnings,
        [
            "network demo_default differs from the file, but is kept as container demo-other-1 uses it"
        ]
    );
}

#[test]
fn r6_a_changed_volume_is_kept_unless_its_loss_is_agreed_to() {
    let (mut project, mut world) = upped("web: vol=data:/data");
    project
        .volumes
        .get_mut("data")
        .unwrap()
        .driver_opts
        .insert("size".into(), "1g".into());
    let plan = up(&project, &world.observed, &options()).unwrap();
    assert_eq!(steps(&plan), "");
    assert_snapshot!(plan.warnings[0], @r#"volume "demo_data" exists but doesn't match the configuration in the compose file; it is kept with its data, and used as it is"#);
    let agreed = UpOptions {
        recreate_volumes: true,
        ..options()
    };
    let plan = up(&project, &world.observed, &agreed).unwrap();
    assert_snapshot!(steps(&plan), @r"
    1 stop demo-web-1
    2 remove demo-web-1 < 1
    3 volume- demo_data < 2
    4 volume+ demo_data < 3
    5 create demo-web-1 < 2 4
    6 start demo-web-1 < 5
    ");
    world.apply(&plan).unwrap();
    assert_eq!(planned(&project, &world, &agreed), "");
}

#[test]
fn r7_foreign_objects_are_used_with_a_warning() {
    let (project, mut world) = upped("web: vol=data:/data");
    world.observed.networks[0].labels.clear();
    world.observed.volumes[0]
        .labels
        .insert(labels::PROJECT.into(), "else".into());
    let plan = up(&project, &world.observed, &options()).unwrap();
    assert_eq!(steps(&plan), "");
    assert_snapshot!(plan.warnings.join("\n"), @r#"
    a network with name demo_default exists but was not created by compose; set `external: true` to use an existing network
    volume "demo_data" already exists but was created for project "else" (expected "demo"); use `external: true` to use an existing volume
    "#);
}

#[test]
fn r8_external_objects_must_exist() {
    let mut project = project("web: vol=data:/data");
    project.volumes.get_mut("data").unwrap().external = true;
    let error = up(&project, &Observed::default(), &options()).unwrap_err();
    assert_eq!(error.to_string(), "external volume \"demo_data\" not found");
    project.networks.get_mut("default").unwrap().external = true;
    let error = up(&project, &Observed::default(), &options()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "network demo_default declared as external, but could not be found"
    );
    assert!(error.hints()[0].contains("wharf network create demo_default"));
}

#[test]
fn r9_orphans_are_told_of_and_removed_on_demand() {
    let (mut project, world) = upped("web: port=80\nold: port=81");
    project.services.shift_remove("old");
    let plan = up(&project, &world.observed, &options()).unwrap();
    assert_eq!(steps(&plan), "");
    assert!(
        plan.warnings[0].starts_with("found orphan containers ([demo-old-1]) for this project")
    );
    let ignore = UpOptions {
        ignore_orphans: true,
        ..options()
    };
    assert!(
        up(&project, &world.observed, &ignore)
            .unwrap()
            .warnings
            .is_empty()
    );
    let remove = UpOptions {
        remove_orphans: true,
        ..options()
    };
    assert_eq!(
        planned(&project, &world, &remove),
        "1 stop demo-old-1\n2 remove demo-old-1 < 1\n"
    );
    let both = UpOptions {
        ignore_orphans: true,
        ..remove
    };
    assert_eq!(
        up(&project, &world.observed, &both).unwrap_err(),
        PlanError::OrphanOptions
    );
    project.disabled_services.push("old".into());
    assert!(
        up(&project, &world.observed, &options())
            .unwrap()
            .warnings
            .is_empty()
    );
}

#[test]
fn a_port_that_moves_is_freed_first() {
    let (_, mut world) = upped("web: port=80\napi:");
    let moved = project("web:\napi: port=80");
    converge(&moved, &mut world);
    assert_eq!(planned(&moved, &world, &options()), "");
}

#[test]
fn l2_scaling_keeps_gaps_and_removes_the_outdated_first() {
    let (project, mut world) = upped("web: scale=3");
    let to = |n| UpOptions {
        scale: [("web".to_owned(), n)].into(),
        ..options()
    };
    assert_eq!(
        planned(&project, &world, &to(2)),
        "1 stop demo-web-3\n2 remove demo-web-3 < 1\n"
    );
    world
        .get("demo-web-1")
        .unwrap()
        .labels
        .insert(labels::CONFIG_HASH.into(), "old".into());
    let plan = up(&project, &world.observed, &to(2)).unwrap();
    assert_eq!(steps(&plan), "1 stop demo-web-1\n2 remove demo-web-1 < 1\n");
    world.apply(&plan).unwrap();
    assert_eq!(
        planned(&project, &world, &to(3)),
        "1 create demo-web-4\n2 start demo-web-4 < 1\n"
    );
    assert!(planned(&project, &world, &to(0)).contains("remove demo-web-3"));
}

#[test]
fn r11_nobody_waits_for_a_service_without_containers() {
    let project = project("web: db?healthy\ndb: check scale=0");
    let text = planned(&project, &World::default(), &options());
    assert!(!text.contains("await"), "{text}");
}

#[test]
fn a_custom_name_cannot_be_scaled() {
    let mut project = project("web: name=one scale=2");
    let error = up(&project, &Observed::default(), &options()).unwrap_err();
    assert!(matches!(
        &error,
        PlanError::NameScaled { n_replicas: 2, .. }
    ));
    assert_eq!(error.hints()[0], "see compose.yaml:1:1");
    project.services["web"].scale = None;
    assert!(planned(&project, &World::default(), &options()).contains("create one"));
}

#[test]
fn without_dependencies_only_the_named_are_touched() {
    let project = project("web: db?healthy\ndb: check");
    let alone = UpOptions {
        services: vec!["web".into()],
        no_deps: true,
        ..options()
    };
    let text = planned(&project, &World::default(), &alone);
    assert!(!text.contains("db"), "{text}");
}

#[test]
fn create_starts_nothing() {
    let project = project("web: db\ndb:");
    let create = UpOptions {
        start: false,
        ..options()
    };
    let text = planned(&project, &World::default(), &create);
    assert!(
        text.contains("create demo-web-1") && !text.contains("start"),
        "{text}"
    );
}

#[test]
fn down_stops_dependents_first_and_keeps_data() {
    let (project, world) = upped("web: db\ndb: vol=data:/data anon=/x");
    let plan = down(&project, &world.observed, &DownOptions::default()).unwrap();
    assert_snapshot!(steps(&plan), @r"
    1 stop demo-web-1
    2 remove demo-web-1 < 1
    3 stop demo-db-1 < 1
    4 remove demo-db-1 < 3
    5 network- demo_default < 2 4
    ");
    let volumes = DownOptions {
        volumes: true,
        ..DownOptions::default()
    };
    let plan = down(&project, &world.observed, &volumes).unwrap();
    assert_snapshot!(steps(&plan), @r"
    1 stop demo-web-1
    2 remove demo-web-1 -v < 1
    3 stop demo-db-1 < 1
    4 remove demo-db-1 -v < 3
    5 network- demo_default < 2 4
    6 volume- demo_data < 4
    ");
}

#[test]
fn f12_down_works_without_a_file() {
    let (project, mut world) = upped("web: db?healthy\ndb: check vol=data:/data");
    let rebuilt = project_from_labels(&project.name, &world.observed);
    let options = DownOptions {
        volumes: true,
        ..DownOptions::default()
    };
    let with_file = down(&project, &world.observed, &options).unwrap();
    let plan = down(&rebuilt, &world.observed, &options).unwrap();
    assert_eq!(steps(&plan), steps(&with_file));
    world.apply(&plan).unwrap();
    assert_eq!(
        world.observed,
        Observed {
            images: world.observed.images.clone(),
            ..Observed::default()
        }
    );
    assert!(
        down(&rebuilt, &world.observed, &options)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn down_leaves_what_is_external_foreign_or_in_use() {
    let (mut project, mut world) = upped("web: vol=data:/data vol=mine:/mine\nold:");
    project.services.shift_remove("old");
    project.volumes.get_mut("mine").unwrap().external = true;
    world.observed.volumes[0].labels.clear();
    let options = DownOptions {
        volumes: true,
        ..DownOptions::default()
    };
    let plan = down(&project, &world.observed, &options).unwrap();
    assert_eq!(
        steps(&plan),
        "1 stop demo-web-1\n2 remove demo-web-1 -v < 1\n"
    );
    assert_snapshot!(plan.warnings.join("\n"), @r"
    found orphan containers ([demo-old-1]) for this project; if you removed or renamed this service in your compose file, you can run this command with the --remove-orphans flag to clean it up
    network demo_default stays, as container demo-old-1 is still attached to it
    volume demo_data was not created for project demo and stays, with its data
    ");
}

#[test]
fn down_leaves_services_of_inactive_profiles_and_says_so() {
    let (mut project, world) = upped("web:\ndebug: net=other");
    project.services.shift_remove("debug");
    project.disabled_services.push("debug".into());
    let plan = down(&project, &world.observed, &DownOptions::default()).unwrap();
    assert!(!steps(&plan).contains("debug"));
    assert!(
        plan.warnings[0]
            .starts_with("containers of services in inactive profiles stay ([demo-debug-1])")
    );
}

#[test]
fn a_checkout_that_takes_over_another_is_told_of() {
    let (mut project, world) = upped("web:");
    project.working_dir = "/clone".into();
    let plan = up(&project, &world.observed, &options()).unwrap();
    assert!(plan.warnings.is_empty() && plan.is_empty());
    project.services["web"].tty = true;
    let plan = up(&project, &world.observed, &options()).unwrap();
    assert!(plan.warnings[0].contains("with the same name, from /demo, are replaced"));
}

#[test]
fn scaling_the_parent_renews_who_shares_its_first_container() {
    let (mut project, mut world) = upped("db: scale=2\nside: share=db");
    project.services["db"].scale = Some(1);
    // The outdated first one goes, and with it the namespace.
    world
        .get("demo-db-1")
        .unwrap()
        .labels
        .insert(labels::CONFIG_HASH.into(), "old".into());
    let text = planned(&project, &world, &options());
    assert!(text.contains("create 000000000004_demo-side-1"), "{text}");
}

#[test]
fn stop_kill_and_remove_touch_what_they_name() {
    let (project, mut world) = upped("web: db\ndb:");
    let all = stop(&project, &world.observed, &StopOptions::default()).unwrap();
    assert_eq!(steps(&all), "1 stop demo-web-1\n2 stop demo-db-1 < 1\n");
    let one = StopOptions {
        services: vec!["db".into()],
        ..StopOptions::default()
    };
    let one = stop(&project, &world.observed, &one).unwrap();
    assert_eq!(steps(&one), "1 stop demo-db-1\n");
    let killed = kill(&project, &world.observed, &KillOptions::default()).unwrap();
    assert_eq!(
        steps(&killed),
        "1 kill demo-db-1 SIGKILL\n2 kill demo-web-1 SIGKILL\n"
    );
    world.exit("demo-web-1", 0).unwrap();
    let removed = remove(&project, &world.observed, &RemoveOptions::default()).unwrap();
    assert_eq!(steps(&removed), "1 remove demo-web-1\n");
    let stopped = RemoveOptions {
        stop: true,
        volumes: true,
        ..RemoveOptions::default()
    };
    let removed = remove(&project, &world.observed, &stopped).unwrap();
    assert_eq!(
        steps(&removed),
        "1 remove demo-web-1 -v\n2 stop demo-db-1\n3 remove demo-db-1 -v < 2\n"
    );
}

#[test]
fn named_services_stop_in_the_order_of_those_between_them() {
    let (project, world) = upped("web: api\napi: db\ndb:");
    let services = vec!["web".to_owned(), "db".to_owned()];
    let options = StopOptions {
        services: services.clone(),
        ..StopOptions::default()
    };
    let plan = stop(&project, &world.observed, &options).unwrap();
    assert_eq!(steps(&plan), "1 stop demo-web-1\n2 stop demo-db-1 < 1\n");
    let options = DownOptions {
        services,
        ..DownOptions::default()
    };
    let plan = down(&project, &world.observed, &options).unwrap();
    assert_eq!(
        steps(&plan),
        "1 stop demo-web-1\n2 remove demo-web-1 < 1\n3 stop demo-db-1 < 1\n4 remove demo-db-1 < 3\n"
    );
}

#[test]
fn start_follows_conditions_and_needs_containers() {
    let (project, mut world) = upped("web: db?healthy\ndb: check");
    let none = start(&project, &world.observed, &StartOptions::default()).unwrap();
    assert!(none.is_empty());
    world.exit("demo-web-1", 0).unwrap();
    world.exit("demo-db-1", 0).unwrap();
    let named = StartOptions {
        services: vec!["web".into()],
        ..StartOptions::default()
    };
    let plan = start(&project, &world.observed, &named).unwrap();
    assert_eq!(
        steps(&plan),
        "1 start demo-db-1\n2 await db ServiceHealthy < 1\n3 start demo-web-1 < 2\n"
    );
    let error = start(&project, &Observed::default(), &named).unwrap_err();
    assert_eq!(
        error.to_string(),
        "service \"web\" has no container to start"
    );
}

#[test]
fn w10_restart_takes_along_who_asks_for_it() {
    let (project, world) = upped("db:\nweb: db?restart\nother: db");
    let named = RestartOptions {
        services: vec!["db".into()],
        ..RestartOptions::default()
    };
    let plan = restart(&project, &world.observed, &named).unwrap();
    assert_eq!(
        steps(&plan),
        "1 restart demo-db-1\n2 restart demo-web-1 < 1\n"
    );
    let alone = RestartOptions {
        no_deps: true,
        ..named
    };
    let plan = restart(&project, &world.observed, &alone).unwrap();
    assert_eq!(steps(&plan), "1 restart demo-db-1\n");
}

#[test]
fn a_run_brings_up_what_it_depends_on_and_leaves_replicas_alone() {
    let text = "web: db?healthy vol=data:/data scale=2\ndb: check";
    let project = project(text);
    let options = RunOptions {
        service: "web".into(),
        slug: "0123456789ab".into(),
        ..RunOptions::default()
    };
    let mut world = World::default();
    let plan = run(&project, &world.observed, &options).unwrap();
    assert_snapshot!(steps(&plan), @r"
    1 network+ demo_default
    2 volume+ demo_data
    3 image app
    4 create demo-db-1 < 1 3
    5 start demo-db-1 < 4
    6 create demo-web-run-0123456789ab < 1 2 3
    7 await db ServiceHealthy < 5
    8 start demo-web-run-0123456789ab < 6 7
    ");
    world.apply(&plan).unwrap();
    world.exit("demo-web-run-0123456789ab", 0).unwrap();

    // The service's own containers come and go without regard to the run, which is no replica.
    converge(&project, &mut world);
    assert!(world.find("demo-web-2").is_some());
    let created = RunOptions {
        slug: "ba9876543210".into(),
        start: false,
        ..options
    };
    world.exit("demo-db-1", 0).unwrap();
    let plan = run(&project, &world.observed, &created).unwrap();
    assert_eq!(
        steps(&plan),
        "1 start demo-db-1\n2 await db ServiceHealthy < 1\n\
         3 create demo-web-run-ba9876543210 < 2\n"
    );
    let unknown = RunOptions::default();
    assert!(run(&project, &world.observed, &unknown).is_err());
}

#[test]
fn the_plan_explains_itself() {
    let project = project("web: db?healthy\ndb: check");
    let plan = up(&project, &Observed::default(), &options()).unwrap();
    assert_snapshot!(plan.explain(), @r"
    1  network demo_default: create
         because network default does not exist yet
    2  image app: make present
         because image app is not there yet (compose.yaml:2)
    3  container demo-db-1: create  (after 1, 2)
         because service db has no container yet (compose.yaml:2)
    4  container demo-web-1: create  (after 1, 2)
         because service web has no container yet (compose.yaml:1)
    5  container demo-db-1: start  (after 3)
         because service db should run (compose.yaml:2)
    6  service db: wait until it is healthy  (after 5)
         because service web starts when service db is healthy (compose.yaml:1)
    7  container demo-web-1: start  (after 4, 6)
         because service web should run (compose.yaml:1)
    ");
}

#[test]
fn w5_the_condition_that_someone_waits_for_is_the_one_that_counts() {
    let (project, world) = upped("web: job?completed\njob:");
    let targets = wait_targets(&project, &world.observed, &[], Reach::Dependencies).unwrap();
    let told: Vec<_> = targets
        .iter()
        .map(|t| (t.service.as_str(), t.completion))
        .collect();
    assert_eq!(told, [("job", true), ("web", false)]);
}

#[test]
fn edges_grow_with_the_project_and_not_with_its_square() {
    let text: String = (0..50)
        .map(|i| {
            format!(
                "s{i}: {} vol=v{i}:/v\n",
                if i > 0 {
                    format!("s{}", i - 1)
                } else {
                    String::new()
                }
            )
        })
        .collect();
    let plan = up(&project(text.trim_end()), &Observed::default(), &options()).unwrap();
    assert_eq!(plan.graph.node_count(), 50 * 3 + 2);
    assert_eq!(plan.graph.edge_count(), 50 * 4 + 49);
}

mod converge {
    use super::*;
    use proptest::prelude::*;

    /// Services that depend only on earlier ones, with a bit of everything.
    fn any_project() -> impl Strategy<Value = String> {
        (any_services(), 0..6usize).prop_map(|(services, shift)| write(&services, shift))
    }

    type AnyService = (u32, Vec<(usize, usize)>, bool, bool, u8, Option<usize>);

    fn any_services() -> impl Strategy<Value = Vec<AnyService>> {
        let service = (
            0..4u32,
            prop::collection::vec((0..6usize, 0..5usize), 0..3),
            any::<bool>(),
            any::<bool>(),
            0..3u8,
            prop::option::of(0..6usize),
        );
        prop::collection::vec(service, 1..6)
    }

    fn write(services: &[AnyService], shift: usize) -> String {
        let mut text = String::new();
        for (i, (scale, deps, volume, anonymous, env, share)) in services.iter().enumerate() {
            text.push_str(&format!("s{i}: check scale={scale} env={env}"));
            for (dependency, how) in deps.iter().filter(|(d, _)| *d < i) {
                let how = ["", "?healthy", "?restart", "?healthy?restart", "?optional"][*how];
                text.push_str(&format!(" s{dependency}{how}"));
            }
            if *volume {
                text.push_str(&format!(" vol=v{}:/v", i % 2));
            }
            if *anonymous {
                text.push_str(" anon=/a");
            }
            match share {
                Some(parent) if *parent < i && services[*parent].0 > 0 => {
                    text.push_str(&format!(" share=s{parent}"));
                }
                _ => text.push_str(&format!(" net=n{}", i % 2)),
            }
            // Ports that move from one service to another between two projects.
            if *scale == 1 {
                text.push_str(&format!(" port={}", 80 + (i + shift) % 6));
            }
            text.push('\n');
        }
        text.trim_end().to_owned()
    }

    /// What may have happened since: a container ended, was removed, or became unhealthy.
    fn damage(world: &mut World, what: &[(usize, u8)]) {
        for (which, how) in what {
            let n = world.observed.containers.len();
            if n == 0 {
                return;
            }
            let name = world.observed.containers[which % n].name.clone();
            match how {
                0 => world.exit(&name, 1).unwrap(),
                1 => world.remove(&name, false, true).unwrap(),
                2 => world.get(&name).unwrap().phase = Phase::Dead,
                3 => world.get(&name).unwrap().phase = Phase::Removing,
                _ => world.get(&name).unwrap().health = Some(Health::Unhealthy),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn plans_converge_and_never_lose_a_volume(
            first in any_project(),
            second in any_project(),
            internal in any::<bool>(),
            harm in prop::collection::vec((0..20usize, 0..5u8), 0..4),
            interrupted_at in 0..40usize,
            choices in prop::collection::vec(0..100usize, 1..60),
        ) {
            let mut world = World::default();
            converge(&project(&first), &mut world);
            let volumes: Vec<String> = world.observed.volumes.iter().map(|v| v.name.clone()).collect();
            damage(&mut world, &harm);
            let mut second = project(&second);
            for network in second.networks.values_mut() {
                network.internal = internal;
            }
            let options = UpOptions { remove_orphans: true, ..options() };

            // Stop after some step, as a crash would; then to the end; then nothing is left to do.
            let plan = up(&second, &world.observed, &options).unwrap();
            // The steps come in any order that the graph allows.
            let order = some_order(&plan, &choices);
            let outcome = world.apply_in(&plan, &order[..interrupted_at.min(order.len())]);
            prop_assert!(outcome.is_ok(), "{outcome:?}\n{}", plan.explain());
            let plan = up(&second, &world.observed, &options).unwrap();
            let outcome = world.apply_in(&plan, &some_order(&plan, &choices));
            prop_assert!(outcome.is_ok(), "{outcome:?}\n{}", plan.explain());
            let again = up(&second, &world.observed, &options).unwrap();
            prop_assert_eq!(steps(&again), "");
            for volume in volumes {
                prop_assert!(world.observed.volumes.iter().any(|v| v.name == volume));
            }
            for (name, service) in &second.services {
                let n = world.observed.containers.iter().filter(|c| c.label(labels::SERVICE) == name);
                prop_assert_eq!(n.count(), service.n_replicas() as usize);
            }

            let down = down(&second, &world.observed, &DownOptions { remove_orphans: true, ..Default::default() }).unwrap();
            let loses = |s: &Step| matches!(s.action, Action::RemoveVolume { .. });
            prop_assert!(!down.graph.node_weights().any(loses));
            let outcome = world.apply_in(&down, &some_order(&down, &choices));
            prop_assert!(outcome.is_ok(), "{outcome:?}\n{}", down.explain());
            prop_assert!(world.observed.containers.is_empty() && world.observed.networks.is_empty());
        }
    }
}

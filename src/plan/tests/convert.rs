//! Compose words to engine words, key by key.

use std::collections::BTreeMap;

use crate::compose::*;
use crate::plan::convert::{self, ContainerNames, Converted, Identity};
use crate::plan::testing::project;
use crate::plan::*;

fn names() -> ContainerNames<'static> {
    [
        ("db", vec!["demo-db-1".to_owned(), "demo-db-2".to_owned()]),
        ("gone", Vec::new()),
    ]
    .into()
}

fn try_convert(project: &Project, identity: Identity<'_>) -> Result<Converted, PlanError> {
    let service = &project.services["web"];
    convert::container(project, "web", service, identity, "hash", &names())
}

fn convert(project: &Project) -> ContainerConfig {
    try_convert(project, Identity::Replica(2)).unwrap().config
}

/// A project with one service that is edited.
fn edited(change: impl FnOnce(&mut Project)) -> Project {
    let mut project = project("web:\ndb:");
    change(&mut project);
    project
}

fn web(change: impl FnOnce(&mut Service)) -> Project {
    edited(|p| change(&mut p.services["web"]))
}

fn error(project: &Project) -> String {
    try_convert(project, Identity::Replica(1))
        .unwrap_err()
        .to_string()
}

fn endpoints(config: &ContainerConfig) -> &[EndpointConfig] {
    match &config.network {
        NetworkMode::Networks(endpoints) => endpoints,
        other => panic!("{other:?}"),
    }
}

#[test]
fn l1_names() {
    let project = web(|s| s.image = None);
    let config = convert(&project);
    assert_eq!((&*config.name, &*config.image), ("demo-web-2", "demo-web"));
    let one_off = Identity::OneOff {
        slug: "0123456789ab",
        use_aliases: false,
    };
    let config = try_convert(&project, one_off).unwrap().config;
    assert_eq!(config.name, "demo-web-run-0123456789ab");
    assert_eq!(config.labels[labels::ONE_OFF], "True");
    assert_eq!(config.labels[labels::SLUG], "0123456789ab");
    assert!(!config.labels.contains_key(labels::CONTAINER_NUMBER));
    assert!(endpoints(&config)[0].aliases.is_empty());
    assert_eq!(
        convert(&web(|s| s.container_name = Some("x".into()))).name,
        "x"
    );
}

#[test]
fn a_temporary_name_is_known_again() {
    let id = "0123456789abcdef";
    let temporary = convert::temporary_name(id, "demo-web-1");
    assert_eq!(temporary, "0123456789ab_demo-web-1");
    assert_eq!(convert::lasting_name(&temporary), Some("demo-web-1"));
    assert_eq!(convert::lasting_name("demo_web"), None);
    assert_eq!(convert::lasting_name("0123456789ab_"), None);
}

#[test]
fn l3_labels() {
    let mut project = edited(|p| p.environment_files = vec!["/e".into(), "/f".into()]);
    project.services["web"]
        .labels
        .insert("mine".into(), "1".into());
    project.services["web"].depends_on.insert(
        "db".into(),
        Dependency {
            condition: Condition::ServiceHealthy,
            restart: true,
            required: true,
        },
    );
    let mut found = convert(&project).labels;
    found.remove(labels::VERSION).unwrap();
    let found: Vec<String> = found
        .iter()
        .map(|(k, v)| format!("{}={v}", k.replace("com.docker.compose.", "")))
        .collect();
    assert_eq!(
        found,
        [
            "config-hash=hash",
            "container-number=2",
            "depends_on=db:service_healthy:true",
            "oneoff=False",
            "project=demo",
            "project.config_files=/demo/compose.yaml",
            "project.environment_file=/e,/f",
            "project.working_dir=/demo",
            "service=web",
            "mine=1",
        ]
    );
}

#[test]
fn k2_networks_are_attached_by_priority_then_name() {
    let mut project = project("web: net=a net=b net=c");
    let web = &mut project.services["web"];
    web.networks["c"].priority = 5;
    web.networks["b"].aliases = vec!["web".into(), "www".into()];
    web.networks["b"].gw_priority = 1;
    web.mac_address = Some("02:00:00:00:00:01".into());
    let config = convert(&project);
    let told: Vec<_> = endpoints(&config)
        .iter()
        .map(|e| {
            (
                &*e.network,
                e.aliases.join(" "),
                e.mac_address.is_some(),
                e.gw_priority,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("demo_c", "web".to_owned(), true, 0),
            ("demo_a", "web".to_owned(), false, 0),
            ("demo_b", "web www".to_owned(), false, 1),
        ]
    );
}

#[test]
fn k3_links_name_every_replica() {
    let project = web(|s| {
        s.links = vec!["db:database".into()];
        s.external_links = vec!["other:o".into(), "plain".into()];
    });
    let config = convert(&project);
    let links: Vec<String> = endpoints(&config)[0]
        .links
        .iter()
        .map(|(alias, container)| format!("{alias}={container}"))
        .collect();
    assert_eq!(
        links,
        [
            "database=demo-db-1",
            "db-1=demo-db-1",
            "db-2=demo-db-2",
            "o=other",
            "plain=plain",
        ]
    );
}

#[test]
fn k4_network_modes() {
    let mode = |mode: &str| convert(&web(|s| s.network_mode = Some(mode.to_owned()))).network;
    assert_eq!(mode("none"), NetworkMode::None);
    assert_eq!(mode("host"), NetworkMode::Host);
    assert_eq!(mode("container:x"), NetworkMode::Container("x".into()));
    assert_eq!(
        mode("service:db"),
        NetworkMode::Container("demo-db-1".into())
    );
    assert!(matches!(mode("bridge"), NetworkMode::Networks(e) if e[0].network == "bridge"));
    assert_eq!(
        convert(&web(|s| s.networks.clear())).network,
        NetworkMode::None
    );
    assert_eq!(
        error(&web(|s| s.network_mode = Some("service:gone".into()))),
        "service \"web\" shares the network of service \"gone\", which has no container"
    );
}

#[test]
fn namespaces_and_volumes_of_others() {
    let config = convert(&web(|s| {
        s.pid = Some("host".into());
        s.ipc = Some("service:db".into());
        s.cgroup = Some("private".into());
        s.volumes_from = vec!["db:ro".into(), "container:x".into(), "db".into()];
    }));
    assert_eq!(config.pid, NamespaceMode::Host);
    assert_eq!(config.ipc, NamespaceMode::Container("demo-db-1".into()));
    assert_eq!(config.cgroup, NamespaceMode::Private);
    assert_eq!(config.volumes_from, ["demo-db-1:ro", "x", "demo-db-1"]);
}

#[test]
fn mounts_by_kind() {
    let project = project("web: vol=data:/data anon=/anon");
    let mut project = project;
    let mut add = |kind, target: &str| {
        project.services["web"].volumes.push(Mount {
            kind,
            target: target.into(),
            read_only: true,
            consistency: None,
        });
    };
    let size_bytes = Some(4096);
    add(
        MountKind::Tmpfs {
            size_bytes,
            mode: Some(0o1777),
        },
        "/t",
    );
    project.services["web"].tmpfs = vec!["/run:size=1m,uid=5".into(), "/tmp".into()];
    let mounts = convert(&project).mounts;
    let told: Vec<String> = mounts
        .iter()
        .map(|m| match &m.source {
            MountSource::Volume { name, .. } => format!("{name:?} {}", m.target.display()),
            MountSource::Tmpfs { options } => {
                format!("tmpfs {} {options} {}", m.target.display(), m.read_only)
            }
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(
        told,
        [
            "Some(\"demo_data\") /data",
            "None /anon",
            "tmpfs /t size=4096,mode=1777 true",
            "tmpfs /run size=1m,uid=5 false",
            "tmpfs /tmp  false",
        ]
    );
    project.volumes.clear();
    assert_eq!(
        error(&project),
        "service \"web\" refers to undefined volume \"data\""
    );
}

fn with_secret(object: FileObject, mount: FileMount) -> Project {
    edited(|p| {
        p.secrets.insert("s".into(), object);
        p.services["web"].secrets.push(mount);
    })
}

fn secret() -> FileMount {
    FileMount {
        source: "s".into(),
        target: "/run/secrets/s".into(),
        uid: None,
        gid: None,
        mode: None,
    }
}

#[test]
fn t1_a_secret_from_a_file_is_a_read_only_bind_mount() {
    let object = FileObject {
        file: Some("/demo/s.txt".into()),
        ..FileObject::default()
    };
    let mount = FileMount {
        mode: Some(0o400),
        ..secret()
    };
    let converted = try_convert(&with_secret(object, mount), Identity::Replica(1)).unwrap();
    let mount = &converted.config.mounts[0];
    assert!(mount.read_only);
    assert!(matches!(
        &mount.source,
        MountSource::Bind { path, create_host_path: false, .. } if path.ends_with("s.txt")
    ));
    assert!(converted.warnings[0].contains("uid, gid and mode are those of the file"));
}

#[test]
fn t1_a_secret_with_content_is_a_file() {
    let object = FileObject {
        content: Some("psst".into()),
        environment: Some("S".into()),
        ..FileObject::default()
    };
    let config = convert(&with_secret(object.clone(), secret()));
    let file = FileConfig {
        target: "/run/secrets/s".into(),
        content: b"psst".to_vec(),
        uid: 0,
        gid: 0,
        mode: 0o444,
    };
    assert_eq!(config.files, [file]);
    let odd = FileMount {
        uid: Some("root".into()),
        ..secret()
    };
    assert_eq!(
        error(&with_secret(object.clone(), odd)),
        "uid \"root\" of secret \"s\" is not a number"
    );
    // T4: the service's own mount on the same target wins.
    let mut project = with_secret(object, secret());
    project.services["web"].tmpfs = vec!["/run/secrets/s".into()];
    assert!(convert(&project).files.is_empty());
}

#[test]
fn t2_t3_secrets_that_cannot_be_had() {
    let object = FileObject::default;
    let external = FileObject {
        external: true,
        ..object()
    };
    assert_eq!(
        error(&with_secret(external, secret())),
        "unsupported external secret s"
    );
    let unset = FileObject {
        environment: Some("S".into()),
        ..object()
    };
    let project = with_secret(unset, secret());
    assert_eq!(
        error(&project),
        "environment variable \"S\" required by secret \"s\" is not set"
    );
    let hints = try_convert(&project, Identity::Replica(1))
        .unwrap_err()
        .hints();
    assert_eq!(hints, ["set S in the environment or in .env"]);
    assert!(error(&with_secret(object(), secret())).contains("neither a file nor content"));
    let undefined = web(|s| s.secrets.push(secret()));
    assert_eq!(
        error(&undefined),
        "service \"web\" refers to undefined secret \"s\""
    );
}

#[test]
fn networks_and_volumes_carry_their_key_and_hash() {
    let project = project("web: vol=data:/data");
    let network = convert::network(&project, "default", &project.networks["default"], "h");
    assert_eq!(
        (&*network.name, &*network.driver),
        ("demo_default", "bridge")
    );
    assert!(network.enable_ipv4 && !network.enable_ipv6);
    let volume = convert::volume(&project, "data", &project.volumes["data"], "h");
    assert_eq!((&*volume.name, &*volume.driver), ("demo_data", "local"));
    let expected = |key: &str, value: &str| {
        BTreeMap::from([
            (labels::PROJECT.to_owned(), "demo".to_owned()),
            (labels::VERSION.to_owned(), labels::OUR_VERSION.to_owned()),
            (labels::CONFIG_HASH.to_owned(), "h".to_owned()),
            (key.to_owned(), value.to_owned()),
        ])
    };
    assert_eq!(network.labels, expected(labels::NETWORK, "default"));
    assert_eq!(volume.labels, expected(labels::VOLUME, "data"));
}

//! The program of a container: arguments, environment, directory, limits.

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, User};

use super::security::Security;
use super::spec::{SpecError, SpecInput};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The kernel gives execve a quarter of the stack limit and at most 6 MiB; an image has no business
/// with more than a part of it (HAZARDS S45).
const IMAGE_BYTES: usize = 1 << 20;

/// PATH_MAX.
const PATH_BYTES: usize = 4096;

pub(super) fn process(input: &SpecInput<'_>, security: &Security) -> Result<Process, SpecError> {
    let config = input.config;
    if let Some(adj) = config
        .resources
        .oom_score_adj
        .filter(|a| !(-1000..=1000).contains(a))
    {
        return Err(SpecError::Range {
            what: "oom_score_adj",
            value: i64::from(adj),
            least: -1000,
            most: 1000,
        });
    }
    let mut process = Process::default();
    process
        .set_terminal(Some(config.tty))
        .set_user(User::default())
        .set_args(Some(arguments(input)?))
        .set_env(Some(environment(input)?))
        .set_cwd(working_directory(input)?.into())
        .set_capabilities(Some(security.capabilities()))
        .set_rlimits(Some(rlimits(input)?))
        .set_no_new_privileges(Some(security.no_new_privileges))
        .set_apparmor_profile(security.apparmor.clone())
        .set_oom_score_adj(Some(config.resources.oom_score_adj.unwrap_or(0)));
    Ok(process)
}

/// The user that the shim resolves: the container's, else the image's.
pub fn user<'a>(
    config: &'a crate::plan::ContainerConfig,
    image: Option<&'a oci_spec::image::Config>,
) -> Option<&'a str> {
    let own = config.user.as_deref().filter(|u| !u.is_empty());
    own.or_else(|| {
        image
            .and_then(|i| i.user().as_deref())
            .filter(|u| !u.is_empty())
    })
}

/// An entry point of the container's own, even an empty one, hides the image's command.
fn arguments(input: &SpecInput<'_>) -> Result<Vec<String>, SpecError> {
    let of_image = |list: Option<&Vec<String>>, what| {
        let list = list.cloned().unwrap_or_default();
        bounded(what, &list)?;
        Ok::<_, SpecError>(list)
    };
    let (mut entrypoint, image_command) = match &input.config.entrypoint {
        Some(entrypoint) => (entrypoint.clone(), Vec::new()),
        None => (
            of_image(
                input.image.and_then(|i| i.entrypoint().as_ref()),
                "entrypoint",
            )?,
            of_image(input.image.and_then(|i| i.cmd().as_ref()), "command")?,
        ),
    };
    // The Docker CLI's way to clear it.
    if entrypoint.len() == 1 && entrypoint[0].is_empty() {
        entrypoint.clear();
    }
    // The engine API cannot tell an empty command from none.
    let command = match &input.config.command {
        Some(command) if !command.is_empty() => command.clone(),
        _ => image_command,
    };
    let mut arguments = entrypoint;
    arguments.extend(command);
    if arguments.first().is_none_or(String::is_empty) {
        return Err(SpecError::NoCommand);
    }
    if arguments.iter().any(|a| a.contains('\0')) {
        return Err(SpecError::Nul {
            what: "the command",
        });
    }
    Ok(arguments)
}

fn put<'a>(list: &mut Vec<(&'a str, String)>, name: &'a str, value: &str) {
    match list.iter_mut().find(|(n, _)| *n == name) {
        Some(entry) => entry.1 = value.to_owned(),
        None => list.push((name, value.to_owned())),
    }
}

/// Docker's order: defaults, the container's, what the image has beside them; each name once, at its
/// first place with its strongest value.
fn environment(input: &SpecInput<'_>) -> Result<Vec<String>, SpecError> {
    let config = input.config;
    let mut list: Vec<(&str, String)> = vec![
        ("PATH", PATH.to_owned()),
        ("HOSTNAME", input.hostname.to_owned()),
    ];
    if config.tty {
        list.push(("TERM", "xterm".to_owned()));
    }
    // A name that is written twice has its last value.
    let mut own: Vec<(&str, Option<&str>)> = Vec::new();
    for (name, value) in &config.environment {
        if name.is_empty() || name.contains('=') {
            return Err(SpecError::Environment(name.clone()));
        }
        match own.iter_mut().find(|(n, _)| n == name) {
            Some(entry) => entry.1 = value.as_deref(),
            None => own.push((name, value.as_deref())),
        }
    }
    for (name, value) in &own {
        match value {
            Some(value) => put(&mut list, name, value),
            None => list.retain(|(n, _)| n != name),
        }
    }
    let of_image = input
        .image
        .and_then(|i| i.env().as_deref())
        .unwrap_or_default();
    bounded("environment", of_image)?;
    for entry in of_image {
        // Images have been seen with entries that are no assignments; Docker passes them over.
        let Some((name, value)) = entry.split_once('=').filter(|(n, _)| !n.is_empty()) else {
            continue;
        };
        if own.iter().any(|(n, _)| *n == name) {
            continue;
        }
        put(&mut list, name, value);
    }
    let environment: Vec<String> = list.into_iter().map(|(n, v)| format!("{n}={v}")).collect();
    if environment.iter().any(|e| e.contains('\0')) {
        return Err(SpecError::Nul {
            what: "the environment",
        });
    }
    Ok(environment)
}

fn working_directory(input: &SpecInput<'_>) -> Result<String, SpecError> {
    let own = input
        .config
        .working_dir
        .as_deref()
        .filter(|d| !d.is_empty());
    let of_image = input
        .image
        .and_then(|i| i.working_dir().as_deref())
        .filter(|d| !d.is_empty());
    let directory = own.or(of_image).unwrap_or("/");
    if directory.contains('\0') {
        return Err(SpecError::Nul {
            what: "the working directory",
        });
    }
    if directory.len() >= PATH_BYTES {
        return Err(SpecError::TooLarge {
            what: "working directory",
            bytes: directory.len(),
            limit: PATH_BYTES,
        });
    }
    if !directory.starts_with('/') {
        return Err(SpecError::WorkingDirectory(directory.to_owned()));
    }
    // `..` is taken away by name, as Docker does: it never leads above the root.
    let mut parts: Vec<&str> = Vec::new();
    for part in directory.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

fn rlimits(input: &SpecInput<'_>) -> Result<Vec<PosixRlimit>, SpecError> {
    let unlimited = |name: &str, value: i64| match value {
        -1 => Ok(u64::MAX),
        value => u64::try_from(value).map_err(|_| SpecError::UlimitValue {
            name: name.to_owned(),
            value,
        }),
    };
    // Finite, and the same however the engine was started: programs that close every possible
    // descriptor take minutes otherwise (HAZARDS S35).
    let mut limits = Vec::new();
    if !input.config.ulimits.contains_key("nofile") {
        let hard = input.host.max_nofile.min(524_288);
        limits.push(rlimit(PosixRlimitType::RlimitNofile, hard.min(1024), hard));
    }
    for (typ, soft, hard) in &input.host.other_limits {
        let is_set = |name: &String| rlimit_type(name) == Some(*typ);
        if !input.config.ulimits.keys().any(is_set) {
            limits.push(rlimit(*typ, *soft, *hard));
        }
    }
    for (name, limit) in &input.config.ulimits {
        let typ = rlimit_type(name).ok_or_else(|| SpecError::UlimitName(name.clone()))?;
        let soft = unlimited(name, limit.soft)?;
        let hard = unlimited(name, limit.hard)?;
        if soft > hard {
            return Err(SpecError::UlimitOrder {
                name: name.clone(),
                soft: limit.soft,
                hard: limit.hard,
            });
        }
        limits.push(rlimit(typ, soft, hard));
    }
    Ok(limits)
}

fn rlimit(typ: PosixRlimitType, soft: u64, hard: u64) -> PosixRlimit {
    // Every field has a default, so the builder cannot fail.
    PosixRlimitBuilder::default()
        .typ(typ)
        .soft(soft)
        .hard(hard)
        .build()
        .expect("an rlimit has no missing field")
}

fn rlimit_type(name: &str) -> Option<PosixRlimitType> {
    Some(match name {
        "as" => PosixRlimitType::RlimitAs,
        "core" => PosixRlimitType::RlimitCore,
        "cpu" => PosixRlimitType::RlimitCpu,
        "data" => PosixRlimitType::RlimitData,
        "fsize" => PosixRlimitType::RlimitFsize,
        "locks" => PosixRlimitType::RlimitLocks,
        "memlock" => PosixRlimitType::RlimitMemlock,
        "msgqueue" => PosixRlimitType::RlimitMsgqueue,
        "nice" => PosixRlimitType::RlimitNice,
        "nofile" => PosixRlimitType::RlimitNofile,
        "nproc" => PosixRlimitType::RlimitNproc,
        "rss" => PosixRlimitType::RlimitRss,
        "rtprio" => PosixRlimitType::RlimitRtprio,
        "rttime" => PosixRlimitType::RlimitRttime,
        "sigpending" => PosixRlimitType::RlimitSigpending,
        "stack" => PosixRlimitType::RlimitStack,
        _ => return None,
    })
}

fn bounded(what: &'static str, list: &[String]) -> Result<(), SpecError> {
    let bytes: usize = list.iter().map(|e| e.len() + 1).sum();
    if bytes > IMAGE_BYTES {
        return Err(SpecError::TooLarge {
            what,
            bytes,
            limit: IMAGE_BYTES,
        });
    }
    Ok(())
}

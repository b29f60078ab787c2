//! What a container may do: capabilities, seccomp, masked paths, and the options that change them.

use oci_spec::runtime::{Capabilities, LinuxCapabilities, LinuxSeccomp};

use super::spec::{SpecError, SpecInput};
use crate::shim::protocol::{capabilities, seccomp};

/// moby's current list and more (HAZARDS S11). `/proc/sched_debug` and the timers are gone from new
/// kernels and stay for old ones.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The decisions, from `privileged`, `cap_add`, `cap_drop` and `security_opt` together.
#[derive(Debug)]
pub(super) struct Security {
    bounding: Capabilities,
    /// `None` with `default_seccomp` is Docker's filter for Docker's capabilities, which the spawner
    /// holds compiled; without it there is none.
    pub seccomp: Option<LinuxSeccomp>,
    pub default_seccomp: bool,
    pub no_new_privileges: bool,
    pub apparmor: Option<String>,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub writable_cgroups: bool,
}

impl Security {
    pub(super) fn new(input: &SpecInput<'_>) -> Result<Security, SpecError> {
        let config = input.config;
        let bounding = bounding(input)?;
        let mut security = Security {
            bounding,
            seccomp: None,
            default_seccomp: false,
            no_new_privileges: false,
            apparmor: None,
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
            writable_cgroups: config.privileged,
        };
        let mut profile = None;
        let mut confined_paths = !config.privileged;
        for option in &config.security_opt {
            let unknown = || SpecError::SecurityOption(option.clone());
            // `:` was the separator once, and Compose files have kept it.
            let (key, value) = match option.find(['=', ':']) {
                Some(at) => (&option[..at], Some(&option[at + 1..])),
                None => (option.as_str(), None),
            };
            match (key, value) {
                ("no-new-privileges", None | Some("true")) => security.no_new_privileges = true,
                ("no-new-privileges", Some("false")) => security.no_new_privileges = false,
                ("seccomp", Some(value)) if !value.is_empty() => profile = Some(value),
                ("apparmor", Some("unconfined")) => security.apparmor = None,
                ("apparmor", Some(name)) if !name.is_empty() => {
                    security.apparmor = Some(name.to_owned());
                }
                // Without SELinux labels mean nothing, and Docker says nothing either.
                ("label", Some(_)) => {}
                ("systempaths", Some("unconfined")) => confined_paths = false,
                ("writable-cgroups", None | Some("true")) => security.writable_cgroups = true,
                ("writable-cgroups", Some("false")) => security.writable_cgroups = false,
                _ => return Err(unknown()),
            }
        }
        security.seccomp = match profile {
            Some("unconfined") => None,
            None if config.privileged => None,
            None | Some("builtin") if seccomp::is_default_for(&security.bounding) => {
                security.default_seccomp = true;
                None
            }
            None | Some("builtin") => Some(seccomp::profile(&security.bounding)),
            Some(path) => {
                let text = input
                    .seccomp_profile
                    .ok_or_else(|| SpecError::ProfileMissing(path.to_owned()))?;
                let on = seccomp::Environment {
                    capabilities: &security.bounding,
                    kernel: input.host.kernel,
                };
                let parsed = seccomp::parse(text, &on).map_err(|source| SpecError::Profile {
                    path: path.to_owned(),
                    source,
                })?;
                Some(parsed)
            }
        };
        if confined_paths {
            security.masked_paths = MASKED.iter().map(|p| (*p).to_owned()).collect();
            security
                .masked_paths
                .extend(input.host.thermal_throttle.iter().cloned());
            security.readonly_paths = READ_ONLY.iter().map(|p| (*p).to_owned()).collect();
        }
        Ok(security)
    }

    /// Inheritable and ambient stay empty: filled, they turned every file capability into a way up
    /// (CVE-2022-24769 and its kin, HAZARDS S12).
    pub(super) fn capabilities(&self) -> LinuxCapabilities {
        sets(&self.bounding)
    }
}

/// All capabilities of this machine, for a privileged exec.
pub(super) fn everything() -> LinuxCapabilities {
    sets(&capabilities::all())
}

fn sets(capabilities: &Capabilities) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(capabilities.clone()))
        .set_effective(Some(capabilities.clone()))
        .set_permitted(Some(capabilities.clone()))
        .set_inheritable(None)
        .set_ambient(None);
    sets
}

/// Docker's rules: adding ALL leaves out what is dropped; dropping ALL leaves what is added; else
/// the defaults, less the dropped, with the added.
fn bounding(input: &SpecInput<'_>) -> Result<Capabilities, SpecError> {
    let config = input.config;
    if config.privileged {
        return Ok(capabilities::all());
    }
    let read = |names: &[String]| -> Result<(bool, Capabilities), SpecError> {
        let mut all = false;
        let mut set = Capabilities::new();
        for name in names {
            if name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL") {
                all = true;
            } else {
                let found = capabilities::parse(name);
                set.insert(found.ok_or_else(|| SpecError::Capability(name.clone()))?);
            }
        }
        Ok((all, set))
    };
    let (add_all, added) = read(&config.cap_add)?;
    let (drop_all, dropped) = read(&config.cap_drop)?;
    Ok(if add_all {
        &capabilities::all() - &dropped
    } else if drop_all {
        added
    } else {
        &(&capabilities::defaults() - &dropped) | &added
    })
}

//! What a specification has to know of the machine. Read once by the engine.

use std::fs;

use crate::shim::protocol::seccomp;

/// What the machine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Processors that are online.
    pub n_cpus: u32,
    /// Major and minor number of the kernel.
    pub kernel: (u32, u32),
    /// Those of `/sys/devices/system/cpu/cpu*/thermal_throttle` that exist: they tell a container
    /// of its neighbours' load (GHSA-6fw5-f8r9-fgfm).
    pub thermal_throttle: Vec<String>,
    /// The highest limit of open files that a container can be given. Below it our default is cut,
    /// because a machine that keeps CAP_SYS_RESOURCE from us would refuse every start.
    pub max_nofile: u64,
}

impl HostFacts {
    /// Asks the kernel. What it does not tell is taken as one processor and nothing to mask.
    pub fn read() -> HostFacts {
        let cpus = |file: &str| {
            fs::read_to_string(format!("/sys/devices/system/cpu/{file}"))
                .map(|text| cpu_list(text.trim()))
                .unwrap_or_default()
        };
        let online = cpus("online").len();
        let thermal_throttle = cpus("possible")
            .into_iter()
            .map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"))
            .filter(|path| fs::exists(path).unwrap_or(false))
            .collect();
        HostFacts {
            n_cpus: u32::try_from(online).unwrap_or(u32::MAX).max(1),
            kernel: seccomp::kernel_version(),
            thermal_throttle,
            max_nofile: max_nofile(),
        }
    }
}

fn max_nofile() -> u64 {
    use rustix::process::{Resource, getrlimit};
    use rustix::thread::{CapabilitySet, capabilities};
    let can_raise =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE));
    let ours = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    match fs::read_to_string("/proc/sys/fs/nr_open") {
        Ok(text) if can_raise => text.trim().parse().unwrap_or(ours),
        _ => ours,
    }
}

/// The numbers of the kernel's `0-3,5`.
fn cpu_list(text: &str) -> Vec<u32> {
    text.split(',')
        .filter_map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            Some(from.parse().ok()?..=to.parse().ok()?)
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_lists_are_read() {
        assert_eq!(cpu_list("0-3,5"), [0, 1, 2, 3, 5]);
        assert_eq!(cpu_list("0"), [0]);
        assert_eq!(cpu_list(""), [0; 0]);
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_processor() {
        let host = HostFacts::read();
        assert!(host.n_cpus >= 1);
        assert!(host.kernel >= (4, 8), "{:?}", host.kernel);
    }
}

//! What a specification has to know of the machine. Read once by the engine.

use std::fs;

use oci_spec::runtime::PosixRlimitType;

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
    /// Limits, soft and hard, that whoever started the engine has and the machine's init has not:
    /// a container gets the machine's, `u64::MAX` for unlimited (HAZARDS S20).
    pub other_limits: Vec<(PosixRlimitType, u64, u64)>,
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
            other_limits: other_limits(),
        }
    }
}

fn can_raise() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE))
}

fn other_limits() -> Vec<(PosixRlimitType, u64, u64)> {
    let limits = |path: &str| {
        fs::read_to_string(path)
            .map(|table| parse_limits(&table))
            .unwrap_or_default()
    };
    let (own, machine) = (limits("/proc/self/limits"), limits("/proc/1/limits"));
    let can_raise = can_raise();
    let differs = |(typ, soft, hard): &(PosixRlimitType, u64, u64)| {
        let ours = own.iter().find(|(other, ..)| other == typ)?;
        let hard = if can_raise { *hard } else { ours.2.min(*hard) };
        let wanted = (*typ, hard.min(*soft), hard);
        (wanted != *ours).then_some(wanted)
    };
    machine.iter().filter_map(differs).collect()
}

/// Of a table like `/proc/1/limits`, all but the number of open files, which has a rule of its own.
fn parse_limits(table: &str) -> Vec<(PosixRlimitType, u64, u64)> {
    use PosixRlimitType::*;
    const NAMES: [(&str, PosixRlimitType); 15] = [
        ("Max cpu time", RlimitCpu),
        ("Max file size", RlimitFsize),
        ("Max data size", RlimitData),
        ("Max stack size", RlimitStack),
        ("Max core file size", RlimitCore),
        ("Max resident set", RlimitRss),
        ("Max processes", RlimitNproc),
        ("Max locked memory", RlimitMemlock),
        ("Max address space", RlimitAs),
        ("Max file locks", RlimitLocks),
        ("Max pending signals", RlimitSigpending),
        ("Max msgqueue size", RlimitMsgqueue),
        ("Max nice priority", RlimitNice),
        ("Max realtime priority", RlimitRtprio),
        ("Max realtime timeout", RlimitRttime),
    ];
    let number = |text: &str| match text {
        "unlimited" => Some(u64::MAX),
        digits => digits.parse().ok(),
    };
    let line = |line: &str| {
        let (name, typ) = NAMES.iter().find(|(name, _)| line.starts_with(name))?;
        let mut values = line[name.len()..].split_whitespace();
        Some((*typ, number(values.next()?)?, number(values.next()?)?))
    };
    table.lines().filter_map(line).collect()
}

fn max_nofile() -> u64 {
    use rustix::process::{Resource, getrlimit};
    let can_raise = can_raise();
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
    fn limits_are_read() {
        let table = "Limit                     Soft Limit           Hard Limit           Units\n\
                     Max stack size            8388608              unlimited            bytes\n\
                     Max open files            77                   77                   files\n\
                     Max nice priority         0                    0\n";
        let expected = [
            (PosixRlimitType::RlimitStack, 8_388_608, u64::MAX),
            (PosixRlimitType::RlimitNice, 0, 0),
        ];
        assert_eq!(parse_limits(table), expected);
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_processor() {
        let host = HostFacts::read();
        assert!(host.n_cpus >= 1);
        assert!(host.kernel >= (4, 8), "{:?}", host.kernel);
    }
}

//! Limits and device rules of a container, checked as Docker checks them.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxPids,
    LinuxResources,
};

use super::spec::{SpecError, SpecInput};
use crate::compose::Resources;

/// Docker's least memory limit; below it not even the set-up fits.
const LEAST_MEMORY: u64 = 6 << 20;

pub(super) fn resources(input: &SpecInput<'_>) -> Result<LinuxResources, SpecError> {
    let wanted = &input.config.resources;
    let mut resources = LinuxResources::default();
    resources
        .set_devices(Some(device_rules(input)?))
        .set_memory(memory(wanted)?)
        .set_cpu(cpu(wanted, input.host.n_cpus)?);
    if let Some(limit) = wanted.pids_limit.filter(|l| *l != 0) {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit.max(-1));
        resources.set_pids(Some(pids));
    }
    if let Some(weight) = wanted.blkio_weight.filter(|w| *w != 0) {
        in_range("blkio weight", i64::from(weight), 10, 1000)?;
        let mut io = LinuxBlockIo::default();
        io.set_weight(Some(weight));
        resources.set_block_io(Some(io));
    }
    Ok(resources)
}

fn memory(wanted: &Resources) -> Result<Option<LinuxMemory>, SpecError> {
    let limit = wanted.memory_limit.filter(|l| *l != 0);
    let swap = wanted.memswap_limit.filter(|s| *s != 0);
    if let Some(limit) = limit.filter(|l| *l < LEAST_MEMORY) {
        return Err(SpecError::MemoryTooSmall(limit));
    }
    let swap = match (swap, limit) {
        // Unlimited swap beside no limit is what there is anyway.
        (Some(-1), _) => Some(-1),
        (Some(_), None) => return Err(SpecError::SwapWithoutMemory),
        (Some(swap), Some(memory)) if swap < signed(memory) => {
            return Err(SpecError::SwapBelowMemory { swap, memory });
        }
        (Some(swap), Some(_)) => Some(swap),
        // As much swap again as memory.
        (None, Some(memory)) => Some(signed(memory.saturating_mul(2))),
        (None, None) => None,
    };
    let reservation = wanted.memory_reservation.filter(|r| *r != 0);
    if let (Some(reservation), Some(memory)) = (reservation, limit)
        && reservation > memory
    {
        return Err(SpecError::ReservationAboveLimit {
            reservation,
            memory,
        });
    }
    if let Some(swappiness) = wanted.mem_swappiness {
        in_range("mem_swappiness", signed(swappiness), 0, 100)?;
    }
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(limit.map(signed))
        .set_swap(swap)
        .set_reservation(reservation.map(signed))
        .set_swappiness(wanted.mem_swappiness)
        .set_disable_oom_killer(wanted.oom_kill_disable);
    Ok((memory != LinuxMemory::default()).then_some(memory))
}

fn cpu(wanted: &Resources, n_cpus: u32) -> Result<Option<LinuxCpu>, SpecError> {
    let mut quota = wanted.cpu_quota.filter(|q| *q != 0);
    let mut period = wanted.cpu_period.filter(|p| *p != 0);
    if let Some(nano) = wanted.nano_cpus.filter(|n| *n != 0) {
        if quota.is_some() {
            return Err(SpecError::CpusTwice("cpu_quota"));
        }
        if period.is_some() {
            return Err(SpecError::CpusTwice("cpu_period"));
        }
        if nano > u64::from(n_cpus) * 1_000_000_000 {
            return Err(SpecError::Cpus {
                wanted: nano as f64 / 1e9,
                available: n_cpus,
            });
        }
        period = Some(100_000);
        quota = Some(signed(nano / 10_000));
    }
    if let Some(period) = period {
        in_range("cpu_period", signed(period), 1_000, 1_000_000)?;
    }
    if let Some(quota) = quota.filter(|q| *q > 0) {
        in_range("cpu_quota", quota, 1_000, i64::MAX)?;
    }
    let cpuset = wanted.cpuset.as_ref().filter(|c| !c.is_empty());
    if let Some(list) = cpuset {
        let is_number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
        let is_list = list.split(',').all(|part| match part.split_once('-') {
            Some((from, to)) => is_number(from) && is_number(to),
            None => is_number(part),
        });
        if !is_list {
            return Err(SpecError::Cpuset(list.clone()));
        }
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(wanted.cpu_shares.filter(|s| *s != 0))
        .set_quota(quota)
        .set_period(period)
        .set_realtime_runtime(wanted.cpu_rt_runtime.filter(|r| *r != 0))
        .set_realtime_period(wanted.cpu_rt_period.filter(|p| *p != 0))
        .set_cpus(cpuset.cloned());
    Ok((cpu != LinuxCpu::default()).then_some(cpu))
}

/// Nothing but the harmless: making nodes, null, zero, full, random, urandom, tty, console, the
/// terminals, and tun (HAZARDS S24). Later rules win.
fn device_rules(input: &SpecInput<'_>) -> Result<Vec<LinuxDeviceCgroup>, SpecError> {
    use LinuxDeviceType::{A, B, C};
    if input.config.privileged {
        return Ok(vec![rule(true, A, None, None, "rwm")]);
    }
    // Docker also opens 5:1, which is the host's console: a container's own is a terminal (136:*)
    // under that name.
    let mut rules = vec![
        rule(false, A, None, None, "rwm"),
        rule(true, C, None, None, "m"),
        rule(true, B, None, None, "m"),
        rule(true, C, Some(1), Some(3), "rwm"),
        rule(true, C, Some(1), Some(5), "rwm"),
        rule(true, C, Some(1), Some(7), "rwm"),
        rule(true, C, Some(1), Some(8), "rwm"),
        rule(true, C, Some(1), Some(9), "rwm"),
        rule(true, C, Some(5), Some(0), "rwm"),
        rule(true, C, Some(5), Some(2), "rwm"),
        rule(true, C, Some(136), None, "rwm"),
        rule(true, C, Some(10), Some(200), "rwm"),
        rule(false, C, Some(10), Some(229), "rwm"),
    ];
    for device in input.devices {
        let (major, minor) = (i64::from(device.major), i64::from(device.minor));
        rules.push(rule(
            true,
            device.kind(),
            Some(major),
            Some(minor),
            &device.access,
        ));
    }
    for text in &input.config.device_cgroup_rules {
        rules.push(user_rule(text).ok_or_else(|| SpecError::DeviceRule(text.clone()))?);
    }
    Ok(rules)
}

/// `c 10:* rwm`
fn user_rule(text: &str) -> Option<LinuxDeviceCgroup> {
    let mut words = text.split(' ');
    let typ = match words.next()? {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return None,
    };
    let (major, minor) = words.next()?.split_once(':')?;
    let access = words.next()?;
    let is_access = (1..=3).contains(&access.len()) && access.bytes().all(|b| b"rwm".contains(&b));
    if !is_access || words.next().is_some() {
        return None;
    }
    let number = |text: &str| match text {
        "*" => Some(None),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse::<u32>().ok().map(|n| Some(i64::from(n)))
        }
        _ => None,
    };
    Some(rule(true, typ, number(major)?, number(minor)?, access))
}

fn rule(
    allow: bool,
    typ: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(typ))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

fn in_range(what: &'static str, value: i64, least: i64, most: i64) -> Result<(), SpecError> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(SpecError::Range {
            what,
            value,
            least,
            most,
        })
    }
}

/// More than 2^63 bytes are as good as no limit.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

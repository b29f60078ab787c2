//! OCI resources to values of control files, for either version of cgroups. Pure.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

/// One value for one control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub controller: &'static str,
    pub file: String,
    pub value: String,
    /// The kernel may be built without this file, and the limit is then of no effect by design.
    pub optional: bool,
}

/// Collects settings of one controller.
struct Settings {
    controller: &'static str,
    list: Vec<Setting>,
}

impl Settings {
    fn new(controller: &'static str) -> Self {
        Settings {
            controller,
            list: Vec::new(),
        }
    }

    fn set(&mut self, file: impl Into<String>, value: impl ToString) {
        self.push(file.into(), value.to_string(), false);
    }

    fn try_set(&mut self, file: impl Into<String>, value: impl ToString) {
        self.push(file.into(), value.to_string(), true);
    }

    fn push(&mut self, file: String, value: String, optional: bool) {
        self.list.push(Setting {
            controller: self.controller,
            file,
            value,
            optional,
        });
    }
}

/// Names that limits can need, the same in both versions but for `blkio`, which v2 calls `io`.
pub(super) const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb"];

/// v2's name of a controller.
pub(super) fn v2_name(controller: &str) -> &str {
    if controller == "blkio" {
        "io"
    } else {
        controller
    }
}

/// What to write into the cgroup of a v1 hierarchy, in order.
pub(super) fn v1(controller: &str, resources: &LinuxResources) -> Vec<Setting> {
    match controller {
        "memory" => resources
            .memory()
            .as_ref()
            .map(memory_v1)
            .unwrap_or_default(),
        "cpu" => resources.cpu().as_ref().map(cpu_v1).unwrap_or_default(),
        "cpuset" => resources.cpu().as_ref().map(cpuset).unwrap_or_default(),
        "pids" => pids(resources),
        "blkio" => resources
            .block_io()
            .as_ref()
            .map(blkio_v1)
            .unwrap_or_default(),
        "hugetlb" => hugetlb(resources, "limit_in_bytes"),
        _ => Vec::new(),
    }
}

/// What to write into the cgroup2 directory, in order.
pub(super) fn v2(controller: &str, resources: &LinuxResources) -> Vec<Setting> {
    match controller {
        "memory" => resources
            .memory()
            .as_ref()
            .map(memory_v2)
            .unwrap_or_default(),
        "cpu" => resources.cpu().as_ref().map(cpu_v2).unwrap_or_default(),
        "cpuset" => resources.cpu().as_ref().map(cpuset).unwrap_or_default(),
        "pids" => pids(resources),
        "blkio" => resources
            .block_io()
            .as_ref()
            .map(blkio_v2)
            .unwrap_or_default(),
        "hugetlb" => hugetlb(resources, "max"),
        _ => Vec::new(),
    }
}

fn memory_v1(memory: &LinuxMemory) -> Vec<Setting> {
    let mut to = Settings::new("memory");
    // 0 is "not asked for" in OCI, -1 is no limit.
    if let Some(limit) = memory.limit().filter(|l| *l != 0) {
        to.set("memory.limit_in_bytes", limit);
    }
    if let Some(swap) = memory.swap().filter(|s| *s != 0) {
        // Absent when the kernel does not account swap.
        to.try_set("memory.memsw.limit_in_bytes", swap);
    }
    if let Some(reservation) = memory.reservation().filter(|r| *r != 0) {
        to.set("memory.soft_limit_in_bytes", reservation);
    }
    if let Some(swappiness) = memory.swappiness().filter(|s| *s <= 100) {
        to.set("memory.swappiness", swappiness);
    }
    if memory.disable_oom_killer() == Some(true) {
        to.set("memory.oom_control", 1);
    }
    to.list
}

fn memory_v2(memory: &LinuxMemory) -> Vec<Setting> {
    let mut to = Settings::new("memory");
    let limit = memory.limit().filter(|l| *l != 0);
    if let Some(limit) = limit {
        to.set("memory.max", or_max(limit));
    }
    // OCI counts memory and swap together, v2 swap alone.
    match (memory.swap().filter(|s| *s != 0), limit) {
        (Some(-1), _) => to.try_set("memory.swap.max", "max"),
        (Some(swap), Some(limit)) if limit > 0 => {
            to.try_set("memory.swap.max", (swap - limit).max(0));
        }
        _ => {}
    }
    if let Some(reservation) = memory.reservation().filter(|r| *r != 0) {
        to.set("memory.low", or_max(reservation));
    }
    to.list
}

fn cpu_v1(cpu: &LinuxCpu) -> Vec<Setting> {
    let mut to = Settings::new("cpu");
    if let Some(shares) = cpu.shares().filter(|s| *s != 0) {
        to.set("cpu.shares", shares);
    }
    // The period first: a quota is checked against it.
    if let Some(period) = cpu.period().filter(|p| *p != 0) {
        to.set("cpu.cfs_period_us", period);
    }
    if let Some(quota) = cpu.quota().filter(|q| *q != 0) {
        to.set("cpu.cfs_quota_us", quota);
    }
    if let Some(burst) = cpu.burst() {
        to.try_set("cpu.cfs_burst_us", burst);
    }
    if let Some(period) = cpu.realtime_period().filter(|p| *p != 0) {
        to.set("cpu.rt_period_us", period);
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|r| *r != 0) {
        to.set("cpu.rt_runtime_us", runtime);
    }
    if let Some(idle) = cpu.idle() {
        to.try_set("cpu.idle", idle);
    }
    to.list
}

fn cpu_v2(cpu: &LinuxCpu) -> Vec<Setting> {
    let mut to = Settings::new("cpu");
    if let Some(shares) = cpu.shares().filter(|s| *s != 0) {
        to.set("cpu.weight", weight(shares));
    }
    let quota = cpu.quota().filter(|q| *q != 0);
    let period = cpu.period().filter(|p| *p != 0);
    match (quota, period) {
        (None, None) => {}
        (quota, None) => to.set("cpu.max", or_max(quota.unwrap_or(-1))),
        (quota, Some(period)) => {
            to.set(
                "cpu.max",
                format!("{} {period}", or_max(quota.unwrap_or(-1))),
            );
        }
    }
    if let Some(burst) = cpu.burst() {
        to.try_set("cpu.max.burst", burst);
    }
    if let Some(idle) = cpu.idle() {
        to.set("cpu.idle", idle);
    }
    to.list
}

fn cpuset(cpu: &LinuxCpu) -> Vec<Setting> {
    let mut to = Settings::new("cpuset");
    if let Some(cpus) = cpu.cpus().as_ref().filter(|c| !c.is_empty()) {
        to.set("cpuset.cpus", cpus);
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|m| !m.is_empty()) {
        to.set("cpuset.mems", mems);
    }
    to.list
}

fn pids(resources: &LinuxResources) -> Vec<Setting> {
    let mut to = Settings::new("pids");
    if let Some(pids) = resources.pids() {
        // As in Docker, 0 and below are no limit.
        to.set(
            "pids.max",
            or_max(if pids.limit() > 0 { pids.limit() } else { -1 }),
        );
    }
    to.list
}

fn blkio_v1(io: &LinuxBlockIo) -> Vec<Setting> {
    let mut to = Settings::new("blkio");
    if let Some(weight) = io.weight().filter(|w| *w != 0) {
        // The file is BFQ's (its predecessor left with Linux 5.0) and is there when BFQ is.
        to.try_set("blkio.bfq.weight", weight);
    }
    let throttles = [
        (
            "blkio.throttle.read_bps_device",
            io.throttle_read_bps_device(),
        ),
        (
            "blkio.throttle.write_bps_device",
            io.throttle_write_bps_device(),
        ),
        (
            "blkio.throttle.read_iops_device",
            io.throttle_read_iops_device(),
        ),
        (
            "blkio.throttle.write_iops_device",
            io.throttle_write_iops_device(),
        ),
    ];
    for (file, devices) in throttles {
        for device in devices.iter().flatten() {
            to.set(
                file,
                format!("{}:{} {}", device.major(), device.minor(), device.rate()),
            );
        }
    }
    to.list
}

fn blkio_v2(io: &LinuxBlockIo) -> Vec<Setting> {
    let mut to = Settings::new("blkio");
    if let Some(weight) = io.weight().filter(|w| *w != 0) {
        to.try_set("io.bfq.weight", weight);
        // 10..1000 of v1 onto 1..10000 of v2.
        let weight = u64::from(weight).clamp(10, 1000);
        to.try_set("io.weight", 1 + (weight - 10) * 9999 / 990);
    }
    let throttles = [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ];
    for (key, devices) in throttles {
        for device in devices.iter().flatten() {
            let (major, minor, rate) = (device.major(), device.minor(), device.rate());
            to.set("io.max", format!("{major}:{minor} {key}={rate}"));
        }
    }
    to.list
}

fn hugetlb(resources: &LinuxResources, suffix: &str) -> Vec<Setting> {
    let mut to = Settings::new("hugetlb");
    for limit in resources.hugepage_limits().iter().flatten() {
        to.set(
            format!("hugetlb.{}.{suffix}", limit.page_size()),
            limit.limit(),
        );
    }
    to.list
}

fn or_max(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

/// v1 shares (2 to 262144, default 1024) as v2 weight (1 to 10000, default 100): the curve that
/// runc and crun agreed on, which goes through both defaults and both ends.
fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxBlockIo, LinuxPids, LinuxThrottleDeviceBuilder};

    use super::*;

    fn lines(settings: &[Setting]) -> Vec<String> {
        settings
            .iter()
            .map(|s| format!("{}={}", s.file, s.value))
            .collect()
    }

    fn resources() -> LinuxResources {
        let mut memory = LinuxMemory::default();
        memory
            .set_limit(Some(100))
            .set_swap(Some(250))
            .set_reservation(Some(50))
            .set_swappiness(Some(7))
            .set_disable_oom_killer(Some(true));
        let mut cpu = LinuxCpu::default();
        cpu.set_shares(Some(1024))
            .set_quota(Some(150_000))
            .set_period(Some(100_000))
            .set_cpus(Some("0-1".to_owned()));
        let mut pids = LinuxPids::default();
        pids.set_limit(0);
        let device = LinuxThrottleDeviceBuilder::default()
            .major(8)
            .minor(0)
            .rate(1_000u64)
            .build()
            .unwrap();
        let mut io = LinuxBlockIo::default();
        io.set_weight(Some(1000))
            .set_throttle_read_bps_device(Some(vec![device]));
        let mut all = LinuxResources::default();
        all.set_memory(Some(memory))
            .set_cpu(Some(cpu))
            .set_pids(Some(pids))
            .set_block_io(Some(io));
        all
    }

    #[test]
    fn both_versions_say_the_same_limits() {
        let all = resources();
        assert_eq!(
            CONTROLLERS
                .iter()
                .flat_map(|c| lines(&v2(c, &all)))
                .collect::<Vec<_>>(),
            [
                "cpu.weight=100",
                "cpu.max=150000 100000",
                "cpuset.cpus=0-1",
                "memory.max=100",
                "memory.swap.max=150",
                "memory.low=50",
                "pids.max=max",
                "io.bfq.weight=1000",
                "io.weight=10000",
                "io.max=8:0 rbps=1000",
            ]
        );
        assert_eq!(
            CONTROLLERS
                .iter()
                .flat_map(|c| lines(&v1(c, &all)))
                .collect::<Vec<_>>(),
            [
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=150000",
                "cpuset.cpus=0-1",
                "memory.limit_in_bytes=100",
                "memory.memsw.limit_in_bytes=250",
                "memory.soft_limit_in_bytes=50",
                "memory.swappiness=7",
                "memory.oom_control=1",
                "pids.max=max",
                "blkio.bfq.weight=1000",
                "blkio.throttle.read_bps_device=8:0 1000",
            ]
        );
    }

    #[test]
    fn weights_meet_at_ends_and_defaults() {
        assert_eq!([2, 1024, 262_144].map(weight), [1, 100, 10_000]);
    }

    #[test]
    fn nothing_asked_is_nothing_written() {
        let none = LinuxResources::default();
        for controller in CONTROLLERS {
            assert!(v1(controller, &none).is_empty(), "{controller}");
            assert!(v2(controller, &none).is_empty(), "{controller}");
        }
    }
}

//! Capability sets of a container's process: names, numbers, Docker's defaults, and putting them
//! in force. Calls that set them allocate nothing and are made in a single-threaded child.

use std::io;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set,
};

/// Every capability, at the place of its kernel number.
pub const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The fourteen that Docker gives.
const DEFAULTS: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Docker's default set.
pub fn defaults() -> Capabilities {
    DEFAULTS.into_iter().collect()
}

/// Every capability that there is.
pub fn all() -> Capabilities {
    ALL.into_iter().collect()
}

/// Reads `NET_ADMIN`, `cap_net_admin`, `CAP_NET_ADMIN`.
pub fn parse(name: &str) -> Option<Capability> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    ALL.into_iter().find(|c| word(*c) == bare)
}

/// The name without `CAP_`, as in `NET_ADMIN`.
pub fn word(capability: Capability) -> &'static str {
    NAMES[number(capability) as usize]
}

/// The kernel's number, 0 to 40.
pub fn number(capability: Capability) -> u32 {
    // ALL lists every variant; the test `every_capability_has_a_number` holds it to that.
    ALL.iter().position(|c| *c == capability).unwrap_or(0) as u32
}

const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

fn mask(set: &Option<Capabilities>) -> u64 {
    set.iter()
        .flatten()
        .fold(0, |bits, c| bits | 1 << number(*c))
}

/// Takes everything out of the bounding set that `wanted` does not name. To be called while
/// `CAP_SETPCAP` is still effective, that is before [`set`] and before the change of user.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn drop_bounding(wanted: &LinuxCapabilities) -> io::Result<()> {
    let keep = mask(wanted.bounding());
    for number in 0..64 {
        if keep & (1 << number) != 0 {
            continue;
        }
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // The kernel has no such capability, and none above it.
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Sets effective, permitted, inheritable and ambient. A set that is absent is empty (HAZARDS S12).
///
/// What the running kernel does not know, or this process does not have, is left out: `privileged`
/// means all there is, in a nested container as well.
///
/// # Errors
/// Those of capset(2) and prctl(2).
pub fn set(wanted: &LinuxCapabilities) -> io::Result<()> {
    let mine = rustix::thread::capabilities(None)?.permitted.bits();
    let permitted = mask(wanted.permitted()) & mine;
    let effective = mask(wanted.effective()) & permitted;
    let inheritable = mask(wanted.inheritable()) & mine;
    clear_ambient_capability_set()?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: CapabilitySet::from_bits_retain(effective),
            permitted: CapabilitySet::from_bits_retain(permitted),
            inheritable: CapabilitySet::from_bits_retain(inheritable),
        },
    )?;
    // Only what is both permitted and inheritable can be ambient.
    let ambient = mask(wanted.ambient()) & permitted & inheritable;
    for number in (0..64).filter(|n| ambient & (1 << n) != 0) {
        configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(1 << number), true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_a_number() {
        for (n, capability) in ALL.into_iter().enumerate() {
            assert_eq!(number(capability), n as u32);
            // The words of oci-spec are made by another hand.
            let json = serde_json::to_value(capability).unwrap();
            assert_eq!(json, format!("CAP_{}", word(capability)));
            assert_eq!(parse(&word(capability).to_lowercase()), Some(capability));
        }
        assert_eq!(all().len(), 41);
        // linux/capability.h
        for (name, n) in [
            ("CAP_SYS_ADMIN", 21),
            ("net_raw", 13),
            ("MKNOD", 27),
            ("BPF", 39),
        ] {
            assert_eq!(parse(name).map(number), Some(n), "{name}");
        }
        assert_eq!(parse("ALL"), None);
        assert_eq!(defaults().len(), 14);
        assert_eq!(mask(&Some(defaults())), 0xa804_25fb);
    }

    /// Capability sets belong to a thread, the bounding set too.
    #[test]
    fn a_thread_ends_up_with_exactly_the_defaults() {
        if !rustix::process::geteuid().is_root() {
            tracing::warn!("not root: setting capabilities is not tested");
            return;
        }
        let status = std::thread::spawn(|| {
            let mut wanted = LinuxCapabilities::default();
            wanted
                .set_bounding(Some(defaults()))
                .set_effective(Some(defaults()))
                .set_permitted(Some(defaults()))
                .set_inheritable(None)
                .set_ambient(None);
            drop_bounding(&wanted).unwrap();
            set(&wanted).unwrap();
            std::fs::read_to_string("/proc/thread-self/status").unwrap()
        })
        .join()
        .unwrap();
        let sets: Vec<&str> = status.lines().filter(|l| l.starts_with("Cap")).collect();
        assert_eq!(
            sets,
            [
                "CapInh:\t0000000000000000",
                "CapPrm:\t00000000a80425fb",
                "CapEff:\t00000000a80425fb",
                "CapBnd:\t00000000a80425fb",
                "CapAmb:\t0000000000000000",
            ]
        );
    }
}

//! Capability sets of a container process.

use std::io;

use oci_spec::runtime::{Capabilities, LinuxCapabilities};
use rustix::thread::{CapabilitySet, CapabilitySets};

fn bits(set: Option<&Capabilities>) -> CapabilitySet {
    let value = set.into_iter().flatten().fold(0u64, |bits, cap| {
        let name = format!("{cap:?}").to_uppercase();
        let number = NAMES.split(' ').position(|known| known.replace('_', "") == name);
        bits | number.map_or(0, |number| 1 << number)
    });
    CapabilitySet::from_bits_retain(value)
}

/// In the kernel's order.
const NAMES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";

/// # Errors
/// Of `prctl(2)`.
pub fn drop_bounding(caps: &LinuxCapabilities) -> io::Result<()> {
    let keep = bits(caps.bounding().as_ref());
    for cap in 0..=40 {
        let one = CapabilitySet::from_bits_retain(1 << cap);
        if !keep.contains(one) {
            rustix::thread::remove_capability_from_bounding_set(one)?;
        }
    }
    Ok(())
}

/// # Errors
/// Of `capset(2)`.
pub fn set(caps: &LinuxCapabilities) -> io::Result<()> {
    Ok(rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: bits(caps.effective().as_ref()),
            permitted: bits(caps.permitted().as_ref()),
            inheritable: bits(caps.inheritable().as_ref()),
        },
    )?)
}

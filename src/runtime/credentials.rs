//! From the engine's all-powerful process to the container's user. The order is the security:
//!
//! 1. bounding set, while `CAP_SETPCAP` is there;
//! 2. groups, gid, uid, keeping the permitted set across the change;
//! 3. parent's death signal and undumpability again: the change of ids cleared both;
//! 4. with `no_new_privs` capabilities first, then the filter, so that nothing but `execve` has to
//!    be allowed by it; without it the filter first, because loading it takes `CAP_SYS_ADMIN`.

use std::io;

use oci_spec::runtime::{LinuxCapabilities, Process};
use rustix::thread::{CapabilitySets, Gid, Uid};

use crate::runtime::capabilities;
use crate::runtime::failure::{During, StepError};
use crate::runtime::seccomp::Filter;
use crate::runtime::user::Identity;
use crate::sys::process;

/// Steps 1–3. The process keeps its capabilities for [`confine`].
///
/// # Errors
/// Of the system calls; all are fatal.
pub fn become_user(identity: &Identity, spec: &Process) -> Result<(), StepError> {
    let caps = spec.capabilities().clone().unwrap_or_else(none);
    capabilities::drop_bounding(&caps).during("drop the bounding set")?;
    rustix::thread::set_keep_capabilities(true).during("keep capabilities")?;
    let groups: Vec<Gid> = identity
        .groups
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    rustix::thread::set_thread_groups(&groups).during("set the groups")?;
    let gid = Gid::from_raw(identity.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).during("set the group")?;
    let uid = Uid::from_raw(identity.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).during("set the user")?;
    rustix::thread::set_keep_capabilities(false).during("keep capabilities")?;
    process::set_undumpable().during("guard against tracing")?;
    process::die_with_parent().during("set the parent's death signal")
}

/// Step 4.
///
/// # Errors
/// Of the system calls; all are fatal.
pub fn confine(spec: &Process, filter: Option<&Filter>) -> Result<(), StepError> {
    let caps = spec.capabilities().clone().unwrap_or_else(none);
    if spec.no_new_privileges() == Some(true) {
        rustix::thread::set_no_new_privs(true).during("set no_new_privs")?;
        capabilities::set(&caps).during("set capabilities")?;
        return load(filter).during("load the seccomp filter");
    }
    if filter.is_some() {
        // The change of the uid emptied the effective set.
        raise().during("raise capabilities")?;
        load(filter).during("load the seccomp filter")?;
    }
    capabilities::set(&caps).during("set capabilities")
}

fn load(filter: Option<&Filter>) -> io::Result<()> {
    filter.map_or(Ok(()), Filter::load)
}

fn raise() -> io::Result<()> {
    let held = rustix::thread::capabilities(None)?;
    let raised = CapabilitySets {
        effective: held.permitted,
        ..held
    };
    Ok(rustix::thread::set_capabilities(None, raised)?)
}

/// A process without a word on capabilities gets none.
fn none() -> LinuxCapabilities {
    let mut caps = LinuxCapabilities::default();
    for set in [
        LinuxCapabilities::set_bounding,
        LinuxCapabilities::set_effective,
        LinuxCapabilities::set_permitted,
        LinuxCapabilities::set_inheritable,
        LinuxCapabilities::set_ambient,
    ] {
        set(&mut caps, None);
    }
    caps
}

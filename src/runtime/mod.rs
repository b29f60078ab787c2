//! One OCI container: spec to namespaces, mounts, cgroup, seccomp, init. Used by the shim only.

pub mod capabilities;
pub mod cgroup;
pub mod rlimits;
pub mod seccomp;
pub mod sysctl;

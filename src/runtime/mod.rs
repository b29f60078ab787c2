//! One OCI container: spec to namespaces, mounts, cgroup, seccomp, init. Used by the shim only.

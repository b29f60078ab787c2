//! Docker's default profile, and profile files in Docker's format.
//!
//! The default is a table of facts (names and conditions) kept equal to moby's current one: among
//! them that AF_ALG and AF_VSOCK sockets are refused, that namespaces are made only with
//! CAP_SYS_ADMIN, and that clone3, whose flags a filter cannot see, answers ENOSYS.

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;

/// Allowed to every container.
const ALLOWED: &str = "\
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir \
    chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range \
    creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 \
    epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 \
    fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 \
    fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat \
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 \
    futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd \
    getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 \
    getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 \
    getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday \
    getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 \
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup \
    io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset \
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr \
    listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack \
    membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall \
    mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 \
    mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync \
    munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause \
    pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll \
    ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 \
    pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg \
    recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 \
    restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask \
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 \
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr \
    sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select \
    semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg \
    sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 \
    setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 \
    setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt \
    setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd \
    signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 \
    statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time \
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime \
    timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat \
    uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write \
    writev";

/// Allowed from Linux 4.8 on, where ptrace can no longer be used to get around a filter.
const TRACING: &str = "process_vm_readv process_vm_writev ptrace";

/// Allowed to containers that have the capability.
const BY_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie \
         lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount \
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog \
         umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (
        Capability::SysModule,
        "delete_module init_module finit_module",
    ),
    (Capability::SysPacct, "acct"),
    (
        Capability::SysPtrace,
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    ),
    (Capability::SysRawio, "iopl ioperm"),
    (
        Capability::SysTime,
        "settimeofday stime clock_settime clock_settime64",
    ),
    (Capability::SysTtyConfig, "vhangup"),
    (
        Capability::SysNice,
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// PER_LINUX, PER_LINUX32, either with UNAME26, and the query.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// Docker's default profile for a container with these bounding capabilities, on this kernel.
pub fn profile(capabilities: &Capabilities) -> LinuxSeccomp {
    profile_for(&Environment {
        capabilities,
        kernel: kernel_version(),
    })
}

/// Whether [`profile`] of these is that of Docker's default capabilities: many, like `NET_ADMIN`,
/// open no system call.
pub fn is_default_for(capabilities: &Capabilities) -> bool {
    let defaults = crate::runtime::capabilities::defaults();
    BY_CAPABILITY
        .iter()
        .all(|(capability, _)| capabilities.contains(capability) == defaults.contains(capability))
}

/// What the conditions of a profile look at.
#[derive(Debug, Clone, Copy)]
pub struct Environment<'a> {
    /// The container's bounding set.
    pub capabilities: &'a Capabilities,
    /// Major and minor number of the running kernel.
    pub kernel: (u32, u32),
}

fn profile_for(on: &Environment<'_>) -> LinuxSeccomp {
    let mut rules = vec![allow(ALLOWED, &[])];
    if on.kernel >= (4, 8) {
        rules.push(allow(TRACING, &[]));
    }
    // LT, EQ, GT instead of two NE: comparisons of one argument cannot be joined in one rule.
    rules.push(allow(
        "socket",
        &[(0, LinuxSeccompOperator::ScmpCmpLt, AF_ALG)],
    ));
    rules.push(allow(
        "socket",
        &[(0, LinuxSeccompOperator::ScmpCmpEq, AF_ALG + 1)],
    ));
    rules.push(allow(
        "socket",
        &[(0, LinuxSeccompOperator::ScmpCmpGt, AF_VSOCK)],
    ));
    for value in PERSONALITIES {
        rules.push(allow(
            "personality",
            &[(0, LinuxSeccompOperator::ScmpCmpEq, value)],
        ));
    }
    if cfg!(target_arch = "x86_64") {
        rules.push(allow("arch_prctl modify_ldt", &[]));
    }
    if cfg!(target_arch = "aarch64") {
        rules.push(allow(
            "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
            &[],
        ));
    }
    for (capability, names) in BY_CAPABILITY {
        if on.capabilities.contains(capability) {
            rules.push(allow(names, &[]));
        }
    }
    if !on.capabilities.contains(&Capability::SysAdmin) {
        rules.push(allow(
            "clone",
            &[(0, LinuxSeccompOperator::ScmpCmpMaskedEq, CLONE_NAMESPACES)],
        ));
        let mut clone3 = LinuxSyscall::default();
        clone3
            .set_names(vec!["clone3".to_owned()])
            .set_action(LinuxSeccompAction::ScmpActErrno)
            .set_errno_ret(Some(rustix::io::Errno::NOSYS.raw_os_error() as u32));
        rules.push(clone3);
    }
    let mut spec = LinuxSeccomp::default();
    spec.set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(rustix::io::Errno::PERM.raw_os_error() as u32))
        .set_architectures(Some(native_architectures()))
        .set_syscalls(Some(rules));
    spec
}

fn native_architectures() -> Vec<Arch> {
    if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    }
}

fn allow(names: &str, args: &[(usize, LinuxSeccompOperator, u64)]) -> LinuxSyscall {
    let args = args
        .iter()
        .map(|(index, op, value)| {
            // The builder has a default for every field and cannot fail.
            LinuxSeccompArgBuilder::default()
                .index(*index)
                .op(*op)
                .value(*value)
                .build()
                .expect("an argument rule has no missing field")
        })
        .collect::<Vec<_>>();
    let mut call = LinuxSyscall::default();
    call.set_names(names.split_whitespace().map(str::to_owned).collect())
        .set_action(LinuxSeccompAction::ScmpActAllow)
        .set_args((!args.is_empty()).then_some(args));
    call
}

/// Major and minor number of the running kernel; zeros if it does not say.
pub fn kernel_version() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    version(&release).unwrap_or((0, 0))
}

/// The two leading numbers of `6.18.0-x`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What is wrong with a profile file.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("seccomp profile is not valid")]
    Syntax(#[source] serde_json::Error),
    #[error("seccomp profile has both `architectures` and `archMap`; keep one of them")]
    TwoArchitectures,
    #[error("a rule of the seccomp profile has both `name` {0:?} and `names`; keep one of them")]
    TwoNames(String),
    #[error("a rule of the seccomp profile has the minKernel {0:?}; write it as \"5.10\"")]
    Kernel(String),
}

/// A profile file as `docker run --security-opt seccomp=FILE` takes it: OCI's fields, and beside
/// them `archMap`, and rules with `includes`, `excludes` and a single `name`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchEntry>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<std::path::PathBuf>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Call>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchEntry {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<Conditions>,
    #[serde(default)]
    excludes: Option<Conditions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conditions {
    #[serde(default)]
    caps: Option<Vec<String>>,
    /// Words of Go's world: `amd64`, `arm64`, `x86`.
    #[serde(default)]
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Reads a profile in Docker's or OCI's format and keeps the rules whose conditions hold.
///
/// # Errors
/// [`ProfileError`].
pub fn parse(json: &str, on: &Environment<'_>) -> Result<LinuxSeccomp, ProfileError> {
    let document: Document = serde_json::from_str(json).map_err(ProfileError::Syntax)?;
    let listed = document.architectures.filter(|a| !a.is_empty());
    let mapped = document.arch_map.filter(|a| !a.is_empty());
    if listed.is_some() && mapped.is_some() {
        return Err(ProfileError::TwoArchitectures);
    }
    let native = native_architectures()[0];
    let architectures = match (listed, mapped) {
        (Some(listed), _) => Some(listed),
        (None, Some(map)) => map
            .into_iter()
            .find(|e| e.architecture == native)
            .map(|entry| {
                let mut all = vec![entry.architecture];
                all.extend(entry.sub_architectures.into_iter().flatten());
                all
            }),
        (None, None) => None,
    };
    let mut rules = Vec::new();
    for call in document.syscalls.into_iter().flatten() {
        let names = match (call.name.is_empty(), call.names.filter(|n| !n.is_empty())) {
            (false, Some(_)) => return Err(ProfileError::TwoNames(call.name)),
            (false, None) => vec![call.name],
            (true, names) => names.unwrap_or_default(),
        };
        let excluded = match &call.excludes {
            Some(conditions) => conditions.any(on)?,
            None => false,
        };
        let included = match &call.includes {
            Some(conditions) => conditions.all(on)?,
            None => true,
        };
        if excluded || !included {
            continue;
        }
        let mut rule = LinuxSyscall::default();
        rule.set_names(names)
            .set_action(call.action)
            .set_errno_ret(call.errno_ret)
            .set_args(call.args.filter(|a| !a.is_empty()));
        rules.push(rule);
    }
    let mut spec = LinuxSeccomp::default();
    spec.set_default_action(document.default_action)
        .set_default_errno_ret(document.default_errno_ret)
        .set_architectures(architectures)
        .set_flags(document.flags)
        .set_listener_path(document.listener_path)
        .set_listener_metadata(document.listener_metadata)
        .set_syscalls(Some(rules));
    Ok(spec)
}

const NATIVE_WORD: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

impl Conditions {
    fn has(on: &Environment<'_>, name: &str) -> bool {
        crate::runtime::capabilities::parse(name).is_some_and(|c| on.capabilities.contains(&c))
    }

    fn kernel(&self, on: &Environment<'_>) -> Result<Option<bool>, ProfileError> {
        let Some(text) = &self.min_kernel else {
            return Ok(None);
        };
        let least = version(text).ok_or_else(|| ProfileError::Kernel(text.clone()))?;
        Ok(Some(on.kernel >= least))
    }

    /// As an exclusion: one hit is enough.
    fn any(&self, on: &Environment<'_>) -> Result<bool, ProfileError> {
        Ok(self.arches.iter().flatten().any(|a| a == NATIVE_WORD)
            || self.caps.iter().flatten().any(|c| Self::has(on, c))
            || self.kernel(on)? == Some(true))
    }

    /// As an inclusion: every kind that is named must hold, and every capability.
    fn all(&self, on: &Environment<'_>) -> Result<bool, ProfileError> {
        let arches = self.arches.as_deref().unwrap_or_default();
        Ok(
            (arches.is_empty() || arches.iter().any(|a| a == NATIVE_WORD))
                && self.caps.iter().flatten().all(|c| Self::has(on, c))
                && self.kernel(on)?.unwrap_or(true),
        )
    }
}

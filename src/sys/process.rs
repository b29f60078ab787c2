//! What a process says about itself: name, parent's death, dumpability, identity, memory.

use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid, Signal};

/// The name that `ps` and `top` show, at most 15 bytes.
pub fn set_name(name: &CStr) {
    // It is decoration: there is nothing to do about a failure.
    let _ = rustix::thread::set_name(name);
}

/// The command line that `ps` shows, cut to the room that the present one takes. `proc` is a procfs
/// of the kernel's own making, of a namespace that this process is in.
pub fn set_command_line(proc: BorrowedFd<'_>, text: &[u8]) {
    // Decoration as well.
    let Ok((start, end)) = argument_area(proc) else {
        return;
    };
    let Some(room) = end.checked_sub(start).filter(|room| *room > 1) else {
        return;
    };
    let n = text.len().min(room - 2);
    // SAFETY: the kernel put the arguments into [start, end) at execve and says so in a file that
    // nobody else can write. It is a part of this process's stack, writable and mapped for as long
    // as it lives. Nothing refers to it: the arguments have been copied, and the caller is the only
    // thread.
    let area = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, room) };
    area.fill(0);
    area[..n].copy_from_slice(&text[..n]);
    // A last byte that is no NUL makes the kernel stop at the first one (setproctitle(3)).
    area[room - 1] = b' ';
}

/// Fields 48 and 49 of proc_pid_stat(5).
fn argument_area(proc: BorrowedFd<'_>) -> io::Result<(usize, usize)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, "self/stat", flags, Mode::empty())?;
    let stat = io::read_to_string(std::fs::File::from(file))?;
    let field = |number: usize| {
        stat.rsplit_once(')')
            .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(number - 3))
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    };
    Ok((field(48)?, field(49)?))
}

/// Orphaned descendants come to this process instead of the machine's init.
///
/// # Errors
/// Of `prctl(2)`.
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(Pid::INIT))?)
}

/// They go to the next one above again.
///
/// # Errors
/// Of `prctl(2)`.
pub fn resign_as_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(None)?)
}

/// SIGKILL for this process when its parent ends. Cleared by every change of credentials.
///
/// # Errors
/// Of `prctl(2)`.
pub fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(
        Signal::KILL,
    ))?)
}

/// Keeps other processes from attaching to this one until it executes a program (CVE-2016-9962).
///
/// # Errors
/// Of `prctl(2)`.
pub fn set_undumpable() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(
        DumpableBehavior::NotDumpable,
    )?)
}

/// A session keyring of one's own. Quotas make this fail on busy hosts, which must not keep a
/// container from starting (S22), so the result is not told.
pub fn join_new_session_keyring() {
    // SAFETY: KEYCTL_JOIN_SESSION_KEYRING with a null name takes no other argument.
    unsafe { libc::syscall(libc::SYS_keyctl, 1usize, 0usize, 0usize, 0usize, 0usize) };
}

/// Replaces the program. Returns only the error.
pub fn execve(path: &CStr, args: &[impl AsRef<CStr>], env: &[impl AsRef<CStr>]) -> io::Error {
    match nix::unistd::execve(path, args, env) {
        Ok(never) => match never {},
        Err(errno) => errno.into(),
    }
}

/// Start time of a process in clock ticks since boot: with the pid, its identity.
///
/// # Errors
/// Of reading `/proc/<pid>/stat`; `InvalidData` when it has no such field.
pub fn start_ticks(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses, and may itself contain any of them.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19))
        .and_then(|ticks| ticks.parse().ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Gives unused heap pages back to the kernel.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives back stack pages that deeper calls have used. They read as zero when they are used again.
pub fn trim_stack() {
    /// Room for this call and what it calls, in bytes: `madvise` itself needs next to nothing.
    const KEEP: usize = 4 * 1024;
    let mut marker = 0u8;
    let here = (&raw mut marker).addr();
    let mut low: *mut libc::c_void = std::ptr::null_mut();
    let mut size = 0;
    // SAFETY: `attr` is initialised by pthread_getattr_np before it is read and destroyed after;
    // `low` and `size` are writable.
    let known = unsafe {
        let mut attr: libc::pthread_attr_t = std::mem::zeroed();
        let known = libc::pthread_getattr_np(libc::pthread_self(), &raw mut attr) == 0;
        if known {
            libc::pthread_attr_getstack(&raw const attr, &raw mut low, &raw mut size);
            libc::pthread_attr_destroy(&raw mut attr);
        }
        known
    };
    let page = rustix::param::page_size();
    let end = here.saturating_sub(KEEP) / page * page;
    let inside = known && low.addr() <= end && here < low.addr() + size;
    if inside {
        // SAFETY: the range is the lower part of this thread's own stack, more than `KEEP` below
        // the innermost frame: nothing live is there. A part that is not mapped (yet) is skipped
        // with ENOMEM.
        unsafe {
            libc::madvise(low, end - low.addr(), libc::MADV_DONTNEED);
        }
    }
}

/// The descriptor's path under the caller's own `/proc`, for calls that only take strings.
#[must_use]
pub fn fd_path(fd: BorrowedFd<'_>) -> std::path::PathBuf {
    use std::os::fd::AsRawFd;
    std::path::PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Lets the process run on every CPU that its cgroup allows, at the default niceness.
pub fn reset_scheduling() {
    let mut all = rustix::thread::CpuSet::new();
    for cpu in 0..rustix::thread::CpuSet::MAX_CPU {
        all.set(cpu);
    }
    // Both are inherited wishes, not rights: a kernel that refuses leaves the container runnable.
    let _ = rustix::thread::sched_setaffinity(None, &all);
    let _ = rustix::process::setpriority_process(None, 0);
}

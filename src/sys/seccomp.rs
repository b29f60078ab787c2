//! Loading a seccomp filter into the calling thread. Knows nothing of profiles.

use std::io;

/// One classic BPF instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// `SECCOMP_FILTER_FLAG_*`, each with the kernel's value.
pub const FLAG_TSYNC: u32 = 1;
pub const FLAG_LOG: u32 = 2;
pub const FLAG_SPEC_ALLOW: u32 = 4;
pub const FLAG_WAIT_KILLABLE_RECV: u32 = 32;

/// Audit numbers of the architectures, as `seccomp_data.arch` holds them.
pub const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
pub const AUDIT_ARCH_I386: u32 = 0x4000_0003;
pub const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;

const SET_MODE_FILTER: libc::c_ulong = 1;
const GET_ACTION_AVAIL: libc::c_ulong = 2;

/// Puts `program` in force for the calling thread and all that it starts. Allocates nothing.
///
/// Flags that only tune (`LOG`, `SPEC_ALLOW`) are dropped when this kernel does not know them.
///
/// # Errors
/// `EACCES` without `CAP_SYS_ADMIN` and without `no_new_privs`; `EINVAL` for a program that the
/// kernel refuses.
pub fn load(program: &[Instruction], flags: u32) -> io::Result<()> {
    let len =
        u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let prog = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    match set_mode_filter(flags, &prog) {
        Ok(()) => Ok(()),
        Err(e) => match e.raw_os_error() {
            // Linux < 4.14 has no LOG, < 4.17 no SPEC_ALLOW; neither changes what is allowed.
            Some(libc::EINVAL) if flags & (FLAG_LOG | FLAG_SPEC_ALLOW) != 0 => {
                set_mode_filter(flags & !(FLAG_LOG | FLAG_SPEC_ALLOW), &prog)
            }
            // Linux < 3.17 has no seccomp(2), and an outer sandbox may hide it.
            Some(libc::ENOSYS) => prctl_filter(&prog),
            _ => Err(e),
        },
    }
}

/// Whether the kernel's seccomp(2) knows the filter return value `action`.
pub fn has_action(action: u32) -> bool {
    // SAFETY: the third argument must point to a readable u32 for the length of the call, which
    // the reference to a local does.
    let rc = unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) };
    rc == 0
}

fn set_mode_filter(flags: u32, prog: &libc::sock_fprog) -> io::Result<()> {
    // SAFETY: seccomp(SET_MODE_FILTER) reads a `sock_fprog` and `len` instructions behind its
    // pointer: `prog` is borrowed from the caller, which built it over a live slice of exactly that
    // length and of a type with the layout of `sock_filter`. Nothing is written or kept.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            libc::c_ulong::from(flags),
            std::ptr::from_ref(prog),
        )
    };
    match rc {
        0 => Ok(()),
        // With TSYNC a positive result is the id of the thread that could not be synchronised.
        n if n > 0 => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        _ => Err(io::Error::last_os_error()),
    }
}

fn prctl_filter(prog: &libc::sock_fprog) -> io::Result<()> {
    // SAFETY: as for `set_mode_filter`; prctl(PR_SET_SECCOMP, FILTER) reads the same structure.
    let rc = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::c_ulong::from(libc::SECCOMP_MODE_FILTER),
            std::ptr::from_ref(prog),
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes any system call, to see what a filter answers.
///
/// # Errors
/// The call's errno.
#[cfg(test)]
pub fn probe(number: i64, arguments: [u64; 6]) -> io::Result<i64> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the tests that call this pass numbers and arguments by which no call writes memory,
    // closes a descriptor or ends a thread: pointers are null, descriptors are -1, operations are
    // out of range.
    let rc = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

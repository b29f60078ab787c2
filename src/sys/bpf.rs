//! bpf(2) for device access of a cgroup: a small eBPF assembler, loading and attaching.
//!
//! Knows the instruction set and the system call; which devices are allowed is decided elsewhere.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One eBPF instruction, laid out as `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u8,
    /// Destination in the low four bits, source in the high four.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// The registers that device programs use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Register {
    R0 = 0,
    /// The context on entry.
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R5 = 5,
}

impl Instruction {
    const fn new(code: u8, dst: Register, src: u8, offset: i16, immediate: i32) -> Self {
        Instruction {
            code,
            registers: dst as u8 | (src << 4),
            offset,
            immediate,
        }
    }

    /// `dst = *(u32 *)(src + offset)`
    pub const fn load_u32(dst: Register, src: Register, offset: i16) -> Self {
        Self::new(0x61, dst, src as u8, offset, 0)
    }

    /// `dst = src` (32 bit)
    pub const fn copy(dst: Register, src: Register) -> Self {
        Self::new(0xbc, dst, src as u8, 0, 0)
    }

    /// `dst = immediate` (64 bit)
    pub const fn set(dst: Register, immediate: i32) -> Self {
        Self::new(0xb7, dst, 0, 0, immediate)
    }

    /// `dst &= immediate` (32 bit)
    pub const fn and(dst: Register, immediate: i32) -> Self {
        Self::new(0x54, dst, 0, 0, immediate)
    }

    /// `dst >>= immediate` (32 bit)
    pub const fn shift_right(dst: Register, immediate: i32) -> Self {
        Self::new(0x74, dst, 0, 0, immediate)
    }

    /// `if dst == immediate goto pc + 1 + offset`
    pub const fn jump_if_eq(dst: Register, immediate: i32, offset: i16) -> Self {
        Self::new(0x15, dst, 0, offset, immediate)
    }

    /// `if dst != immediate goto pc + 1 + offset`
    pub const fn jump_if_ne(dst: Register, immediate: i32, offset: i16) -> Self {
        Self::new(0x55, dst, 0, offset, immediate)
    }

    pub const fn exit() -> Self {
        Self::new(0x95, Register::R0, 0, 0, 0)
    }
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Programs of the ancestors stay in force, and ours does not forbid those of descendants.
const F_ALLOW_MULTI: u32 = 2;

/// The first fields of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what follows as zero.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

#[repr(C)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

#[repr(C)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Loads a device program (`BPF_PROG_TYPE_CGROUP_DEVICE`).
///
/// # Errors
/// `EPERM` without `CAP_BPF`/`CAP_SYS_ADMIN`, `EINVAL` when the verifier refuses the program.
pub fn load_device_program(program: &[Instruction]) -> io::Result<OwnedFd> {
    let count =
        u32::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let license = c"Dual MIT/GPL";
    let mut attr = LoadAttr {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: count,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    let fd = bpf(PROG_LOAD, &mut attr)?;
    // SAFETY: a non-negative result of BPF_PROG_LOAD is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a device program to a cgroup2 directory and takes off those that were there before, in
/// this order: at no time is everything allowed.
///
/// # Errors
/// Those of bpf(2); `EINVAL` for a directory that is not of cgroup2.
pub fn replace_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let before = attached_device_programs(cgroup)?;
    attach_device_program(cgroup, program)?;
    for id in before {
        let old = program_by_id(id)?;
        let mut attr = AttachAttr {
            target_fd: number(cgroup),
            attach_bpf_fd: old.as_raw_fd() as u32,
            attach_type: ATTACH_CGROUP_DEVICE,
            attach_flags: 0,
        };
        bpf(PROG_DETACH, &mut attr)?;
    }
    Ok(())
}

/// Attaches a device program beside those that are there.
///
/// # Errors
/// As [`replace_device_program`].
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = AttachAttr {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: F_ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &mut attr).map(drop)
}

/// Ids of the device programs attached to exactly this cgroup.
///
/// # Errors
/// Those of bpf(2).
pub fn attached_device_programs(cgroup: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    // The kernel allows 64 programs a cgroup (BPF_CGROUP_MAX_PROGS).
    let mut ids = [0u32; 64];
    let mut attr = QueryAttr {
        target_fd: number(cgroup),
        attach_type: ATTACH_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        padding: 0,
    };
    bpf(PROG_QUERY, &mut attr)?;
    let n = (attr.prog_cnt as usize).min(ids.len());
    Ok(ids[..n].to_vec())
}

fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = IdAttr {
        id,
        next_id: 0,
        open_flags: 0,
    };
    let fd = bpf(PROG_GET_FD_BY_ID, &mut attr)?;
    // SAFETY: a non-negative result is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    // A borrowed descriptor is never negative.
    fd.as_raw_fd() as u32
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<i32> {
    // SAFETY: bpf(2) reads and writes at most `size` bytes at the pointer: that is the size of the
    // live, exclusively borrowed attribute. Pointers inside it come from the callers above, which
    // keep the program, the licence and the id array alive beyond this call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            std::mem::size_of::<T>(),
        )
    };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc as i32)
    }
}

//! BPF programs on a cgroup that move one socket address to another port.
//!
//! Every process below the cgroup sees 127.0.0.11:53 answered, although the listener sits on a high
//! port of the same network namespace and port 53 stays free to bind. Which namespaces take part,
//! and at which port, is a map from namespace cookie to port.
//!
//! Costs one map element per container, against 0.4 ms for a NAT table in each namespace.

use std::io;
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const HELPER_MAP_LOOKUP: i32 = 1;
/// Since 5.7.
const HELPER_NETNS_COOKIE: i32 = 122;
/// Namespaces, more than one machine can hold.
const MAX_ENTRIES: u32 = 65536;

/// Offsets in `struct bpf_sock_addr`.
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;

/// Where a program is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Connect4 = 10,
    Connect6 = 11,
    Send4 = 14,
    Send6 = 15,
    Receive4 = 19,
    Receive6 = 20,
    PeerName4 = 29,
    PeerName6 = 30,
}

impl Hook {
    const ALL: [Hook; 8] = [
        Hook::Connect4,
        Hook::Connect6,
        Hook::Send4,
        Hook::Send6,
        Hook::Receive4,
        Hook::Receive6,
        Hook::PeerName4,
        Hook::PeerName6,
    ];

    /// Sockets of the other family that speak to `::ffff:127.0.0.11`.
    fn is_mapped(self) -> bool {
        matches!(
            self,
            Hook::Connect6 | Hook::Send6 | Hook::Receive6 | Hook::PeerName6
        )
    }

    /// On the way out the listener's port replaces the public one, on the way in the reverse.
    fn is_outgoing(self) -> bool {
        matches!(
            self,
            Hook::Connect4 | Hook::Connect6 | Hook::Send4 | Hook::Send6
        )
    }
}

/// The attached programs; dropping detaches them.
pub struct PortRedirect {
    map: OwnedFd,
    _links: Vec<OwnedFd>,
}

impl PortRedirect {
    /// Attaches to a cgroup2 directory, for `address:port` as seen by the processes below it.
    ///
    /// Fails with `EPERM`, `EINVAL` or `ENOSYS` where the kernel or a sandbox has no such programs.
    pub fn attach(
        cgroup: BorrowedFd<'_>,
        address: Ipv4Addr,
        port: u16,
    ) -> io::Result<PortRedirect> {
        let map = create_map()?;
        let mut links = Vec::new();
        for hook in Hook::ALL {
            let program = load(hook, &map, address, port)?;
            links.push(link(&program, cgroup, hook)?);
        }
        Ok(PortRedirect { map, _links: links })
    }

    /// Sockets of the namespace are redirected to `port` from now on.
    pub fn insert(&self, netns_cookie: u64, port: u16) -> io::Result<()> {
        let value = u32::from(port.to_be());
        let attributes = MapElement {
            map: self.map.as_raw_fd() as u32,
            _padding: 0,
            key: (&raw const netns_cookie) as u64,
            value: (&raw const value) as u64,
            flags: 0,
        };
        // SAFETY: `BPF_MAP_UPDATE_ELEM` reads eight bytes at `key` and four at `value`, the sizes
        // that the map was created with; both live on the stack for the whole call.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attributes) }.map(drop)
    }

    /// Ends the redirection; nothing happens if there was none.
    pub fn remove(&self, netns_cookie: u64) -> io::Result<()> {
        let attributes = MapElement {
            map: self.map.as_raw_fd() as u32,
            _padding: 0,
            key: (&raw const netns_cookie) as u64,
            value: 0,
            flags: 0,
        };
        // SAFETY: `BPF_MAP_DELETE_ELEM` reads eight bytes at `key`, the map's key size; it lives on
        // the stack for the whole call.
        match unsafe { bpf(BPF_MAP_DELETE_ELEM, &attributes) } {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other.map(drop),
        }
    }
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
struct MapElement {
    map: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    kind: u32,
    n_instructions: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    link_index: u32,
    expected_attach: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
}

/// # Safety
///
/// `attributes` must be the leading part of `union bpf_attr` that `command` reads, and every
/// address in it must stay valid, for the sizes the command takes from it, until the call returns.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: `bpf(2)` reads `size_of::<T>()` bytes at `attributes`, which is a live reference;
    // what the bytes mean and point to is the caller's promise. The kernel takes a shorter union
    // as one that is zero behind it.
    let code = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(code)
    }
}

/// # Safety
///
/// `number` must be a descriptor that a successful `bpf` call has just made.
unsafe fn own(number: libc::c_long) -> OwnedFd {
    // SAFETY: `from_raw_fd` wants an open descriptor without another owner: the caller promises
    // that it is new. `bpf(2)` makes descriptors close-on-exec.
    unsafe { OwnedFd::from_raw_fd(number as libc::c_int) }
}

fn create_map() -> io::Result<OwnedFd> {
    let attributes = MapCreate {
        kind: BPF_MAP_TYPE_HASH,
        key_bytes: 8,
        value_bytes: 4,
        max_entries: MAX_ENTRIES,
        flags: BPF_F_NO_PREALLOC,
    };
    // SAFETY: `BPF_MAP_CREATE` reads these five numbers and no addresses; on success it returns a
    // new descriptor.
    unsafe { bpf(BPF_MAP_CREATE, &attributes).map(|number| own(number)) }
}

fn load(hook: Hook, map: &OwnedFd, address: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let program = assemble(hook, map.as_raw_fd(), address, port);
    let license = c"MIT";
    let mut name = [0; 16];
    name[..9].copy_from_slice(b"wharf_dns");
    let attributes = ProgramLoad {
        kind: BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        n_instructions: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_bytes: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
        link_index: 0,
        expected_attach: hook as u32,
    };
    // SAFETY: `BPF_PROG_LOAD` reads `n_instructions` times eight bytes at `instructions` (the
    // vector, alive until the end of this function) and a C string at `license` (static); there is
    // no log buffer. On success it returns a new descriptor.
    unsafe { bpf(BPF_PROG_LOAD, &attributes).map(|number| own(number)) }
}

fn link(program: &OwnedFd, cgroup: BorrowedFd<'_>, hook: Hook) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        program: program.as_raw_fd() as u32,
        target: cgroup.as_raw_fd() as u32,
        attach: hook as u32,
        flags: 0,
    };
    // SAFETY: `BPF_LINK_CREATE` reads these four numbers and no addresses; on success it returns a
    // new descriptor. Closing it detaches the program.
    unsafe { bpf(BPF_LINK_CREATE, &attributes).map(|number| own(number)) }
}

/// One eight-byte instruction: operation, registers, offset, immediate.
fn instruction(operation: u8, to: u8, from: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(operation)
        | u64::from(to | (from << 4)) << 8
        | u64::from(offset as u16) << 16
        | u64::from(immediate as u32) << 32
}

fn assemble(hook: Hook, map: i32, address: Ipv4Addr, port: u16) -> Vec<u64> {
    const LOAD_WORD: u8 = 0x61;
    const STORE_WORD: u8 = 0x63;
    const STORE_DOUBLE: u8 = 0x7b;
    const LOAD_IMMEDIATE_DOUBLE: u8 = 0x18;
    const MOVE: u8 = 0xbf;
    const MOVE_IMMEDIATE: u8 = 0xb7;
    const ADD_IMMEDIATE: u8 = 0x07;
    const JUMP_NOT_EQUAL_32: u8 = 0x56;
    const JUMP_NOT_EQUAL: u8 = 0x5d;
    const JUMP_EQUAL_IMMEDIATE: u8 = 0x15;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const PSEUDO_MAP: u8 = 1;
    /// Stands for the distance to the end until that is known.
    const TO_END: i16 = i16::MAX;

    let address = i32::from_ne_bytes(address.octets());
    let public = i32::from(port.to_be() as i16) & 0xffff;
    let mut code = vec![instruction(MOVE, 6, 1, 0, 0)];
    let mut require = |offset: i16, value: i32| {
        code.push(instruction(LOAD_WORD, 2, 6, offset, 0));
        code.push(instruction(JUMP_NOT_EQUAL_32, 2, 0, TO_END, value));
    };
    if hook.is_mapped() {
        require(USER_IP6, 0);
        require(USER_IP6 + 4, 0);
        require(USER_IP6 + 8, i32::from_ne_bytes([0, 0, 0xff, 0xff]));
        require(USER_IP6 + 12, address);
    } else {
        require(USER_IP4, address);
    }
    if hook.is_outgoing() {
        require(USER_PORT, public);
    }
    code.extend([
        instruction(MOVE, 1, 6, 0, 0),
        instruction(CALL, 0, 0, 0, HELPER_NETNS_COOKIE),
        instruction(STORE_DOUBLE, 10, 0, -8, 0),
        instruction(LOAD_IMMEDIATE_DOUBLE, 1, PSEUDO_MAP, 0, map),
        0,
        instruction(MOVE, 2, 10, 0, 0),
        instruction(ADD_IMMEDIATE, 2, 0, 0, -8),
        instruction(CALL, 0, 0, 0, HELPER_MAP_LOOKUP),
        instruction(JUMP_EQUAL_IMMEDIATE, 0, 0, TO_END, 0),
        instruction(LOAD_WORD, 3, 0, 0, 0),
    ]);
    if !hook.is_outgoing() {
        code.extend([
            instruction(LOAD_WORD, 2, 6, USER_PORT, 0),
            instruction(JUMP_NOT_EQUAL, 2, 3, TO_END, 0),
            instruction(MOVE_IMMEDIATE, 3, 0, 0, public),
        ]);
    }
    code.push(instruction(STORE_WORD, 6, 3, USER_PORT, 0));
    let end = code.len();
    code.extend([
        instruction(MOVE_IMMEDIATE, 0, 0, 0, 1),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    for (index, word) in code.iter_mut().enumerate() {
        let operation = (*word & 0xff) as u8;
        let is_jump = matches!(
            operation,
            JUMP_NOT_EQUAL_32 | JUMP_NOT_EQUAL | JUMP_EQUAL_IMMEDIATE
        );
        if is_jump && (*word >> 16) as u16 == TO_END as u16 {
            let distance = (end - index - 1) as u64;
            *word = (*word & !(0xffff << 16)) | distance << 16;
        }
    }
    code
}

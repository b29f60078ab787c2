//! What the kernel says: processes, mounts, cgroups, links, nftables, ports. Never what wharf says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{NfTablesMessage, TableAttribute, TableMessage};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// A process of the test's pid namespace.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: i32,
    /// Arguments joined by spaces; the name in brackets for a zombie or a kernel thread.
    pub command: String,
    /// What it calls itself, at most 15 bytes.
    pub name: String,
    /// `State:` of its status file, such as `S` or `Z`.
    pub state: char,
}

/// All processes but init and the asker.
pub fn processes() -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if pid == 1 || pid == std::process::id() as i32 {
            continue;
        }
        // Processes end while we read.
        let Some(state) = status_field(pid, "State") else {
            continue;
        };
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut command = String::from_utf8_lossy(&arguments)
            .trim_end_matches('\0')
            .replace('\0', " ");
        if command.is_empty() {
            command = format!("[{}]", status_field(pid, "Name").unwrap_or_default());
        }
        found.push(Process {
            pid,
            command,
            name: status_field(pid, "Name").unwrap_or_default(),
            state: state.chars().next().unwrap_or('?'),
        });
    }
    found
}

/// Processes with exactly these arguments, joined by spaces.
pub fn pids_of(command: &str) -> Vec<i32> {
    let mut pids: Vec<i32> = processes()
        .into_iter()
        .filter(|process| process.command == command && process.state != 'Z')
        .map(|process| process.pid)
        .collect();
    pids.sort_unstable();
    pids
}

/// The session that a process is in.
pub fn session(pid: i32) -> i32 {
    stat_field(pid, 6) as i32
}

/// When a process started, in clock ticks since the boot.
pub fn start_ticks(pid: i32) -> u64 {
    stat_field(pid, 22)
}

/// A field of `proc_pid_stat(5)` after the name, which may hold spaces.
fn stat_field(pid: i32, number: usize) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let rest = stat.rsplit(") ").next().unwrap_or_default();
    let field = rest.split(' ').nth(number - 3);
    let number = field.and_then(|text| text.parse().ok());
    number.expect("the kernel writes this field")
}

/// A field of `/proc/<pid>/status`.
pub fn status_field(pid: i32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let prefix = format!("{field}:");
    let line = status.lines().find(|line| line.starts_with(&prefix))?;
    Some(line[prefix.len()..].trim().to_owned())
}

/// The identity of a process's namespace, as `net:[4026531840]`.
pub fn namespace(pid: i32, kind: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}"))
        .unwrap_or_else(|error| panic!("the {kind} namespace of {pid}: {error}"));
    link.to_str().expect("the kernel writes ASCII").to_owned()
}

/// A line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mount {
    pub target: String,
    /// Options of this mount, comma separated.
    pub options: String,
    pub kind: String,
}

/// The mounts that a process sees; `None` when it is gone.
pub fn mounts_of(pid: i32) -> Option<Vec<Mount>> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(4);
        Some(Mount {
            target: fields.next()?.to_owned(),
            options: fields.next()?.to_owned(),
            kind: right.split(' ').next()?.to_owned(),
        })
    };
    Some(text.lines().filter_map(parse).collect())
}

/// The mounts of this process's own namespace.
pub fn own_mounts() -> Vec<Mount> {
    mounts_of(std::process::id() as i32).expect("we are there")
}

/// Network interfaces of this process's network namespace.
pub fn links() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/net/dev").expect("/proc is mounted");
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

/// Names of the nftables tables of this process's network namespace, by netlink.
pub fn nft_tables() -> BTreeSet<String> {
    let mut socket = Socket::new(NETLINK_NETFILTER).expect("netfilter is in the kernel");
    socket.bind_auto().expect("the kernel gives a port id");
    socket
        .connect(&SocketAddr::new(0, 0))
        .expect("the kernel listens");
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut request = NetlinkMessage::new(
        header,
        NetlinkPayload::from(NetfilterMessage::new(
            NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0),
            NfTablesMessage::GetTable(TableMessage {
                attributes: Vec::new(),
            }),
        )),
    );
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0).expect("the kernel takes requests");
    let mut tables = BTreeSet::new();
    loop {
        let (answer, _) = socket.recv_from_full().expect("the kernel answers");
        let mut rest = &answer[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest)
                .expect("the kernel writes whole messages");
            match message.payload {
                NetlinkPayload::Done(_) => return tables,
                NetlinkPayload::Error(error) => panic!("table dump: {error:?}"),
                NetlinkPayload::InnerMessage(message) => {
                    if let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) =
                        message.inner
                    {
                        tables.extend(table.attributes.into_iter().filter_map(|attribute| {
                            match attribute {
                                TableAttribute::Name(name) => Some(name),
                                _ => None,
                            }
                        }));
                    }
                }
                _ => {}
            }
            // Messages are padded to four bytes.
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// Listening TCP and bound UDP ports of this process's network namespace.
pub fn bound_ports() -> BTreeSet<String> {
    const LISTEN: &str = "0A";
    const UDP_UNCONNECTED: &str = "07";
    let mut ports = BTreeSet::new();
    for (protocol, state) in [
        ("tcp", LISTEN),
        ("tcp6", LISTEN),
        ("udp", UDP_UNCONNECTED),
        ("udp6", UDP_UNCONNECTED),
    ] {
        let text = fs::read_to_string(format!("/proc/self/net/{protocol}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(&found)) = (fields.get(1), fields.get(3)) else {
                continue;
            };
            let port = local.rsplit(':').next().unwrap_or_default();
            let port = u16::from_str_radix(port, 16).expect("the kernel writes hexadecimal");
            if found == state {
                ports.insert(format!("{protocol}/{port}"));
            }
        }
    }
    ports
}

/// Every directory in which a cgroup tree is mounted.
fn cgroup_trees() -> Vec<PathBuf> {
    let mounts = own_mounts();
    let trees = mounts
        .iter()
        .filter(|mount| mount.kind == "cgroup" || mount.kind == "cgroup2");
    trees.map(|mount| PathBuf::from(&mount.target)).collect()
}

/// Cgroups of the engine with this tag, in all hierarchies, children first.
pub fn cgroups(tag: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for tree in cgroup_trees() {
        collect_cgroups(&tree, tag, 0, &mut found);
    }
    found
}

fn collect_cgroups(directory: &Path, tag: &str, n_above: u32, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        let ours = n_above > 0
            || name
                .to_str()
                .is_some_and(|name| name.contains("wharf") && name.contains(tag));
        // An engine's cgroup may stand below the one that this process is in.
        collect_cgroups(
            &entry.path(),
            tag,
            if ours { n_above + 1 } else { 0 },
            found,
        );
        if ours {
            found.push(entry.path());
        }
    }
}

/// Removes what a failed case left in the cgroup trees; its processes are dead.
pub fn remove_cgroups(tag: &str) {
    for directory in cgroups(tag) {
        // A cgroup may be busy for a moment after its last process died; the next run of this
        // suite uses another tag, so that a survivor harms nobody.
        let _ = super::wait::poll(std::time::Duration::from_secs(2), || {
            fs::remove_dir(&directory).ok()
        });
    }
}

/// Regular files, sockets and links under a directory, relative to it.
pub fn files_under(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(entry.path());
            } else {
                let path = entry.path();
                let relative = path.strip_prefix(root).expect("the walk began there");
                found.push(relative.to_owned());
            }
        }
    }
    found.sort();
    found
}

/// As [`files_under`], and the directories below the first level: those of the first level are part
/// of an empty store, too.
pub fn entries_under(root: &Path) -> Vec<PathBuf> {
    let mut found = files_under(root);
    for first in fs::read_dir(root).into_iter().flatten().flatten() {
        for second in fs::read_dir(first.path()).into_iter().flatten().flatten() {
            if second.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = second.path();
                let relative = path.strip_prefix(root).expect("the walk began there");
                found.push(relative.to_owned());
            }
        }
    }
    found
}

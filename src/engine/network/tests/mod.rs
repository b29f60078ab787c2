//! Networks on the real kernel: every test plays a host in a network namespace of its own.
//!
//! Containers and the outside are further namespaces. What is asserted is what packets do and what
//! netlink lists, not what the engine says of itself. Without root the tests return early.

mod life;
mod names;
mod reach;

use std::fs;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;
use crate::compose::{PortBinding, Protocol};
use crate::plan::EndpointConfig;
use crate::sys::netns as sys_netns;
use crate::sys::route::{LinkLocal, Veth};

const TAG: &str = "t3st";
const TABLE: &str = "wharft3st";
const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Long for a packet between namespaces, short for a test.
const DROPPED: Duration = Duration::from_millis(300);

/// A host of one test.
struct Host {
    directory: tempfile::TempDir,
    networks: Networks,
}

/// Runs the test on a thread in a fresh network namespace, which its worker threads inherit.
fn on_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send) {
    if !nix::unistd::geteuid().is_root() {
        let note = b"skipped: needs root\n";
        io::stderr().write_all(note).unwrap();
        return;
    }
    sys_netns::with_new(|| {
        let mut changes = Changes::default();
        changes.set_up(1, LinkLocal::On);
        Route::open()?.apply(changes).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let directory = tempfile::tempdir()?;
        fs::write(
            directory.path().join("resolv.conf"),
            "nameserver 127.0.0.53\n",
        )?;
        let networks = open(&directory);
        runtime.block_on(test(Host {
            directory,
            networks,
        }));
        Ok(())
    })
    .unwrap();
}

fn open(directory: &tempfile::TempDir) -> Networks {
    let store = Store::open(&directory.path().join("state.redb")).unwrap();
    Networks::open_with(store, TAG, &directory.path().join("resolv.conf")).unwrap()
}

impl Host {
    /// A new engine on the same state, the old one gone without a word.
    fn restart(self) -> Host {
        let Host {
            directory,
            networks,
        } = self;
        drop(networks);
        let networks = open(&directory);
        Host {
            directory,
            networks,
        }
    }

    async fn network(&self, name: &str, internal: bool) -> NetworkRecord {
        let config = NetworkConfig {
            name: name.to_owned(),
            enable_ipv4: true,
            internal,
            ..NetworkConfig::default()
        };
        self.networks.create(&config).await.unwrap();
        self.networks.record(name).unwrap()
    }

    fn resolv_conf(&self) -> PathBuf {
        self.directory.path().join("resolv.conf")
    }
}

/// A machine on the host's uplink.
fn outside() -> OwnedFd {
    let (fd, mut inner) = sys_netns::with_new(Route::open).unwrap();
    let mut route = Route::open().unwrap();
    let mut changes = Changes::default();
    changes.add_bridge("uplink", [2, 0, 0, 0, 0, 1], 1500);
    route.apply(changes).unwrap();
    let uplink = route.link("uplink").unwrap().unwrap().index;
    let mut changes = Changes::default();
    changes.add_address(uplink, IpNet::new(HOST.into(), 24).unwrap());
    changes.set_up(uplink, LinkLocal::Off);
    changes.add_veth(&Veth {
        name: "wire",
        mac: [2, 0, 0, 0, 0, 2],
        peer_name: "eth0",
        peer_mac: [2, 0, 0, 0, 0, 3],
        mtu: 1500,
        master: uplink,
        peer_netns: fd.as_fd(),
    });
    changes.bring_up_port("wire", "");
    route.apply(changes).unwrap();
    let index = inner.link("eth0").unwrap().unwrap().index;
    let mut changes = Changes::default();
    changes.set_up(1, LinkLocal::On);
    changes.add_address(index, IpNet::new(OUTSIDE.into(), 24).unwrap());
    changes.set_up(index, LinkLocal::Off);
    // As an attacker would: everything of the host's containers is behind the host.
    changes.add_default_route(index, HOST.into());
    inner.apply(changes).unwrap();
    fd
}

/// A container with what tests vary.
#[derive(Default)]
struct Container {
    id: String,
    name: String,
    endpoints: Vec<EndpointConfig>,
    ports: Vec<PortBinding>,
    dns: Vec<IpAddr>,
}

impl Container {
    fn new(name: &str, networks: &[&str]) -> Container {
        Container {
            id: format!("{:0<64}", hex::encode(name)),
            name: name.to_owned(),
            endpoints: networks
                .iter()
                .map(|network| EndpointConfig {
                    network: (*network).to_owned(),
                    aliases: vec![name.split('-').next().unwrap().to_owned()],
                    ..EndpointConfig::default()
                })
                .collect(),
            ..Container::default()
        }
    }

    fn publish(
        mut self,
        host_ip: Option<&str>,
        host_port: u16,
        target: u16,
        protocol: Protocol,
    ) -> Container {
        self.ports.push(PortBinding {
            host_ip: host_ip.map(|address| address.parse().unwrap()),
            published: (host_port > 0).then_some((host_port, host_port)),
            target,
            protocol,
            name: None,
            app_protocol: None,
            mode: None,
        });
        self
    }

    fn attach<'a>(&'a self, netns: &'a Netns) -> Attach<'a> {
        Attach {
            id: &self.id,
            name: &self.name,
            hostname: &self.name,
            domainname: None,
            netns,
            endpoints: &self.endpoints,
            ports: &self.ports,
            expose: &[],
            dns: &self.dns,
            dns_search: &[],
            dns_opt: &[],
            extra_hosts: &[],
        }
    }

    async fn start(&self, networks: &Networks) -> (Netns, Attachment) {
        let netns = Netns::create().await.unwrap();
        let attachment = networks.attach(&self.attach(&netns)).await.unwrap();
        (netns, attachment)
    }
}

fn address(attachment: &Attachment) -> IpAddr {
    attachment.endpoints[0].ipv4.unwrap()
}

fn within<T: Send>(netns: impl AsFd, work: impl FnOnce() -> T + Send) -> T {
    sys_netns::within(netns.as_fd(), || Ok(work())).unwrap()
}

/// Answers each TCP connection and each datagram with the address it came from.
fn echo(netns: impl AsFd, port: u16) {
    let (tcp, udp) = within(netns, || {
        (
            TcpListener::bind(("0.0.0.0", port)).unwrap(),
            UdpSocket::bind(("0.0.0.0", port)).unwrap(),
        )
    });
    // The threads end with the test's process; their sockets keep only this test's namespaces.
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = tcp.accept() {
            // The client may be gone.
            let _gone = stream.write_all(peer.ip().to_string().as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _gone = udp.send_to(peer.ip().to_string().as_bytes(), peer);
        }
    });
}

/// What a TCP server at the address says it is called from.
fn call(address: impl Into<IpAddr>, port: u16) -> io::Result<String> {
    let target = SocketAddr::new(address.into(), port);
    let mut stream = TcpStream::connect_timeout(&target, DROPPED)?;
    stream.set_read_timeout(Some(DROPPED))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn call_udp(address: impl Into<IpAddr>, port: u16) -> io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(DROPPED))?;
    socket.connect((address.into(), port))?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Whether this kernel has the switch at all (module br_netfilter); it is of the namespace.
fn filter_bridged(value: &str) -> bool {
    fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", value).is_ok()
}

/// A question to 127.0.0.11, as a resolver library in the container asks it.
fn ask(netns: impl AsFd, name: &str, kind: RecordType) -> io::Result<Message> {
    within(netns, || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send_to(&question(name, kind), "127.0.0.11:53")?;
        let mut buffer = [0; 4096];
        let (length, server) = socket.recv_from(&mut buffer)?;
        // musl drops an answer that comes from elsewhere.
        assert_eq!(server.to_string(), "127.0.0.11:53");
        Message::from_vec(&buffer[..length]).map_err(io::Error::other)
    })
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut query = Message::query();
    query.metadata.id = 4711;
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query.to_vec().unwrap()
}

fn addresses_in(message: &Message) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = message
        .answers
        .iter()
        .filter_map(|record| record.data.ip_addr())
        .collect();
    addresses.sort();
    addresses
}

/// A cgroup that this thread, and what it spawns, is in while the test runs. The process as a whole
/// stays where it is, because other tests run beside this one.
struct Cgroup {
    root: &'static str,
    path: PathBuf,
}

impl Cgroup {
    fn enter(name: &str) -> Option<Cgroup> {
        let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            .into_iter()
            .find(|root| fs::exists(format!("{root}/cgroup.controllers")).unwrap_or(false))?;
        let path = PathBuf::from(format!("{root}/wharf-test-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let cgroup = Cgroup { root, path };
        let entered = fs::write(cgroup.path.join("cgroup.type"), "threaded")
            .and_then(|()| fs::write(cgroup.path.join("cgroup.threads"), "0"));
        if let Err(error) = entered {
            let note = format!("skipped: no threaded cgroup ({error})\n");
            io::stderr().write_all(note.as_bytes()).unwrap();
            return None;
        }
        Some(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let threads = fs::read_to_string(self.path.join("cgroup.threads")).unwrap_or_default();
        for thread in threads.lines() {
            // It may have ended.
            let _gone = fs::write(format!("{}/cgroup.threads", self.root), thread);
        }
        // An empty cgroup that stays does no harm.
        let _stays = fs::remove_dir(&self.path);
    }
}

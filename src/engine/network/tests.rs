//! Networks on the real kernel: every test plays a host in a network namespace of its own.
//!
//! Containers and the outside are further namespaces. What is asserted is what packets do and what
//! netlink lists, not what the engine says of itself. Without root the tests return early.

use std::fs;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
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
        alias: "",
    });
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

/// Links go with their namespaces, which the kernel ends in its own time.
async fn until_links_are(expected: &[String]) {
    let until = Instant::now() + Duration::from_secs(5);
    while names_of_links() != expected {
        assert!(Instant::now() < until, "{:?}", names_of_links());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn names_of_links() -> Vec<String> {
    let mut names: Vec<String> = Route::open()
        .unwrap()
        .links()
        .unwrap()
        .into_iter()
        .map(|link| link.name)
        .filter(|name| name.starts_with("wh") || name.starts_with("wv"))
        .collect();
    names.sort();
    names
}

fn has_table() -> bool {
    Nft::open()
        .unwrap()
        .tables()
        .unwrap()
        .iter()
        .any(|table| table.name == TABLE)
}

#[test]
fn who_reaches_whom() {
    on_host(|host| async move {
        filter_bridged("0");
        reachability(host).await;
    });
}

#[test]
fn who_reaches_whom_where_bridged_frames_are_filtered() {
    on_host(|host| async move {
        if filter_bridged("1") {
            reachability(host).await;
        }
    });
}

/// Whether this kernel has the switch at all (module br_netfilter); it is of the namespace.
fn filter_bridged(value: &str) -> bool {
    fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", value).is_ok()
}

async fn reachability(host: Host) {
    {
        let outside = outside();
        let front = host.network("front", false).await;
        host.network("back", false).await;
        host.network("closed", true).await;
        let networks = &host.networks;
        let web = Container::new("web-1", &["front"])
            .publish(None, 18080, 8080, Protocol::Tcp)
            .publish(Some("127.0.0.1"), 18081, 8080, Protocol::Tcp)
            .publish(None, 18080, 8080, Protocol::Udp);
        let (web_ns, web) = web.start(networks).await;
        let (near_ns, _near) = Container::new("near-1", &["front"]).start(networks).await;
        let (far_ns, _far) = Container::new("far-1", &["back"]).start(networks).await;
        let (shut_ns, shut) = Container::new("shut-1", &["closed"]).start(networks).await;
        let (shut_near_ns, _) = Container::new("shut-2", &["closed"]).start(networks).await;
        echo(&web_ns, 8080);
        echo(&shut_ns, 8080);
        echo(&outside, 9000);
        let web_ip = address(&web);
        let shut_ip = address(&shut);
        let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();

        // Neighbours speak directly.
        assert!(within(&near_ns, || call(web_ip, 8080)).is_ok());
        assert!(within(&shut_near_ns, || call(shut_ip, 8080)).is_ok());
        // Published: from the host by every address, from containers, from outside.
        assert!(call(loopback, 18080).is_ok());
        assert!(call(loopback, 18081).is_ok());
        assert!(call(HOST, 18080).is_ok());
        assert!(call_udp(loopback, 18080).is_ok());
        assert!(within(&far_ns, || call(HOST, 18080)).is_ok());
        assert!(within(&near_ns, || call(HOST, 18080)).is_ok());
        assert!(within(&web_ns, || call(HOST, 18080)).is_ok(), "hairpin");
        let gateway = front.pools[0].gateway;
        assert!(within(&web_ns, || call(gateway, 18080)).is_ok());
        let seen = within(&outside, || call(HOST, 18080)).unwrap();
        assert_eq!(seen, OUTSIDE.to_string(), "the client's address is kept");
        let seen = within(&outside, || call_udp(HOST, 18080)).unwrap();
        assert_eq!(seen, OUTSIDE.to_string());
        // ::1 cannot be translated: refused at once instead of a hang.
        let started = Instant::now();
        let error = call(std::net::Ipv6Addr::LOCALHOST, 18080).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(started.elapsed() < DROPPED);

        // Bound to loopback: from nowhere else (CVE-2025-54388).
        assert!(within(&outside, || call(HOST, 18081)).is_err());
        assert!(within(&near_ns, || call(gateway, 18081)).is_err());
        // Not published: not even with a route to it, and not past the published port's address.
        assert!(within(&outside, || call(web_ip, 8080)).is_err());
        assert!(within(&far_ns, || call(web_ip, 8080)).is_err());
        assert!(within(&far_ns, || call_udp(web_ip, 8080)).is_err());
        // Internal: nothing in, nothing out.
        assert!(within(&shut_ns, || call(OUTSIDE, 9000)).is_err());
        assert!(within(&shut_ns, || call(web_ip, 8080)).is_err());
        assert!(within(&shut_ns, || call(HOST, 18080)).is_err());
        assert!(within(&outside, || call(shut_ip, 8080)).is_err());
        assert!(within(&far_ns, || call(shut_ip, 8080)).is_err());
        // Others reach out, under the host's address.
        let seen = within(&far_ns, || call(OUTSIDE, 9000)).unwrap();
        assert_eq!(seen, HOST.to_string());

        // A reservation keeps the port, and goes with whoever holds it.
        assert!(TcpListener::bind(("0.0.0.0", 18080)).is_err());
        let conflict = Container::new("second-1", &["back"]).publish(None, 18080, 1, Protocol::Tcp);
        let netns = Netns::create().await.unwrap();
        let error = networks
            .attach(&conflict.attach(&netns))
            .await
            .err()
            .unwrap();
        assert!(
            error.to_string().ends_with("in use by container web-1"),
            "{error}"
        );
        drop(web.reservations);
    }
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

fn ask_tcp(netns: impl AsFd, name: &str) -> io::Result<Message> {
    within(netns, || {
        let mut stream = TcpStream::connect("127.0.0.11:53")?;
        assert_eq!(stream.peer_addr()?.to_string(), "127.0.0.11:53");
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let query = question(name, RecordType::A);
        stream.write_all(&(query.len() as u16).to_be_bytes())?;
        stream.write_all(&query)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer)?;
        Message::from_vec(&answer).map_err(io::Error::other)
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

/// A name server of the host that answers every name with one address, or refuses.
fn upstream(address: &str, answer: Option<Ipv4Addr>) {
    let udp = UdpSocket::bind((address, 53)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
            reply.add_queries(query.queries.iter().cloned());
            match answer {
                Some(v4) => {
                    let name = query.queries[0].name().clone();
                    reply.add_answer(Record::from_rdata(name, 60, RData::A(A(v4))));
                }
                None => reply.metadata.response_code = ResponseCode::Refused,
            }
            // The asker may be gone.
            let _gone = udp.send_to(&reply.to_vec().unwrap(), peer);
        }
    });
}

async fn names(host: &Host) {
    upstream("127.0.0.53", None);
    upstream("127.0.0.54", Some(Ipv4Addr::new(192, 0, 2, 54)));
    upstream("127.0.0.55", Some(Ipv4Addr::new(192, 0, 2, 55)));
    host.network("front", false).await;
    host.network("back", false).await;
    host.network("closed", true).await;
    let networks = &host.networks;
    let (one_ns, one) = Container::new("web-1", &["front"]).start(networks).await;
    let (_two_ns, two) = Container::new("web-2", &["front"]).start(networks).await;
    let (both_ns, _) = Container::new("both-1", &["front", "back"])
        .start(networks)
        .await;
    let (db_ns, db) = Container::new("db-1", &["back"]).start(networks).await;
    let (shut_ns, _) = Container::new("shut-1", &["closed"]).start(networks).await;
    assert!(one.resolv_conf.starts_with("nameserver 127.0.0.11\n"));

    let mut webs = vec![address(&one), address(&two)];
    webs.sort();
    let answer = ask(&both_ns, "web.", RecordType::A).unwrap();
    assert_eq!(addresses_in(&answer), webs);
    assert_eq!(addresses_in(&ask_tcp(&both_ns, "web.").unwrap()), webs);
    let answer = ask(&both_ns, "db-1.", RecordType::A).unwrap();
    assert_eq!(addresses_in(&answer), [address(&db)]);
    let answer = ask(&one_ns, "web-2.", RecordType::AAAA).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.answers.is_empty());
    let IpAddr::V4(two_v4) = address(&two) else {
        unreachable!("an IPv4 network")
    };
    let [a, b, c, d] = two_v4.octets();
    let answer = ask(
        &one_ns,
        &format!("{d}.{c}.{b}.{a}.in-addr.arpa."),
        RecordType::PTR,
    )
    .unwrap();
    assert_eq!(answer.answers[0].data.to_string(), "web-2.front.");

    // The first server refuses, the second answers: also for names of networks not one's own.
    write_resolv_conf(host, &["127.0.0.53", "127.0.0.54"]);
    let until = Instant::now() + Duration::from_secs(2);
    let outside = loop {
        let answer = ask(&db_ns, "example.org.", RecordType::A).unwrap();
        if !answer.answers.is_empty() || Instant::now() > until {
            break answer;
        }
    };
    assert_eq!(outside.metadata.id, 4711);
    assert_eq!(addresses_in(&outside), [IpAddr::from([192, 0, 2, 54])]);
    let answer = ask(&db_ns, "web-1.", RecordType::A).unwrap();
    assert_eq!(addresses_in(&answer), [IpAddr::from([192, 0, 2, 54])]);
    // A rename over the file is followed (N31).
    write_resolv_conf(host, &["127.0.0.55"]);
    let until = Instant::now() + Duration::from_secs(2);
    while addresses_in(&ask(&db_ns, "example.org.", RecordType::A).unwrap())
        != [IpAddr::from([192, 0, 2, 55])]
    {
        assert!(Instant::now() < until, "the new servers are not asked");
    }
    // Nothing of the outside for an internal network (CVE-2024-29018).
    let answer = ask(&shut_ns, "example.org.", RecordType::A).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);

    // The container's own name server fits beside (N28).
    within(&one_ns, || {
        UdpSocket::bind("0.0.0.0:53").unwrap();
        TcpListener::bind("0.0.0.0:53").unwrap();
    });
    let id = Container::new("web-2", &[]).id;
    networks.rename(&id, "site").await.unwrap();
    let answer = ask(&one_ns, "site.", RecordType::A).unwrap();
    assert_eq!(addresses_in(&answer), [address(&two)]);
    networks.detach(&id).await.unwrap();
    let answer = ask(&one_ns, "web.", RecordType::A).unwrap();
    assert_eq!(addresses_in(&answer), [address(&one)]);
}

fn write_resolv_conf(host: &Host, servers: &[&str]) {
    let text: String = servers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    let fresh = host.directory.path().join("fresh");
    fs::write(&fresh, text).unwrap();
    fs::rename(fresh, host.resolv_conf()).unwrap();
}

#[test]
fn names_by_a_table_in_each_container() {
    on_host(|host| async move { names(&host).await });
}

/// A cgroup that this process is in while the test runs.
struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    fn enter() -> Option<Cgroup> {
        let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            .into_iter()
            .find(|root| fs::exists(format!("{root}/cgroup.controllers")).unwrap_or(false))?;
        let path = PathBuf::from(format!("{root}/wharf-test-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("cgroup.procs"), "0").unwrap();
        Some(Cgroup { path })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A left-over empty cgroup does no harm.
        let _stays = fs::write(self.path.parent().unwrap().join("cgroup.procs"), "0");
        let _stays = fs::remove_dir(&self.path);
    }
}

#[test]
fn names_by_programs_on_the_cgroup() {
    on_host(|host| async move {
        let Some(cgroup) = Cgroup::enter() else {
            return;
        };
        host.networks.use_cgroup(&cgroup.path);
        names(&host).await;
        let (netns, _) = Container::new("last-1", &["front"])
            .start(&host.networks)
            .await;
        let tables = within(&netns, || Nft::open().unwrap().tables().unwrap());
        assert_eq!(tables, [], "the programs were used, not the fallback");
    });
}

#[test]
fn frames_forged_to_the_hosts_loopback_are_dropped() {
    on_host(|host| async move {
        filter_bridged("0");
        let network = host.network("front", false).await;
        let gateway = network.pools[0].gateway;
        let (netns, _) = Container::new("evil-1", &["front"])
            .start(&host.networks)
            .await;
        let victim = UdpSocket::bind("0.0.0.0:9999").unwrap();
        victim.set_read_timeout(Some(DROPPED)).unwrap();
        // Without its own loopback the container's kernel sends 127.0.0.1 to the gateway.
        within(&netns, || {
            fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            for arguments in [
                vec!["address", "delete", "127.0.0.1/8", "dev", "lo"],
                vec!["route", "add", "127.0.0.0/8", "via", &gateway.to_string()],
            ] {
                let status = Command::new("ip").args(arguments).status().unwrap();
                assert!(status.success());
            }
        });
        let send = |target: &str| {
            within(&netns, || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.send_to(b"!", target).unwrap();
            });
            victim.recv(&mut [0; 8]).is_ok()
        };
        assert!(send(&format!("{gateway}:9999")), "the way as such is open");
        assert!(!send("127.0.0.1:9999"));
        // The control: it is the table that keeps them out.
        lock(&host.networks.inner.firewall).remove().unwrap();
        assert!(send("127.0.0.1:9999"));
    });
}

#[test]
fn a_restart_keeps_addresses_ports_and_names() {
    on_host(|host| async move {
        let outside = outside();
        host.network("front", false).await;
        let web = Container::new("web-1", &["front"]).publish(None, 18080, 8080, Protocol::Tcp);
        let (netns, attachment) = web.start(&host.networks).await;
        echo(&netns, 8080);
        let _held = attachment.reservations;
        host.networks.inner.resolver.stop(&web.id).await;
        let host = host.restart();
        // Even before the container is adopted.
        assert!(within(&outside, || call(HOST, 18080)).is_ok());
        drop(netns);
        let path = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
        assert!(Netns::open(path.as_ref()).await.is_ok());
        assert_eq!(host.networks.list()[0].containers, ["web-1"]);
    });
}

#[test]
fn a_stopped_container_gets_its_address_back_and_a_removed_ones_rests() {
    on_host(|host| async move {
        host.network("front", false).await;
        let networks = &host.networks;
        let one = Container::new("one-1", &["front"]);
        let (netns, attachment) = one.start(networks).await;
        let first = address(&attachment);
        networks.detach(&one.id).await.unwrap();
        drop(netns);
        let two = Container::new("two-1", &["front"]);
        let (_two_ns, attachment) = two.start(networks).await;
        assert_ne!(address(&attachment), first);
        let (_one_ns, attachment) = one.start(networks).await;
        assert_eq!(address(&attachment), first);
        networks.detach(&one.id).await.unwrap();
        networks.release(&one.id).await.unwrap();
        let three = Container::new("three-1", &["front"]);
        let (_three_ns, attachment) = three.start(networks).await;
        assert_ne!(address(&attachment), first, "a freed address is not next");

        let mut wanted = Container::new("four-1", &["front"]);
        wanted.endpoints[0].ipv4_address = Some(address(&attachment));
        let netns = Netns::create().await.unwrap();
        let error = networks.attach(&wanted.attach(&netns)).await.err().unwrap();
        assert!(
            error.to_string().ends_with("in use by container three-1"),
            "{error}"
        );
        let error = networks.remove("front").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "network front has active endpoints: three-1, two-1"
        );
    });
}

#[test]
fn nothing_is_left_behind() {
    on_host(|host| async move {
        assert!(!has_table(), "an engine without networks has no table");
        let forwarding = || fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        let before = forwarding();
        host.network("front", false).await;
        host.network("back", false).await;
        let web = Container::new("web-1", &["front", "back"])
            .publish(None, 0, 80, Protocol::Tcp)
            .publish(None, 0, 80, Protocol::Udp);
        let (netns, attachment) = web.start(&host.networks).await;
        assert!(attachment.ports.iter().all(|port| port.host_port.is_some()));
        assert_eq!(names_of_links().len(), 4);
        assert!(has_table());
        host.networks.detach(&web.id).await.unwrap();
        host.networks.release(&web.id).await.unwrap();
        drop(netns);
        let bridges: Vec<String> = names_of_links()
            .into_iter()
            .filter(|name| name.starts_with("wh"))
            .collect();
        until_links_are(&bridges).await;
        let mut nft = Nft::open().unwrap();
        for set in ["any4", "host4", "self4"] {
            assert_eq!(nft.elements(TABLE, set).unwrap(), [], "{set}");
        }
        host.networks.remove("front").await.unwrap();
        host.networks.remove("back").await.unwrap();
        assert_eq!(names_of_links(), [""; 0]);
        assert!(!has_table());
        assert_eq!(forwarding(), before);

        // What an engine that was killed leaves is removed by the next one.
        host.network("lost", false).await;
        let store = &host.networks.inner.store;
        store.remove(Table::Networks, "lost").unwrap();
        let host = host.restart();
        assert_eq!(names_of_links(), [""; 0]);
        assert!(!has_table());
        drop(host);
    });
}

#[test]
fn a_failed_attach_undoes_itself() {
    on_host(|host| async move {
        host.network("front", false).await;
        let before = names_of_links();
        let blocker = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = blocker.local_addr().unwrap().port();
        let web = Container::new("web-1", &["front"]).publish(None, port, 80, Protocol::Tcp);
        let netns = Netns::create().await.unwrap();
        assert!(host.networks.attach(&web.attach(&netns)).await.is_err());
        drop(blocker);
        assert!(lock(&host.networks.inner.state).endpoints.is_empty());
        // A link of that name is in the way, so that the kernel refuses in the middle.
        let mut twice = Container::new("web-1", &["front"]);
        twice.endpoints[0].interface_name = Some("dup0".to_owned());
        netns.with_route(|route| {
            let mut changes = Changes::default();
            changes.add_bridge("dup0", [2, 0, 0, 0, 0, 9], 1500);
            route.apply(changes).unwrap();
        });
        assert!(host.networks.attach(&twice.attach(&netns)).await.is_err());
        until_links_are(&before).await;
        let store = &host.networks.inner.store;
        let records = store.list::<EndpointRecord>(Table::Endpoints).unwrap();
        assert!(records.is_empty(), "{records:?}");
    });
}

#[test]
fn a_flushed_table_and_a_deleted_bridge_are_healed() {
    on_host(|host| async move {
        let outside = outside();
        let network = host.network("front", false).await;
        let web = Container::new("web-1", &["front"]).publish(None, 18080, 8080, Protocol::Tcp);
        let (netns, _attachment) = web.start(&host.networks).await;
        echo(&netns, 8080);
        let is_owned = Nft::open()
            .unwrap()
            .tables()
            .unwrap()
            .iter()
            .any(|table| table.name == TABLE && table.owner.is_some());
        let mut batch = crate::sys::nft::Batch::new(TABLE);
        batch.delete_table();
        let flushed = Nft::open().unwrap().commit(batch);
        if is_owned {
            // Others cannot change a table that is owned.
            assert_eq!(flushed.unwrap_err().raw_os_error(), libc::EPERM);
        } else {
            flushed.unwrap();
            // The next change finds the table gone, and brings back all of it.
            let api = Container::new("api-1", &["front"]).publish(None, 18081, 8081, Protocol::Tcp);
            let (other, _attachment) = api.start(&host.networks).await;
            echo(&other, 8081);
            for port in [18080, 18081] {
                within(&outside, || call(HOST, port)).unwrap();
            }
        }
        let mut changes = Changes::default();
        changes.delete_link(&network.bridge);
        Route::open().unwrap().apply(changes).unwrap();
        assert!(within(&outside, || call(HOST, 18080)).is_err());
        host.networks.converge().unwrap();
        host.networks.adopt(&web.attach(&netns)).await.unwrap();
        let until = Instant::now() + Duration::from_secs(3);
        while within(&outside, || call(HOST, 18080)).is_err() {
            assert!(Instant::now() < until, "not reachable again");
        }
    });
}

#[test]
fn rules_do_not_grow_with_ports() {
    on_host(|host| async move {
        host.network("front", false).await;
        let count = || Nft::open().unwrap().n_rules(TABLE).unwrap();
        let before = count();
        assert!(before > 5);
        let rules = (0..500)
            .map(|index| PortRule {
                host_ip: None,
                host_port: 20000 + index,
                protocol: Protocol::Tcp,
                container: IpAddr::from([10, 176, 0, 2]),
                container_port: 80,
            })
            .collect();
        let mut firewall = lock(&host.networks.inner.firewall);
        firewall.publish("c", rules).unwrap();
        drop(firewall);
        let elements = Nft::open().unwrap().elements(TABLE, "any4").unwrap();
        assert_eq!(elements.len(), 500);
        assert_eq!(count(), before);
    });
}

#[test]
fn fifty_containers_at_once() {
    on_host(|host| async move {
        for way in ["table", "program"] {
            let cgroup = (way == "program").then(Cgroup::enter).flatten();
            if let Some(cgroup) = &cgroup {
                host.networks.use_cgroup(&cgroup.path);
            }
            let network = format!("front-{way}");
            host.network(&network, false).await;
            let started = Instant::now();
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..50 {
                tasks.spawn(async { Netns::create().await.unwrap() });
            }
            let namespaces = tasks.join_all().await;
            let created = started.elapsed();
            let started = Instant::now();
            let mut tasks = tokio::task::JoinSet::new();
            for (index, netns) in namespaces.into_iter().enumerate() {
                let networks = host.networks.clone();
                let container = Container::new(&format!("{way}{index}-1"), &[&network]).publish(
                    None,
                    0,
                    80,
                    Protocol::Tcp,
                );
                tasks.spawn(async move {
                    let attachment = networks.attach(&container.attach(&netns)).await.unwrap();
                    (container, netns, attachment)
                });
            }
            let all = tasks.join_all().await;
            let attached = started.elapsed();
            let mut addresses: Vec<IpAddr> = all.iter().map(|(.., done)| address(done)).collect();
            addresses.sort();
            addresses.dedup();
            assert_eq!(addresses.len(), 50);
            let started = Instant::now();
            let mut tasks = tokio::task::JoinSet::new();
            for (container, ..) in &all {
                let (networks, id) = (host.networks.clone(), container.id.clone());
                tasks.spawn(async move { networks.detach(&id).await.unwrap() });
            }
            tasks.join_all().await;
            let line = format!(
                "50 containers, names by {way}: namespaces {created:?}, attach {attached:?}, \
                 detach {:?}\n",
                started.elapsed()
            );
            io::stderr().write_all(line.as_bytes()).unwrap();
        }
    });
}

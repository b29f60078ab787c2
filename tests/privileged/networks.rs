//! Names, addresses, isolation and published ports, asked from inside, from the host's namespace and
//! from a neighbour machine on the host's link.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use crate::harness::{Project, TestEnv, env::run, kernel, wait_for};

crate::cases! {
    networks:
    service_container_and_alias_names_resolve,
    names_are_scoped_to_the_askers_networks,
    the_resolver_answers_over_tcp_and_leaves_port_53_free["perl"],
    unknown_names_end_at_once_and_a_missing_family_is_empty,
    networks_are_isolated_from_each_other,
    an_internal_network_has_no_way_out,
    static_addresses_are_given,
    several_networks_give_several_interfaces,
    a_port_is_reached_from_host_localhost_container_and_by_hairpin,
    a_port_is_reached_from_a_neighbour_and_keeps_its_source,
    a_port_on_localhost_is_closed_to_neighbours,
    an_unpublished_port_is_closed_to_neighbours,
    udp_ports_and_ranges_are_published["perl"],
    a_port_conflict_names_the_holder_and_leaves_nothing,
    ports_stay_published_after_the_engine_dies,
    network_modes_share_what_they_say,
    the_outside_is_reached_by_masquerade,
    down_removes_links_rules_and_reservations,
    host_loopback_services_cannot_be_reached_by_forged_frames,
    scaled_services_resolve_to_all_replicas,
    a_route_that_comes_later_into_a_networks_range_is_told_of,
    links_are_nobody_elses_to_configure,
}

/// An HTTP server of busybox: `httpd -f` with one page.
fn server(name: &str, page: &str, keys: &str) -> String {
    format!(
        "
  {name}:
    image: IMAGE
    command: ['sh', '-c', 'mkdir -p /www && echo {page} > /www/index.html && exec httpd -f -p 80 -h /www']
    stop_grace_period: 0s
{keys}"
    )
}

fn sleeper(name: &str, n: u32, keys: &str) -> String {
    format!(
        "
  {name}:
    image: IMAGE
    command: sleep {n}
    stop_grace_period: 0s
{keys}"
    )
}

/// The body of a page, asked from this namespace.
fn curl(url: &str) -> Result<String, i32> {
    let mut command = Command::new("curl");
    command.args(["-sS", "-f", "--max-time", "3", url]);
    answer(command)
}

fn answer(command: Command) -> Result<String, i32> {
    let run = run(command);
    if run.code == 0 {
        Ok(run.stdout.trim().to_owned())
    } else {
        Err(run.code)
    }
}

/// A perl program that sends every datagram back.
fn udp_echo(port: u16) -> String {
    format!(
        "socket(S, PF_INET, SOCK_DGRAM, 17); bind(S, sockaddr_in({port}, INADDR_ANY)) or die; \
         while (my $f = recv(S, my $b, 1500, 0)) {{ send(S, $b, 0, $f) }}"
    )
}

#[track_caller]
fn expect_page(url: &str, page: &str) {
    wait_for(&format!("{page:?} from {url}"), || {
        (curl(url).as_deref() == Ok(page)).then_some(())
    });
}

/// A page, asked from inside a container.
fn wget(project: &Project, service: &str, url: &str) -> Result<String, i32> {
    let run = project.wharf(&[
        "exec", "-T", service, "timeout", "3", "wget", "-q", "-O", "-", url,
    ]);
    if run.code == 0 {
        Ok(run.stdout.trim().to_owned())
    } else {
        Err(run.code)
    }
}

#[track_caller]
fn expect_wget(project: &Project, service: &str, url: &str, page: &str) {
    wait_for(&format!("{page:?} from {url} in {service}"), || {
        (wget(project, service, url).as_deref() == Ok(page)).then_some(())
    });
}

#[track_caller]
fn sh(script: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-ec", script]);
    run(command).ok().stdout.trim().to_owned()
}

/// Another machine on a link with the host: 192.0.2.2, the host being 192.0.2.1.
struct Neighbour {
    holder: Child,
}

impl Neighbour {
    fn new() -> Neighbour {
        let holder = Command::new("unshare")
            .args(["--net", "sleep", "9001"])
            .spawn()
            .expect("unshare is installed");
        let neighbour = Neighbour { holder };
        let pid = neighbour.holder.id() as i32;
        wait_for("the neighbour's namespace", || {
            let other = kernel::namespace(pid, "net");
            (other != kernel::namespace(1, "net")).then_some(())
        });
        sh(&format!(
            "ip link add up0 type veth peer name up1 netns {pid}
             ip addr add 192.0.2.1/24 dev up0
             ip link set up0 up"
        ));
        neighbour.sh("ip link set lo up; ip addr add 192.0.2.2/24 dev up1; ip link set up1 up; ip route add default via 192.0.2.1");
        neighbour
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.holder.id().to_string(), program]);
        command
    }

    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let mut command = self.command("sh");
        command.args(["-ec", script]);
        run(command).ok().stdout.trim().to_owned()
    }

    fn curl(&self, url: &str) -> Result<String, i32> {
        let mut command = self.command("curl");
        command.args(["-sS", "-f", "--max-time", "2", url]);
        answer(command)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // Its namespace, and with it both ends of the link, ends with it.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = crate::harness::wait::poll(std::time::Duration::from_secs(5), || {
            (!kernel::links().contains("up0")).then_some(())
        });
    }
}

fn service_container_and_alias_names_resolve(env: &TestEnv) {
    let compose = "services:".to_owned()
        + &server(
            "web",
            "hello",
            "    networks: {default: {aliases: [other-name]}}\n    container_name: own-name\n",
        )
        + &sleeper("client", 1001, "");
    let project = env.project("names", &compose);
    project.up();
    for name in ["web", "other-name", "own-name"] {
        expect_wget(&project, "client", &format!("http://{name}/"), "hello");
    }
    assert!(
        project
            .sh("client", "cat /etc/resolv.conf")
            .contains("nameserver 127.0.0.11")
    );
}

fn names_are_scoped_to_the_askers_networks(env: &TestEnv) {
    let compose = "services:".to_owned()
        + &server("a", "from-a", "    networks: {left: {aliases: [it]}}\n")
        + &server("b", "from-b", "    networks: {right: {aliases: [it]}}\n")
        + &sleeper("l", 1001, "    networks: [left]\n")
        + &sleeper("r", 1002, "    networks: [right]\n")
        + "networks: {left: , right: }\n";
    let project = env.project("scope", &compose);
    project.up();
    expect_wget(&project, "l", "http://it/", "from-a");
    expect_wget(&project, "r", "http://it/", "from-b");
    assert!(wget(&project, "l", "http://b/").is_err());
}

fn the_resolver_answers_over_tcp_and_leaves_port_53_free(env: &TestEnv) {
    let compose =
        "services:".to_owned() + &server("web", "hello", "") + &sleeper("client", 1001, "");
    let compose = compose
        + "
  host:
    image: rootfs:/
    command: sleep 1002
    stop_grace_period: 0s
";
    let project = env.project("dns", &compose);
    project.up();
    // A DNS query for `web`, type A, with the length in front that TCP wants.
    let query = "\\000\\025\\022\\064\\001\\000\\000\\001\\000\\000\\000\\000\\000\\000\\003web\\000\\000\\001\\000\\001";
    let n_bytes = project.sh(
        "client",
        &format!("(printf '{query}'; sleep 0.5) | nc 127.0.0.11 53 | wc -c"),
    );
    let n_bytes: u32 = n_bytes.trim().parse().expect("wc counts");
    assert!(
        n_bytes > 23,
        "an answer is longer than the question: {n_bytes}"
    );
    // The container's own server may have all of port 53.
    project
        .wharf(&["exec", "-d", "client", "nc", "-l", "-p", "53"])
        .ok();
    wait_for("a listener on port 53", || {
        let table = project.sh("client", "cat /proc/net/tcp /proc/net/tcp6");
        table.contains("00000000:0035 ").then_some(())
    });
    project
        .wharf(&[
            "exec",
            "-d",
            "host",
            "perl",
            "-MSocket",
            "-e",
            &udp_echo(53),
        ])
        .ok();
    wait_for("a bound UDP port 53", || {
        let table = project.exec("host", &["cat", "/proc/net/udp"]);
        table.contains("00000000:0035").then_some(())
    });
}

fn unknown_names_end_at_once_and_a_missing_family_is_empty(env: &TestEnv) {
    let compose = "services:".to_owned() + &sleeper("a", 1001, "") + &sleeper("b", 1002, "");
    let project = env.project("unknown", &compose);
    project.up();
    let ask = |arguments: &str| {
        project.wharf(&[
            "exec",
            "-T",
            "a",
            "sh",
            "-c",
            &format!("nslookup {arguments} 127.0.0.11 2>&1"),
        ])
    };
    let aaaa = ask("-type=AAAA b");
    assert!(!aaaa.stdout.contains("NXDOMAIN"), "{aaaa}");
    let start = std::time::Instant::now();
    assert!(wget(&project, "a", "http://no-such-service/").is_err());
    assert!(start.elapsed().as_secs() < 20, "a name that nobody has");
}

fn networks_are_isolated_from_each_other(env: &TestEnv) {
    let compose = "services:".to_owned()
        + &server(
            "a",
            "from-a",
            "    networks: [left]\n    ports: ['127.0.0.1:7001:80']\n",
        )
        + &sleeper("r", 1001, "    networks: [right]\n")
        + &sleeper("l", 1002, "    networks: [left]\n")
        + "networks: {left: , right: }\n";
    let project = env.project("isolated", &compose);
    project.up();
    expect_wget(&project, "l", "http://a/", "from-a");
    let address = project.sh(
        "l",
        "nslookup a 127.0.0.11 | awk '/^Address/ {a=$2} END {print a}'",
    );
    let address = address.split(':').next().unwrap_or_default().to_owned();
    assert!(address.contains('.'), "{address}");
    assert!(wget(&project, "r", &format!("http://{address}/")).is_err());
    let gateway = project.sh("l", "ip route | awk '/default/ {print $3}'");
    for host in [gateway.as_str(), "127.0.0.1"] {
        assert!(
            wget(&project, "r", &format!("http://{host}:7001/")).is_err(),
            "{host}"
        );
    }
}

fn an_internal_network_has_no_way_out(env: &TestEnv) {
    let neighbour = Neighbour::new();
    let _outside = Server::start(&neighbour, 8001);
    let compose = "services:".to_owned()
        + &sleeper("inside", 1001, "    networks: [closed]\n")
        + &server("peer", "peer", "    networks: [closed]\n")
        + &sleeper("open", 1002, "")
        + "networks: {closed: {internal: true}}\n";
    let project = env.project("internal", &compose);
    project.up();
    expect_wget(&project, "inside", "http://peer/", "peer");
    expect_wget(&project, "open", "http://192.0.2.2:8001/", "outside");
    assert!(wget(&project, "inside", "http://192.0.2.2:8001/").is_err());
    assert_eq!(project.sh("inside", "ip route | grep default; true"), "");
}

/// A web server in the neighbour's namespace that says `outside`.
struct Server {
    child: Child,
}

impl Server {
    fn start(neighbour: &Neighbour, port: u16) -> Server {
        let script = format!(
            "while :; do printf 'HTTP/1.0 200 OK\\r\\n\\r\\noutside\\n' | busybox nc -l -p {port}; done"
        );
        let mut command = neighbour.command("sh");
        // A group of its own, with whatever the loop is just starting.
        command.args(["-c", &script]).process_group(0);
        let child = command.spawn().expect("sh is there");
        wait_for("the outside server", || {
            (neighbour.curl(&format!("http://127.0.0.1:{port}/")).is_ok()).then_some(())
        });
        Server { child }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
        // Its current `nc` has lost its parent, and is waited for by the namespace's first process.
        let _ = crate::harness::wait::poll(std::time::Duration::from_secs(5), || {
            nix::sys::signal::killpg(group, None).is_err().then_some(())
        });
    }
}

fn static_addresses_are_given(env: &TestEnv) {
    let compose = "services:".to_owned()
        + &sleeper(
            "s",
            1001,
            "    networks: {n: {ipv4_address: 10.213.7.77}}\n",
        )
        + &sleeper("t", 1002, "    networks: [n]\n")
        + "networks: {n: {ipam: {config: [{subnet: 10.213.7.0/24, gateway: 10.213.7.254}]}}}\n";
    let project = env.project("static", &compose);
    project.up();
    let addresses = project.sh("s", "ip -4 addr show eth0");
    assert!(addresses.contains("10.213.7.77/24"), "{addresses}");
    assert!(
        project
            .sh("s", "ip route")
            .contains("default via 10.213.7.254")
    );
    let other = project.sh("t", "ip -4 addr show eth0");
    assert!(other.contains("10.213.7."), "{other}");
    assert!(sh("ip -4 addr").contains("10.213.7.254/24"));
}

fn several_networks_give_several_interfaces(env: &TestEnv) {
    let compose = "services:".to_owned()
        + &sleeper("both", 1001, "    networks: [left, right]\n")
        + &server("l", "left", "    networks: [left]\n")
        + &server("r", "right", "    networks: [right]\n")
        + "networks: {left: , right: }\n";
    let project = env.project("several", &compose);
    project.up();
    let links = project.sh("both", "ls /sys/class/net");
    assert_eq!(
        links.split_whitespace().collect::<Vec<_>>(),
        ["eth0", "eth1", "lo"]
    );
    expect_wget(&project, "both", "http://l/", "left");
    expect_wget(&project, "both", "http://r/", "right");
    assert_eq!(project.sh("both", "ip route | grep -c default"), "1");
}

fn a_port_is_reached_from_host_localhost_container_and_by_hairpin(env: &TestEnv) {
    let compose = "services:".to_owned()
        + &server("web", "hello", "    ports: ['7001:80']\n")
        + &sleeper("client", 1001, "");
    let project = env.project("port", &compose);
    project.up();
    expect_page("http://127.0.0.1:7001/", "hello");
    expect_page("http://localhost:7001/", "hello");
    // The host's own address on the container's network, from host, neighbour container and self.
    let gateway = project.sh("client", "ip route | awk '/default/ {print $3}'");
    let url = format!("http://{gateway}:7001/");
    expect_page(&url, "hello");
    expect_wget(&project, "client", &url, "hello");
    expect_wget(&project, "web", &url, "hello");
    // Twice: the second connection meets the first one's conntrack entry.
    expect_page("http://127.0.0.1:7001/", "hello");
}

fn a_port_is_reached_from_a_neighbour_and_keeps_its_source(env: &TestEnv) {
    let neighbour = Neighbour::new();
    let compose = "services:".to_owned()
        + "
  web:
    image: IMAGE
    command: ['sh', '-c', 'while :; do nc -l -p 80 -e sh -c \"cat /proc/net/tcp; netstat -tn\"; done']
    stop_grace_period: 0s
    ports: ['7001:80']
"
        + &server("page", "hello", "    ports: ['7002:80']\n");
    let project = env.project("neighbour", &compose);
    project.up();
    wait_for("the page", || {
        (neighbour.curl("http://192.0.2.1:7002/").as_deref() == Ok("hello")).then_some(())
    });
    let seen = neighbour.sh("busybox nc -w 3 192.0.2.1 7001 </dev/null || true");
    assert!(
        seen.contains("192.0.2.2:") || seen.contains("020200C0"),
        "{seen}"
    );
}

fn a_port_on_localhost_is_closed_to_neighbours(env: &TestEnv) {
    let neighbour = Neighbour::new();
    let compose =
        "services:".to_owned() + &server("web", "hello", "    ports: ['127.0.0.1:7001:80']\n");
    let project = env.project("local", &compose);
    project.up();
    expect_page("http://127.0.0.1:7001/", "hello");
    assert!(neighbour.curl("http://192.0.2.1:7001/").is_err());
    // A neighbour that routes 127.0.0.1 to us.
    neighbour.sh("ip link set lo down; ip route add 127.0.0.1/32 via 192.0.2.1 || true");
    assert!(neighbour.curl("http://127.0.0.1:7001/").is_err());
}

fn an_unpublished_port_is_closed_to_neighbours(env: &TestEnv) {
    let neighbour = Neighbour::new();
    let compose = "services:".to_owned()
        + &server("web", "hello", "")
        + &server("open", "open", "    ports: ['7001:80']\n");
    let project = env.project("closed", &compose);
    project.up();
    let address = project.sh("web", "ip -4 addr show eth0 | awk '/inet / {print $2}'");
    let address = address.split('/').next().unwrap_or_default().to_owned();
    expect_page(&format!("http://{address}/"), "hello");
    // The neighbour's default route leads through us, and we forward.
    assert!(neighbour.curl(&format!("http://{address}/")).is_err());
}

fn udp_ports_and_ranges_are_published(env: &TestEnv) {
    let compose = "services:".to_owned()
        + "
  echo:
    image: rootfs:/
    command: ['perl', '-MSocket', '-e', '{echo}']
    stop_grace_period: 0s
    ports: ['7009:9/udp']
  range:
    image: IMAGE
    command: ['sh', '-c', 'mkdir /www; echo ranged > /www/index.html; for p in 81 82 83; do httpd -p $$p -h /www; done; exec sleep 1001']
    stop_grace_period: 0s
    ports: ['7081-7083:81-83']
";
    let compose = compose.replace("{echo}", &udp_echo(9).replace('$', "$$"));
    let project = env.project("udp", &compose);
    project.up();
    for port in 7081..=7083 {
        expect_page(&format!("http://127.0.0.1:{port}/"), "ranged");
    }
    let echo = |address: &str| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a free port");
        socket
            .set_read_timeout(Some(std::time::Duration::from_millis(300)))
            .expect("not zero");
        socket.connect(address).expect("a local address");
        let mut buffer = [0; 16];
        socket.send(b"ping").ok()?;
        let n = socket.recv(&mut buffer).ok()?;
        (&buffer[..n] == b"ping").then_some(())
    };
    wait_for("the echo", || echo("127.0.0.1:7009"));
}

fn a_port_conflict_names_the_holder_and_leaves_nothing(env: &TestEnv) {
    let listener = std::net::TcpListener::bind("0.0.0.0:7001").expect("the port is free");
    let compose = "services:".to_owned() + &server("web", "hello", "    ports: ['7001:80']\n");
    let project = env.project("conflict", &compose);
    let me = std::process::id().to_string();
    project.wharf(&["up", "-d"]).fails_saying(&["7001", &me]);
    env.expect_no_shims();
    drop(listener);
    project.up();
    expect_page("http://127.0.0.1:7001/", "hello");
    // The other way round: another container holds it.
    let second = env.project(
        "second",
        &("services:".to_owned() + &server("web", "second", "    ports: ['7001:80']\n")),
    );
    second
        .wharf(&["up", "-d"])
        .fails_saying(&["7001", "conflict-web-1"]);
    // And nobody else may take a published port.
    assert!(std::net::TcpListener::bind("0.0.0.0:7001").is_err());
    expect_page("http://127.0.0.1:7001/", "hello");
    // Both at the same time, when neither has it for good.
    let port = "    ports: ['7002:80']\n";
    let compose = "services:".to_owned() + &server("a", "a", port) + &server("b", "b", port);
    let both = env.project("both", &compose);
    both.wharf(&["up", "-d"])
        .fails_saying(&["7002", "container both-"]);
}

fn ports_stay_published_after_the_engine_dies(env: &TestEnv) {
    let compose = "services:".to_owned()
        + &server("web", "hello", "    ports: ['7001:80']\n")
        + &sleeper("client", 1001, "");
    let project = env.project("dies", &compose);
    project.up();
    expect_page("http://127.0.0.1:7001/", "hello");
    let engine = env.engine_pid().expect("it runs");
    let pid = nix::unistd::Pid::from_raw(engine);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    assert_eq!(curl("http://127.0.0.1:7001/").as_deref(), Ok("hello"));
    assert!(std::net::TcpListener::bind("0.0.0.0:7001").is_err());
    // Names are answered again when the next engine is there.
    expect_wget(&project, "client", "http://web/", "hello");
}

fn network_modes_share_what_they_say(env: &TestEnv) {
    let compose = "services:".to_owned()
        + &sleeper("none", 1001, "    network_mode: none\n")
        + &sleeper("host", 1002, "    network_mode: host\n")
        + &server("base", "base", "    container_name: the-base\n")
        + &sleeper("joined", 1003, "    network_mode: 'service:base'\n")
        + &sleeper(
            "bycontainer",
            1004,
            "    network_mode: 'container:the-base'\n    depends_on: [base]\n",
        );
    let project = env.project("modes", &compose);
    project.up();
    let net = |command: &str| kernel::namespace(project.pid_of(command), "net");
    assert_eq!(net("sleep 1002"), kernel::namespace(1, "net"));
    let base = net("httpd -f -p 80 -h /www");
    assert_eq!(net("sleep 1003"), base);
    assert_eq!(net("sleep 1004"), base);
    assert_ne!(net("sleep 1001"), base);
    assert_eq!(project.sh("none", "ls /sys/class/net"), "lo");
    expect_wget(&project, "joined", "http://127.0.0.1/", "base");
}

fn the_outside_is_reached_by_masquerade(env: &TestEnv) {
    let neighbour = Neighbour::new();
    let _outside = Server::start(&neighbour, 8001);
    let compose = "services:".to_owned() + &sleeper("s", 1001, "");
    let project = env.project("out", &compose);
    project.up();
    // The neighbour has no route to the container's network but through us; take even that.
    neighbour.sh("ip route del default");
    expect_wget(&project, "s", "http://192.0.2.2:8001/", "outside");
}

fn down_removes_links_rules_and_reservations(env: &TestEnv) {
    let before = (kernel::links(), kernel::bound_ports());
    let compose = "services:".to_owned()
        + &server(
            "web",
            "hello",
            "    ports: ['7001:80']\n    networks: [one, two]\n",
        )
        + "networks: {one: , two: }\n";
    let project = env.project("gone", &compose);
    project.up();
    assert!(
        kernel::links().len() >= before.0.len() + 3,
        "two bridges and a veth at least"
    );
    project.down();
    wait_for("links and ports to be gone", || {
        ((kernel::links(), kernel::bound_ports()) == before).then_some(())
    });
    assert!(std::net::TcpListener::bind("0.0.0.0:7001").is_ok());
}

fn host_loopback_services_cannot_be_reached_by_forged_frames(env: &TestEnv) {
    // The set-up that makes published ports reachable from 127.0.0.1 must not open the reverse way.
    let listener = std::net::TcpListener::bind("127.0.0.1:7001").expect("the port is free");
    listener.set_nonblocking(true).expect("a socket can be");
    let compose = "services:".to_owned()
        + &sleeper("s", 1001, "    cap_add: [NET_ADMIN]\n")
        + &server("web", "hello", "    ports: ['7002:80']\n");
    let project = env.project("forged", &compose);
    project.up();
    let gateway = project.sh("s", "ip route | awk '/default/ {print $3}'");
    project.sh(
        "s",
        &format!(
            "ip addr del 127.0.0.1/8 dev lo; ip route del table local 127.0.0.0/8 dev lo 2>/dev/null; \
             ip route add 127.0.0.1/32 via {gateway} dev eth0; true"
        ),
    );
    assert!(wget(&project, "s", "http://127.0.0.1:7001/").is_err());
    assert!(listener.accept().is_err(), "a frame came through");
}

fn scaled_services_resolve_to_all_replicas(env: &TestEnv) {
    let compose = "services:".to_owned()
        + &server("web", "hello", "    deploy: {replicas: 3}\n")
        + &sleeper("client", 1001, "");
    let project = env.project("replicas", &compose);
    project.up();
    wait_for("three addresses", || {
        let answer = project.sh(
            "client",
            "nslookup -type=A web 127.0.0.11 | grep -c '^Address: '; true",
        );
        (answer.trim() == "3").then_some(())
    });
}

/// HAZARDS N12: a VPN that is switched on after the network was made.
fn a_route_that_comes_later_into_a_networks_range_is_told_of(env: &TestEnv) {
    let project = env.project("later", &format!("services:{}", sleeper("s", 1001, "")));
    project.up();
    let ip = |arguments: &[&str]| {
        let mut command = Command::new("ip");
        command.args(arguments);
        run(command).ok().stdout
    };
    let routes = ip(&["-4", "route", "show", "proto", "kernel", "scope", "link"]);
    let subnet = routes
        .lines()
        .find(|line| line.contains(&env.tag()))
        .and_then(|line| line.split(['/', ' ']).next())
        .unwrap_or_else(|| panic!("no route to the network: {routes}"));
    ip(&["link", "add", "vpn0", "type", "bridge"]);
    ip(&["link", "set", "vpn0", "up"]);
    let half = format!("{subnet}/25");
    ip(&["route", "add", &half, "dev", "vpn0"]);
    wait_for("a word in the engine's log", || {
        let log = env.engine_log();
        (log.contains(&half) && log.contains("vpn0")).then_some(())
    });
    let run = project.wharf(&["up", "-d", "--force-recreate"]).ok();
    assert!(run.stderr.contains(&format!("{half} by vpn0")), "{run}");
    ip(&["link", "del", "vpn0"]);
}

/// HAZARDS N5: udev leaves links alone whose address was set on purpose, which the kernel tells it
/// (`NET_ADDR_SET`, 3); systemd-networkd may take a port off its bridge all the same.
fn links_are_nobody_elses_to_configure(env: &TestEnv) {
    let page = server("web", "hello", "    ports: ['127.0.0.1:8080:80']\n");
    let project = env.project("own", &format!("services:{page}"));
    project.up();
    wait_for("the page", || curl("http://127.0.0.1:8080/").ok());
    let mut sysfs = Command::new("unshare");
    let script = "mount -t sysfs sysfs /sys && cd /sys/class/net && grep . w*/addr_assign_type";
    sysfs.args(["-m", "sh", "-c", script]);
    let types = run(sysfs).ok().stdout;
    assert!(
        types.lines().count() == 2 && types.lines().all(|line| line.ends_with(":3")),
        "{types}"
    );

    let is_port = |link: &String| link.starts_with(&format!("wv{}", env.tag()));
    let port = kernel::links()
        .into_iter()
        .find(is_port)
        .expect("it has a link");
    let mut take_off = Command::new("ip");
    take_off.args(["link", "set", &port, "nomaster"]);
    run(take_off).ok();
    let show = || {
        let mut show = Command::new("ip");
        show.args(["link", "show", &port]);
        run(show).ok().stdout
    };
    wait_for("the port to be back", || {
        show().contains(" master wh").then_some(())
    });
    // It says whose it is, as before.
    let shown = show();
    let alias = shown
        .lines()
        .find_map(|line| line.trim().strip_prefix("alias "));
    assert_eq!(alias.map(str::len), Some(64), "{shown}");
    wait_for("the page", || curl("http://127.0.0.1:8080/").ok());
    wait_for("a word in the engine's log", || {
        env.engine_log().contains("took 1 links").then_some(())
    });

    let is_bridge = |link: &String| link.starts_with(&format!("wh{}", env.tag()));
    let bridge = kernel::links().into_iter().find(is_bridge);
    let bridge = bridge.expect("the network has one");
    for spoil in [
        vec!["address", "flush", "dev", bridge.as_str()],
        vec!["link", "del", bridge.as_str()],
    ] {
        let mut ip = Command::new("ip");
        ip.args(&spoil);
        run(ip).ok();
        wait_for("the page", || curl("http://127.0.0.1:8080/").ok());
    }
}

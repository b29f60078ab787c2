//! Who reaches whom, from where, under which address.

use super::*;

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
fn both_families() {
    on_host(|host| async move {
        let config = NetworkConfig {
            name: "dual".to_owned(),
            enable_ipv4: true,
            enable_ipv6: true,
            ..NetworkConfig::default()
        };
        host.networks.create(&config).await.unwrap();
        let again = host.networks.create(&config).await.unwrap();
        let record = host.networks.record("dual").unwrap();
        assert_eq!(again, record.id);
        let accept_ra = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", record.bridge);
        assert_eq!(fs::read_to_string(accept_ra).unwrap().trim(), "0");
        let web = Container::new("web-1", &["dual"]).publish(None, 18080, 8080, Protocol::Tcp);
        let (web_ns, attachment) = web.start(&host.networks).await;
        let (near_ns, _) = Container::new("near-1", &["dual"])
            .start(&host.networks)
            .await;
        let own = attachment.endpoints[0].ipv6.unwrap();
        let listener = within(&web_ns, || TcpListener::bind((own, 8080)).unwrap());
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                // The client may be gone.
                let _gone = stream.write_all(peer.ip().to_string().as_bytes());
            }
        });
        assert!(within(&near_ns, || call(own, 8080)).is_ok());
        let gateway = record.pool(Family::V6).unwrap().gateway;
        assert!(call(gateway, 18080).is_ok(), "published by IPv6");
        assert!(within(&near_ns, || call(gateway, 18080)).is_ok());
        let answer = ask(&near_ns, "web.", RecordType::AAAA).unwrap();
        assert_eq!(addresses_in(&answer), [own]);
    });
}

#[test]
fn udp_clients_find_the_container_after_a_restart() {
    on_host(|host| async move {
        let outside = outside();
        host.network("front", false).await;
        let first = Container::new("one-1", &["front"]).publish(None, 15353, 8053, Protocol::Udp);
        let (netns, attachment) = first.start(&host.networks).await;
        echo(&netns, 8053);
        // One client that keeps its port, as resolvers and phones do: its flow would live on.
        let client = within(&outside, || {
            let client = UdpSocket::bind("0.0.0.0:7000").unwrap();
            client.set_read_timeout(Some(DROPPED)).unwrap();
            client.connect((HOST, 15353)).unwrap();
            client
        });
        let ask = || {
            // Refused while nobody listens.
            client.send(b"?").and_then(|_| client.recv(&mut [0; 64]))
        };
        assert!(ask().is_ok());
        let old = address(&attachment);
        drop(attachment);
        host.networks.detach(&first.id).await.unwrap();
        let second = Container::new("two-1", &["front"]).publish(None, 15353, 8053, Protocol::Udp);
        let (netns, second) = second.start(&host.networks).await;
        assert_ne!(address(&second), old);
        echo(&netns, 8053);
        let until = Instant::now() + Duration::from_secs(2);
        while ask().is_err() {
            assert!(Instant::now() < until, "the old flow leads nowhere");
        }
    });
}

#[test]
fn an_address_that_moves_is_found_at_once() {
    on_host(|host| async move {
        let network = host.network("front", false).await;
        let IpNet::V4(subnet) = network.pools[0].subnet else {
            unreachable!("an IPv4 network")
        };
        let wanted = IpAddr::V4(subnet.hosts().nth(40).unwrap());
        let (near_ns, _) = Container::new("near-1", &["front"])
            .start(&host.networks)
            .await;
        for mac in ["02:00:00:00:00:51", "02:00:00:00:00:52"] {
            let mut moving = Container::new("moving-1", &["front"]);
            moving.endpoints[0].ipv4_address = Some(wanted);
            moving.endpoints[0].mac_address = Some(mac.to_owned());
            let (netns, attachment) = moving.start(&host.networks).await;
            assert_eq!(attachment.endpoints[0].mac.as_deref(), Some(mac));
            echo(&netns, 8080);
            assert!(within(&near_ns, || call(wanted, 8080)).is_ok(), "{mac}");
            host.networks.detach(&moving.id).await.unwrap();
        }
    });
}

#[test]
fn foreign_tables_that_drop_are_named_and_links_are_guarded() {
    on_host(|host| async move {
        let _outside = outside();
        host.network("front", false).await;
        assert_eq!(host.networks.warnings().unwrap(), [""; 0]);
        // No way opens between other links of the host because containers need forwarding.
        let guarded = Nft::open().unwrap().elements(TABLE, "guarded").unwrap();
        assert!(
            guarded.iter().any(|(key, _)| key.starts_with(b"uplink\0")),
            "{guarded:?}"
        );
        let mut batch = crate::sys::nft::Batch::new("strict");
        batch.add_table(0);
        batch.add_base_chain(
            "forward",
            crate::sys::nft::ChainKind::Filter,
            crate::sys::nft::Hook::Forward,
            0,
            crate::sys::nft::Verdict::Drop,
        );
        Nft::open().unwrap().commit(batch).unwrap();
        let warnings = host.networks.warnings().unwrap();
        assert!(warnings[0].contains("inet strict forward"), "{warnings:?}");
    });
}

#[test]
fn a_route_that_comes_later_into_a_chosen_subnet_is_told_of() {
    on_host(|host| async move {
        let _outside = outside();
        let front = host.network("front", false).await;
        assert_eq!(host.networks.warnings().unwrap(), [""; 0]);
        // As a VPN does that is switched on.
        let subnet = front.pools[0].subnet;
        let wide = IpNet::new(subnet.addr(), subnet.prefix_len() - 4)
            .unwrap()
            .trunc();
        let added = Command::new("ip")
            .args(["route", "add", &wide.to_string(), "dev", "uplink"])
            .status();
        assert!(added.unwrap().success());
        let warnings = host.networks.warnings().unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        for part in ["front", &subnet.to_string(), &wide.to_string(), "uplink"] {
            assert!(warnings[0].contains(part), "{part} in {warnings:?}");
        }
    });
}

#[test]
fn neighbours_are_kept_apart_without_icc() {
    on_host(|host| async move {
        let mut config = NetworkConfig {
            name: "apart".to_owned(),
            enable_ipv4: true,
            ..NetworkConfig::default()
        };
        let option = "com.docker.network.bridge.enable_icc".to_owned();
        config.driver_opts.insert(option, "false".to_owned());
        host.networks.create(&config).await.unwrap();
        let (one_ns, one) = Container::new("one-1", &["apart"])
            .start(&host.networks)
            .await;
        let (two_ns, _) = Container::new("two-1", &["apart"])
            .start(&host.networks)
            .await;
        echo(&one_ns, 8080);
        assert!(within(&two_ns, || call(address(&one), 8080)).is_err());
        assert!(call(address(&one), 8080).is_ok(), "the host still may");
    });
}

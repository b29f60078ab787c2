//! Starts, stops, restarts, failures, and what is left of them.

use super::*;

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
fn a_restart_keeps_addresses_ports_and_names() {
    on_host(|host| async move {
        let outside = outside();
        host.network("front", false).await;
        let web = Container::new("web-1", &["front"]).publish(None, 18080, 8080, Protocol::Tcp);
        let (netns, attachment) = web.start(&host.networks).await;
        echo(&netns, 8080);
        host.networks.inner.resolver.stop(&web.id).await;
        let host = host.restart();
        // Even before the container is adopted.
        assert!(within(&outside, || call(HOST, 18080)).is_ok());
        assert_eq!(host.networks.list()[0].containers, ["web-1"]);
        let path = format!("/proc/self/fd/{}", netns.as_fd().as_raw_fd());
        let again = Netns::open(path.as_ref()).await.unwrap();
        let adopted = host.networks.adopt(&web.attach(&again)).await.unwrap();
        assert_eq!(adopted.endpoints, attachment.endpoints);
        assert_eq!(adopted.ports, attachment.ports);
        assert_eq!(adopted.resolv_conf, attachment.resolv_conf);
        assert!(within(&outside, || call(HOST, 18080)).is_ok());
        let answer = ask(&again, "web-1.", RecordType::A).unwrap();
        assert_eq!(addresses_in(&answer), [address(&adopted)]);
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
            let until = Instant::now() + Duration::from_secs(3);
            while within(&outside, || call(HOST, 18080)).is_err() {
                assert!(Instant::now() < until, "the table was not restored");
                tokio::task::yield_now().await;
            }
            // A change may be faster than the news, and brings back all of it too.
            let mut batch = crate::sys::nft::Batch::new(TABLE);
            batch.delete_table();
            Nft::open().unwrap().commit(batch).unwrap();
            let api = Container::new("api-1", &["front"]).publish(None, 18081, 8081, Protocol::Tcp);
            let (other, _attachment) = api.start(&host.networks).await;
            echo(&other, 8081);
            for port in [18080, 18081] {
                within(&outside, || call(HOST, port)).unwrap();
            }
        }
        // By the news of it; and by an engine that takes over, which does not wait for any.
        for takes_over in [false, true] {
            let bridge = || Route::open().unwrap().link(&network.bridge).unwrap();
            let before = bridge().unwrap().index;
            let mut changes = Changes::default();
            changes.delete_link(&network.bridge);
            Route::open().unwrap().apply(changes).unwrap();
            if takes_over {
                host.networks.converge().unwrap();
                host.networks.adopt(&web.attach(&netns)).await.unwrap();
            }
            let until = Instant::now() + Duration::from_secs(3);
            while within(&outside, || call(HOST, 18080)).is_err() {
                assert!(Instant::now() < until, "not reachable again");
                tokio::task::yield_now().await;
            }
            assert_ne!(bridge().unwrap().index, before, "it was deleted");
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
            let cgroup = (way == "program").then(|| Cgroup::enter("fifty")).flatten();
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
            // Namespaces that die hold the kernel's link lock; the next round is not to wait for it.
            drop(all);
            let bridges: Vec<String> = names_of_links()
                .into_iter()
                .filter(|name| name.starts_with("wh"))
                .collect();
            until_links_are(&bridges).await;
        }
    });
}

#[test]
fn a_running_container_joins_and_leaves_networks() {
    on_host(|host| async move {
        host.network("front", false).await;
        host.network("back", false).await;
        let networks = &host.networks;
        let mut web = Container::new("web-1", &["front"]);
        let (web_ns, before) = web.start(networks).await;
        let (front_ns, _) = Container::new("front-1", &["front"]).start(networks).await;
        let (back_ns, _) = Container::new("back-1", &["back"]).start(networks).await;
        echo(&web_ns, 8080);
        // A connection that must not notice.
        let listener = within(&web_ns, || TcpListener::bind("0.0.0.0:8081").unwrap());
        let target = SocketAddr::new(address(&before), 8081);
        let mut held = within(&front_ns, || {
            TcpStream::connect_timeout(&target, DROPPED).unwrap()
        });
        let (mut server, _) = listener.accept().unwrap();

        web.endpoints = Container::new("web-1", &["back", "front"]).endpoints;
        let joined = networks.adopt(&web.attach(&web_ns)).await.unwrap();
        let in_back = joined.endpoints[0].ipv4.unwrap();
        assert_eq!(joined.endpoints[1], before.endpoints[0]);
        assert!(within(&back_ns, || call(in_back, 8080)).is_ok());
        let answer = ask(&back_ns, "web.", RecordType::A).unwrap();
        assert_eq!(addresses_in(&answer), [in_back]);
        held.write_all(b"still").unwrap();
        let mut buffer = [0; 5];
        server.read_exact(&mut buffer).unwrap();

        web.endpoints.remove(1);
        networks.adopt(&web.attach(&web_ns)).await.unwrap();
        assert!(within(&front_ns, || call(address(&before), 8080)).is_err());
        assert!(within(&back_ns, || call(in_back, 8080)).is_ok());
        let answer = ask(&web_ns, "front-1.", RecordType::A);
        assert!(answer.is_err() || answer.unwrap().answers.is_empty());
        networks
            .detach(&Container::new("front-1", &[]).id)
            .await
            .unwrap();
        networks.remove("front").await.unwrap();
    });
}

#[test]
fn a_restart_does_not_wait_for_the_last_link() {
    on_host(|host| async move {
        host.network("front", false).await;
        let (near_ns, _) = Container::new("near-1", &["front"])
            .start(&host.networks)
            .await;
        let web = Container::new("web-1", &["front"]);
        // Namespaces that somebody keeps, as a debugger does, with their links.
        let mut kept = Vec::new();
        for port in 8080..8086 {
            let (netns, attachment) = web.start(&host.networks).await;
            echo(&netns, port);
            let ip = address(&attachment);
            // Who has the address? The kept ones must not say that they do.
            for _ in 0..3 {
                within(&near_ns, || {
                    let flushed = Command::new("ip").args(["neigh", "flush", "all"]).status();
                    assert!(flushed.unwrap().success());
                });
                assert!(within(&near_ns, || call(ip, port)).is_ok());
            }
            host.networks.detach(&web.id).await.unwrap();
            kept.push(netns);
        }
        until_links_are(&{
            let mut names = names_of_links();
            let near = bridge::port_names(TAG, &Container::new("near-1", &[]).id, "front");
            names.retain(|name| name.starts_with("wh") || near.contains(name));
            names
        })
        .await;
    });
}

#[test]
fn links_whose_namespace_lives_on_go_with_their_network() {
    on_host(|host| async move {
        let record = host.network("front", false).await;
        host.network("back", false).await;
        let (near_ns, _) = Container::new("near-1", &["back"])
            .start(&host.networks)
            .await;
        let mut kept = Vec::new();
        for name in ["web-1", "web-2"] {
            let (netns, _) = Container::new(name, &["front"]).start(&host.networks).await;
            // As a connection does whose peer is gone.
            kept.push(netns);
            let id = Container::new(name, &[]).id;
            host.networks.detach(&id).await.unwrap();
            host.networks.release(&id).await.unwrap();
        }
        let before = names_of_links();
        host.networks.remove("front").await.unwrap();
        let ports: Vec<String> = ["web-1", "web-2"]
            .iter()
            .flat_map(|name| bridge::port_names(TAG, &Container::new(name, &[]).id, "front"))
            .collect();
        let expected: Vec<String> = before
            .iter()
            .filter(|name| **name != record.bridge && !ports.contains(name))
            .cloned()
            .collect();
        assert_eq!(
            before.len(),
            expected.len() + 3,
            "two ports and the bridge: {before:?}"
        );
        assert_eq!(names_of_links(), expected);
        drop((near_ns, kept));
    });
}

#[test]
fn an_engine_that_ends_leaves_no_link_of_ended_containers() {
    on_host(|host| async move {
        host.network("front", false).await;
        let bridges = names_of_links();
        let web = Container::new("web-1", &["front"]);
        let (kept, _) = web.start(&host.networks).await;
        host.networks.detach(&web.id).await.unwrap();
        assert_ne!(names_of_links(), bridges, "somebody holds the namespace");
        host.networks.close().await.unwrap();
        assert_eq!(names_of_links(), bridges);
        drop(kept);
    });
}

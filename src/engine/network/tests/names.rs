//! What names mean, to whom, and what is asked outside.

use super::*;

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
    // Servers of the container's own are asked from its place on the network.
    within(&one_ns, || upstream(&address(&one).to_string(), Some(HOST)));
    let mut own = Container::new("own-1", &["front"]);
    own.dns = vec![address(&one)];
    let (own_ns, _) = own.start(networks).await;
    let answer = ask(&own_ns, "example.org.", RecordType::A).unwrap();
    assert_eq!(addresses_in(&answer), [IpAddr::from(HOST)]);
    let mut foreign = Container::new("foreign-1", &["back"]);
    foreign.dns = vec![address(&one)];
    let (foreign_ns, _) = foreign.start(networks).await;
    assert!(ask(&foreign_ns, "example.org.", RecordType::A).is_err());
    // Nothing of the outside for an internal network (CVE-2024-29018).
    let answer = ask(&shut_ns, "example.org.", RecordType::A).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);

    // The container's own name server fits beside (N28).
    within(&db_ns, || {
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

#[test]
fn names_by_programs_on_the_cgroup() {
    on_host(|host| async move {
        let Some(cgroup) = Cgroup::enter("names") else {
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

/// A name server whose answer is too long for UDP: it says so there, and gives it by TCP.
fn long_upstream(address: &str) {
    let udp = UdpSocket::bind((address, 53)).unwrap();
    let tcp = TcpListener::bind((address, 53)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
            reply.add_queries(query.queries.iter().cloned());
            reply.metadata.truncation = true;
            // The asker may be gone.
            let _gone = udp.send_to(&reply.to_vec().unwrap(), peer);
        }
    });
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query).unwrap();
            let query = Message::from_vec(&query).unwrap();
            let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
            reply.add_queries(query.queries.iter().cloned());
            for number in 0..250 {
                let name = query.queries[0].name().clone();
                let address = Ipv4Addr::new(192, 0, 2, number);
                reply.add_answer(Record::from_rdata(name, 60, RData::A(A(address))));
            }
            let bytes = reply.to_vec().unwrap();
            stream
                .write_all(&(bytes.len() as u16).to_be_bytes())
                .unwrap();
            stream.write_all(&bytes).unwrap();
        }
    });
}

#[test]
fn long_answers_come_by_tcp_and_silent_servers_are_passed_over() {
    on_host(|host| async move {
        long_upstream("127.0.0.54");
        // Bound and never read: the first server is silent.
        let _silent = UdpSocket::bind("127.0.0.53:53").unwrap();
        write_resolv_conf(&host, &["127.0.0.54"]);
        let host = host.restart();
        host.network("front", false).await;
        let (netns, _) = Container::new("one-1", &["front"])
            .start(&host.networks)
            .await;
        let answer = ask(&netns, "long.example.", RecordType::A).unwrap();
        assert!(answer.metadata.truncation);
        let answer = ask_tcp(&netns, "long.example.").unwrap();
        assert_eq!(addresses_in(&answer).len(), 250);

        write_resolv_conf(&host, &["127.0.0.53", "127.0.0.54"]);
        let until = Instant::now() + Duration::from_secs(2);
        while host.networks.inner.resolver.host().servers.len() < 2 {
            assert!(Instant::now() < until, "the change is not seen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let started = Instant::now();
        let passed = within(&netns, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let patience = Some(Duration::from_secs(8));
            socket.set_read_timeout(patience).unwrap();
            let query = question("long.example.", RecordType::A);
            socket.send_to(&query, "127.0.0.11:53").unwrap();
            socket.recv(&mut [0; 512]).is_ok()
        });
        assert!(passed);
        assert!(started.elapsed() >= Duration::from_secs(4), "in order");
    });
}

//! An HTTP and SOCKS proxy that remembers what it was asked for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use super::listening::Listening;

pub struct Proxy {
    pub address: String,
    asked: Arc<Mutex<Vec<String>>>,
    _listening: Listening,
}

impl Proxy {
    pub fn start(address: &str) -> Proxy {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&asked);
        Proxy {
            address: address.to_owned(),
            asked,
            _listening: Listening::start(address, move |client| relay(client, &log)),
        }
    }

    /// The first lines of the requests so far: `GET http://10.0.0.1/v2/`, `CONNECT 10.0.0.1:443`,
    /// `SOCKS 10.0.0.1:443`.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// One connection: a tunnel, or plain requests one by one.
fn relay(client: TcpStream, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut out = client.try_clone()?;
    let mut reader = BufReader::new(client);
    if reader.fill_buf()?.first() == Some(&5) {
        let server = socks(&mut reader, &mut out, log)?;
        return tunnel(reader.into_inner(), server);
    }
    let mut upstream: Option<(String, TcpStream)> = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        log.lock().unwrap().push(format!("{method} {target}"));
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if line.trim_end().is_empty() {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        if method == "CONNECT" {
            let server = TcpStream::connect(target)?;
            out.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
            return tunnel(reader.into_inner(), server);
        }
        let rest = target.strip_prefix("http://").unwrap_or("");
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut server = match upstream.take() {
            Some((known, server)) if known == host => server,
            _ => {
                let server = TcpStream::connect(host)?;
                let (mut answers, mut out) = (server.try_clone()?, out.try_clone()?);
                // Answers come back as they are, until the server ends.
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut answers, &mut out);
                    let _ = out.shutdown(Shutdown::Write);
                });
                server
            }
        };
        write!(server, "{method} /{path} HTTP/1.1\r\n")?;
        for line in &head {
            write!(server, "{line}\r\n")?;
        }
        server.write_all(b"\r\n")?;
        upstream = Some((host.to_owned(), server));
    }
}

/// The greeting of RFC 1928, without a password, to a numeric address.
fn socks(
    client: &mut impl Read,
    out: &mut TcpStream,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<TcpStream> {
    let mut read = |n: usize| -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        client.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let n_methods = read(2)?[1];
    read(n_methods.into())?;
    out.write_all(&[5, 0])?;
    assert_eq!(read(4)?, [5, 1, 0, 1], "connect to an IPv4 address");
    let address = <[u8; 4]>::try_from(read(4)?).expect("four");
    let port = u16::from_be_bytes(read(2)?.try_into().expect("two"));
    let address = SocketAddr::from((address, port));
    log.lock().unwrap().push(format!("SOCKS {address}"));
    let server = TcpStream::connect(address)?;
    out.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    Ok(server)
}

fn tunnel(client: TcpStream, server: TcpStream) -> std::io::Result<()> {
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let (mut from_server, mut to_client) = (server, client);
    std::io::copy(&mut from_server, &mut to_client)?;
    to_client.shutdown(Shutdown::Write)
}

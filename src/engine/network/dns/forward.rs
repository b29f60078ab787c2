//! Asking the outside: the host's servers from the host, a container's own from its namespace.
//!
//! Queries and answers go through unread except for their first twelve bytes, so that whatever they
//! carry (EDNS, DNSSEC, types unknown here) survives. Servers are asked in order; a server that is
//! silent, fails or refuses gives way to the next.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::answer::Transport;
use crate::sys::netns;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(4);
const MAX_SERVERS: usize = 3;
const HEADER_BYTES: usize = 12;
const SERVER_FAILURE: u8 = 2;
const REFUSED: u8 = 5;

/// The servers that a container's unknown names are asked of.
#[derive(Clone)]
pub struct Upstream {
    pub servers: Vec<SocketAddr>,
    /// Where the questions leave from; `None` is the host.
    pub netns: Option<Arc<OwnedFd>>,
}

/// The first useful answer; `None` if no server gave one. A failure that all agree on is an answer.
pub async fn forward(upstream: &Upstream, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let mut failure = None;
    for server in upstream.servers.iter().take(MAX_SERVERS) {
        let asked = match transport {
            Transport::Udp => timeout(PATIENCE, ask_udp(upstream, *server, query)).await,
            Transport::Tcp => timeout(PATIENCE, ask_tcp(upstream, *server, query)).await,
        };
        let Ok(Ok(answer)) = asked else {
            continue;
        };
        if matches!(answer[3] & 0xf, SERVER_FAILURE | REFUSED) {
            failure = Some(answer);
            continue;
        }
        return Some(answer);
    }
    failure
}

/// A socket of its own for each question: an unpredictable port beside an unpredictable id.
async fn ask_udp(upstream: &Upstream, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let open = move || {
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let socket = UdpSocket::from_std(within(upstream, open).await?)?;
    let (sent, original) = with_fresh_id(query)?;
    socket.send(&sent).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if is_answer(&sent, &buffer[..length]) {
            buffer.truncate(length);
            buffer[..2].copy_from_slice(&original);
            buffer.shrink_to_fit();
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(upstream: &Upstream, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = if upstream.netns.is_some() {
        let stream = within(upstream, move || {
            let stream = std::net::TcpStream::connect_timeout(&server, PATIENCE)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        })
        .await?;
        TcpStream::from_std(stream)?
    } else {
        TcpStream::connect(server).await?
    };
    let (sent, original) = with_fresh_id(query)?;
    let mut framed = (sent.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(&sent);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    if !is_answer(&sent, &answer) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    answer[..2].copy_from_slice(&original);
    Ok(answer)
}

/// Opens a socket where the questions leave from.
async fn within<T: Send + 'static>(
    upstream: &Upstream,
    open: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let Some(netns) = upstream.netns.clone() else {
        return open();
    };
    tokio::task::spawn_blocking(move || netns::within(netns.as_fd(), open))
        .await
        .map_err(io::Error::other)?
}

fn with_fresh_id(query: &[u8]) -> io::Result<(Vec<u8>, [u8; 2])> {
    let (Some(&[high, low]), true) = (query.get(..2), query.len() >= HEADER_BYTES) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut sent = query.to_vec();
    getrandom::fill(&mut sent[..2]).map_err(io::Error::other)?;
    Ok((sent, [high, low]))
}

/// Whether the bytes answer this very question.
fn is_answer(query: &[u8], answer: &[u8]) -> bool {
    const IS_RESPONSE: u8 = 0x80;
    answer.len() >= HEADER_BYTES
        && answer[..2] == query[..2]
        && answer[2] & IS_RESPONSE != 0
        && match question(query) {
            Some(asked) => {
                // A server that does not understand the question may leave it out.
                question(answer).is_none_or(|echoed| echoed.eq_ignore_ascii_case(asked))
            }
            None => true,
        }
}

/// The first question's bytes; `None` if there is none.
fn question(message: &[u8]) -> Option<&[u8]> {
    if message.get(4..6)? == [0, 0] {
        return None;
    }
    let mut position = HEADER_BYTES;
    loop {
        let length = usize::from(*message.get(position)?);
        position += length + 1;
        if length == 0 {
            break;
        }
    }
    // Type and class.
    message.get(HEADER_BYTES..position + 4)
}

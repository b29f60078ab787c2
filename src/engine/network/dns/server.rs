//! One task per container: listens inside its namespace, answers or forwards.
//!
//! Ending the task closes the sockets, which lets the namespace die.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Shared;
use super::answer::{self, Decision, Outside, Transport};
use super::forward::{self, Upstream};
use crate::engine::network::netns::ResolverSockets;

/// Queries and connections that one container may have open.
const MAX_OPEN: usize = 256;
/// A TCP client that says nothing for this long is hung up on.
const IDLE: Duration = Duration::from_secs(10);
/// Larger queries do not exist outside of tests.
const MAX_QUERY_BYTES: usize = 4096;
/// After an error that would come again at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Where a container's unknown names go.
#[derive(Clone)]
pub enum Route {
    Closed,
    /// The host's servers as they are at the time.
    Host,
    Own(Upstream),
}

/// What a server knows about its container.
pub struct Server {
    pub shared: Arc<Shared>,
    pub container: String,
    pub route: Route,
    pub outside: Outside,
    turn: AtomicUsize,
}

impl Server {
    pub fn new(shared: Arc<Shared>, container: &str, route: Route, outside: Outside) -> Server {
        Server {
            shared,
            container: container.to_owned(),
            route,
            outside,
            turn: AtomicUsize::new(0),
        }
    }

    fn decide(&self, query: &[u8], transport: Transport) -> Decision {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let zone = self
            .shared
            .zone
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        answer::decide(&zone, &self.container, self.outside, query, transport, turn)
    }

    async fn ask_outside(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let upstream = match &self.route {
            Route::Closed => return answer::failure(query, ResponseCode::ServFail),
            Route::Own(upstream) => upstream.clone(),
            Route::Host => self.shared.host_upstream(),
        };
        let Ok(_permit) = self.shared.forwards.try_acquire() else {
            return answer::failure(query, ResponseCode::Refused);
        };
        match forward::forward(&upstream, query, transport).await {
            Some(answer) => Some(answer),
            None => answer::failure(query, ResponseCode::ServFail),
        }
    }

    async fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        match self.decide(query, transport) {
            Decision::Answer(bytes) => Some(bytes),
            Decision::Forward => self.ask_outside(query, transport).await,
            Decision::Ignore => None,
        }
    }
}

/// Serves until the task is aborted.
pub async fn serve(server: Arc<Server>, sockets: ResolverSockets) -> io::Result<()> {
    let udp = Arc::new(UdpSocket::from_std(sockets.udp)?);
    let tcp = TcpListener::from_std(sockets.tcp)?;
    let mut open = JoinSet::new();
    let mut buffer = vec![0; MAX_QUERY_BYTES];
    loop {
        let has_room = open.len() < MAX_OPEN;
        tokio::select! {
            // Cancel-safe: a datagram is taken from the socket only when the branch completes.
            received = udp.recv_from(&mut buffer) => match received {
                Ok((length, client)) => {
                    let query = &buffer[..length];
                    match server.decide(query, Transport::Udp) {
                        Decision::Answer(bytes) => send(&udp, &bytes, client).await,
                        Decision::Ignore => {}
                        Decision::Forward if has_room => {
                            let (server, udp, query) = (server.clone(), udp.clone(), query.to_vec());
                            open.spawn(async move {
                                if let Some(bytes) = server.ask_outside(&query, Transport::Udp).await {
                                    send(&udp, &bytes, client).await;
                                }
                            });
                        }
                        Decision::Forward => {
                            if let Some(bytes) = answer::failure(query, ResponseCode::Refused) {
                                send(&udp, &bytes, client).await;
                            }
                        }
                    }
                }
                // An answer could not be delivered; the socket is none the worse.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            // Cancel-safe: a connection that was not taken stays in the backlog.
            accepted = tcp.accept(), if has_room => match accepted {
                Ok((stream, _)) => {
                    let server = server.clone();
                    open.spawn(async move {
                        // The client went away or broke the framing; nobody is left to tell.
                        let _gone = converse(&server, stream).await;
                    });
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            // Cancel-safe by its documentation. A question that panicked is dropped alone.
            Some(_) = open.join_next(), if !open.is_empty() => {}
        }
    }
}

async fn send(udp: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    // UDP may lose it as well; the client asks again.
    let _lost = udp.send_to(bytes, client).await;
}

async fn converse(server: &Server, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let length = timeout(IDLE, stream.read_u16()).await??;
        let mut query = vec![0; usize::from(length)];
        timeout(IDLE, stream.read_exact(&mut query)).await??;
        let Some(bytes) = server.answer(&query, Transport::Tcp).await else {
            return Ok(());
        };
        let mut framed = (bytes.len() as u16).to_be_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

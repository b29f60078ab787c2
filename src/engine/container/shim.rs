//! The engine's end of a connection to one shim.
//!
//! A task owns the socket: it sends requests, matches replies to them by id, and passes events up
//! to the container's driver. When the socket closes, waiting requests fail and the event stream
//! ends; what that means is the driver's to decide.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::shim::protocol::{Answer, Call, Event, Failure, Message, Request, file};
use crate::sys::{socket, watched};

#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error("the container's shim is gone")]
    Gone,
    #[error("cannot reach the container's shim")]
    Connect(#[source] io::Error),
    #[error(transparent)]
    Refused(#[from] Failure),
    #[error("the container's shim gave an answer that does not fit the request")]
    Protocol,
}

/// How long a shim may take to see that its container is dead.
const PUT_DOWN_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// The longest packet, bytes; below the default `SO_SNDBUF`, so that one always fits.
const MAX_MESSAGE: usize = 128 * 1024;

type Reply = Result<(Answer, Vec<OwnedFd>), ShimError>;

struct Outgoing {
    call: Call,
    fds: Vec<OwnedFd>,
    reply: oneshot::Sender<Reply>,
}

/// A handle to one shim; clones share the connection.
#[derive(Clone)]
pub struct Shim {
    outgoing: mpsc::UnboundedSender<Outgoing>,
}

impl Shim {
    /// Takes over a connected socket. The receiver ends when the shim is gone.
    pub fn attach(socket: OwnedFd) -> io::Result<(Shim, mpsc::UnboundedReceiver<Event>)> {
        let socket = watched::watch(socket)?;
        let (outgoing, requests) = mpsc::unbounded_channel();
        let (events, receiver) = mpsc::unbounded_channel();
        tokio::spawn(serve(Arc::new(socket), requests, events));
        Ok((Shim { outgoing }, receiver))
    }

    /// Connects to a shim that an earlier engine left behind.
    pub fn connect(run_dir: &Path) -> Result<(Shim, mpsc::UnboundedReceiver<Event>), ShimError> {
        let connect = || -> io::Result<OwnedFd> {
            let socket = socket::connect(&run_dir.join(file::SOCKET))?;
            // Only the shim that our user started may speak for a container (S48).
            let peer = rustix::net::sockopt::socket_peercred(&socket)?;
            if peer.uid != rustix::process::geteuid() {
                return Err(io::Error::from(io::ErrorKind::PermissionDenied));
            }
            Ok(socket)
        };
        let socket = connect().map_err(ShimError::Connect)?;
        Shim::attach(socket).map_err(ShimError::Connect)
    }

    /// Ends a shim whose connection broke and whose container has been killed. As a rule it is dead
    /// itself, and there is nothing to do; but a connection also breaks when the kernel has no
    /// memory for a message, and the shim would wait for the next engine.
    pub async fn put_down(run_dir: &Path) {
        let Ok((shim, mut events)) = Shim::connect(run_dir) else {
            return;
        };
        let release = async {
            let state = shim.call(Call::State).await;
            if matches!(state, Ok(Answer::State(state)) if state.exit.is_none()) {
                while let Some(event) = events.recv().await {
                    if matches!(event, Event::Exited { .. } | Event::StartFailed { .. }) {
                        break;
                    }
                }
            }
            // It may have ended by itself.
            let _ = shim.call(Call::Release).await;
        };
        if tokio::time::timeout(PUT_DOWN_PATIENCE, release)
            .await
            .is_err()
        {
            tracing::warn!(dir = %run_dir.display(), "a shim does not end");
        }
    }

    /// Sends a request and waits for its answer, with the descriptors that came beside it.
    pub async fn call_with(&self, call: Call, fds: Vec<OwnedFd>) -> Reply {
        let (reply, answer) = oneshot::channel();
        let outgoing = Outgoing { call, fds, reply };
        self.outgoing.send(outgoing).map_err(|_| ShimError::Gone)?;
        match answer.await.map_err(|_| ShimError::Gone)?? {
            (Answer::Failed(failure), _) => Err(ShimError::Refused(failure)),
            answer => Ok(answer),
        }
    }

    pub async fn call(&self, call: Call) -> Result<Answer, ShimError> {
        Ok(self.call_with(call, Vec::new()).await?.0)
    }
}

async fn serve(
    socket: Arc<AsyncFd<OwnedFd>>,
    mut requests: mpsc::UnboundedReceiver<Outgoing>,
    events: mpsc::UnboundedSender<Event>,
) {
    let mut waiting: HashMap<u64, oneshot::Sender<Reply>> = HashMap::new();
    let mut next_id = 0;
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        tokio::select! {
            // Cancel-safe: readiness is only noted, the packet is read below in one call.
            ready = socket.readable() => {
                let Ok(mut guard) = ready else { return };
                let packet = guard.try_io(|fd| {
                    socket::receive(fd, &mut buffer)
                });
                let (length, fds) = match packet {
                    Err(_would_block) => continue,
                    Ok(Ok(packet)) => packet,
                    Ok(Err(_)) => return,
                };
                if length == 0 {
                    return;
                }
                match serde_json::from_slice::<Message>(&buffer[..length]) {
                    Ok(Message::Event { event }) => {
                        if events.send(event).is_err() {
                            return;
                        }
                    }
                    Ok(Message::Reply { id, answer }) => {
                        if let Some(reply) = waiting.remove(&id) {
                            // The caller may have stopped waiting.
                            let _ = reply.send(Ok((answer, fds)));
                        }
                    }
                    Err(error) => tracing::warn!(%error, "a shim sent what is no message"),
                }
            }
            // Cancel-safe: a channel's recv loses nothing.
            outgoing = requests.recv() => {
                // Every handle is gone: the engine lets go of this container.
                let Some(Outgoing { call, fds, reply }) = outgoing else { return };
                next_id += 1;
                let request = Request { id: next_id, call };
                // Requests are plain data; serialising them cannot fail.
                let bytes = serde_json::to_vec(&request).expect("requests serialise to JSON");
                match send(&socket, &bytes, &fds).await {
                    Ok(()) => {
                        waiting.insert(next_id, reply);
                    }
                    Err(error) => {
                        let _ = reply.send(Err(ShimError::Connect(error)));
                    }
                }
            }
        }
    }
}

/// Sends one packet when the socket has room.
pub async fn send(socket: &AsyncFd<OwnedFd>, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    loop {
        let mut guard = socket.writable().await?;
        let result = guard.try_io(|packets| socket::send(packets, bytes, &fds));
        if let Ok(result) = result {
            return result;
        }
    }
}

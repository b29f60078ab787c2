//! Client and server over a real unix socket, with the engine in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::client::{Client, ClientError, ExecEvent};
use super::memory::{Memory, container, line};
use super::wire::exec::ExecConfig;
use super::wire::frame::{LogFrame, OutputStream, STDIN_WINDOW_BYTES};
use super::wire::{DownOptions, LogsQuery, StopOptions, UpOptions, Verb};
use crate::compose::{Project, ProjectName, Service};
use crate::plan::ObservedContainer;
use crate::reconcile::{FailureKind, Report};

struct Served {
    engine: Arc<Memory>,
    client: Client,
    socket: std::path::PathBuf,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
    _dir: tempfile::TempDir,
}

async fn serve(containers: Vec<ObservedContainer>) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("wharf.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let engine = Memory::new(containers);
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(super::server::serve(
        engine.clone(),
        listener,
        shutdown.clone(),
        None,
    ));
    let client = Client::connect(&socket).await.unwrap();
    Served {
        engine,
        client,
        socket,
        shutdown,
        server,
        _dir: dir,
    }
}

impl Served {
    /// A request as written, and the answer up to the end of the connection.
    async fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn get(&self, path: &str) -> String {
        self.raw(&format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        ))
        .await
    }
}

/// Waits for a condition that another task brings about; the harness's own limit ends a wrong wait.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn name() -> ProjectName {
    ProjectName::new("demo").unwrap()
}

fn project(services: &[&str]) -> Project {
    let mut project = Project::new(name());
    project.services = services
        .iter()
        .map(|s| (s.to_string(), Service::default()))
        .collect();
    project
}

fn up() -> Verb {
    Verb::Up(UpOptions::default())
}

#[tokio::test]
async fn up_streams_its_reports_and_the_connection_serves_again() {
    let served = serve(Vec::new()).await;
    let mut reports = served
        .client
        .command(&name(), Some(project(&["web", "db"])), &up())
        .await
        .unwrap();
    let mut lines = Vec::new();
    while let Some(report) = reports.next().await {
        lines.push(serde_json::to_string(&report.unwrap()).unwrap());
    }
    insta::assert_snapshot!(lines.join("\n"), @r#"
    {"event":"progress","subject":{"kind":"container","name":"demo-web-1"},"status":"starting"}
    {"event":"progress","subject":{"kind":"container","name":"demo-web-1"},"status":"started"}
    {"event":"progress","subject":{"kind":"container","name":"demo-db-1"},"status":"starting"}
    {"event":"progress","subject":{"kind":"container","name":"demo-db-1"},"status":"started"}
    {"event":"done","n_steps":2}
    "#);
    assert_eq!(served.client.status().await.unwrap().pid, 42);
}

#[tokio::test]
async fn a_client_that_leaves_does_not_stop_an_up() {
    let served = serve(Vec::new()).await;
    let mut reports = served
        .client
        .command(&name(), Some(project(&["gate"])), &up())
        .await
        .unwrap();
    reports.next().await.unwrap().unwrap();
    drop(reports);
    drop(served.client);
    served.engine.gate.notify_one();
    until(|| served.engine.n_commands_ended.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn the_second_command_on_a_project_waits_and_says_so() {
    let served = serve(Vec::new()).await;
    let mut first = served
        .client
        .command(&name(), Some(project(&["gate"])), &up())
        .await
        .unwrap();
    first.next().await.unwrap().unwrap();
    let down = Verb::Down(DownOptions::default());
    let mut second = served.client.command(&name(), None, &down).await.unwrap();
    let Report::Warning { text } = second.next().await.unwrap().unwrap() else {
        panic!("expected a warning");
    };
    assert_eq!(
        text,
        "another command (up) is running on project demo, waiting for it"
    );
    assert_eq!(served.engine.n_commands_ended.load(Ordering::SeqCst), 0);
    served.engine.gate.notify_one();
    assert_eq!(
        second.next().await.unwrap().unwrap(),
        Report::Done { n_steps: 0 }
    );
    assert_eq!(served.engine.n_commands_ended.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_command_that_waits_can_be_cancelled() {
    let served = serve(Vec::new()).await;
    let mut reports = served
        .client
        .command(&name(), Some(project(&["gate"])), &up())
        .await
        .unwrap();
    reports.next().await.unwrap().unwrap();
    assert!(served.client.cancel(&name()).await.unwrap());
    let mut last = None;
    while let Some(report) = reports.next().await {
        last = Some(report.unwrap());
    }
    let Some(Report::Failed { error, .. }) = last else {
        panic!("got {last:?}")
    };
    assert_eq!(error.kind, FailureKind::Conflict);
    assert!(!served.client.cancel(&name()).await.unwrap());
}

#[tokio::test]
async fn a_bug_in_one_command_leaves_the_engine_and_the_project_usable() {
    let served = serve(Vec::new()).await;
    let mut reports = served
        .client
        .command(&name(), Some(project(&["bug"])), &up())
        .await
        .unwrap();
    let Report::Failed { error, .. } = reports.next().await.unwrap().unwrap() else {
        panic!("expected a failure");
    };
    assert_eq!(error.kind, FailureKind::Internal);
    let mut again = served
        .client
        .command(&name(), Some(project(&[])), &up())
        .await
        .unwrap();
    assert_eq!(
        again.next().await.unwrap().unwrap(),
        Report::Done { n_steps: 0 }
    );
}

#[tokio::test]
async fn a_body_that_names_another_project_is_refused() {
    let served = serve(Vec::new()).await;
    let other = ProjectName::new("other").unwrap();
    let Err(ClientError::Engine(error)) = served
        .client
        .command(&other, Some(project(&[])), &up())
        .await
    else {
        panic!("expected a refusal");
    };
    assert_eq!(error.kind, FailureKind::Invalid);
}

#[tokio::test]
async fn an_oversized_body_is_refused_unread() {
    let served = serve(Vec::new()).await;
    let answer = served
        .raw("POST /wharf/v1/projects/demo/up HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

fn records(frames: &[LogFrame]) -> Vec<(u16, OutputStream, u64, &[u8])> {
    frames
        .iter()
        .filter_map(|frame| match frame {
            LogFrame::Record {
                index,
                stream,
                time_ns,
                bytes,
                ..
            } => Some((*index, *stream, *time_ns, bytes.as_ref())),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn stored_logs_come_in_order_of_time_with_every_byte() {
    use OutputStream::{Stderr, Stdout};
    let (web, db) = (container("demo", "web", 1), container("demo", "db", 1));
    let other = container("other", "web", 1);
    let served = serve(vec![web.clone(), db.clone(), other.clone()]).await;
    served
        .engine
        .write(&web, line(Stdout, 10, b"\x00\xff\x1b[31m"));
    served.engine.write(&web, line(Stderr, 30, b""));
    served.engine.write(&db, line(Stdout, 20, b"between"));
    served.engine.write(&other, line(Stdout, 5, b"not ours"));
    let logs = served
        .client
        .logs(&name(), &LogsQuery::default())
        .await
        .unwrap();
    let frames: Vec<LogFrame> = logs.map(Result::unwrap).collect().await;
    let labels: Vec<&str> = frames
        .iter()
        .filter_map(|frame| match frame {
            LogFrame::Opened(opened) => Some(opened.label.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(labels, ["db-1", "web-1"]);
    assert_eq!(
        records(&frames),
        [
            (1, Stdout, 10, &b"\x00\xff\x1b[31m"[..]),
            (0, Stdout, 20, b"between"),
            (1, Stderr, 30, b""),
        ]
    );
}

#[tokio::test]
async fn followers_see_newcomers_and_exits_and_end_with_the_last() {
    let web = container("demo", "web", 1);
    let served = serve(vec![web.clone()]).await;
    let query = LogsQuery {
        follow: true,
        ..LogsQuery::default()
    };
    let mut logs = served.client.logs(&name(), &query).await.unwrap();
    let mut next = async || logs.next().await.map(Result::unwrap);

    assert!(matches!(next().await, Some(LogFrame::Opened(o)) if o.label == "web-1"));
    served
        .engine
        .write(&web, line(OutputStream::Stdout, 1, b"one"));
    assert!(matches!(next().await, Some(LogFrame::Record { bytes, .. }) if bytes == "one"));

    let second = container("demo", "web", 2);
    served.engine.add(container("other", "web", 1));
    served.engine.add(second.clone());
    assert!(matches!(next().await, Some(LogFrame::Opened(o)) if o.label == "web-2"));

    served.engine.exit(&web, 7);
    assert!(
        matches!(next().await, Some(LogFrame::Closed(c)) if c.index == 0 && c.exit_code == Some(7))
    );
    served
        .engine
        .write(&second, line(OutputStream::Stderr, 2, b"last"));
    assert!(matches!(next().await, Some(LogFrame::Record { bytes, .. }) if bytes == "last"));
    served.engine.exit(&second, 0);
    assert!(matches!(next().await, Some(LogFrame::Closed(c)) if c.index == 1));
    assert_eq!(next().await, None);
}

fn exec(argv: &[&str]) -> ExecConfig {
    ExecConfig {
        argv: argv.iter().map(|s| s.to_string()).collect(),
        stdin: true,
        ..ExecConfig::default()
    }
}

#[tokio::test]
async fn exec_carries_any_bytes_both_ways_and_the_exit_code() {
    let served = serve(vec![container("demo", "web", 1)]).await;
    let (input, mut output) = served
        .client
        .exec("demo-web-1", &exec(&["cat"]))
        .await
        .unwrap();
    // Three windows' worth: the process has to take what was sent before more may come.
    let sent: Vec<u8> = (0..3 * STDIN_WINDOW_BYTES)
        .map(|n| (n * 7 % 256) as u8)
        .collect();
    let feed = tokio::spawn({
        let bytes = Bytes::from(sent.clone());
        async move {
            input.stdin(bytes).await;
            input.stdin_eof().await;
        }
    });
    let mut received = Vec::new();
    let code = loop {
        match output.next().await.unwrap() {
            ExecEvent::Stdout(bytes) => received.extend_from_slice(&bytes),
            ExecEvent::Stderr(bytes) => panic!("unexpected {bytes:?}"),
            ExecEvent::Exited(code) => break code,
        }
    };
    feed.await.unwrap();
    assert_eq!(code, 0);
    assert!(
        received == sent,
        "{} of {} bytes",
        received.len(),
        sent.len()
    );
}

#[tokio::test]
async fn a_process_that_does_not_read_still_gets_signals() {
    let served = serve(vec![container("demo", "web", 1)]).await;
    let (input, mut output) = served
        .client
        .exec("demo-web-1", &exec(&["deaf"]))
        .await
        .unwrap();
    let blocked = tokio::spawn({
        let input = input.clone();
        async move {
            input
                .stdin(Bytes::from(vec![0; 2 * STDIN_WINDOW_BYTES]))
                .await
        }
    });
    input.signal("SIGINT").await;
    assert_eq!(output.next().await.unwrap(), ExecEvent::Exited(130));
    drop((input, output));
    blocked.abort();
}

#[tokio::test]
async fn resizes_and_signals_arrive_in_order() {
    let served = serve(vec![container("demo", "web", 1)]).await;
    let (input, mut output) = served
        .client
        .exec("demo-web-1", &exec(&["controls"]))
        .await
        .unwrap();
    input.resize((80, 24)).await;
    input.signal("SIGTERM").await;
    let mut text = String::new();
    while text.lines().count() < 2 {
        match output.next().await.unwrap() {
            ExecEvent::Stderr(bytes) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(text, "Resize(80, 24)\nSignal(\"SIGTERM\")\n");
    input.stdin_eof().await;
    assert_eq!(output.next().await.unwrap(), ExecEvent::Exited(3));
}

#[tokio::test]
async fn an_exec_that_cannot_start_is_an_answer_not_a_session() {
    let served = serve(vec![container("demo", "web", 1)]).await;
    let Err(ClientError::Engine(error)) =
        served.client.exec("demo-web-1", &exec(&["missing"])).await
    else {
        panic!("expected a failure");
    };
    assert_eq!(error.kind, FailureKind::StartFailed { exit_code: 127 });
    let Err(ClientError::Engine(error)) = served.client.exec("no such/one", &exec(&["cat"])).await
    else {
        panic!("expected a failure");
    };
    assert_eq!(error.kind, FailureKind::NotFound);
    assert_eq!(error.message, "no such container: no such/one");
    assert_eq!(error.hints.len(), 1);
}

#[tokio::test]
async fn clients_that_drop_their_sessions_leave_nothing_behind() {
    let served = serve(vec![container("demo", "web", 1)]).await;
    let query = LogsQuery {
        follow: true,
        ..LogsQuery::default()
    };
    for _ in 0..50 {
        let session = served
            .client
            .exec("demo-web-1", &exec(&["deaf"]))
            .await
            .unwrap();
        let logs = served.client.logs(&name(), &query).await.unwrap();
        drop((session, logs));
    }
    until(|| served.engine.n_sessions_freed.load(Ordering::SeqCst) == 50).await;
}

#[tokio::test]
async fn shutdown_ends_streams_and_the_server() {
    let served = serve(vec![container("demo", "web", 1)]).await;
    let query = LogsQuery {
        follow: true,
        ..LogsQuery::default()
    };
    let mut logs = served.client.logs(&name(), &query).await.unwrap();
    logs.next().await.unwrap().unwrap();
    let (_input, mut output) = served
        .client
        .exec("demo-web-1", &exec(&["cat"]))
        .await
        .unwrap();
    served.client.shutdown(false).await.unwrap();
    assert!(served.engine.is_shut_down.load(Ordering::SeqCst));
    served.shutdown.cancel();
    assert!(matches!(
        logs.next().await,
        Some(Err(ClientError::Gone { .. }))
    ));
    assert!(matches!(output.next().await, Err(ClientError::Gone { .. })));
    served.server.await.unwrap().unwrap();
}

#[tokio::test]
async fn docker_clients_find_what_they_ask_first() {
    let mut web = container("demo", "web", 1);
    web.exit_code = Some(3);
    web.finished_at = Some(0);
    web.phase = crate::plan::Phase::Exited;
    let served = serve(vec![web, container("demo", "db", 1)]).await;
    let ping = served.get("/v1.45/_ping").await;
    assert!(ping.starts_with("HTTP/1.1 200"), "{ping}");
    assert!(
        ping.contains("api-version: 1.47") && ping.ends_with("OK"),
        "{ping}"
    );
    let head = served
        .raw("HEAD /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await;
    assert!(
        head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let version = served.get("/v1.45/version").await;
    assert!(version.contains(r#""MinAPIVersion":"1.24""#), "{version}");
    assert!(
        served
            .get("/info")
            .await
            .contains(r#""ContainersStopped":1"#)
    );
    assert!(
        served
            .get("/nope")
            .await
            .contains(r#"{"message":"page not found""#)
    );

    let rows = served.get("/v1.45/containers/json").await;
    assert!(
        rows.contains("/demo-db-1") && !rows.contains("/demo-web-1"),
        "{rows}"
    );
    let filter = "%7B%22label%22%3A%7B%22com.docker.compose.service%3Dweb%22%3Atrue%7D%7D";
    let rows = served
        .get(&format!("/v1.45/containers/json?all=1&filters={filter}"))
        .await;
    assert!(
        rows.contains(r#""Names":["/demo-web-1"]"#) && !rows.contains("demo-db-1"),
        "{rows}"
    );
    assert!(
        rows.contains(r#""State":"exited""#) && rows.contains("Exited (3)"),
        "{rows}"
    );
    let refused = served
        .get("/containers/json?filters=%7B%22colour%22%3A%5B%5D%7D")
        .await;
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
}

#[tokio::test]
async fn a_socket_that_nobody_serves_is_a_connect_error() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(matches!(
        Client::connect(&socket).await,
        Err(ClientError::Connect { .. })
    ));
}

#[tokio::test]
async fn stop_goes_by_name_alone() {
    let served = serve(Vec::new()).await;
    let stop = Verb::Stop(StopOptions {
        services: vec!["web".into()],
        ..StopOptions::default()
    });
    let mut reports = served.client.command(&name(), None, &stop).await.unwrap();
    let mut n = 0;
    while let Some(report) = reports.next().await {
        report.unwrap();
        n += 1;
    }
    assert_eq!(n, 3);
}

/// Serves with an idle timeout, and gives the socket's path and the serving task.
async fn serve_until_idle(
    containers: Vec<ObservedContainer>,
    timeout: Duration,
) -> (
    tempfile::TempDir,
    std::path::PathBuf,
    tokio::task::JoinHandle<std::io::Result<()>>,
) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("wharf.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(super::server::serve(
        Memory::new(containers),
        listener,
        CancellationToken::new(),
        Some(timeout),
    ));
    (dir, socket, server)
}

#[tokio::test]
async fn an_engine_with_nothing_to_do_ends_and_takes_its_socket_with_it() {
    let (_dir, socket, server) = serve_until_idle(Vec::new(), Duration::from_millis(50)).await;
    server.await.unwrap().unwrap();
    assert!(!socket.exists());
}

#[tokio::test]
async fn an_engine_does_not_end_under_a_client_or_a_container() {
    let timeout = Duration::from_millis(30);
    let (_dir, socket, server) = serve_until_idle(Vec::new(), timeout).await;
    let client = tokio::net::UnixStream::connect(&socket).await.unwrap();
    tokio::time::sleep(timeout * 10).await;
    assert!(!server.is_finished(), "somebody is connected");
    drop(client);
    server.await.unwrap().unwrap();

    let containers = vec![container("demo", "web", 1)];
    let (_dir, socket, server) = serve_until_idle(containers, timeout).await;
    tokio::time::sleep(timeout * 10).await;
    assert!(!server.is_finished(), "something runs");
    assert!(socket.exists());
    server.abort();
}

/// Every client that could connect is answered, however near to the end it came (L6).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l6_no_client_is_lost_to_an_engine_that_ends() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for round in 0..200u64 {
        let timeout = Duration::from_millis(5);
        let (_dir, socket, server) = serve_until_idle(Vec::new(), timeout).await;
        tokio::time::sleep(Duration::from_micros(4500 + round * 10)).await;
        if let Ok(mut stream) = tokio::net::UnixStream::connect(&socket).await {
            let request = b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 200"), "round {round}");
        }
        server.await.unwrap().unwrap();
    }
}

fn image(id: &str, tags: &[&str]) -> super::wire::image::ImageSummary {
    super::wire::image::ImageSummary {
        id: id.to_owned(),
        repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        ..Default::default()
    }
}

#[tokio::test]
async fn names_of_images_may_hold_slashes() {
    let served = serve(Vec::new()).await;
    let images = [
        image("sha256:1", &["ghcr.io/a/b:1"]),
        image("sha256:2", &[]),
    ];
    *served.engine.images.lock().unwrap() = images.to_vec();
    let client = &served.client;
    assert_eq!(client.images("").await.unwrap().len(), 2);
    let only = client
        .images(r#"{"reference":["ghcr.io/*/*"]}"#)
        .await
        .unwrap();
    assert_eq!(only[0].id, "sha256:1");
    assert_eq!(
        client.inspect_image("ghcr.io/a/b:1").await.unwrap().id,
        "sha256:1"
    );
    client
        .tag_image("ghcr.io/a/b:1", "localhost:5000/x/y")
        .await
        .unwrap();
    assert_eq!(
        client.inspect_image("localhost:5000/x/y").await.unwrap().id,
        "sha256:1"
    );
    client.image_history("localhost:5000/x/y").await.unwrap();
    let removed = client
        .remove_image("localhost:5000/x/y", false)
        .await
        .unwrap();
    assert_eq!(removed[0].deleted.as_deref(), Some("sha256:1"));
    let missing = client.inspect_image("ghcr.io/a/b:1").await.unwrap_err();
    let ClientError::Engine(missing) = missing else {
        panic!("{missing}")
    };
    assert_eq!(missing.kind, FailureKind::NotFound);
    for path in [
        "/images/a/b/nonsense",
        "/images/json?filters=x",
        "/images/get",
    ] {
        let answer = served.get(path).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn what_a_registry_has_is_told_with_the_login_of_the_header() {
    let served = serve(Vec::new()).await;
    let answer = served
        .get("/v1.47/distribution/reg.example/private/json")
        .await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(answer.contains(r#""message":"who are you""#), "{answer}");
    let auth = "eyJ1c2VybmFtZSI6Im1lIiwicGFzc3dvcmQiOiJ4In0=";
    let request = format!(
        "GET /distribution/reg.example/private/json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         X-Registry-Auth: {auth}\r\n\r\n"
    );
    let answer = served.raw(&request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains(r#""mediaType":"reg.example/private for Some(\"me\")","digest":"sha256:0"#)
            && answer.contains(r#""size":7},"Platforms":[]}"#),
        "{answer}"
    );
    let answer = served.get("/distribution/reg.example/private").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test]
async fn archives_are_streams_and_their_failures_have_hints() {
    let served = serve(Vec::new()).await;
    *served.engine.images.lock().unwrap() = vec![image("sha256:1", &["a:1"])];
    // More than any other request may hold.
    let piece = Bytes::from(vec![0; 1 << 20]);
    let pieces = futures_util::stream::iter((0..40).map(move |_| Ok(piece.clone())));
    let mut lines = served
        .client
        .load_images("linux/arm64", pieces)
        .await
        .unwrap();
    let mut texts = Vec::new();
    while let Some(line) = lines.next().await {
        texts.extend(line.unwrap().stream);
    }
    assert_eq!(texts, ["41943040 bytes for Some(\"linux/arm64\")"]);
    let nothing = futures_util::stream::empty();
    let mut lines = served.client.load_images("", nothing).await.unwrap();
    let mut last = None;
    while let Some(line) = lines.next().await {
        last = Some(line);
    }
    let Some(Err(ClientError::Engine(error))) = last else {
        panic!("no failure")
    };
    assert_eq!(
        (&*error.message, &*error.hints[0]),
        ("it is empty", "send something")
    );
    let mut archive = served
        .client
        .save_images(&["a:1".to_owned()])
        .await
        .unwrap();
    assert_eq!(archive.next().await.unwrap().unwrap(), "a:1");
    assert!(archive.next().await.is_none());
    assert!(served.client.save_images(&["b".to_owned()]).await.is_err());
    // A pull is somebody else's business, and a source that a client names is nobody's.
    for source in ["http://169.254.169.254/x", ""] {
        let request = format!(
            "POST /images/create?fromSrc={source} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        assert!(
            served.raw(&request).await.starts_with("HTTP/1.1 501"),
            "{source}"
        );
    }
}

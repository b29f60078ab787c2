//! The commands against an engine in memory, under a clock that waits for nobody.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::testing::*;
use super::*;
use crate::compose::Project;
use crate::plan::testing::project;
use crate::plan::{
    DownOptions, ExecuteOptions, Health, Phase, RestartOptions, StartOptions, StopOptions,
    UpOptions, labels,
};

fn engine(memory: Memory) -> Arc<Engine> {
    Arc::new(Engine(Arc::new(memory)))
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn healthy(milliseconds: u64) -> Life {
    Life::Becomes(Health::Healthy, ms(milliseconds))
}

/// Runs `up`; returns its result and its reports, one a line.
async fn run_up(
    engine: &Arc<Engine>,
    project: &Project,
    options: &UpOptions,
) -> (Result<usize, Failure>, Vec<String>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let result = up(Arc::clone(engine), project, options, sender).await;
    (result, lines(receiver))
}

fn lines(mut receiver: mpsc::UnboundedReceiver<Report>) -> Vec<String> {
    let mut lines = Vec::new();
    while let Ok(report) = receiver.try_recv() {
        lines.push(match report {
            Report::Progress {
                subject,
                status,
                text,
            } => {
                let subject = match subject {
                    Subject::Container(name) => format!("Container {name}"),
                    Subject::Network(name) => format!("Network {name}"),
                    Subject::Volume(name) => format!("Volume {name}"),
                    Subject::Image(name) => format!("Image {name}"),
                };
                format!("{subject} {status:?} {text}").trim_end().to_owned()
            }
            Report::Image { .. } => continue,
            Report::Warning { text } => format!("warning: {text}"),
            Report::Plan { text } => text,
            Report::Done { n_steps } => format!("done {n_steps}"),
            Report::Failed { error, kept } => format!("failed: {error}, kept {kept:?}"),
        });
    }
    lines
}

#[tokio::test(start_paused = true)]
async fn up_makes_starts_and_tells_and_the_second_up_does_nothing() {
    let engine = engine(Memory::new().life("demo-db-1", healthy(300)));
    let project = project("web: db?healthy\ndb: check vol=data:/data");
    let (result, told) = run_up(&engine, &project, &UpOptions::default()).await;
    assert_eq!(result, Ok(8));
    insta::assert_snapshot!(told.join("\n"), @r"
    Network demo_default Creating
    Network demo_default Created
    Volume demo_data Creating
    Volume demo_data Created
    Image app Pulling
    Image app Pulled
    Container demo-db-1 Creating
    Container demo-db-1 Created
    Container demo-web-1 Creating
    Container demo-web-1 Created
    Container demo-db-1 Starting
    Container demo-db-1 Started
    Container demo-db-1 Waiting
    Container demo-db-1 Healthy
    Container demo-web-1 Starting
    Container demo-web-1 Started
    done 8
    ");
    let n_calls = engine.calls().len();
    let (result, told) = run_up(&engine, &project, &UpOptions::default()).await;
    assert_eq!(result, Ok(0));
    assert_eq!(
        told,
        [
            "Container demo-db-1 Running",
            "Container demo-web-1 Running",
            "done 0"
        ]
    );
    assert_eq!(engine.calls().len(), n_calls);
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_without_reason() {
    let memory = Memory::new()
        .delay("image slow", 5_000)
        .delay("start demo-db-1", 100)
        .delay("create demo-web-1", 1_000);
    let engine = engine(memory);
    let project = project("web: db\ndb:\nother: image=slow\nfree:");
    run_up(&engine, &project, &UpOptions::default())
        .await
        .0
        .unwrap();
    assert_eq!(engine.times("start demo-db-1"), (0, 100));
    assert_eq!(engine.times("start demo-free-1"), (0, 0));
    assert_eq!(engine.times("create demo-web-1"), (0, 1_000));
    assert_eq!(engine.times("start demo-web-1"), (1_000, 1_000));
    assert_eq!(engine.times("start demo-other-1"), (5_000, 5_000));
}

#[tokio::test(start_paused = true)]
async fn the_limit_bounds_steps_and_not_waits() {
    let mut memory = Memory::new().life("demo-db-1", healthy(10_000));
    let mut text = "db: check\nweb: db?healthy".to_owned();
    for i in 0..10 {
        memory = memory.delay(&format!("create demo-s{i}-1"), 100);
        text.push_str(&format!("\ns{i}:"));
    }
    let engine = engine(memory);
    let options = UpOptions {
        execute: ExecuteOptions {
            parallel_limit: Some(2),
            ..ExecuteOptions::default()
        },
        ..UpOptions::default()
    };
    run_up(&engine, &project(&text), &options).await.0.unwrap();
    assert_eq!(engine.most_at_once(), 2);
    assert!(engine.times("start demo-s9-1").1 < 1_000);
    assert_eq!(
        engine.times("start demo-web-1").0,
        10_000 + engine.times("start demo-db-1").1
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_stops_what_depends_on_it_and_nothing_else() {
    let memory = Memory::new()
        .fail("start demo-db-1")
        .fail("create demo-bad-1")
        .delay("create demo-bad-1", 50)
        .delay("create demo-slow-1", 500);
    let engine = engine(memory);
    let project = project("web: db\ndb:\nbad:\nslow:");
    let (result, told) = run_up(&engine, &project, &UpOptions::default()).await;
    let failure = result.unwrap_err();
    assert_eq!(failure.error, refused("it was refused"));
    assert_eq!(failure.others.len(), 1);
    assert!(failure.kept.contains(&"network demo_default".to_owned()));
    assert!(failure.kept.contains(&"container demo-db-1".to_owned()));
    assert!(!failure.kept.contains(&"container demo-bad-1".to_owned()));
    let calls = engine.calls();
    assert!(calls.contains(&"start demo-slow-1".to_owned()));
    assert!(!calls.contains(&"start demo-web-1".to_owned()));
    assert!(told.contains(&"Container demo-db-1 Error it was refused".to_owned()));
    assert!(
        told.last()
            .unwrap()
            .starts_with("failed: it was refused, kept [")
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_ends_waits_that_would_delay_the_news() {
    let memory = Memory::new()
        .fail("create demo-bad-1")
        .life("demo-db-1", healthy(3_600_000));
    let engine = engine(memory);
    let project = project("web: db?healthy\ndb: check\nbad:");
    let before = tokio::time::Instant::now();
    let (result, _) = run_up(&engine, &project, &UpOptions::default()).await;
    assert!(result.unwrap_err().others.is_empty());
    assert!(before.elapsed() < ms(1_000));
    assert!(!engine.calls().contains(&"start demo-web-1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_step_that_panics_is_a_failure_and_not_a_hang() {
    let engine = engine(Memory::new().panic("start demo-web-1"));
    let (result, _) = run_up(&engine, &project("web:"), &UpOptions::default()).await;
    let error = result.unwrap_err().error;
    assert_eq!(error.kind, FailureKind::Internal);
    assert!(error.message.starts_with("a step of the plan broke down"));
}

/// The error of an `up` whose `db` lives so, and the seconds that it took.
async fn condition(text: &str, life: Option<Life>) -> (Result<usize, String>, Vec<String>, u64) {
    let mut memory = Memory::new();
    if let Some(life) = life {
        memory = memory.life("demo-db-1", life);
    }
    let before = tokio::time::Instant::now();
    let engine = engine(memory);
    let (result, told) = run_up(&engine, &project(text), &UpOptions::default()).await;
    let result = result.map_err(|f| format!("{} | {}", f.error, f.error.hints.join("; ")));
    (result, told, before.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn w2_conditions_fail_in_composes_words() {
    let text = "web: db?healthy\ndb: check";
    let exits = Some(Life::Exits(3, ms(2_000)));
    let (result, told, seconds) = condition(text, exits).await;
    assert_eq!(
        result.unwrap_err(),
        "container demo-db-1 exited (3) | see what it said with `wharf logs db`"
    );
    assert_eq!(seconds, 2);
    assert!(told.contains(&"Container demo-db-1 Error container demo-db-1 exited (3)".to_owned()));

    let ill = Some(Life::Becomes(Health::Unhealthy, ms(2_000)));
    let (result, ..) = condition(text, ill).await;
    assert!(
        result
            .unwrap_err()
            .starts_with("container demo-db-1 is unhealthy | see")
    );

    let (result, ..) = condition("web: db?healthy\ndb:", None).await;
    let error = result.unwrap_err();
    assert!(error.starts_with("container demo-db-1 has no healthcheck configured | give"));

    let (result, ..) = condition("web: db?completed\ndb:", exits).await;
    assert_eq!(
        result.unwrap_err(),
        "service \"db\" didn't complete successfully: exit 3 | see what it said with `wharf logs db`"
    );
}

#[tokio::test(start_paused = true)]
async fn w3_an_optional_condition_only_warns() {
    let exits = Some(Life::Exits(3, ms(2_000)));
    let (result, told, seconds) = condition("web: db?healthy?optional\ndb: check", exits).await;
    assert_eq!((result, seconds), (Ok(7), 2));
    assert!(
        told.contains(
            &"warning: optional dependency \"db\" failed to start: container demo-db-1 exited (3)"
                .to_owned()
        )
    );
    assert!(told.contains(&"Container demo-web-1 Started".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn completion_of_a_job_lets_dependents_start() {
    let exits = Some(Life::Exits(0, ms(2_000)));
    let (result, told, seconds) = condition("web: db?completed\ndb:", exits).await;
    assert_eq!((result, seconds), (Ok(7), 2));
    assert!(told.contains(&"Container demo-db-1 Exited".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn all_replicas_have_to_be_healthy() {
    let mut memory = Memory::new();
    for i in 1..=3 {
        memory = memory.life(&format!("demo-db-{i}"), healthy(i * 1_000));
    }
    let engine = engine(memory);
    let project = project("web: db?healthy\ndb: check scale=3");
    run_up(&engine, &project, &UpOptions::default())
        .await
        .0
        .unwrap();
    assert_eq!(engine.times("start demo-web-1").0, 3_000);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_lags_looks_again() {
    // The channel holds 16 changes. The one that counts is never sent, so that only the second look
    // of a receiver that missed something can find it.
    let engine = engine(Memory::new());
    let project = project("web: db?healthy\ndb: check\nother:");
    let noisy = Arc::clone(&engine);
    let noise = tokio::spawn(async move {
        sleep(ms(1_000)).await;
        let healthy = Some(Health::Healthy);
        noisy.world().get("demo-db-1").unwrap().health = healthy;
        for _ in 0..100 {
            noisy.change("demo-other-1");
        }
    });
    run_up(&engine, &project, &UpOptions::default())
        .await
        .0
        .unwrap();
    noise.await.unwrap();
    assert_eq!(engine.times("start demo-web-1").0, 1_000);
}

fn waiting(timeout: Option<u64>) -> UpOptions {
    UpOptions {
        wait: true,
        wait_timeout: timeout.map(ms),
        ..UpOptions::default()
    }
}

#[tokio::test(start_paused = true)]
async fn w5_wait_ends_when_everything_runs_or_is_healthy() {
    let engine_ = engine(Memory::new().life("demo-db-1", healthy(4_000)));
    let before = tokio::time::Instant::now();
    let project_ = project("web:\ndb: check");
    let (result, told) = run_up(&engine_, &project_, &waiting(None)).await;
    result.unwrap();
    assert_eq!(before.elapsed(), ms(4_000));
    assert!(told.contains(&"Container demo-db-1 Healthy".to_owned()));
    assert!(told.contains(&"Container demo-web-1 Healthy".to_owned()));

    let engine_ = engine(Memory::new().life("demo-db-1", healthy(400_000)));
    let (result, _) = run_up(&engine_, &project_, &waiting(Some(90_000))).await;
    assert_eq!(
        result.unwrap_err().to_string(),
        "application not healthy after 1m30s"
    );
}

#[tokio::test(start_paused = true)]
async fn w5_a_job_that_nobody_waits_for_makes_wait_fail() {
    let exits = Life::Exits(0, ms(500));
    let job = || engine(Memory::new().life("demo-job-1", exits));
    let slow = engine(
        Memory::new()
            .life("demo-job-1", exits)
            .life("demo-db-1", healthy(1_000)),
    );
    let text = "job:\ndb: check\nweb: db?healthy";
    let (result, _) = run_up(&slow, &project(text), &waiting(None)).await;
    assert_eq!(
        result.unwrap_err().to_string(),
        "container demo-job-1 exited (0)"
    );
    let (result, _) = run_up(&job(), &project("job:\nweb: job?completed"), &waiting(None)).await;
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_replacement_is_told_as_one() {
    let engine = engine(Memory::new());
    let mut project = project("web: anon=/x");
    run_up(&engine, &project, &UpOptions::default())
        .await
        .0
        .unwrap();
    let volumes = engine.world().observed.containers[0].volumes.clone();
    project.services["web"].tty = true;
    let (result, told) = run_up(&engine, &project, &UpOptions::default()).await;
    assert_eq!(result, Ok(5));
    assert_eq!(
        told,
        [
            "Container demo-web-1 Recreate",
            "Container demo-web-1 Recreated",
            "Container demo-web-1 Starting",
            "Container demo-web-1 Started",
            "done 5",
        ]
    );
    assert_eq!(engine.world().observed.containers[0].volumes, volumes);
}

#[tokio::test(start_paused = true)]
async fn containers_carry_the_id_of_their_image() {
    let engine = engine(Memory::new());
    run_up(&engine, &project("web:"), &UpOptions::default())
        .await
        .0
        .unwrap();
    let world = engine.world();
    assert_eq!(
        world.observed.containers[0].label(labels::IMAGE),
        "sha256:app"
    );
}

#[tokio::test(start_paused = true)]
async fn images_with_a_pull_policy_are_asked_for_before_the_plan() {
    let engine = engine(Memory::new());
    let mut project = project("web:");
    project.services["web"].pull_policy = Some("always".into());
    run_up(&engine, &project, &UpOptions::default())
        .await
        .0
        .unwrap();
    let (result, _) = run_up(&engine, &project, &UpOptions::default()).await;
    assert_eq!(result, Ok(0));
    let asked = engine.calls();
    assert_eq!(asked.iter().filter(|c| *c == "image app").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_command_lets_begun_steps_end_and_begins_no_others() {
    let memory = Memory::new()
        .delay("create demo-web-1", 1_000)
        .delay("create demo-db-1", 100)
        .life("demo-db-1", healthy(50));
    let engine = engine(memory);
    let project = project("web: db?healthy\ndb: check");
    let (sender, _receiver) = mpsc::unbounded_channel();
    let options = UpOptions::default();
    let running = up(Arc::clone(&engine), &project, &options, sender);
    assert!(tokio::time::timeout(ms(500), running).await.is_err());
    assert!(!engine.calls().contains(&"create demo-web-1".to_owned()));
    sleep(ms(10_000)).await;
    assert!(engine.calls().contains(&"create demo-web-1".to_owned()));
    assert!(!engine.calls().contains(&"start demo-web-1".to_owned()));
    assert_eq!(
        engine.world().find("demo-web-1").unwrap().phase,
        Phase::Created
    );
    let (result, _) = run_up(&engine, &project, &options).await;
    assert_eq!(result, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_command_ends_its_waits() {
    let engine = engine(Memory::new());
    let project = project("web: db?healthy\ndb: check");
    let (sender, _receiver) = mpsc::unbounded_channel();
    let options = UpOptions::default();
    let running = up(Arc::clone(&engine), &project, &options, sender);
    let watched = async {
        sleep(ms(100)).await;
        engine.n_waiting()
    };
    tokio::select! {
        _ = running => panic!("db never becomes healthy"),
        n_waiting = watched => assert_eq!(n_waiting, 1),
    }
    sleep(ms(1)).await;
    assert_eq!(engine.n_waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_plan_can_be_had_without_its_execution() {
    let engine = engine(Memory::new());
    let options = UpOptions {
        execute: ExecuteOptions {
            plan_only: true,
            ..ExecuteOptions::default()
        },
        ..UpOptions::default()
    };
    let (result, told) = run_up(&engine, &project("web:"), &options).await;
    assert_eq!(result, Ok(0));
    assert!(told[0].contains("container demo-web-1: create  (after 1, 2)"));
    assert!(engine.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refused_plan_is_told_with_its_hints() {
    let engine = engine(Memory::new());
    let (result, told) = run_up(&engine, &project("a: b\nb: a"), &UpOptions::default()).await;
    let failure = result.unwrap_err();
    assert_eq!(failure.error.kind, FailureKind::Invalid);
    assert_eq!(failure.error.hints, ["see compose.yaml:1:1"]);
    assert_eq!(
        told,
        ["failed: dependency cycle detected: a -> b -> a, kept []"]
    );
}

#[tokio::test(start_paused = true)]
async fn down_goes_on_after_a_failure_and_collects_it() {
    let engine_ = engine(Memory::new());
    let project = project("web: db\ndb:\nother: net=front");
    run_up(&engine_, &project, &UpOptions::default())
        .await
        .0
        .unwrap();
    let world = engine_.world().clone();
    let broken = engine(Memory::of(world.clone()).fail("remove demo-db-1"));
    let (sender, receiver) = mpsc::unbounded_channel();
    let result = down(
        Arc::clone(&broken),
        &project,
        &DownOptions::default(),
        sender,
    )
    .await;
    assert_eq!(result.unwrap_err().error, refused("it was refused"));
    assert_eq!(broken.world().observed.containers.len(), 1);
    assert_eq!(broken.world().observed.networks.len(), 1);
    assert!(lines(receiver).contains(&"Network demo_front Removed".to_owned()));

    let whole = engine(Memory::of(world).delay("stop demo-web-1", 100));
    let (sender, _receiver) = mpsc::unbounded_channel();
    let result = down(
        Arc::clone(&whole),
        &project,
        &DownOptions::default(),
        sender,
    )
    .await;
    result.unwrap();
    assert!(whole.world().observed.containers.is_empty());
    assert!(whole.world().observed.networks.is_empty());
    assert_eq!(whole.times("stop demo-db-1").0, 100);
    assert_eq!(whole.times("stop demo-other-1").0, 0);
}

#[tokio::test(start_paused = true)]
async fn down_takes_the_images_along_that_nobody_else_uses() {
    let engine = engine(Memory::new());
    let project = project("web: db\ndb:");
    run_up(&engine, &project, &UpOptions::default())
        .await
        .0
        .unwrap();
    let images: Vec<String> = engine.world().observed.images.keys().cloned().collect();
    assert!(!images.is_empty());
    let options = DownOptions {
        rmi: Some(crate::plan::RemoveImages::All),
        ..DownOptions::default()
    };
    let run_down = async || {
        let (sender, receiver) = mpsc::unbounded_channel();
        let result = down(Arc::clone(&engine), &project, &options, sender).await;
        (result, lines(receiver))
    };
    // Somebody else has a container of the same images.
    let mut foreign = engine.world().observed.containers[0].clone();
    foreign.id = "f".repeat(64);
    foreign.name = "foreign".to_owned();
    foreign.labels.clear();
    engine.world().observed.containers.push(foreign);
    let (result, told) = run_down().await;
    result.unwrap();
    assert!(
        told.iter()
            .any(|line| line.starts_with("Image ") && line.contains("Skipped")),
        "{told:?}"
    );
    engine.world().observed.containers.clear();
    let (result, told) = run_down().await;
    result.unwrap();
    assert!(told.iter().any(|line| line.contains("Removed")), "{told:?}");
    assert!(engine.world().observed.images.is_empty());
    // What is not there is not missed.
    assert_eq!(run_down().await.0, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn stop_start_and_restart_follow_the_graph() {
    let memory = Memory::new()
        .life("demo-db-1", healthy(1_000))
        .delay("stop demo-web-1", 100);
    let engine = engine(memory);
    let project = project("web: db?healthy?restart\ndb: check");
    run_up(&engine, &project, &UpOptions::default())
        .await
        .0
        .unwrap();
    let backend = || Arc::clone(&engine);
    let reports = || mpsc::unbounded_channel().0;
    let stopped = stop(backend(), &project, &StopOptions::default(), reports()).await;
    assert_eq!(stopped, Ok(2));
    let again = stop(backend(), &project, &StopOptions::default(), reports()).await;
    assert_eq!(again, Ok(0));
    let options = StartOptions {
        wait: true,
        ..StartOptions::default()
    };
    let before = tokio::time::Instant::now();
    let started = start(backend(), &project, &options, reports()).await;
    assert_eq!((started, before.elapsed()), (Ok(3), ms(1_000)));
    let options = RestartOptions {
        services: vec!["db".into()],
        ..RestartOptions::default()
    };
    let restarted = restart(backend(), &project, &options, reports()).await;
    assert_eq!((restarted, before.elapsed()), (Ok(3), ms(2_100)));
}

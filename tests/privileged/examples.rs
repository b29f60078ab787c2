//! The examples do what their READMEs say.

use std::path::Path;
use std::process::Command;

use crate::harness::{Project, TestEnv, env::run, kernel, wait_for};

crate::cases! {
    examples:
    quickstart_counts_visits_by_name["perl"],
    stack_serves_a_page_from_three_packages["perl", "nginx", "redis-server", "redis-cli", "psql", "pg_isready"],
}

fn example(env: &TestEnv, name: &str) -> Project {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name);
    env.project_in(name, &directory)
}

fn curl(url: &str) -> Option<String> {
    let mut command = Command::new("curl");
    command.args(["-sS", "-f", "--max-time", "5", url]);
    let answer = run(command);
    (answer.code == 0).then_some(answer.stdout)
}

fn quickstart_counts_visits_by_name(env: &TestEnv) {
    let project = example(env, "quickstart");
    project.up();
    let page = wait_for("a visited page", || {
        curl("http://localhost:8080/").filter(|page| !page.contains("visited 0 times"))
    });
    assert!(page.contains("Hello from a container, visited"), "{page}");
    // Both names lead to the server: the service's own, and its alias.
    for service in ["visitor", "guest"] {
        wait_for(&format!("a visit by {service}"), || {
            let log = project.wharf(&["logs", service]);
            log.stdout.contains("visit ").then_some(())
        });
    }
    assert_eq!(project.ps_field("quickstart-prepare-1", "ExitCode"), 0);
    assert_eq!(project.ps_field("quickstart-web-1", "Health"), "healthy");

    // The volume outlives `down`.
    project.down();
    assert!(curl("http://localhost:8080/").is_none());
    project.up();
    wait_for("the message about earlier visits", || {
        let log = project.wharf(&["logs", "prepare"]);
        log.stdout.contains("visits from before").then_some(())
    });
    project.wharf(&["down", "-v"]).ok();
    assert!(
        kernel::processes()
            .iter()
            .all(|process| !process.command.contains("/app/"))
    );
}

fn stack_serves_a_page_from_three_packages(env: &TestEnv) {
    let project = example(env, "stack");
    project.wharf(&["up", "-d", "--wait"]).ok();
    let page = curl("http://localhost:8088/").expect("it waited for nginx to be healthy");
    assert_eq!(page, "visits: 1 in redis, 1 in postgres\n");

    // Clients in one container reach the servers in the others by name.
    let visits = project.exec("app", &["redis-cli", "-h", "redis", "get", "visits"]);
    assert_eq!(visits, "1");
    let rows = project.exec(
        "app",
        &[
            "bash",
            "-c",
            "PGPASSWORD=$(cat /run/secrets/db_password) psql -h db -U postgres -tAc 'select count(*) from visits'",
        ],
    );
    assert_eq!(rows, "1");

    // nginx is not on the network of the databases, and that network leads nowhere.
    let unknown = project.wharf(&["exec", "-T", "nginx", "getent", "hosts", "db"]);
    assert_ne!(unknown.code, 0, "{unknown}");

    // What was written is there after `down` and `up`.
    project.wharf(&["down"]).ok();
    project.wharf(&["up", "-d", "--wait"]).ok();
    let page = curl("http://localhost:8088/").expect("it waited for nginx to be healthy");
    assert_eq!(page, "visits: 2 in redis, 2 in postgres\n");
    project.wharf(&["down", "-v"]).ok();
}

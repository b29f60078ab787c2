//! `wharf ps`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::clock::now_ns;
use super::command::with_engine;
use super::globals::Context;
use super::output::{Failure, Kind, Table};
use super::project;
use crate::api::status_text::{elapsed, health, human_duration, status};
use crate::plan::{ObservedContainer, ObservedPort};

/// List containers
///
/// Those that run; with --all, also those that ended, and why.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf ps -a                    with exit codes of what ended\n  \
    wharf ps --status exited -q    ids, for scripts\n  \
    wharf ps --format json web     one JSON object a line")]
pub struct Ps {
    /// Services to show; all when none is named
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Stopped containers, too
    #[arg(short = 'a', long)]
    pub all: bool,
    /// Ids only
    #[arg(short = 'q', long)]
    pub quiet: bool,
    /// Names of services only
    #[arg(long = "services")]
    pub service_names: bool,
    /// Only containers in this state; repeat for several
    #[arg(long, value_name = "STATE")]
    pub status: Vec<State>,
    /// Only containers that match, as in status=running
    #[arg(long, value_name = "KEY=VALUE", value_parser = state_filter)]
    pub filter: Option<State>,
    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
    /// Whole commands
    #[arg(long)]
    pub no_trunc: bool,
    /// Containers of services that the file no longer has
    #[arg(long, value_name = "BOOL", default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub orphans: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum State {
    Created,
    Dead,
    Exited,
    Paused,
    Removing,
    Restarting,
    Running,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

fn state_filter(text: &str) -> Result<State, String> {
    match text.split_once('=') {
        Some(("status", state)) => State::from_str(state, false),
        _ => Err("only status=STATE can be filtered by".to_owned()),
    }
}

impl State {
    fn matches(self, container: &ObservedContainer) -> bool {
        self.to_possible_value()
            .is_some_and(|value| value.get_name() == container.phase.as_str())
    }
}

impl Ps {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        // The file is only needed to tell orphans, or where it alone knows the name.
        let project = if self.orphans {
            None
        } else {
            Some(project::load(context, &[])?)
        };
        let name = match &project {
            Some(project) => project.name.clone(),
            None => project::name(context)?,
        };
        let states: Vec<State> = self.status.iter().copied().chain(self.filter).collect();
        let mut containers = with_engine(context, async |client| {
            let all = self.all || !states.is_empty();
            Ok(client.containers(Some(&name), all).await?)
        })?;
        for service in &self.services {
            let is_known = containers.iter().any(|c| service_of(c) == service)
                || project::load(context, &[]).is_ok_and(|p| p.services.contains_key(service));
            if !is_known {
                return Err(Failure::new(
                    Kind::Engine,
                    format!("no such service: {service}"),
                ));
            }
        }
        containers.retain(|container| {
            let service = service_of(container);
            (self.services.is_empty() || self.services.iter().any(|wanted| wanted == service))
                && (states.is_empty() || states.iter().any(|state| state.matches(container)))
                && project
                    .as_ref()
                    .is_none_or(|p| p.services.contains_key(service))
                && (self.all || container.label("com.docker.compose.oneoff") != "True")
        });
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        context
            .output
            .out(self.render(&containers, now_ns()).as_bytes())
    }

    fn render(&self, containers: &[ObservedContainer], now_ns: u64) -> String {
        let lines = |lines: Vec<String>| lines.iter().map(|line| format!("{line}\n")).collect();
        if self.quiet {
            return lines(containers.iter().map(|c| c.id.clone()).collect());
        }
        if self.service_names {
            let mut names: Vec<String> = containers
                .iter()
                .map(|c| service_of(c).to_owned())
                .collect();
            names.sort();
            names.dedup();
            return lines(names);
        }
        match self.format {
            Format::Json => lines(containers.iter().map(|c| row_json(c, now_ns)).collect()),
            Format::Table => self.table(containers, now_ns).render(),
        }
    }

    fn table(&self, containers: &[ObservedContainer], now_ns: u64) -> Table {
        let head = [
            "NAME", "IMAGE", "COMMAND", "SERVICE", "CREATED", "STATUS", "PORTS",
        ];
        let mut table = Table::new(&head);
        for container in containers {
            table.row([
                container.name.clone(),
                container.image.clone(),
                quoted(&container.command, self.no_trunc),
                service_of(container).to_owned(),
                format!("{} ago", age(container, now_ns)),
                status(container, now_ns),
                ports(&container.ports),
            ]);
        }
        table
    }
}

pub fn service_of(container: &ObservedContainer) -> &str {
    container.label("com.docker.compose.service")
}

fn age(container: &ObservedContainer, now_ns: u64) -> String {
    let created = elapsed(container.created_at, now_ns);
    human_duration(Duration::from_secs(created.as_secs()))
}

/// Docker shows 20 characters of a command, the last of them `…`, in quotes.
fn quoted(command: &str, whole: bool) -> String {
    if whole || command.chars().count() <= 20 {
        return format!("\"{command}\"");
    }
    let head: String = command.chars().take(19).collect();
    format!("\"{head}…\"")
}

/// `0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 443/tcp`, neighbours as ranges like Docker.
fn ports(ports: &[ObservedPort]) -> String {
    let mut sorted: Vec<&ObservedPort> = ports.iter().collect();
    sorted.sort_by_key(|p| (p.host_ip, p.protocol, p.container_port, p.host_port));
    sorted.dedup();
    let mut shown = Vec::new();
    let mut rest = sorted.as_slice();
    while let Some(first) = rest.first() {
        let follows = |n: usize| {
            rest.get(n).is_some_and(|next| {
                let step = n as u16;
                next.host_ip == first.host_ip
                    && next.protocol == first.protocol
                    && Some(next.container_port) == first.container_port.checked_add(step)
                    && next.host_port == first.host_port.and_then(|port| port.checked_add(step))
            })
        };
        let n = (1..).find(|n| !follows(*n)).unwrap_or(1);
        shown.push(port_range(first, n as u16));
        rest = &rest[n..];
    }
    shown.join(", ")
}

fn port_range(first: &ObservedPort, n: u16) -> String {
    let range = |port: u16| match n {
        1 => port.to_string(),
        // Checked by the caller: the whole range is of port numbers.
        n => format!("{port}-{}", port + (n - 1)),
    };
    let inner = format!("{}/{}", range(first.container_port), first.protocol);
    match (first.host_port, first.host_ip) {
        (None, _) => inner,
        (Some(port), Some(std::net::IpAddr::V6(ip))) => format!("[{ip}]:{}->{inner}", range(port)),
        (Some(port), Some(ip)) => format!("{ip}:{}->{inner}", range(port)),
        (Some(port), None) => format!("0.0.0.0:{}->{inner}", range(port)),
    }
}

/// A row with Compose's keys.
fn row_json(container: &ObservedContainer, now_ns: u64) -> String {
    let labels: Vec<String> = container
        .labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let networks: Vec<&str> = container
        .networks
        .iter()
        .map(|e| e.network.as_str())
        .collect();
    let mounts: Vec<&str> = container
        .volumes
        .iter()
        .map(|m| m.volume.as_str())
        .collect();
    let publishers: Vec<_> = container
        .ports
        .iter()
        .map(|port| {
            json!({
                "URL": port.host_port.map(|_| port.host_ip.map_or("0.0.0.0".to_owned(), |ip| ip.to_string())).unwrap_or_default(),
                "TargetPort": port.container_port,
                "PublishedPort": port.host_port.unwrap_or(0),
                "Protocol": port.protocol.to_string(),
            })
        })
        .collect();
    let created = i128::from(container.created_at);
    let created = jiff::Timestamp::from_nanosecond(created)
        .map(|t| t.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string())
        .unwrap_or_default();
    json!({
        "Command": quoted(&container.command, false),
        "CreatedAt": created,
        "ExitCode": container.exit_code.unwrap_or(0),
        "Health": health(container),
        "ID": container.id.get(..12).unwrap_or(&container.id),
        "Image": container.image,
        "Labels": labels.join(","),
        "LocalVolumes": mounts.len().to_string(),
        "Mounts": mounts.join(","),
        "Name": container.name,
        "Names": container.name,
        "Networks": networks.join(","),
        "Ports": ports(&container.ports),
        "Project": container.label("com.docker.compose.project"),
        "Publishers": publishers,
        "RunningFor": format!("{} ago", age(container, now_ns)),
        "Service": service_of(container),
        "Size": "0B",
        "State": container.phase.as_str(),
        "Status": status(container, now_ns),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::Protocol;
    use crate::plan::{Health, Phase};

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_700_000_000 * SECOND;

    fn container(name: &str, phase: Phase) -> ObservedContainer {
        let running = phase == Phase::Running;
        ObservedContainer {
            id: "0123456789abcdef".repeat(4),
            name: format!("demo-{name}-1"),
            image: "nginx:1".into(),
            image_id: String::new(),
            labels: [
                ("com.docker.compose.project".to_owned(), "demo".to_owned()),
                ("com.docker.compose.service".to_owned(), name.to_owned()),
            ]
            .into(),
            phase,
            health: running.then_some(Health::Healthy),
            exit_code: (!running).then_some(137),
            oom_killed: false,
            error: String::new(),
            manually_stopped: false,
            restart_count: 0,
            created_at: NOW - 130 * SECOND,
            started_at: Some(NOW - 3 * SECOND),
            finished_at: Some(NOW - 61 * SECOND),
            pid: None,
            command: "/docker-entrypoint.sh nginx -g daemon off;".into(),
            networks: Vec::new(),
            volumes: Vec::new(),
            ports: Vec::new(),
        }
    }

    fn port(host: Option<(&str, u16)>, container_port: u16) -> ObservedPort {
        ObservedPort {
            host_ip: host.map(|(ip, _)| ip.parse().unwrap()),
            host_port: host.map(|(_, port)| port),
            container_port,
            protocol: Protocol::Tcp,
        }
    }

    fn ps(arguments: &[&str]) -> Ps {
        use clap::FromArgMatches;
        let command = Ps::augment_args(clap::Command::new("ps"));
        let matches = command
            .try_get_matches_from(["ps"].iter().chain(arguments))
            .unwrap();
        Ps::from_arg_matches(&matches).unwrap()
    }

    fn containers() -> Vec<ObservedContainer> {
        let mut web = container("web", Phase::Running);
        web.ports = vec![
            port(Some(("0.0.0.0", 8080)), 80),
            port(Some(("0.0.0.0", 8081)), 81),
            port(Some(("::", 8080)), 80),
            port(None, 443),
        ];
        vec![web, container("job", Phase::Exited)]
    }

    #[test]
    fn the_table_is_composes() {
        insta::assert_snapshot!(ps(&[]).render(&containers(), NOW), @r#"
        NAME         IMAGE     COMMAND                  SERVICE   CREATED         STATUS                            PORTS
        demo-web-1   nginx:1   "/docker-entrypoint.…"   web       2 minutes ago   Up 3 seconds (healthy)            443/tcp, 0.0.0.0:8080-8081->80-81/tcp, [::]:8080->80/tcp
        demo-job-1   nginx:1   "/docker-entrypoint.…"   job       2 minutes ago   Exited (137) About a minute ago
        "#);
    }

    #[test]
    fn the_other_shapes() {
        let containers = containers();
        assert_eq!(ps(&["--services"]).render(&containers, NOW), "job\nweb\n");
        assert_eq!(
            ps(&["-q"])
                .render(&containers, NOW)
                .lines()
                .next()
                .unwrap()
                .len(),
            64
        );
        let json = ps(&["--format", "json"]).render(&containers, NOW);
        let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        assert_eq!(first["Health"], "healthy");
        assert_eq!(first["Publishers"][0]["PublishedPort"], 8080);
        assert_eq!(first["CreatedAt"], "2023-11-14 22:11:10 +0000 UTC");
    }
}

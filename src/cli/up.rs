//! `wharf up`: the flags, and the command without its output.
//!
//! What follows when it stays in the foreground is in `attached`.

mod attached;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;

use super::clock::now_ns;
use super::command::{self, Ended, Interrupts, with_engine};
use super::credentials;
use super::globals::{Context, seconds};
use super::output::{Failure, Kind, LogStyle, Progress};
use super::project;
use crate::api::wire::{ExecuteOptions, Logins, StopOptions, UpOptions, Verb};
use crate::compose::Project;

/// Create and start what the file describes
///
/// Makes the machine match the file: creates what is missing, replaces what changed, leaves the rest
/// alone. Then shows the output of the services until Ctrl-C stops them; with -d it returns instead.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf up                              start, and watch the output; Ctrl-C stops\n  \
    wharf up -d --wait                    return when everything is healthy\n  \
    wharf up --plan                       say what would happen and why, do nothing\n  \
    wharf up -d --scale web=3             three containers of one service\n  \
    wharf up --exit-code-from tests       run a test service, end with its exit code")]
pub struct Up {
    /// Services to start, with what they depend on; all when none is named
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Return at once and leave the containers running
    #[arg(short = 'd', long)]
    pub detach: bool,
    /// Print what would be done and because of which change, and do nothing
    #[arg(long)]
    pub plan: bool,
    /// Return when services run or, with a health check, are healthy; implies -d
    #[arg(long)]
    pub wait: bool,
    /// Give up --wait after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub wait_timeout: Option<Duration>,
    /// Replace containers even when nothing changed
    #[arg(long, conflicts_with = "no_recreate")]
    pub force_recreate: bool,
    /// Keep existing containers even when the file changed
    #[arg(long)]
    pub no_recreate: bool,
    /// Leave services alone that the named ones depend on
    #[arg(long)]
    pub no_deps: bool,
    /// Replace dependencies of the named services, too
    #[arg(long, conflicts_with = "no_recreate")]
    pub always_recreate_deps: bool,
    /// Number of containers of a service; repeat for several
    #[arg(long, value_name = "SERVICE=N", value_parser = scale)]
    pub scale: Vec<(String, u32)>,
    /// Seconds to wait for a clean stop before SIGKILL [default: the service's stop_grace_period]
    #[arg(short = 't', long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Remove containers of services that the file no longer has
    #[arg(long)]
    pub remove_orphans: bool,
    /// Give replaced containers fresh anonymous volumes
    #[arg(short = 'V', long)]
    pub renew_anon_volumes: bool,
    /// Create, do not start
    #[arg(long)]
    pub no_start: bool,
    /// When to fetch images: always, missing, never
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "policy",
        hide_default_value = true
    )]
    pub pull: String,
    /// Build the images of services that have a build section first
    #[arg(long, conflicts_with = "no_build")]
    pub build: bool,
    /// Never build; a missing image is a failure
    #[arg(long)]
    pub no_build: bool,
    /// Do not show how images are fetched
    #[arg(long)]
    pub quiet_pull: bool,
    /// Answer yes to every question
    #[arg(short = 'y', long)]
    pub yes: bool,

    /// Show the output of this service only; repeat for several
    #[arg(
        long,
        value_name = "SERVICE",
        conflicts_with = "detach",
        help_heading = "Output"
    )]
    pub attach: Vec<String>,
    /// Do not show the output of this service; repeat for several
    #[arg(long, value_name = "SERVICE", help_heading = "Output")]
    pub no_attach: Vec<String>,
    /// Show the output of dependencies, too
    #[arg(long, conflicts_with_all = ["detach", "attach"], help_heading = "Output")]
    pub attach_dependencies: bool,
    /// Leave the container's name away
    #[arg(long, help_heading = "Output")]
    pub no_log_prefix: bool,
    /// Plain text, no colours
    #[arg(long, help_heading = "Output")]
    pub no_color: bool,
    /// Show when each line was written
    #[arg(long, help_heading = "Output")]
    pub timestamps: bool,

    /// Stop everything when any container ends
    #[arg(long, conflicts_with = "detach", help_heading = "End")]
    pub abort_on_container_exit: bool,
    /// Stop everything when any container ends with a failure
    #[arg(long, conflicts_with_all = ["detach", "abort_on_container_exit"], help_heading = "End")]
    pub abort_on_container_failure: bool,
    /// End with the exit code of this service; implies --abort-on-container-exit
    #[arg(
        long,
        value_name = "SERVICE",
        conflicts_with = "detach",
        help_heading = "End"
    )]
    pub exit_code_from: Option<String>,
}

fn scale(text: &str) -> Result<(String, u32), String> {
    text.split_once('=')
        .and_then(|(service, n)| Some((service.to_owned(), n.parse().ok()?)))
        .filter(|(service, _)| !service.is_empty())
        .ok_or_else(|| "expected SERVICE=N".to_owned())
}

impl Up {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        self.check()?;
        let project = project::load_and_fetch(context, &self.services)?;
        if self.build
            && let Some((name, _)) = project.services.iter().find(|(_, s)| s.build.is_some())
        {
            return Err(Failure::new(
                Kind::Engine,
                format!("cannot build service {name:?}: images cannot be built yet"),
            )
            .hint("build the image with another tool, and name it with image:"));
        }
        for (service, _) in &self.scale {
            check_service(&project, service)?;
        }
        for service in self
            .attach
            .iter()
            .chain(&self.no_attach)
            .chain(&self.exit_code_from)
        {
            check_service(&project, service)?;
        }
        let pull = Some(self.pull.as_str()).filter(|policy| *policy != "policy");
        let logins = credentials::for_missing(context, &project, pull);
        let options = self.options(context, logins);
        if self.detach || self.wait || self.no_start || self.plan {
            let name = project.name.clone();
            let since = now_ns();
            let progress = self.progress(context);
            let result = command::run_showing(context, progress, project.into(), Verb::Up(options));
            if let Err(failure) = &result
                && failure.kind != Kind::Interrupted
            {
                // The failure itself is what counts; this is what stands behind it.
                _ = with_engine(context, async |client| {
                    attached::last_words(context, &client, &name, since).await;
                    Ok(())
                });
            }
            return result;
        }
        let services = attached::services(&self, &project);
        let name = project.name.clone();
        with_engine(context, async |client| {
            // Everything written from now on is shown: all of a container that is started, and the
            // news of one that runs already.
            let since = now_ns();
            let mut interrupts = Interrupts::new()?;
            let mut reports = client
                .command(&name, Some(project), &Verb::Up(options))
                .await?;
            match command::show(
                context,
                self.progress(context),
                &mut reports,
                &mut interrupts,
            )
            .await?
            {
                Ended::Done => (),
                Ended::Failed(failure) => {
                    attached::last_words(context, &client, &name, since).await;
                    return Err(failure);
                }
                Ended::Interrupted => {
                    context
                        .output
                        .note("Gracefully stopping... (press Ctrl+C again to force)");
                    client.cancel(&name).await?;
                    let options = StopOptions {
                        timeout: self.timeout,
                        ..StopOptions::default()
                    };
                    let stop = Verb::Stop(options);
                    let mut reports = client.command(&name, None, &stop).await?;
                    match command::show(
                        context,
                        self.progress(context),
                        &mut reports,
                        &mut interrupts,
                    )
                    .await?
                    {
                        Ended::Done => return Err(Failure::interrupted()),
                        Ended::Failed(failure) => return Err(failure),
                        Ended::Interrupted => attached::kill(context, &client, &name).await?,
                    }
                    return Err(Failure::interrupted());
                }
            }
            let style = LogStyle {
                no_prefix: self.no_log_prefix,
                no_color: self.no_color,
                timestamps: self.timestamps,
            };
            let watched = attached::Watched {
                name: &name,
                services,
                since,
                style,
                timeout: self.timeout,
                ending: self.ending(),
            };
            attached::watch(context, &client, watched, &mut interrupts).await
        })
    }

    fn check(&self) -> Result<(), Failure> {
        let refuse = |text: &str| Err(Failure::new(Kind::Usage, text));
        if self.wait && (self.abort_on_container_exit || self.abort_on_container_failure) {
            return refuse("--wait cannot be combined with --abort-on-container-exit or -failure");
        }
        if self.wait && !self.attach.is_empty() {
            return refuse("--wait returns without output: it cannot be combined with --attach");
        }
        if self.wait && self.no_start {
            return refuse("--wait needs the containers to start: leave --no-start away");
        }
        Ok(())
    }

    fn progress(&self, context: &Context) -> Progress {
        command::progress_of_images(context, self.quiet_pull)
    }

    fn ending(&self) -> attached::Ending {
        match (
            &self.exit_code_from,
            self.abort_on_container_exit,
            self.abort_on_container_failure,
        ) {
            (Some(service), _, _) => attached::Ending::ExitCodeFrom(service.clone()),
            (None, true, _) => attached::Ending::FirstExit,
            (None, false, true) => attached::Ending::FirstFailure,
            (None, false, false) => attached::Ending::LastExit,
        }
    }

    fn options(&self, context: &Context, logins: Logins) -> UpOptions {
        UpOptions {
            services: self.services.clone(),
            no_deps: self.no_deps,
            force_recreate: self.force_recreate,
            no_recreate: self.no_recreate,
            always_recreate_deps: self.always_recreate_deps,
            renew_anon_volumes: self.renew_anon_volumes,
            remove_orphans: self.remove_orphans || context.is_set("COMPOSE_REMOVE_ORPHANS"),
            ignore_orphans: context.is_set("COMPOSE_IGNORE_ORPHANS"),
            scale: self.scale.iter().cloned().collect::<BTreeMap<_, _>>(),
            pull: Some(self.pull.clone()).filter(|policy| policy != "policy"),
            recreate_volumes: self.yes,
            timeout: self.timeout,
            start: !self.no_start,
            wait: self.wait,
            wait_timeout: self.wait_timeout,
            execute: ExecuteOptions {
                plan_only: self.plan,
                parallel_limit: context.parallel_limit,
                logins,
            },
        }
    }
}

fn check_service(project: &Project, service: &str) -> Result<(), Failure> {
    if project.services.contains_key(service) {
        return Ok(());
    }
    let known: Vec<&str> = project.services.keys().map(String::as_str).collect();
    Err(
        Failure::new(Kind::Engine, format!("no such service: {service}"))
            .hint(format!("the services are {}", known.join(", "))),
    )
}

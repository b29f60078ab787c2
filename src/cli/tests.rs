//! The command line as a whole: what is accepted, what is refused, and what `--help` says.

use clap::{CommandFactory, Parser};

use super::Cli;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("wharf").chain(line.split_whitespace()))
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn lines_that_compose_accepts_are_accepted() {
    for line in [
        "up",
        "up -d",
        "up -d --wait --wait-timeout 30 web db",
        "up --force-recreate --no-deps web",
        "up --no-recreate",
        "up --always-recreate-deps -V --remove-orphans",
        "up --scale web=3 --scale db=1 -t 5",
        "up --no-start --quiet-pull --pull always -y",
        "up --no-log-prefix --no-color --timestamps --attach web --no-attach db",
        "up --attach-dependencies web",
        "up --abort-on-container-exit",
        "up --abort-on-container-failure",
        "up --exit-code-from tests",
        "up --plan",
        "up -d --build",
        "up --no-build",
        "-f a.yaml -f b.yaml --env-file x.env --env-file y.env up",
        "-p demo --project-directory /srv --profile a --profile b up",
        "--ansi never --progress plain --parallel 4 up",
        "--parallel -1 up",
        "down",
        "down -v -t 3 --remove-orphans --rmi local web",
        "down --rmi all",
        "ps -a -q --no-trunc",
        "ps --services --status running --status exited --filter status=paused",
        "ps --format json --orphans=false web",
        "logs -f -t -n 20 web",
        "logs --tail all --since 10m --until 2026-01-31T13:00:00Z",
        "logs --tail -1 --no-log-prefix --no-color --index 2 web",
        "exec web sh",
        "exec -T -u root -w /srv -e A=1 -e B --privileged --index 2 web ls -l --color",
        "exec -it web sh -c exit",
        "exec -d web sleep 1d",
        "stop -t 1 web",
        "start --wait --wait-timeout 3 web",
        "restart -t 1 --no-deps web",
        "kill -s HUP --remove-orphans web",
        "images -q --format json web",
        "image ls -a --digests --no-trunc -q -f dangling=true --filter label=a=b app:1",
        "image list --format {{.ID}}",
        "image inspect -f {{.Id}} a b",
        "image history --no-trunc -q --human=false --format json a",
        "image tag a b:1",
        "image rm -f --no-prune a b",
        "image load -q -i a.tar --platform linux/arm64",
        "image save -o a.tar a b",
        "image import -c CMD -m text --platform linux/amd64 - a:1",
        "image prune -a -f --filter until=24h",
        "image check a",
        "system df -v --format json",
        "version --short",
        "version -f json",
        "config -q --hash web",
        "config --services --profiles -o out.yaml",
        "ls -a -q --format json",
        "engine start",
        "engine stop --containers",
        "engine status --json",
        "engine logs -n 5",
        "--run-root /r --data-root /d engine run --announce",
        "engine run --run-root /r --data-root /d",
        "-H unix:///r/wharf.sock ps",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn lines_that_contradict_themselves_are_refused() {
    for line in [
        "up --force-recreate --no-recreate",
        "up -d --attach web",
        "up --build --no-build",
        "up -d --abort-on-container-exit",
        "up -d --exit-code-from web",
        "up --scale web",
        "up --scale =2",
        "up -t soon",
        "down --rmi some",
        "logs --since yesterday",
        "logs --tail few",
        "exec web",
        "ps --filter name=web",
        "ps --status running?",
        "kill -s",
        "image ls -f dangling",
        "image rm",
        "image save",
        "image tag a",
        "--ansi sometimes up",
        "upp",
    ] {
        assert!(parse(line).is_err(), "{line} is accepted");
    }
}

#[test]
fn exec_takes_the_rest_of_the_line_as_it_is() {
    let cli = parse("exec web ls -l --help -- -T").unwrap();
    let super::Command::Exec(exec) = cli.command else {
        panic!("not an exec")
    };
    assert_eq!(exec.command, ["ls", "-l", "--help", "--", "-T"]);
    assert!(!exec.no_tty);
}

#[test]
fn every_argument_has_a_help_text() {
    fn check(command: &clap::Command, path: &str) {
        assert!(
            command.get_about().is_some(),
            "{path} says nothing about itself"
        );
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some() || argument.get_id() == "help",
                "{path} {} has no help",
                argument.get_id()
            );
        }
        for sub in command.get_subcommands() {
            check(sub, &format!("{path} {}", sub.get_name()));
        }
    }
    check(&Cli::command(), "wharf");
}

#[test]
fn help_of_every_command() {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut shown = vec![("wharf".to_owned(), command.clone())];
    for sub in command.get_subcommands() {
        shown.push((sub.get_name().to_owned(), sub.clone()));
        for subsub in sub.get_subcommands() {
            shown.push((
                format!("{}-{}", sub.get_name(), subsub.get_name()),
                subsub.clone(),
            ));
        }
    }
    for (name, command) in shown {
        let help = command.term_width(100).render_long_help().to_string();
        // Lines end where the text ends, whatever the renderer pads with.
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        insta::assert_snapshot!(format!("help_{name}"), help.join("\n"));
    }
}

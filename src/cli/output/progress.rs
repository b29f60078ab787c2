//! Progress of a command: redrawn lines on a terminal, plain or JSON lines elsewhere.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Output, StatusStream, visible};
use crate::reconcile::{Report, Status, Subject};

/// `--progress`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressMode {
    /// `tty` on a terminal, else `plain`.
    #[default]
    Auto,
    /// Lines that are redrawn in place.
    Tty,
    /// A line for each change.
    Plain,
    /// A JSON object for each change.
    Json,
    /// Errors only.
    Quiet,
}

/// Shows the reports of one command on the status stream.
pub struct Progress {
    mode: ProgressMode,
    output: Output,
    /// `--quiet-pull`: how images are fetched is not shown.
    hides_images: bool,
    drawn: Option<Drawn>,
}

/// Redrawn lines, one for each subject in order of appearance.
struct Drawn {
    all: MultiProgress,
    lines: HashMap<String, Line>,
}

struct Line {
    bar: ProgressBar,
    since: Instant,
    is_working: bool,
}

/// How often spinners turn.
pub const TICK: Duration = Duration::from_millis(100);

impl Progress {
    pub fn new(mode: ProgressMode, output: Output) -> Progress {
        let mode = match mode {
            ProgressMode::Auto if output.is_status_terminal() => ProgressMode::Tty,
            ProgressMode::Auto => ProgressMode::Plain,
            mode => mode,
        };
        let drawn = (mode == ProgressMode::Tty).then(|| Drawn {
            all: MultiProgress::with_draw_target(match output.status {
                StatusStream::Stderr => ProgressDrawTarget::stderr(),
                StatusStream::Stdout => ProgressDrawTarget::stdout(),
            }),
            lines: HashMap::new(),
        });
        Progress {
            mode,
            output,
            hides_images: false,
            drawn,
        }
    }

    /// Leaves out how images are fetched.
    pub fn without_images(mut self) -> Progress {
        self.hides_images = true;
        self
    }

    /// Shows a report; those that end a command, and plans, are the caller's.
    pub fn show(&mut self, report: &Report) {
        let is_about_image = matches!(
            report,
            Report::Image { .. }
                | Report::Progress {
                    subject: Subject::Image(_),
                    ..
                }
        );
        match report {
            _ if is_about_image && self.hides_images => (),
            Report::Progress {
                subject,
                status,
                text,
            } => {
                let id = name(subject);
                let shown = if text.is_empty() {
                    word(*status).to_owned()
                } else {
                    format!("{}: {}", word(*status), visible(text))
                };
                self.change(&id, *status, &shown);
            }
            Report::Image {
                reference,
                progress,
            } => {
                let id = format!("Image {}", visible(reference));
                let percent = match progress.total_bytes {
                    0 => String::new(),
                    total => format!(" {:3}%", progress.current_bytes.saturating_mul(100) / total),
                };
                let shown = format!(
                    "{} {}{percent}",
                    visible(&progress.part),
                    visible(&progress.status)
                );
                // Byte counts change a hundred times a second: lines for them are for terminals.
                if matches!(self.mode, ProgressMode::Tty | ProgressMode::Json) {
                    self.change(&id, Status::Pulling, &shown);
                }
            }
            Report::Warning { text } if self.mode != ProgressMode::Quiet => self.warn(text),
            _ => (),
        }
    }

    pub fn warn(&self, text: &str) {
        self.above(|| self.output.warn(text));
    }

    /// Writes something while the redrawn lines are out of the way.
    pub fn above(&self, write: impl FnOnce()) {
        match &self.drawn {
            Some(drawn) => drawn.all.suspend(write),
            None => write(),
        }
    }

    fn change(&mut self, id: &str, status: Status, shown: &str) {
        match self.mode {
            ProgressMode::Plain | ProgressMode::Auto => {
                self.output.status(&plain_line(id, shown));
            }
            ProgressMode::Json => self.output.status(&json_line(id, status, shown)),
            ProgressMode::Quiet => (),
            ProgressMode::Tty => {
                let palette = self.output.ansi.stderr();
                let Some(drawn) = &mut self.drawn else { return };
                let begun = drawn
                    .lines
                    .get(id)
                    .map_or_else(Instant::now, |line| line.since);
                let seconds = begun.elapsed().as_secs_f64();
                let is_working = status.is_working();
                let (on, off) = match status {
                    Status::Error => palette.error(),
                    _ if is_working => palette.busy(),
                    _ => palette.good(),
                };
                let message = match status {
                    Status::Error => format!("{on}✘{off} {id}  {on}{shown}{off}"),
                    _ if is_working => format!("{id}  {on}{shown}{off}"),
                    _ => format!("{on}✔{off} {id}  {on}{shown}{off}  {seconds:.1}s"),
                };
                let style = if is_working {
                    working_style()
                } else {
                    ended_style()
                };
                // One draw for each change: the style draws nothing, the message does.
                match drawn.lines.get_mut(id) {
                    Some(line) => {
                        line.is_working = is_working;
                        line.bar.set_style(style);
                        line.bar.set_message(message);
                    }
                    None => {
                        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
                            .with_style(style)
                            .with_message(message);
                        let bar = drawn.all.add(bar);
                        bar.tick();
                        let line = Line {
                            bar,
                            since: begun,
                            is_working,
                        };
                        drawn.lines.insert(id.to_owned(), line);
                    }
                }
            }
        }
    }

    /// Turns the spinners; call every [`TICK`].
    pub fn tick(&self) {
        if let Some(drawn) = &self.drawn {
            drawn
                .lines
                .values()
                .filter(|line| line.is_working)
                .for_each(|line| line.bar.tick());
        }
    }

    /// Leaves the lines standing as they are.
    pub fn finish(&mut self) {
        if let Some(drawn) = self.drawn.take() {
            drawn.lines.values().for_each(|line| line.bar.abandon());
        }
    }
}

fn working_style() -> ProgressStyle {
    ProgressStyle::with_template(" {spinner} {wide_msg} {elapsed}")
        .expect("a constant template that the tests draw")
        .tick_strings(&["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"])
}

fn ended_style() -> ProgressStyle {
    ProgressStyle::with_template(" {wide_msg}").expect("a constant template that the tests draw")
}

fn name(subject: &Subject) -> String {
    let (kind, name) = match subject {
        Subject::Container(name) => ("Container", name),
        Subject::Network(name) => ("Network", name),
        Subject::Volume(name) => ("Volume", name),
        Subject::Image(name) => ("Image", name),
    };
    format!("{kind} {}", visible(name))
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Pulling => "Pulling",
        Status::Pulled => "Pulled",
        Status::Creating => "Creating",
        Status::Created => "Created",
        Status::Recreate => "Recreate",
        Status::Recreated => "Recreated",
        Status::Starting => "Starting",
        Status::Started => "Started",
        Status::Running => "Running",
        Status::Waiting => "Waiting",
        Status::Healthy => "Healthy",
        Status::Exited => "Exited",
        Status::Stopping => "Stopping",
        Status::Stopped => "Stopped",
        Status::Killing => "Killing",
        Status::Killed => "Killed",
        Status::Restarting => "Restarting",
        Status::Removing => "Removing",
        Status::Removed => "Removed",
        Status::Skipped => "Skipped",
        Status::Error => "Error",
    }
}

/// Compose's plain form: a leading space, two between name and state.
fn plain_line(id: &str, shown: &str) -> String {
    format!(" {id}  {shown}")
}

fn json_line(id: &str, status: Status, shown: &str) -> String {
    let state = match status {
        Status::Error => "Error",
        status if status.is_working() => "Working",
        _ => "Done",
    };
    serde_json::json!({ "id": id, "status": state, "text": shown }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_composes_and_names_are_harmless() {
        let subject = Subject::Container("demo-\x1b[2J-1".to_owned());
        insta::assert_snapshot!(plain_line(&name(&subject), word(Status::Started)), @r" Container demo-\x1b[2J-1  Started");
        let subject = Subject::Network("demo_default".to_owned());
        insta::assert_snapshot!(
            json_line(&name(&subject), Status::Creating, word(Status::Creating)),
            @r#"{"id":"Network demo_default","status":"Working","text":"Creating"}"#
        );
    }

    #[test]
    fn redrawn_lines_end_with_mark_and_state() {
        let mut progress = Progress {
            mode: ProgressMode::Tty,
            output: Output {
                ansi: super::super::Ansi::Never,
                ..Output::default()
            },
            hides_images: false,
            drawn: Some(Drawn {
                all: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
                lines: HashMap::new(),
            }),
        };
        let report = |name: &str, status| Report::Progress {
            subject: Subject::Container(name.to_owned()),
            status,
            text: String::new(),
        };
        progress.show(&report("demo-web-1", Status::Creating));
        progress.show(&report("demo-db-1", Status::Starting));
        progress.show(&report("demo-web-1", Status::Started));
        progress.tick();
        let shown = |id: &str| progress.drawn.as_ref().unwrap().lines[id].bar.message();
        assert_eq!(
            shown("Container demo-web-1"),
            "✔ Container demo-web-1  Started  0.0s"
        );
        assert_eq!(
            shown("Container demo-db-1"),
            "Container demo-db-1  Starting"
        );
    }
}

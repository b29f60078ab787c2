//! Progress of a command: redrawn lines on a terminal, plain or JSON lines elsewhere.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Output, StatusStream, visible};
use crate::reconcile::{ImageProgress, Report, Status, Subject};

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
    /// What was told of the parts of images last, where nothing is redrawn.
    told: HashMap<String, String>,
}

/// Redrawn lines, one for each subject in order of appearance, and under an image one for each of
/// its layers while it is on its way.
struct Drawn {
    all: MultiProgress,
    lines: HashMap<String, Line>,
    /// By image, its layers in order of appearance.
    parts: HashMap<String, Vec<String>>,
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
            parts: HashMap::new(),
        });
        Progress {
            mode,
            output,
            hides_images: false,
            drawn,
            told: HashMap::new(),
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
                if matches!(subject, Subject::Image(_)) && !status.is_working() {
                    self.forget_parts(&id);
                }
                self.change(&id, *status, &shown);
            }
            Report::Image {
                reference,
                progress,
            } => {
                let image = format!("Image {}", visible(reference));
                if progress.part == *reference {
                    if matches!(self.mode, ProgressMode::Tty | ProgressMode::Json) {
                        self.change(&image, Status::Pulling, &visible(&progress.status));
                    }
                } else {
                    self.part(&image, progress);
                }
            }
            Report::Warning { text } if self.mode != ProgressMode::Quiet => self.warn(text),
            _ => (),
        }
    }

    /// A layer of an image: bytes and speed on a terminal, elsewhere a line when something else
    /// begins with it.
    fn part(&mut self, image: &str, progress: &ImageProgress) {
        let part = visible(&progress.part).into_owned();
        let status = visible(&progress.status).into_owned();
        let key = format!("{image} {part}");
        match self.mode {
            ProgressMode::Json => {
                let line = serde_json::json!({
                    "id": part,
                    "parent_id": image,
                    "status": "Working",
                    "text": status,
                    "current": progress.current_bytes,
                    "total": progress.total_bytes,
                });
                self.output.status(&line.to_string());
            }
            ProgressMode::Plain | ProgressMode::Auto => {
                if self.told.get(&key) != Some(&status) {
                    self.output
                        .status(&plain_line(&part, &capitalized(&status)));
                    self.told.insert(key, status);
                }
            }
            ProgressMode::Quiet => (),
            ProgressMode::Tty => self.draw_part(image, key, &part, &status, progress),
        }
    }

    fn draw_part(
        &mut self,
        image: &str,
        key: String,
        part: &str,
        status: &str,
        progress: &ImageProgress,
    ) {
        let Some(drawn) = &mut self.drawn else { return };
        let parts = drawn.parts.entry(image.to_owned()).or_default();
        let before = parts.last().map_or(image, String::as_str);
        let line = match drawn.lines.get(&key) {
            Some(line) => line,
            None => {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
                    .with_style(ended_style());
                let bar = match drawn.lines.get(before) {
                    Some(before) => drawn.all.insert_after(&before.bar, bar),
                    None => drawn.all.add(bar),
                };
                parts.push(key.clone());
                let line = Line {
                    bar,
                    since: Instant::now(),
                    is_working: false,
                };
                drawn.lines.entry(key.clone()).or_insert(line)
            }
        };
        line.bar
            .set_message(part_line(part, status, progress, line.since.elapsed()));
        // The time before the first byte is not the speed's.
        if progress.current_bytes == 0
            && let Some(line) = drawn.lines.get_mut(&key)
        {
            line.since = Instant::now();
        }
    }

    /// Takes the lines of an image's layers away: it is there, or will not be.
    fn forget_parts(&mut self, image: &str) {
        let Some(drawn) = &mut self.drawn else { return };
        for part in drawn.parts.remove(image).unwrap_or_default() {
            if let Some(line) = drawn.lines.remove(&part) {
                line.bar.finish_and_clear();
                drawn.all.remove(&line.bar);
            }
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

fn part_line(part: &str, status: &str, progress: &ImageProgress, since: Duration) -> String {
    let (current, total) = (progress.current_bytes, progress.total_bytes);
    let mut line = format!("  {part}  {}", capitalized(status));
    if total == 0 || current == 0 || current >= total {
        return line;
    }
    let text = format!("  {}/{}", DecimalBytes(current), DecimalBytes(total));
    line.push_str(&text);
    let seconds = since.as_secs_f64();
    if seconds > 0.2 {
        let speed = DecimalBytes((current as f64 / seconds) as u64);
        line.push_str(&format!("  {speed}/s"));
    }
    line
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
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
        Status::Pushing => "Pushing",
        Status::Pushed => "Pushed",
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
                parts: HashMap::new(),
            }),
            told: HashMap::new(),
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

    #[test]
    fn a_layer_has_a_line_with_bytes_and_speed() {
        let progress = |current_bytes| ImageProgress {
            part: "0123456789ab".to_owned(),
            status: "downloading".to_owned(),
            current_bytes,
            total_bytes: 40_000_000,
        };
        let line = |current, seconds| {
            let since = Duration::from_secs(seconds);
            part_line("0123456789ab", "downloading", &progress(current), since)
        };
        insta::assert_snapshot!(line(0, 1), @"  0123456789ab  Downloading");
        insta::assert_snapshot!(line(10_000_000, 2), @"  0123456789ab  Downloading  10.00 MB/40.00 MB  5.00 MB/s");
        insta::assert_snapshot!(line(40_000_000, 2), @"  0123456789ab  Downloading");
    }

    #[test]
    fn layers_stand_under_their_image_until_it_is_there() {
        let mut progress = Progress::new(
            ProgressMode::Quiet,
            Output {
                ansi: super::super::Ansi::Never,
                ..Output::default()
            },
        );
        progress.mode = ProgressMode::Tty;
        progress.drawn = Some(Drawn {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            lines: HashMap::new(),
            parts: HashMap::new(),
        });
        let layer = |part: &str| Report::Image {
            reference: "app".to_owned(),
            progress: ImageProgress {
                part: part.to_owned(),
                status: "downloading".to_owned(),
                current_bytes: 1,
                total_bytes: 2,
            },
        };
        let status = |status| Report::Progress {
            subject: Subject::Image("app".to_owned()),
            status,
            text: String::new(),
        };
        progress.show(&status(Status::Pulling));
        progress.show(&layer("one"));
        progress.show(&layer("two"));
        progress.show(&layer("one"));
        let n_lines = |progress: &Progress| progress.drawn.as_ref().unwrap().lines.len();
        assert_eq!(n_lines(&progress), 3);
        progress.show(&status(Status::Pulled));
        assert_eq!(n_lines(&progress), 1);
    }
}

//! Whether and how to colour: `--ansi`, `NO_COLOR`, and what the stream is.

use std::io::{self, IsTerminal};

/// `--ansi`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Ansi {
    Never,
    Always,
    /// When the stream is a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
}

impl Ansi {
    pub fn stdout(self) -> Palette {
        Palette {
            is_on: self.is_on(io::stdout().is_terminal()),
        }
    }

    pub fn stderr(self) -> Palette {
        Palette {
            is_on: self.is_on(io::stderr().is_terminal()),
        }
    }

    fn is_on(self, is_terminal: bool) -> bool {
        match self {
            Ansi::Never => false,
            Ansi::Always => true,
            // https://no-color.org: present and not empty, whatever its value.
            Ansi::Auto => {
                is_terminal
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                    && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        }
    }
}

/// Colours of one stream; every method gives what to write before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Palette {
    pub is_on: bool,
}

/// Compose's order of prefix colours: the plain five, then their bright forms.
const PREFIXES: [&str; 10] = [
    "\x1b[36m",
    "\x1b[33m",
    "\x1b[32m",
    "\x1b[35m",
    "\x1b[34m",
    "\x1b[36;1m",
    "\x1b[33;1m",
    "\x1b[32;1m",
    "\x1b[35;1m",
    "\x1b[34;1m",
];

type Pair = (&'static str, &'static str);

impl Palette {
    fn pair(self, on: &'static str) -> Pair {
        if self.is_on {
            (on, "\x1b[0m")
        } else {
            ("", "")
        }
    }

    /// The colour of the n-th log prefix.
    pub fn prefix(self, n: usize) -> Pair {
        self.pair(PREFIXES[n % PREFIXES.len()])
    }

    pub fn error(self) -> Pair {
        self.pair("\x1b[31;1m")
    }

    pub fn warning(self) -> Pair {
        self.pair("\x1b[33;1m")
    }

    pub fn hint(self) -> Pair {
        self.pair("\x1b[36m")
    }

    pub fn good(self) -> Pair {
        self.pair("\x1b[32m")
    }

    pub fn busy(self) -> Pair {
        self.pair("\x1b[34m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn always_and_never_do_not_ask_the_stream() {
        assert!(Ansi::Always.is_on(false));
        assert!(!Ansi::Never.is_on(true));
        assert!(!Ansi::Auto.is_on(false));
        assert_eq!(Palette { is_on: false }.prefix(3), ("", ""));
        assert_eq!(Palette { is_on: true }.prefix(10).0, PREFIXES[0]);
    }
}

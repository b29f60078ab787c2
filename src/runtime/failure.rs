//! Why a container or exec could not be started, as it crosses from the child to the shim.

use std::error::Error;
use std::io;

/// How the failure is to be told to the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    CommandNotFound = 1,
    CommandNotExecutable = 2,
    Invalid = 3,
    System = 4,
}

impl Kind {
    /// The kind that crossed as a number; what is not known is the system's.
    #[must_use]
    pub fn from_number(number: u8) -> Kind {
        match number {
            1 => Kind::CommandNotFound,
            2 => Kind::CommandNotExecutable,
            3 => Kind::Invalid,
            _ => Kind::System,
        }
    }
}

/// The chain of causes as text, because the process that has the error ends with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
    /// Of the last cause that has one, else 0.
    pub errno: i32,
}

impl Failure {
    /// Flattens an error with its causes.
    #[must_use]
    pub fn new(kind: Kind, error: &(dyn Error + 'static)) -> Failure {
        let mut message = String::new();
        let mut errno = 0;
        let mut next = Some(error);
        while let Some(error) = next {
            let text = match error.downcast_ref::<io::Error>() {
                Some(error) => {
                    errno = error.raw_os_error().unwrap_or(errno);
                    os_text(error)
                }
                None => error.to_string(),
            };
            // A transparent error repeats its source's message.
            if !message.ends_with(&text) {
                if !message.is_empty() {
                    message.push_str(": ");
                }
                message.push_str(&text);
            }
            next = error.source();
        }
        Failure {
            kind,
            message,
            errno,
        }
    }
}

/// The system's text for an error number, lower case and without the number.
#[must_use]
pub fn os_text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_lowercase(),
        None => error.to_string(),
    }
}

/// One step of the set-up, named by what it was doing.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct StepError {
    pub step: &'static str,
    #[source]
    pub source: io::Error,
}

/// Names the step that a system call belongs to.
pub trait During<T> {
    /// # Errors
    /// The call's own, with the step's name.
    fn during(self, step: &'static str) -> Result<T, StepError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, step: &'static str) -> Result<T, StepError> {
        self.map_err(|source| StepError {
            step,
            source: source.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_flat_and_lower_case() {
        let error =
            Err::<(), _>(io::Error::from_raw_os_error(libc::EPERM)).during("set the host name");
        let failure = Failure::new(Kind::System, &error.unwrap_err());
        assert_eq!(
            failure.message,
            "set the host name: operation not permitted"
        );
        assert_eq!(failure.errno, libc::EPERM);
    }
}

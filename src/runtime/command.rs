//! The program of a process: where it is, and what its failure is called.

use std::ffi::{CString, OsStr};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType};

use crate::runtime::failure::{Kind, os_text};

/// What shells fall back to; an image without a PATH still finds its shell.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("no command specified")]
    Empty,
    #[error("command or environment contains a NUL byte")]
    Nul,
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotInPath(String),
    #[error("exec: {name:?}: stat {name}: {}", os_text(source))]
    Stat { name: String, source: io::Error },
    #[error("exec: {0:?}: is a directory")]
    Directory(String),
    #[error("exec: {0:?}: permission denied")]
    Permission(String),
    #[error("exec {path}: {}", os_text(source))]
    Execute { path: String, source: io::Error },
}

impl CommandError {
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            CommandError::NotInPath(_) => Kind::CommandNotFound,
            CommandError::Stat { source, .. } | CommandError::Execute { source, .. } => {
                match source.raw_os_error() {
                    Some(libc::ENOENT) => Kind::CommandNotFound,
                    Some(
                        libc::EACCES | libc::ENOEXEC | libc::ENOTDIR | libc::EISDIR | libc::EPERM,
                    ) => Kind::CommandNotExecutable,
                    _ => Kind::System,
                }
            }
            CommandError::Directory(_) | CommandError::Permission(_) => Kind::CommandNotExecutable,
            CommandError::Empty | CommandError::Nul => Kind::Invalid,
        }
    }

    /// errno of the cause, 0 without.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            CommandError::Stat { source, .. } | CommandError::Execute { source, .. } => {
                source.raw_os_error().unwrap_or(0)
            }
            CommandError::NotInPath(_) => libc::ENOENT,
            CommandError::Directory(_) => libc::EISDIR,
            CommandError::Permission(_) => libc::EACCES,
            CommandError::Empty | CommandError::Nul => libc::EINVAL,
        }
    }
}

/// A program ready for `execve`, found.
#[derive(Debug)]
pub struct Command {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Command {
    /// Finds `args[0]` with the container's own PATH, as the user that this process already is.
    ///
    /// # Errors
    /// With the texts that users know from Docker.
    pub fn find(
        args: &[String],
        env: &[String],
        home: Option<&str>,
    ) -> Result<Command, CommandError> {
        let name = args.first().ok_or(CommandError::Empty)?;
        let path = env
            .iter()
            .rev()
            .find_map(|entry| entry.strip_prefix("PATH="));
        let path = look_up(name, path.unwrap_or(DEFAULT_PATH))?;
        let strings = |list: &[String]| {
            list.iter()
                .map(|text| CString::new(text.as_str()))
                .collect::<Result<Vec<_>, _>>()
        };
        let mut env = strings(env).map_err(|_| CommandError::Nul)?;
        if let Some(home) = home
            && !env
                .iter()
                .any(|entry| entry.as_bytes().starts_with(b"HOME="))
        {
            env.push(CString::new(format!("HOME={home}")).map_err(|_| CommandError::Nul)?);
        }
        Ok(Command {
            path: CString::new(path.into_os_string().into_encoded_bytes())
                .map_err(|_| CommandError::Nul)?,
            args: strings(args).map_err(|_| CommandError::Nul)?,
            env,
        })
    }

    /// Becomes the program. Returns only the error.
    #[must_use]
    pub fn execute(&self) -> CommandError {
        let source = crate::sys::process::execve(&self.path, &self.args, &self.env);
        CommandError::Execute {
            path: self.path.to_string_lossy().into_owned(),
            source,
        }
    }
}

fn look_up(name: &str, path: &str) -> Result<PathBuf, CommandError> {
    if name.contains('/') {
        return match candidate(Path::new(name)) {
            Candidate::Executable => Ok(PathBuf::from(name)),
            Candidate::Directory => Err(CommandError::Directory(name.to_owned())),
            Candidate::Forbidden => Err(CommandError::Permission(name.to_owned())),
            // What is there depends on who asks, and who asks here may yet be outside of the pid
            // namespace that the program will be in: `execve` tells.
            Candidate::Missing(_) if name.starts_with("/proc/") => Ok(PathBuf::from(name)),
            Candidate::Missing(source) => Err(CommandError::Stat {
                name: name.to_owned(),
                source,
            }),
        };
    }
    let mut forbidden = false;
    for dir in path.split(':') {
        // An empty element is the current directory.
        let file = Path::new(if dir.is_empty() { "." } else { dir }).join(OsStr::new(name));
        match candidate(&file) {
            Candidate::Executable if !name.is_empty() => return Ok(file),
            Candidate::Forbidden => forbidden = true,
            _ => {}
        }
    }
    if forbidden {
        return Err(CommandError::Permission(name.to_owned()));
    }
    Err(CommandError::NotInPath(name.to_owned()))
}

enum Candidate {
    Executable,
    Directory,
    Forbidden,
    Missing(io::Error),
}

fn candidate(path: &Path) -> Candidate {
    match rustix::fs::stat(path) {
        Err(rustix::io::Errno::ACCESS) => Candidate::Forbidden,
        Err(error) => Candidate::Missing(error.into()),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            Candidate::Directory
        }
        Ok(_) => match rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::empty()) {
            Ok(()) => Candidate::Executable,
            Err(_) => Candidate::Forbidden,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_the_known_ones() {
        let find = |name: &str| {
            Command::find(&[name.to_owned()], &["PATH=/bin:/usr/bin".to_owned()], None)
        };
        let text = |name: &str| {
            let error = find(name).unwrap_err();
            (error.kind(), error.to_string())
        };
        assert_eq!(
            text("no-such"),
            (
                Kind::CommandNotFound,
                r#"exec: "no-such": executable file not found in $PATH"#.into()
            )
        );
        assert_eq!(
            text("/no/such"),
            (
                Kind::CommandNotFound,
                r#"exec: "/no/such": stat /no/such: no such file or directory"#.into()
            )
        );
        assert_eq!(
            text("/etc"),
            (
                Kind::CommandNotExecutable,
                r#"exec: "/etc": is a directory"#.into()
            )
        );
        assert_eq!(
            text("/etc/passwd"),
            (
                Kind::CommandNotExecutable,
                r#"exec: "/etc/passwd": permission denied"#.into()
            )
        );
        assert!(find("sh").is_ok());
        assert_eq!(text("").0, Kind::CommandNotFound);
    }
}

//! Whole Compose files, in memory: no text may panic, hang or fill the memory, an error means no
//! project, and what is printed loads again to the same.

#![no_main]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use libfuzzer_sys::{Corpus, fuzz_target};
use wharf::compose::print::{PrintOptions, to_yaml};
use wharf::compose::{self, LoadOptions};
use wharf::source::{self, Files};

/// `compose.yaml`, and an `other.yaml` for includes and bases after the first NUL.
struct Memory<'b>(&'b [u8], &'b [u8]);

impl Files for Memory<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.to_str() {
            Some("/p/compose.yaml") => Ok(self.0.to_vec()),
            Some("/p/other.yaml" | "/p/.env" | "/p/e.env") => Ok(self.1.to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn read_stdin(&self) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn is_file(&self, path: &Path) -> bool {
        self.read(path).is_ok()
    }

    fn is_dir(&self, path: &Path) -> bool {
        path == Path::new("/p")
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    if bytes.len() > 16 << 10 {
        return Corpus::Reject;
    }
    let at = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let (first, rest) = bytes.split_at(at);
    let files = Memory(first, rest.get(1..).unwrap_or_default());
    let mut options = LoadOptions::new("/p".into(), BTreeMap::new());
    options.files = vec!["compose.yaml".into()];
    let loaded = compose::load(&options, &files);
    _ = source::render(&loaded.diagnostics, &loaded.sources, false);
    _ = source::render_json(&loaded.diagnostics, &loaded.sources);
    let failed = loaded.diagnostics.iter().any(source::Diagnostic::is_error);
    assert_eq!(loaded.project.is_none(), failed);
    if let Some(project) = &loaded.project {
        _ = compose::explain::explain(&loaded, project, "");
        let print = PrintOptions {
            escape_dollar: true,
        };
        let printed = to_yaml(project, print);
        options.all_resources = true;
        let again = compose::load(&options, &Memory(printed.as_bytes(), &[]));
        if let Some(again) = &again.project {
            assert_eq!(printed, to_yaml(again, print));
        }
    }
    Corpus::Keep
});

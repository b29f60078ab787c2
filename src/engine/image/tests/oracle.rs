//! Archives by other people's writers, read as Go's archive/tar reads them: what two programs
//! understand differently is how content is smuggled past one of them.

use std::io::{BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::super::tar_stream::{EntryKind, Streamed, TarEntry, TarError, TarStream};

#[derive(Deserialize)]
struct Answer {
    archive: String,
    /// Why Go refuses it; empty when it does not.
    error: String,
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Entry {
    path: String,
    r#type: String,
    link: String,
    size: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    nanos: u32,
    digest: String,
}

/// What Go reads and we do not: a format that nobody writes any more, and whose repeated keys
/// every reader orders in its own way.
const REFUSED: [&str; 1] = ["gnu-sparse-0.0.tar"];

fn ours(path: &Path) -> Result<Vec<Entry>, TarError> {
    let file = std::fs::File::open(path).expect("the archive is there");
    let mut tar = TarStream::new(Streamed(BufReader::new(file)));
    let mut entries = Vec::new();
    while let Some(entry) = tar.next_entry()? {
        let mut data = Vec::new();
        tar.read_to_end(&mut data).map_err(TarError::Read)?;
        entries.push(told(&entry, &data));
    }
    Ok(entries)
}

fn told(entry: &TarEntry, data: &[u8]) -> Entry {
    let whole = [(0, entry.size)];
    let mut content = vec![0; entry.file_size as usize];
    let mut from = 0;
    for &(offset, length) in entry.sparse.as_deref().unwrap_or(&whole) {
        let (offset, length) = (offset as usize, length as usize);
        content[offset..offset + length].copy_from_slice(&data[from..from + length]);
        from += length;
    }
    let is_link = matches!(entry.kind, EntryKind::Symlink | EntryKind::HardLink);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Entry {
        path: text(&entry.path),
        r#type: match entry.kind {
            EntryKind::Regular => "0",
            EntryKind::HardLink => "1",
            EntryKind::Symlink => "2",
            EntryKind::CharDevice => "3",
            EntryKind::BlockDevice => "4",
            EntryKind::Directory => "5",
            EntryKind::Fifo => "6",
        }
        .to_owned(),
        link: if is_link {
            text(&entry.link)
        } else {
            String::new()
        },
        size: content.len() as u64,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime.0,
        nanos: entry.mtime.1,
        digest: hex::encode(Sha256::digest(&content)),
    }
}

/// Without what is said in two ways: Go keeps the type of GNU's sparse files, and a time before the
/// epoch that stands in a header and not in an extension is the epoch here.
fn comparable(mut entry: Entry) -> Entry {
    if entry.r#type == "S" {
        entry.r#type = "0".to_owned();
    }
    if entry.nanos == 0 {
        entry.mtime = entry.mtime.max(0);
    }
    entry
}

#[test]
fn archives_are_read_as_go_reads_them() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tar");
    let answers = std::fs::read_to_string(directory.join("go.jsonl")).unwrap();
    let mut n_entries = 0;
    let mut differences = Vec::new();
    for line in answers.lines() {
        let answer: Answer = serde_json::from_str(line).unwrap();
        let name = &answer.archive;
        let found = ours(&directory.join(name));
        match (answer.error.as_str(), found) {
            ("", Ok(found)) => {
                n_entries += found.len();
                if found.len() != answer.entries.len() {
                    differences.push(format!("{name}: {} entries", found.len()));
                }
                for (ours, theirs) in found.into_iter().zip(answer.entries) {
                    let (ours, theirs) = (comparable(ours), comparable(theirs));
                    if ours != theirs {
                        differences.push(format!("{name}: {ours:?}, and Go has {theirs:?}"));
                    }
                }
            }
            ("", Err(_)) if REFUSED.contains(&name.as_str()) => {}
            ("", Err(error)) => panic!("{name}: Go reads it, and we say: {error}"),
            // What Go refuses may not be accepted.
            (error, Ok(_)) => panic!("{name}: Go says {error:?}, and we read it"),
            (_, Err(_)) => {}
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
    assert!(n_entries > 250, "{n_entries}");
}

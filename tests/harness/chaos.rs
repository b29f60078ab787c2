//! A registry that misbehaves as it is told, and remembers what it was asked for.
//!
//! Serves images from memory by the distribution protocol. A rule looks at each request first and
//! may answer in place of it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use super::image::{Pushed, digest};
use super::listening::Listening;

/// A request as it came in.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub method: String,
    /// With its query.
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    /// How often this method and path were asked for before.
    pub n_before: usize,
}

impl Asked {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }
}

/// What happens to a request.
pub enum Act {
    /// What a good registry does.
    Serve,
    /// The same without looking at `Range`.
    ServeWhole,
    Answer {
        status: &'static str,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// As served, but the connection ends after so many bytes of the body.
    CutAfter(usize),
    /// As served, with this done to the body; its length is what it then is.
    Change(fn(&mut Vec<u8>)),
    /// So many bytes of the body, and then nothing until the registry ends.
    HangAfter(usize),
}

impl Act {
    pub fn status(status: &'static str) -> Act {
        Act::Answer {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub fn redirect(to: String) -> Act {
        Act::Answer {
            status: "307 Temporary Redirect",
            headers: vec![("Location", to)],
            body: Vec::new(),
        }
    }

    pub fn challenge(challenge: String) -> Act {
        Act::Answer {
            status: "401 Unauthorized",
            headers: vec![("WWW-Authenticate", challenge)],
            body: br#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#.to_vec(),
        }
    }
}

type Rule = Box<dyn Fn(&Asked) -> Act + Send + Sync>;

struct State {
    rule: Mutex<Arc<Rule>>,
    blobs: Mutex<HashMap<String, Vec<u8>>>,
    /// By `repository:tag` and `repository@digest`.
    manifests: Mutex<HashMap<String, (String, Vec<u8>)>>,
    log: Mutex<Vec<Asked>>,
    /// Bytes of bodies of blobs that went out.
    n_sent: Mutex<usize>,
}

pub struct Chaos {
    state: Arc<State>,
    _listening: Listening,
}

impl Chaos {
    /// Listens at an address of the test's namespace.
    pub fn start(address: &str) -> Chaos {
        let rule: Rule = Box::new(|_| Act::Serve);
        let state = Arc::new(State {
            rule: Mutex::new(Arc::new(rule)),
            blobs: Mutex::default(),
            manifests: Mutex::default(),
            log: Mutex::default(),
            n_sent: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        Chaos {
            state,
            _listening: Listening::start(address, move |connection| serve(connection, &shared)),
        }
    }

    pub fn rule(&self, rule: impl Fn(&Asked) -> Act + Send + Sync + 'static) {
        *self.state.rule.lock().unwrap() = Arc::new(Box::new(rule));
    }

    pub fn put(&self, name: &str, image: &Pushed) {
        let mut blobs = self.state.blobs.lock().unwrap();
        for blob in image.layers.iter().map(|l| &l.bytes).chain([&image.config]) {
            blobs.insert(digest(blob), blob.clone());
        }
        drop(blobs);
        self.put_manifest(name, image.media_type, &image.manifest);
    }

    /// A manifest or an index under `repository:tag`.
    pub fn put_manifest(&self, name: &str, media_type: &str, bytes: &[u8]) {
        let (repository, _) = name.rsplit_once(':').expect("the test names a tag");
        let mut manifests = self.state.manifests.lock().unwrap();
        let kept = (media_type.to_owned(), bytes.to_vec());
        manifests.insert(format!("{repository}@{}", digest(bytes)), kept.clone());
        manifests.insert(name.to_owned(), kept);
    }

    /// Everything asked for so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.log.lock().unwrap().clone()
    }

    /// `GET /v2/app/manifests/1`, in order.
    pub fn lines(&self) -> Vec<String> {
        let asked = self.asked();
        let lines = asked
            .iter()
            .map(|asked| format!("{} {}", asked.method, asked.path));
        lines.collect()
    }

    pub fn n_sent(&self) -> usize {
        *self.state.n_sent.lock().unwrap()
    }
}

fn serve(connection: TcpStream, state: &State) -> std::io::Result<()> {
    let mut out = connection.try_clone()?;
    let mut reader = BufReader::new(connection);
    while let Some(mut asked) = read_request(&mut reader)? {
        let rule = {
            let mut log = state.log.lock().unwrap();
            let is_same = |other: &&Asked| other.method == asked.method && other.path == asked.path;
            asked.n_before = log.iter().filter(is_same).count();
            log.push(asked.clone());
            Arc::clone(&state.rule.lock().unwrap())
        };
        let act = rule(&asked);
        let (status, mut headers, mut body) = match &act {
            Act::Answer {
                status,
                headers,
                body,
            } => {
                let headers = headers.iter();
                let headers = headers.map(|(name, value)| ((*name).to_owned(), value.clone()));
                ((*status).to_owned(), headers.collect(), body.clone())
            }
            act => good_answer(&asked, state, !matches!(act, Act::ServeWhole)),
        };
        let n_announced = match act {
            Act::Change(change) => {
                change(&mut body);
                body.len()
            }
            _ => body.len(),
        };
        headers.push(("Content-Length".to_owned(), n_announced.to_string()));
        let mut head = format!("HTTP/1.1 {status}\r\n");
        for (name, value) in &headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        out.write_all(head.as_bytes())?;
        if asked.method == "HEAD" {
            continue;
        }
        let n = match act {
            Act::CutAfter(n) | Act::HangAfter(n) => n.min(body.len()),
            _ => body.len(),
        };
        if asked.is_blob() {
            *state.n_sent.lock().unwrap() += n;
        }
        out.write_all(&body[..n])?;
        out.flush()?;
        match act {
            Act::CutAfter(_) => return out.shutdown(std::net::Shutdown::Both),
            Act::HangAfter(_) => {
                // Until the client goes away.
                let mut rest = Vec::new();
                reader.read_to_end(&mut rest)?;
                return Ok(());
            }
            _ => {}
        }
    }
    Ok(())
}

fn read_request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Asked>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let mut asked = Asked {
        method: words.next().unwrap_or_default().to_owned(),
        path: words.next().unwrap_or_default().to_owned(),
        ..Asked::default()
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        asked
            .headers
            .insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let n_bytes = asked.header("content-length").parse().unwrap_or(0);
    reader.take(n_bytes).read_to_end(&mut asked.body)?;
    Ok(Some(asked))
}

/// Two tags on a page.
fn tags_page(asked: &Asked, repository: &str, tags: &[&str]) -> Answer {
    let last = asked.path.split_once("last=").map_or("", |(_, last)| last);
    let rest: Vec<&&str> = tags.iter().filter(|tag| **tag > last).collect();
    let page = &rest[..rest.len().min(2)];
    let mut headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
    if rest.len() > page.len() {
        let link = format!(
            "</v2/{repository}/tags/list?last={}>; rel=\"next\"",
            page[1]
        );
        headers.push(("Link".to_owned(), link));
    }
    let body = serde_json::json!({"name": repository, "tags": page}).to_string();
    ("200 OK".to_owned(), headers, body.into_bytes())
}

type Answer = (String, Vec<(String, String)>, Vec<u8>);

fn good_answer(asked: &Asked, state: &State, honors_range: bool) -> Answer {
    let not_found = |code: &str| {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{code}"}}]}}"#);
        ("404 Not Found".to_owned(), Vec::new(), body.into_bytes())
    };
    let path = asked.path.split('?').next().unwrap_or_default();
    let Some(rest) = path.strip_prefix("/v2/") else {
        return not_found("UNKNOWN");
    };
    if rest.is_empty() {
        return ("200 OK".to_owned(), Vec::new(), b"{}".to_vec());
    }
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        let manifests = state.manifests.lock().unwrap();
        let mut tags: Vec<&str> = manifests
            .keys()
            .filter_map(|key| key.strip_prefix(repository)?.strip_prefix(':'))
            .collect();
        if tags.is_empty() {
            return not_found("NAME_UNKNOWN");
        }
        tags.sort_unstable();
        return tags_page(asked, repository, &tags);
    }
    if let Some((repository, name)) = rest.split_once("/manifests/") {
        let manifests = state.manifests.lock().unwrap();
        let key = match name.contains(':') {
            true => format!("{repository}@{name}"),
            false => format!("{repository}:{name}"),
        };
        return match manifests.get(&key) {
            Some((media_type, bytes)) => (
                "200 OK".to_owned(),
                vec![
                    ("Content-Type".to_owned(), media_type.clone()),
                    ("Docker-Content-Digest".to_owned(), digest(bytes)),
                ],
                bytes.clone(),
            ),
            None => not_found("MANIFEST_UNKNOWN"),
        };
    }
    let Some((_, name)) = rest.split_once("/blobs/") else {
        return not_found("UNKNOWN");
    };
    let blobs = state.blobs.lock().unwrap();
    let Some(bytes) = blobs.get(name) else {
        return not_found("BLOB_UNKNOWN");
    };
    let range = asked.header("range").strip_prefix("bytes=");
    let from = range.and_then(|range| range.split('-').next()?.parse::<usize>().ok());
    match from.filter(|_| honors_range) {
        Some(from) if from >= bytes.len() => (
            "416 Range Not Satisfiable".to_owned(),
            Vec::new(),
            Vec::new(),
        ),
        Some(from) => (
            "206 Partial Content".to_owned(),
            vec![(
                "Content-Range".to_owned(),
                format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()),
            )],
            bytes[from..].to_vec(),
        ),
        None => ("200 OK".to_owned(), Vec::new(), bytes.clone()),
    }
}

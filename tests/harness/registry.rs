//! Debian's `docker-registry` on loopback, inside a test's own network namespace, and images in it.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::image::Pushed;
use super::wait_for;

/// How the registry is spoken to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Plain,
    /// TLS with a certificate of an authority in `ca.crt`, and a user `me` with password `pa:ss`.
    TlsAndPassword,
    /// TLS with a certificate of an authority in `ca.crt`.
    Tls,
    /// TLS, and whoever asks must have a certificate of the same authority.
    TlsAndCertificate,
}

/// A running registry; ends with this value.
pub struct Registry {
    process: Child,
    pub host: String,
    pub directory: PathBuf,
    manner: Manner,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself, which its user has noticed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    /// Starts one at `address` (`127.0.0.1:5000`), with everything it keeps in `directory`.
    pub fn start(directory: &Path, address: &str, manner: Manner) -> Registry {
        fs::create_dir_all(directory).expect("the test's directory is ours");
        let dir = directory.display();
        let mut config = format!(
            "version: 0.1\n\
             log: {{level: info, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: {dir}/store}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: \"{address}\"\n"
        );
        if manner != Manner::Plain {
            let name = address.rsplit_once(':').expect("an address has a port").0;
            make_certificates(directory, name);
            let clients = match manner {
                Manner::TlsAndCertificate => format!(", clientcas: [{dir}/ca.crt]"),
                _ => String::new(),
            };
            config.push_str(&format!(
                "  tls: {{certificate: {dir}/server.crt, key: {dir}/server.key{clients}}}\n"
            ));
        }
        if manner == Manner::TlsAndPassword {
            config.push_str(&format!(
                "auth: {{htpasswd: {{realm: test, path: {dir}/htpasswd}}}}\n"
            ));
            let line = Command::new("htpasswd")
                .args(["-Bbn", "me", "pa:ss"])
                .output()
                .expect("htpasswd is installed");
            fs::write(directory.join("htpasswd"), line.stdout).expect("it is ours");
        }
        let file = directory.join("config.yml");
        fs::write(&file, config).expect("it is ours");
        let log = fs::File::create(directory.join("access.log")).expect("it is ours");
        let errors = log.try_clone().expect("a file can be shared");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .expect("docker-registry is installed");
        let registry = Registry {
            process,
            host: address.to_owned(),
            directory: directory.to_owned(),
            manner,
        };
        wait_for("the registry to listen", || {
            TcpStream::connect(address).ok()
        });
        registry
    }

    /// What it was asked for so far: lines such as `GET /v2/app/manifests/1`.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.join("access.log")).unwrap_or_default();
        let quoted = log.lines().filter_map(|line| {
            // The common log format of its access log, beside the lines of its own log.
            let request = line.split('"').nth(1)?;
            let request = request.strip_suffix(" HTTP/1.1")?;
            Some(request.to_owned())
        });
        quoted.collect()
    }

    pub fn n_requests(&self) -> usize {
        self.requests().len()
    }

    /// Puts an image there the way any client does. Not for a registry with a password.
    pub fn put(&self, name: &str, image: &Pushed) {
        let (repository, tag) = name.rsplit_once(':').expect("the test names a tag");
        let base = match self.manner {
            Manner::Plain => format!("http://{}/v2/{repository}", self.host),
            _ => format!("https://{}/v2/{repository}", self.host),
        };
        let file = self.directory.join("blob");
        let from_file = format!("@{}", file.display());
        for blob in image.layers.iter().map(|l| &l.bytes).chain([&image.config]) {
            let digest = super::image::digest(blob);
            let uploads = format!("{base}/blobs/uploads/");
            let location = self.curl(&[
                "-s",
                "-o",
                "/dev/null",
                "-X",
                "POST",
                "-w",
                "%header{location}",
                &uploads,
            ]);
            let separator = if location.contains('?') { '&' } else { '?' };
            fs::write(&file, blob).expect("it is ours");
            self.curl(&[
                "-sf",
                "-X",
                "PUT",
                "-H",
                "Content-Type: application/octet-stream",
                "--data-binary",
                &from_file,
                &format!("{location}{separator}digest={digest}"),
            ]);
        }
        fs::write(&file, &image.manifest).expect("it is ours");
        self.curl(&[
            "-sf",
            "-X",
            "PUT",
            "-H",
            &format!("Content-Type: {}", image.media_type),
            "--data-binary",
            &from_file,
            &format!("{base}/manifests/{tag}"),
        ]);
    }

    fn curl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("curl");
        let place = |name: &str| self.directory.join(name);
        if self.manner != Manner::Plain {
            command.arg("--cacert").arg(place("ca.crt"));
        }
        if self.manner == Manner::TlsAndCertificate {
            command.arg("--cert").arg(place("server.crt"));
            command.arg("--key").arg(place("server.key"));
        }
        let output = command.args(arguments).output().expect("curl is installed");
        assert!(output.status.success(), "curl {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("curl prints what it was told to")
    }
}

/// An authority of our own and a certificate of its for one address.
pub fn make_certificates(directory: &Path, address: &str) {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(directory)
            .output()
            .expect("openssl is installed");
        assert!(output.status.success(), "openssl {arguments:?}: {output:?}");
    };
    let new_key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let mut authority = vec!["req", "-x509", "-days", "2", "-subj", "/CN=test authority"];
    authority.extend(new_key);
    authority.extend(["-keyout", "ca.key", "-out", "ca.crt"]);
    openssl(&authority);
    let mut request = vec!["req", "-subj", "/CN=registry"];
    request.extend(new_key);
    request.extend(["-keyout", "server.key", "-out", "server.csr"]);
    openssl(&request);
    fs::write(
        directory.join("server.ext"),
        format!("subjectAltName=IP:{address}\nbasicConstraints=CA:FALSE\n"),
    )
    .expect("it is ours");
    openssl(&[
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        "server.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "server.ext",
        "-out",
        "server.crt",
    ]);
}

//! Test images, made from the static busybox: a directory, an OCI layout, a docker archive.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::json;
use sha2::{Digest, Sha256};

/// Static, so that it runs in any root file system.
const BUSYBOX: &str = "/bin/busybox";

/// A root file system with busybox and its applets.
pub fn busybox_rootfs(root: &Path) {
    for directory in [
        "bin",
        "etc",
        "dev",
        "proc",
        "sys",
        "tmp",
        "root",
        "var/empty",
    ] {
        fs::create_dir_all(root.join(directory)).expect("the test's directory is ours");
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))
        .expect("the test's directory is ours");
    fs::copy(BUSYBOX, root.join("bin/busybox")).expect("the test's directory has room");
    for applet in applets() {
        let link = root.join("bin").join(applet);
        if !link.exists() {
            symlink("busybox", link).expect("the test's directory is ours");
        }
    }
    let etc = root.join("etc");
    let write = |name: &str, text: &str| {
        fs::write(etc.join(name), text).expect("the test's directory has room");
    };
    write(
        "passwd",
        "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n",
    );
    write(
        "group",
        "root:x:0:\nalice:x:1000:\nwheel:x:10:alice\nstaff:x:50:alice\n",
    );
}

fn applets() -> Vec<String> {
    let output = Command::new(BUSYBOX)
        .arg("--list")
        .output()
        .expect("busybox runs");
    let list = String::from_utf8(output.stdout).expect("applets have ASCII names");
    list.lines().map(str::to_owned).collect()
}

/// How a layer is compressed.
#[derive(Clone, Copy)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A layer: a tar archive in memory.
pub struct Layer {
    builder: tar::Builder<Vec<u8>>,
    compression: Compression,
    n_zeros: u64,
}

impl Layer {
    pub fn new(compression: Compression) -> Layer {
        Layer {
            builder: tar::Builder::new(Vec::new()),
            compression,
            n_zeros: 0,
        }
    }

    /// Busybox and the links to it that a shell needs.
    pub fn busybox(compression: Compression) -> Layer {
        let mut layer = Layer::new(compression);
        layer = layer.directory("bin", 0o755).directory("tmp", 0o1777);
        let bytes = fs::read(BUSYBOX).expect("busybox is installed");
        layer = layer.file("bin/busybox", 0o755, 0, &bytes);
        for applet in [
            "sh", "cat", "ls", "sleep", "echo", "id", "stat", "env", "pwd", "true",
        ] {
            layer = layer.link(&format!("bin/{applet}"), "busybox");
        }
        layer
    }

    pub fn directory(mut self, path: &str, mode: u32) -> Layer {
        let mut header = header(tar::EntryType::Directory, mode, 0, 0);
        self.builder
            .append_data(&mut header, path, std::io::empty())
            .expect("memory takes it");
        self
    }

    pub fn file(mut self, path: &str, mode: u32, uid: u64, content: &[u8]) -> Layer {
        let mut header = header(tar::EntryType::Regular, mode, uid, content.len() as u64);
        self.builder
            .append_data(&mut header, path, content)
            .expect("memory takes it");
        self
    }

    pub fn link(mut self, path: &str, target: &str) -> Layer {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0, 0);
        self.builder
            .append_link(&mut header, path, target)
            .expect("memory takes it");
        self
    }

    /// A file of so many zeros at the end, which never lie in memory as a whole. The layer has no
    /// right diff id, and no end.
    pub fn bomb(mut self, path: &str, n_zeros: u64) -> Layer {
        let mut header = header(tar::EntryType::Regular, 0o644, 0, n_zeros);
        header.set_path(path).expect("it is short");
        header.set_cksum();
        let inner = self.builder.get_mut();
        inner.extend_from_slice(header.as_bytes());
        self.n_zeros = n_zeros;
        self
    }

    /// Its diff id, its media type and its bytes as stored.
    fn finish(self) -> (String, &'static str, Vec<u8>) {
        if self.n_zeros > 0 {
            // Compressed streams one behind the other are one stream.
            const PIECE: usize = 16 << 20;
            let zeros = vec![0; PIECE];
            let compressed = |bytes: &[u8]| match self.compression {
                Compression::Zstd => zstd::encode_all(bytes, 19).expect("memory takes it"),
                _ => {
                    let level = flate2::Compression::best();
                    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                    encoder.write_all(bytes).expect("memory takes it");
                    encoder.finish().expect("memory takes it")
                }
            };
            let piece = compressed(&zeros);
            let n_pieces = self.n_zeros as usize / PIECE;
            let mut bytes = compressed(self.builder.get_ref());
            bytes.extend(piece.repeat(n_pieces));
            let media_type = match self.compression {
                Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
                _ => "application/vnd.oci.image.layer.v1.tar+gzip",
            };
            return (digest(b""), media_type, bytes);
        }
        let plain = self.builder.into_inner().expect("memory takes it");
        let diff_id = digest(&plain);
        match self.compression {
            Compression::None => (diff_id, "application/vnd.oci.image.layer.v1.tar", plain),
            Compression::Gzip => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(&plain).expect("memory takes it");
                let bytes = encoder.finish().expect("memory takes it");
                (
                    diff_id,
                    "application/vnd.oci.image.layer.v1.tar+gzip",
                    bytes,
                )
            }
            Compression::Zstd => {
                let bytes = zstd::encode_all(&plain[..], 1).expect("memory takes it");
                (
                    diff_id,
                    "application/vnd.oci.image.layer.v1.tar+zstd",
                    bytes,
                )
            }
        }
    }
}

fn header(kind: tar::EntryType, mode: u32, uid: u64, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(uid);
    header.set_size(size);
    header.set_mtime(1_700_000_000);
    header
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn image_config(diff_ids: &[String], config: &serde_json::Value) -> Vec<u8> {
    let image = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    serde_json::to_vec(&image).expect("JSON of strings")
}

/// An image as a registry keeps it.
pub struct Pushed {
    pub layers: Vec<PushedLayer>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
    pub media_type: &'static str,
}

pub struct PushedLayer {
    pub diff_id: String,
    pub bytes: Vec<u8>,
}

/// An image for a registry; `config` is the `config` object of the image configuration.
pub fn pushed(layers: Vec<Layer>, config: &serde_json::Value) -> Pushed {
    pushed_for("amd64", layers, config)
}

pub fn pushed_for(architecture: &str, layers: Vec<Layer>, config: &serde_json::Value) -> Pushed {
    let mut made = Vec::new();
    let mut descriptors = Vec::new();
    for layer in layers {
        let (diff_id, media_type, bytes) = layer.finish();
        descriptors
            .push(json!({"mediaType": media_type, "digest": digest(&bytes), "size": bytes.len()}));
        made.push(PushedLayer { diff_id, bytes });
    }
    let diff_ids: Vec<&str> = made.iter().map(|layer| layer.diff_id.as_str()).collect();
    let config = serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))
    .expect("JSON of strings");
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&config),
            "size": config.len(),
        },
        "layers": descriptors,
    }))
    .expect("JSON of strings");
    Pushed {
        layers: made,
        config,
        manifest,
        media_type,
    }
}

/// An OCI image layout; `config` is the `config` object of the image configuration.
pub fn oci_layout(directory: &Path, tag: &str, layers: Vec<Layer>, config: &serde_json::Value) {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("the test's directory is ours");
    let put = |bytes: &[u8]| {
        let digest = digest(bytes);
        let name = digest.strip_prefix("sha256:").expect("we put it there");
        fs::write(blobs.join(name), bytes).expect("the test's directory has room");
        digest
    };
    let mut diff_ids = Vec::new();
    let mut descriptors = Vec::new();
    for layer in layers {
        let (diff_id, media_type, bytes) = layer.finish();
        diff_ids.push(diff_id);
        descriptors
            .push(json!({"mediaType": media_type, "digest": put(&bytes), "size": bytes.len()}));
    }
    let config = image_config(&diff_ids, config);
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": put(&config),
            "size": config.len(),
        },
        "layers": descriptors,
    }))
    .expect("JSON of strings");
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": put(&manifest),
            "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        }],
    });
    fs::write(directory.join("index.json"), index.to_string()).expect("it is ours");
    fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .expect("it is ours");
}

/// What `docker save` writes.
pub fn docker_archive(file: &Path, tag: &str, layers: Vec<Layer>, config: &serde_json::Value) {
    let mut archive = tar::Builder::new(Vec::new());
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = header(tar::EntryType::Regular, 0o644, 0, bytes.len() as u64);
        archive
            .append_data(&mut header, name, bytes)
            .expect("memory takes it");
    };
    let mut diff_ids = Vec::new();
    let mut names = Vec::new();
    for (n, layer) in layers.into_iter().enumerate() {
        let (diff_id, _, bytes) = layer.finish();
        let name = format!("layer{n}/layer.tar");
        put(&name, &bytes);
        diff_ids.push(diff_id);
        names.push(name);
    }
    put("config.json", &image_config(&diff_ids, config));
    let manifest = json!([{"Config": "config.json", "RepoTags": [tag], "Layers": names}]);
    put("manifest.json", manifest.to_string().as_bytes());
    let bytes = archive.into_inner().expect("memory takes it");
    fs::write(file, bytes).expect("the test's directory has room");
}

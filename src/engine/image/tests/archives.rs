//! Image archives and layouts, made by hand.

use serde_json::{Value, json};

use super::*;

/// An image to write in any of the formats.
pub struct Sample {
    pub layers: Vec<Vec<u8>>,
    pub config: Vec<u8>,
}

pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub fn sample(mark: &str) -> Sample {
    sample_for(mark, architecture())
}

pub fn sample_for(mark: &str, architecture: &str) -> Sample {
    let mut base = Tar::default();
    base.dir("etc", 0o755)
        .file("etc/base", b"base")
        .file("etc/old", b"old");
    let mut top = Tar::default();
    top.file("etc/.wh.old", b"").file("mark", mark.as_bytes());
    let layers = vec![base.finish(), top.finish()];
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|tar| Digest::of(tar).to_string())
        .collect();
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": {"Env": ["A=1"], "Labels": {"com.docker.compose.project": "p", "l": mark}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    Sample {
        layers,
        config: config.to_string().into_bytes(),
    }
}

/// Member name and content of an OCI layout.
pub type Members = BTreeMap<String, Vec<u8>>;

fn put(members: &mut Members, media_type: &str, bytes: &[u8]) -> Value {
    let digest = Digest::of(bytes);
    members.insert(format!("blobs/sha256/{}", digest.hex()), bytes.to_vec());
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
}

pub type Compress = fn(&[u8]) -> Vec<u8>;

/// Adds an image's blobs and returns the descriptor of its manifest.
pub fn add_image(members: &mut Members, sample: &Sample, compress: &[Compress]) -> Value {
    let mut layers = Vec::new();
    for (tar, compress) in sample.layers.iter().zip(compress.iter().cycle()) {
        layers.push(put(
            members,
            "application/vnd.oci.image.layer.v1.tar+gzip",
            &compress(tar),
        ));
    }
    let config = put(
        members,
        "application/vnd.oci.image.config.v1+json",
        &sample.config,
    );
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": layers,
    });
    put(
        members,
        "application/vnd.oci.image.manifest.v1+json",
        manifest.to_string().as_bytes(),
    )
}

pub fn set_index(members: &mut Members, manifests: &[Value]) {
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    members.insert("index.json".to_owned(), index.to_string().into_bytes());
    members.insert(
        "oci-layout".to_owned(),
        br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
    );
}

pub fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    descriptor
}

pub fn nested(members: &mut Members, manifests: &[(Value, &str)]) -> Value {
    let manifests: Vec<Value> = manifests
        .iter()
        .map(|(descriptor, architecture)| {
            let mut descriptor = descriptor.clone();
            descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
            descriptor
        })
        .collect();
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    put(
        members,
        "application/vnd.oci.image.index.v1+json",
        index.to_string().as_bytes(),
    )
}

pub fn write_dir(members: &Members, dir: &Path) {
    for (name, bytes) in members {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

pub fn write_tar(members: &Members) -> Vec<u8> {
    let mut tar = Tar::default();
    for (name, bytes) in members {
        tar.file(name, bytes);
    }
    tar.finish()
}

pub fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

/// `docker save` before 25: layers in directories, a repeated one as a symlink.
pub fn old_docker_archive(sample: &Sample, tags: &[&str]) -> Vec<u8> {
    let mut tar = Tar::default();
    let id = Digest::of(&sample.config).hex().to_owned();
    tar.file("one/layer.tar", &sample.layers[0]);
    tar.file("real/layer.tar", &sample.layers[1]);
    tar.link(b'2', "two/layer.tar", "../real/layer.tar");
    tar.file(format!("{id}.json"), &sample.config);
    let manifest = json!([{
        "Config": format!("{id}.json"), "RepoTags": tags,
        "Layers": ["one/layer.tar", "two/layer.tar"],
    }]);
    tar.file("manifest.json", manifest.to_string().as_bytes());
    tar.finish()
}

/// `docker save` since 25: blobs by digest, and manifest.json beside them.
pub fn new_docker_archive(samples: &[(&Sample, Option<&str>)]) -> Vec<u8> {
    let mut members = Members::new();
    let mut manifest = Vec::new();
    for (sample, tag) in samples {
        let config = put(&mut members, "", &sample.config);
        let layers: Vec<String> = sample
            .layers
            .iter()
            .map(|tar| blob_path(&put(&mut members, "", tar)))
            .collect();
        manifest.push(json!({
            "Config": blob_path(&config), "RepoTags": tag.map(|tag| vec![tag]),
            "Layers": layers,
        }));
    }
    members.insert(
        "manifest.json".to_owned(),
        Value::from(manifest).to_string().into_bytes(),
    );
    write_tar(&members)
}

fn blob_path(descriptor: &Value) -> String {
    let digest = descriptor["digest"].as_str().unwrap();
    format!("blobs/sha256/{}", digest.strip_prefix("sha256:").unwrap())
}

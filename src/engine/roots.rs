//! Where an engine keeps its things, and the name that sets it apart from other engines.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The directories of one engine.
///
/// Two engines with different run directories share nothing: the names of kernel objects they make
/// carry [`Roots::tag`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Desired state and content, on disk. Default `/var/lib/wharf`.
    pub data: PathBuf,
    /// Facts of this boot, on tmpfs. Default `/run/wharf`.
    pub run: PathBuf,
    /// The API socket. Default `<run>/wharf.sock`.
    pub socket: PathBuf,
}

impl Roots {
    /// Four hex digits of the run directory's path; empty for the default engine.
    ///
    /// Part of the names of bridges, veths, cgroups and the nftables table.
    pub fn tag(&self) -> String {
        if self.run == Path::new("/run/wharf") {
            return String::new();
        }
        let digest = Sha256::digest(self.run.as_os_str().as_encoded_bytes());
        hex::encode(&digest[..2])
    }
}

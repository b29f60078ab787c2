//! The keys of a Compose file and the types of their values, as one table.
//!
//! Objects list their keys in the order in which the canonical form prints them. The table is the
//! specification's schema together with the keys that only the reference implementation knows
//! (BEHAVIOURS Z1). It says nothing of how values merge or what they default to.

/// The type of a value as it may be written.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    Any,
    Text,
    /// A boolean, or a string that reads as one after interpolation.
    Bool,
    /// A boolean and nothing that reads as one.
    PlainBool,
    /// A whole number, or a string that reads as one.
    Int,
    /// A whole number and nothing that reads as one.
    PlainInt,
    /// A number, or a string that reads as one.
    Number,
    /// A string or a whole number, kept as text.
    TextOrInt,
    /// A string or any number, kept as text.
    TextOrNumber,
    /// A string, number, boolean or null.
    Scalar,
    /// Bytes: a whole number, or a number with a unit.
    Size,
    /// Bytes as a text: a number with a unit.
    TextSize,
    /// `1m30s`, never a bare number.
    Duration,
    /// File permissions: an octal string or a number.
    Mode,
    Choice(&'static [&'static str]),
    Null,
    List(&'static Shape),
    /// A list in which no item stands twice.
    Set(&'static Shape),
    /// A mapping with keys of the user's.
    Dict(&'static Shape),
    /// A mapping of scalars, or a list of `key=value`.
    Pairs,
    /// A mapping with known keys.
    Object(&'static Object),
    /// The first of these that takes the kind of the value.
    OneOf(&'static [Shape]),
}

#[derive(Debug)]
pub struct Object {
    /// The name that other tables know it by.
    pub name: &'static str,
    pub keys: &'static [(&'static str, Shape)],
    /// Keys whose zero value is printed, because absent means something else.
    pub keep_zero: &'static [&'static str],
}

impl Object {
    pub fn shape(&self, key: &str) -> Option<&'static Shape> {
        // Asked for every key of every file. The first bytes tell most names apart without a call
        // to compare them.
        let first = key.as_bytes().first();
        self.keys
            .iter()
            .find(|(name, _)| name.as_bytes().first() == first && *name == key)
            .map(|(_, shape)| shape)
    }

    /// The known key that a misspelt one most likely means.
    pub fn nearest(&self, wrong: &str) -> Option<&'static str> {
        nearest(wrong, self.keys.iter().map(|(name, _)| *name))
    }
}

/// The word that a misspelt one most likely means: a third of it may be wrong.
pub fn nearest<'w>(wrong: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let limit = (wrong.chars().count() / 3).max(1);
    words
        .into_iter()
        .filter(|word| word.len().abs_diff(wrong.len()) <= limit)
        .map(|word| (edit_distance(wrong, word), word))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, word)| word)
}

/// From this many diagnostics on nothing is suggested any more: comparing words is the one thing
/// here that costs more than a look at the file.
pub const MAX_SUGGESTIONS: usize = 200;

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn edit_distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best.min(rows[i - 2][j - 2] + 1)
                } else {
                    best
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

use Shape::{
    Any, Bool, Choice, Dict, Duration, Int, List, Mode, Null, Number, OneOf, Pairs, PlainBool,
    PlainInt, Scalar, Set, Size, Text, TextOrInt, TextOrNumber, TextSize,
};

macro_rules! object {
    ($name:ident keep [$($keep:literal),*] { $($key:literal: $shape:expr,)* }) => {
        pub static $name: Object = Object {
            name: stringify!($name),
            keys: &[$(($key, $shape)),*],
            keep_zero: &[$($keep),*],
        };
    };
}

const TEXTS: Shape = List(&Text);
const DISTINCT_TEXTS: Shape = Set(&Text);
/// A string or a list of strings.
const TEXT_OR_TEXTS: Shape = OneOf(&[Text, List(&Text)]);
const NULLABLE_TEXT: Shape = OneOf(&[Null, Text]);
/// Null, a shell-like line, or a list of words.
const COMMAND: Shape = OneOf(&[Null, Text, List(&Text)]);
const HOSTS: Shape = OneOf(&[List(&Text), Dict(&OneOf(&[Text, List(&Text)]))]);
const OPTIONS: Shape = Dict(&TextOrNumber);
const NULLABLE_OPTIONS: Shape = Dict(&OneOf(&[TextOrNumber, Null]));
const ULIMITS: Shape = Dict(&OneOf(&[Int, Shape::Object(&ULIMIT)]));
const EXTERNAL: Shape = OneOf(&[Bool, Shape::Object(&EXTERNAL_NAME)]);
const FILE_USES: Shape = List(&OneOf(&[Text, Shape::Object(&FILE_USE)]));
const HOOKS: Shape = List(&Shape::Object(&HOOK));

/// A whole document.
pub static ROOT: Shape = Shape::Object(&PROJECT);

object!(PROJECT keep [] {
    "name": Text,
    "version": Text,
    "include": List(&OneOf(&[Text, Shape::Object(&INCLUDE)])),
    "services": Dict(&OneOf(&[Shape::Object(&SERVICE), Null])),
    "networks": Dict(&OneOf(&[Shape::Object(&NETWORK), Null])),
    "volumes": Dict(&OneOf(&[Shape::Object(&VOLUME), Null])),
    "secrets": Dict(&Shape::Object(&SECRET)),
    "configs": Dict(&Shape::Object(&CONFIG)),
    "models": Dict(&Shape::Object(&MODEL)),
});

object!(INCLUDE keep [] {
    "path": TEXT_OR_TEXTS,
    "env_file": TEXT_OR_TEXTS,
    "project_directory": Text,
});

object!(SERVICE keep ["init", "attach", "scale", "command", "entrypoint"] {
    "profiles": TEXTS,
    "annotations": Pairs,
    "attach": Bool,
    "build": OneOf(&[Text, Shape::Object(&BUILD)]),
    "develop": OneOf(&[Shape::Object(&DEVELOP), Null]),
    "blkio_config": Shape::Object(&BLKIO),
    "cap_add": TEXTS,
    "cap_drop": TEXTS,
    "cgroup_parent": Text,
    "cgroup": Choice(&["host", "private"]),
    "cpu_count": Int,
    "cpu_percent": Number,
    "cpu_period": Int,
    "cpu_quota": Int,
    "cpu_rt_period": Int,
    "cpu_rt_runtime": Int,
    "cpus": Number,
    "cpuset": Text,
    "cpu_shares": Int,
    "command": COMMAND,
    "configs": FILE_USES,
    "container_name": Text,
    "credential_spec": Shape::Object(&CREDENTIAL_SPEC),
    "depends_on": OneOf(&[DISTINCT_TEXTS, Dict(&Shape::Object(&DEPENDENCY))]),
    "deploy": OneOf(&[Shape::Object(&DEPLOY), Null]),
    "device_cgroup_rules": DISTINCT_TEXTS,
    "devices": List(&OneOf(&[Text, Shape::Object(&DEVICE)])),
    "dns": TEXT_OR_TEXTS,
    "dns_opt": TEXTS,
    "dns_search": TEXT_OR_TEXTS,
    "domainname": Text,
    "entrypoint": COMMAND,
    "provider": Shape::Object(&PROVIDER),
    "environment": Pairs,
    "env_file": OneOf(&[Text, List(&OneOf(&[Text, Shape::Object(&ENV_FILE)]))]),
    "expose": List(&TextOrInt),
    "extends": OneOf(&[Text, Shape::Object(&EXTENDS)]),
    "external_links": DISTINCT_TEXTS,
    "extra_hosts": HOSTS,
    "group_add": Set(&TextOrInt),
    "gpus": OneOf(&[Choice(&["all"]), List(&Shape::Object(&DEVICE_REQUEST))]),
    "hostname": Text,
    "healthcheck": Shape::Object(&HEALTHCHECK),
    "image": Text,
    "init": Bool,
    "ipc": Text,
    "isolation": Text,
    "labels": Pairs,
    "label_file": TEXT_OR_TEXTS,
    "links": TEXTS,
    "logging": Shape::Object(&LOGGING),
    "mem_limit": Size,
    "mem_reservation": Size,
    "memswap_limit": Size,
    "mem_swappiness": Size,
    "mac_address": Text,
    "models": OneOf(&[DISTINCT_TEXTS, Dict(&OneOf(&[Shape::Object(&SERVICE_MODEL), Null]))]),
    "network_mode": Text,
    "networks": OneOf(&[DISTINCT_TEXTS, Dict(&OneOf(&[Shape::Object(&SERVICE_NETWORK), Null]))]),
    "oom_kill_disable": Bool,
    "oom_score_adj": Int,
    "pid": NULLABLE_TEXT,
    "pids_limit": Int,
    "platform": Text,
    "ports": List(&OneOf(&[TextOrNumber, Shape::Object(&PORT)])),
    "privileged": Bool,
    "pull_policy": Text,
    "pull_refresh_after": Text,
    "read_only": Bool,
    "restart": Text,
    "runtime": Text,
    "scale": Int,
    "secrets": FILE_USES,
    "security_opt": DISTINCT_TEXTS,
    "shm_size": Size,
    "stdin_open": Bool,
    "stop_grace_period": Duration,
    "stop_signal": Text,
    "storage_opt": Dict(&Scalar),
    "sysctls": Pairs,
    "tmpfs": TEXT_OR_TEXTS,
    "tty": Bool,
    "ulimits": ULIMITS,
    "use_api_socket": PlainBool,
    "user": Text,
    "userns_mode": Text,
    "uts": Text,
    "volumes": List(&OneOf(&[Text, Shape::Object(&MOUNT)])),
    "volumes_from": DISTINCT_TEXTS,
    "working_dir": Text,
    "pre_start": HOOKS,
    "post_start": HOOKS,
    "pre_stop": HOOKS,
});

object!(EXTENDS keep [] { "file": Text, "service": Text, });

object!(BUILD keep [] {
    "context": Text,
    "dockerfile": Text,
    "dockerfile_inline": Text,
    "entitlements": TEXTS,
    "args": Pairs,
    "provenance": OneOf(&[Text, Bool]),
    "sbom": OneOf(&[Text, Bool]),
    "ssh": Pairs,
    "labels": Pairs,
    "cache_from": TEXTS,
    "cache_to": TEXTS,
    "no_cache": Bool,
    "no_cache_filter": TEXT_OR_TEXTS,
    "additional_contexts": Pairs,
    "pull": Bool,
    "extra_hosts": HOSTS,
    "isolation": Text,
    "network": Text,
    "target": Text,
    "secrets": FILE_USES,
    "shm_size": Size,
    "tags": TEXTS,
    "ulimits": ULIMITS,
    "platforms": TEXTS,
    "privileged": Bool,
});

object!(DEVELOP keep [] { "watch": List(&Shape::Object(&WATCH)), });

object!(WATCH keep [] {
    "path": Text,
    "action": Choice(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"]),
    "target": Text,
    "exec": Shape::Object(&HOOK),
    "include": OneOf(&[Text, DISTINCT_TEXTS]),
    "ignore": OneOf(&[Text, DISTINCT_TEXTS]),
    "initial_sync": PlainBool,
});

object!(HOOK keep ["command"] {
    "command": COMMAND,
    "image": Text,
    "user": Text,
    "privileged": Bool,
    "working_dir": Text,
    "environment": Pairs,
    "per_replica": Bool,
});

object!(BLKIO keep [] {
    "weight": Int,
    "weight_device": List(&Shape::Object(&WEIGHT_DEVICE)),
    "device_read_bps": List(&Shape::Object(&RATE_DEVICE)),
    "device_read_iops": List(&Shape::Object(&RATE_DEVICE)),
    "device_write_bps": List(&Shape::Object(&RATE_DEVICE)),
    "device_write_iops": List(&Shape::Object(&RATE_DEVICE)),
});
object!(WEIGHT_DEVICE keep ["weight"] { "path": Text, "weight": Int, });
object!(RATE_DEVICE keep ["rate"] { "path": Text, "rate": Size, });

object!(CREDENTIAL_SPEC keep [] { "config": Text, "file": Text, "registry": Text, });

object!(DEPENDENCY keep ["required"] {
    "condition": Choice(&["service_started", "service_healthy", "service_completed_successfully"]),
    "restart": Bool,
    "required": Bool,
});

object!(DEPLOY keep ["replicas"] {
    "mode": Text,
    "replicas": Int,
    "labels": Pairs,
    "update_config": Shape::Object(&UPDATE_CONFIG),
    "rollback_config": Shape::Object(&UPDATE_CONFIG),
    "resources": Shape::Object(&DEPLOY_RESOURCES),
    "restart_policy": Shape::Object(&DEPLOY_RESTART),
    "placement": Shape::Object(&PLACEMENT),
    "endpoint_mode": Text,
});
object!(UPDATE_CONFIG keep ["parallelism"] {
    "parallelism": Int,
    "delay": Duration,
    "failure_action": Text,
    "monitor": Duration,
    "max_failure_ratio": Number,
    "order": Choice(&["start-first", "stop-first"]),
});
object!(DEPLOY_RESOURCES keep [] {
    "limits": Shape::Object(&DEPLOY_LIMITS),
    "reservations": Shape::Object(&DEPLOY_RESERVATIONS),
});
object!(DEPLOY_LIMITS keep [] { "cpus": Number, "memory": TextSize, "pids": Int, });
object!(DEPLOY_RESERVATIONS keep [] {
    "cpus": Number,
    "memory": TextSize,
    "devices": List(&Shape::Object(&DEVICE_REQUEST)),
    "generic_resources": List(&Shape::Object(&GENERIC_RESOURCE)),
});
object!(GENERIC_RESOURCE keep [] {
    "discrete_resource_spec": Shape::Object(&DISCRETE_RESOURCE),
});
object!(DISCRETE_RESOURCE keep ["value"] { "kind": Text, "value": Int, });
object!(DEVICE_REQUEST keep ["count"] {
    "capabilities": DISTINCT_TEXTS,
    "driver": Text,
    "count": OneOf(&[Choice(&["all"]), Int]),
    "device_ids": DISTINCT_TEXTS,
    "options": Pairs,
});
object!(DEPLOY_RESTART keep ["max_attempts"] {
    "condition": Text,
    "delay": Duration,
    "max_attempts": Int,
    "window": Duration,
});
object!(PLACEMENT keep [] {
    "constraints": TEXTS,
    "preferences": List(&Shape::Object(&PREFERENCE)),
    "max_replicas_per_node": Int,
});
object!(PREFERENCE keep [] { "spread": Text, });

object!(DEVICE keep [] { "source": Text, "target": Text, "permissions": Text, });

object!(PROVIDER keep [] {
    "type": Text,
    "options": Dict(&OneOf(&[Scalar, List(&Scalar)])),
});

object!(ENV_FILE keep ["required"] { "path": Text, "required": Bool, "format": Text, });

object!(HEALTHCHECK keep ["retries"] {
    "test": TEXT_OR_TEXTS,
    "timeout": Duration,
    "interval": Duration,
    "retries": Int,
    "start_period": Duration,
    "start_interval": Duration,
    "disable": Bool,
});

object!(LOGGING keep [] { "driver": Text, "options": NULLABLE_OPTIONS, });

object!(SERVICE_MODEL keep [] { "endpoint_var": Text, "model_var": Text, });

object!(SERVICE_NETWORK keep [] {
    "aliases": TEXTS,
    "driver_opts": OPTIONS,
    "gw_priority": PlainInt,
    "interface_name": Text,
    "ipv4_address": Text,
    "ipv6_address": Text,
    "link_local_ips": TEXTS,
    "mac_address": Text,
    "priority": PlainInt,
});

object!(PORT keep [] {
    "name": Text,
    "mode": Text,
    "host_ip": Text,
    "target": Int,
    "published": TextOrInt,
    "protocol": Text,
    "app_protocol": Text,
});

object!(FILE_USE keep ["mode"] {
    "source": Text,
    "target": Text,
    "uid": Text,
    "gid": Text,
    "mode": Mode,
});

object!(ULIMIT keep ["soft", "hard"] { "soft": Int, "hard": Int, });

object!(MOUNT keep [] {
    "type": Choice(&["bind", "volume", "tmpfs", "cluster", "npipe", "image"]),
    "source": Text,
    "target": Text,
    "read_only": Bool,
    "consistency": Text,
    "bind": Shape::Object(&MOUNT_BIND),
    "volume": Shape::Object(&MOUNT_VOLUME),
    "tmpfs": Shape::Object(&MOUNT_TMPFS),
    "image": Shape::Object(&MOUNT_IMAGE),
});
object!(MOUNT_BIND keep ["create_host_path"] {
    "selinux": Choice(&["z", "Z"]),
    "propagation": Text,
    "create_host_path": Bool,
    "recursive": Choice(&["enabled", "disabled", "writable", "readonly"]),
});
object!(MOUNT_VOLUME keep [] { "labels": Pairs, "nocopy": Bool, "subpath": Text, });
object!(MOUNT_TMPFS keep [] { "size": Size, "mode": Mode, });
object!(MOUNT_IMAGE keep [] { "subpath": Text, });

object!(EXTERNAL_NAME keep [] { "name": Text, });

object!(NETWORK keep ["enable_ipv4", "enable_ipv6"] {
    "name": Text,
    "driver": Text,
    "driver_opts": OPTIONS,
    "ipam": Shape::Object(&IPAM),
    "external": EXTERNAL,
    "internal": Bool,
    "attachable": Bool,
    "labels": Pairs,
    "enable_ipv4": Bool,
    "enable_ipv6": Bool,
});
object!(IPAM keep [] {
    "driver": Text,
    "config": List(&Shape::Object(&IPAM_POOL)),
    "options": Dict(&Text),
});
object!(IPAM_POOL keep [] {
    "subnet": Text,
    "gateway": Text,
    "ip_range": Text,
    "aux_addresses": Dict(&Text),
});

object!(VOLUME keep [] {
    "name": Text,
    "driver": Text,
    "driver_opts": OPTIONS,
    "external": EXTERNAL,
    "labels": Pairs,
});

object!(SECRET keep [] {
    "name": Text,
    "file": Text,
    "environment": Text,
    "external": EXTERNAL,
    "labels": Pairs,
    "driver": Text,
    "driver_opts": OPTIONS,
    "template_driver": Text,
});

object!(CONFIG keep [] {
    "name": Text,
    "file": Text,
    "environment": Text,
    "content": Text,
    "external": EXTERNAL,
    "labels": Pairs,
    "template_driver": Text,
});

object!(MODEL keep [] {
    "name": Text,
    "model": Text,
    "context_size": PlainInt,
    "runtime_flags": TEXTS,
});

/// `x-wharf` and every other extension may stand in any known object.
pub fn is_extension(key: &str) -> bool {
    key.starts_with("x-")
}

/// Values of extensions have no type.
pub static ANY: Shape = Any;

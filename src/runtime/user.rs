//! Who a container's process is: `USER`, `user:` and `exec --user`, resolved from the container's
//! own passwd and group files.
//!
//! Fails closed (S13): what looks like a number but is out of range is never looked up as a name,
//! and a name that is not found is never 0.

use std::io;
use std::path::Path;

use oci_spec::runtime::User;

use crate::sys::root::Root;

/// A passwd or group file beyond this is an attack, not a file (CVE-2026-47262).
const MAX_FILE_BYTES: u64 = 10 << 20;

/// Linux keeps 2³²−1 as "no id"; like other engines we stop at 2³¹−1.
const MAX_ID: u64 = i32::MAX as u64;

#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("read {0} of the container")]
    Read(&'static str, #[source] io::Error),
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    #[error("uids and gids must be in range 0-{MAX_ID}: {0}")]
    OutOfRange(String),
    #[error("malformed user {0:?}")]
    Malformed(String),
}

/// The credentials of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Always with the primary group, so that files that deny a group deny it (CVE-2022-36109).
    pub groups: Vec<u32>,
    pub home: Option<String>,
}

/// Resolves a user in a root. Without a wish the specification's own numbers count.
///
/// # Errors
/// For what is malformed, out of range or unknown, and for files that cannot be read safely.
pub fn resolve(
    root: &Root,
    wish: Option<&str>,
    spec: &User,
    group_add: &[String],
) -> Result<Identity, UserError> {
    let passwd = read(root, "/etc/passwd")?;
    let group = read(root, "/etc/group")?;
    if let Some(user) = wish.filter(|user| !user.is_empty()) {
        return resolve_in(&passwd, &group, user, group_add);
    }
    // 0:0 is what a specification without a user has; root then gets its groups of the file.
    let user = match (spec.uid(), spec.gid()) {
        (0, 0) => String::new(),
        (uid, gid) => format!("{uid}:{gid}"),
    };
    let mut identity = resolve_in(&passwd, &group, &user, group_add)?;
    for gid in spec.additional_gids().iter().flatten() {
        if !identity.groups.contains(gid) {
            identity.groups.push(*gid);
        }
    }
    Ok(identity)
}

fn read(root: &Root, path: &'static str) -> Result<String, UserError> {
    match root.read(Path::new(path), MAX_FILE_BYTES) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        // Images without either file are common; then only numbers can be resolved.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            Ok(String::new())
        }
        Err(error) => Err(UserError::Read(path, error)),
    }
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        let home = fields.nth(1).unwrap_or("");
        Some(PasswdEntry {
            name,
            uid,
            gid,
            home,
        })
    })
}

fn group_entries(text: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = number(fields.nth(1)?)?;
        Some(GroupEntry {
            name,
            gid,
            members: fields.next().unwrap_or(""),
        })
    })
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = digits.then(|| text.parse::<u64>().ok()).flatten()?;
    u32::try_from(value).ok().filter(|_| value <= MAX_ID)
}

/// What a user wrote for an id.
enum Wanted<'a> {
    Number(u32),
    Name(&'a str),
}

fn wanted(text: &str) -> Result<Wanted<'_>, UserError> {
    if let Some(id) = number(text) {
        return Ok(Wanted::Number(id));
    }
    // `-1`, `+5`, `99999999999`: a number that is none. Never a name.
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UserError::OutOfRange(text.to_owned()));
    }
    let bad = |c: char| c.is_control() || c.is_whitespace() || c == ':' || c == '/';
    if text.is_empty() || text.contains(bad) {
        return Err(UserError::Malformed(text.to_owned()));
    }
    Ok(Wanted::Name(text))
}

fn resolve_in(
    passwd: &str,
    group: &str,
    user: &str,
    group_add: &[String],
) -> Result<Identity, UserError> {
    let (user, wanted_group) = match user.split_once(':') {
        None => (user, None),
        Some((user, group)) => (user, Some(group)),
    };
    let user = if user.is_empty() { "0" } else { user };
    let entry = match wanted(user)? {
        Wanted::Number(uid) => passwd_entries(passwd)
            .find(|entry| entry.uid == uid)
            .unwrap_or(PasswdEntry {
                name: "",
                uid,
                gid: 0,
                home: "",
            }),
        Wanted::Name(name) => passwd_entries(passwd)
            .find(|entry| entry.name == name)
            .ok_or_else(|| UserError::UnknownUser(user.to_owned()))?,
    };
    let mut gid = entry.gid;
    let mut groups = Vec::new();
    match wanted_group {
        Some(wanted) if !wanted.is_empty() => gid = find_group(group, wanted)?,
        _ => {
            let member =
                |members: &str| members.split(',').any(|member| member.trim() == entry.name);
            if !entry.name.is_empty() {
                groups.extend(
                    group_entries(group)
                        .filter(|group| member(group.members))
                        .map(|group| group.gid),
                );
            }
        }
    }
    groups.insert(0, gid);
    for wanted in group_add {
        groups.push(find_group(group, wanted)?);
    }
    let mut seen = std::collections::HashSet::new();
    groups.retain(|gid| seen.insert(*gid));
    let home = Some(entry.home.to_owned()).filter(|home| !home.is_empty());
    Ok(Identity {
        uid: entry.uid,
        gid,
        groups,
        home,
    })
}

fn find_group(text: &str, name: &str) -> Result<u32, UserError> {
    match wanted(name)? {
        Wanted::Number(gid) => Ok(gid),
        Wanted::Name(name) => group_entries(text)
            .find(|entry| entry.name == name)
            .map(|entry| entry.gid)
            .ok_or_else(|| UserError::UnknownGroup(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        # comment\n\
        broken:x\n\
        app:x:1000:1001::/home/app:/bin/sh\n\
        1234:x:77:77::/home/digits:\n\
        huge:x:4294967296:0::/:\n\
        minus:x:-1:-1::/:\n\
        nohome:x:5:5\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\nvideo:x:44:app\napp:x:1001:\n1234:x:88:\nbig:x:99999999999:app\n";

    fn get(user: &str) -> Result<(u32, u32, Vec<u32>), String> {
        resolve_in(PASSWD, GROUP, user, &[])
            .map(|identity| (identity.uid, identity.gid, identity.groups))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn users_resolve_as_elsewhere() {
        let good: [(&str, u32, u32, &[u32]); 16] = [
            ("", 0, 0, &[0, 10]),
            ("root", 0, 0, &[0, 10]),
            ("0", 0, 0, &[0, 10]),
            ("app", 1000, 1001, &[1001, 10, 44]),
            ("1000", 1000, 1001, &[1001, 10, 44]),
            ("app:", 1000, 1001, &[1001, 10, 44]),
            ("app:wheel", 1000, 10, &[10]),
            ("app:44", 1000, 44, &[44]),
            ("1000:1000", 1000, 1000, &[1000]),
            ("4000", 4000, 0, &[0]),
            ("4000:4000", 4000, 4000, &[4000]),
            (":44", 0, 44, &[44]),
            // A numeric name is a number first, never the entry of that name.
            ("1234", 1234, 0, &[0]),
            ("app:1234", 1000, 1234, &[1234]),
            ("nohome", 5, 5, &[5]),
            ("2147483647", 2_147_483_647, 0, &[0]),
        ];
        for (user, uid, gid, groups) in good {
            assert_eq!(get(user), Ok((uid, gid, groups.to_vec())), "{user:?}");
        }
    }

    #[test]
    fn everything_else_fails_closed() {
        let bad = [
            "-1",
            "+1",
            "-0",
            "2147483648",
            "4294967295",
            "4294967296",
            "18446744073709551616",
            "99999999999999999999999",
            "nobody",
            "broken",
            "huge",
            "minus",
            "app:nogroup",
            "app:-1",
            "app:4294967295",
            "app:big",
            "1000:99999999999",
            " ",
            "app ",
            " app",
            "app\n",
            "\0",
            "a/b",
            "app:wheel:x",
            "0x10",
            "1e3",
            "app:wheel,video",
            "٣",
        ];
        for user in bad {
            assert!(get(user).is_err(), "{user:?} gave {:?}", get(user));
        }
    }

    #[test]
    fn added_groups_come_last_and_once() {
        let add = ["video".to_owned(), "7".to_owned(), "wheel".to_owned()];
        let identity = resolve_in(PASSWD, GROUP, "app", &add).unwrap();
        assert_eq!(identity.groups, [1001, 10, 44, 7]);
        assert!(resolve_in(PASSWD, GROUP, "app", &["none".to_owned()]).is_err());
    }
}

//! `wharf image`: one file per verb, and what they share: names in columns, ages, filters.

pub mod check;
pub mod history;
pub mod import;
pub mod inspect;
pub mod load;
pub mod ls;
pub mod prune;
pub mod pull;
pub mod push;
pub mod rm;
pub mod save;
pub mod tag;

mod layout;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::globals::Context;
use super::output::Failure;
use crate::api::client::Client;
use crate::api::status_text::human_duration;

/// Look after images
///
/// Those that projects use, and archives that are exchanged with Docker and podman.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  \
    wharf image ls                          what is there, and what it takes of the disk\n  \
    wharf image pull nginx:1.29             fetch one from its registry\n  \
    wharf image load -i app.tar             images out of what `docker save` wrote\n  \
    wharf image save -o app.tar app:1       an archive for Docker, podman or skopeo\n  \
    wharf image prune -a                    remove what no container uses"
)]
pub struct Image {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
    Pull(pull::Pull),
    Push(push::Push),
    Inspect(inspect::Inspect),
    History(history::History),
    Tag(tag::Tag),
    #[command(visible_alias = "remove")]
    Rm(rm::Rm),
    Load(load::Load),
    Save(save::Save),
    Import(import::Import),
    Prune(prune::Prune),
    Check(check::Check),
}

impl Image {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            ImageCommand::Ls(ls) => ls.run(context),
            ImageCommand::Pull(pull) => pull.run(context),
            ImageCommand::Push(push) => push.run(context),
            ImageCommand::Inspect(inspect) => inspect.run(context),
            ImageCommand::History(history) => history.run(context),
            ImageCommand::Tag(tag) => tag.run(context),
            ImageCommand::Rm(rm) => rm.run(context),
            ImageCommand::Load(load) => load.run(context),
            ImageCommand::Save(save) => save.run(context),
            ImageCommand::Import(import) => import.run(context),
            ImageCommand::Prune(prune) => prune.run(context),
            ImageCommand::Check(check) => check.run(context),
        }
    }
}

/// Refuses images that are made for another platform than the user names.
async fn require_platform(
    client: &Client,
    images: &[&str],
    platform: Option<&str>,
) -> Result<(), Failure> {
    if platform.is_some() {
        for image in images {
            client.inspect_image_for(image, platform).await?;
        }
    }
    Ok(())
}

/// What stands where there is no name.
pub const NONE: &str = "<none>";

/// `key=value` of `--filter`.
pub fn filter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_lowercase(), value.trim().to_owned()))
        }
        _ => Err("a filter is written KEY=VALUE".to_owned()),
    }
}

/// Filters as the API takes them.
pub fn filters_json(filters: &[(String, String)]) -> String {
    let mut by_key: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, value) in filters {
        // `label!=x` is the filter `label!`.
        by_key.entry(key).or_default().push(value);
    }
    serde_json::json!(by_key).to_string()
}

/// The first twelve digits of an id.
pub fn short_id(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

/// `3 weeks ago`; `N/A` for an image that does not say.
pub fn age(created: i64, now_ns: u64) -> String {
    if created <= 0 {
        return "N/A".to_owned();
    }
    let now = (now_ns / 1_000_000_000) as i64;
    let elapsed = Duration::from_secs(u64::try_from(now - created).unwrap_or(0));
    format!("{} ago", human_duration(elapsed))
}

/// A moment as Go prints it.
pub fn moment(created: i64) -> String {
    if created <= 0 {
        return "N/A".to_owned();
    }
    let Ok(at) = jiff::Timestamp::from_second(created) else {
        return "N/A".to_owned();
    };
    let at = at.to_zoned(jiff::tz::TimeZone::system());
    at.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// Repository and tag; a local source has a tag only if it names one of its images.
pub fn split_tag(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') && repository != "rootfs" => {
            (repository, tag)
        }
        _ => (name, NONE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_where_the_tag_begins() {
        for (name, expected) in [
            ("busybox:1", ("busybox", "1")),
            ("localhost:5000/x:1", ("localhost:5000/x", "1")),
            ("rootfs:/srv", ("rootfs:/srv", NONE)),
            ("oci:/dir:v1", ("oci:/dir", "v1")),
            ("oci-archive:/a.tar", ("oci-archive:/a.tar", NONE)),
        ] {
            assert_eq!(split_tag(name), expected);
        }
    }

    #[test]
    fn filters_gather_by_key() {
        let filters = [filter("label=a=b").unwrap(), filter("label=c").unwrap()];
        assert_eq!(filters_json(&filters), r#"{"label":["a=b","c"]}"#);
        assert_eq!(
            filter("label!=x").unwrap(),
            ("label!".to_owned(), "x".to_owned())
        );
        assert!(filter("dangling").is_err());
    }
}

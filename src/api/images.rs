//! What the image routes need of an engine, in Docker's terms.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::path_pattern::PathPattern;
use super::wire::image::{
    DeleteItem, DiskUsage, HistoryItem, ImageInspect, ImageSummary, ImageVerdict, ImagesPruned,
    ProgressLine,
};
use super::wire::registry::{Artifact, DistributionInspect};
use crate::reconcile::{BackendError, FailureKind, ImageRequest};

/// Images of an engine. Names are references, ids, or unambiguous beginnings of ids.
pub trait ImageHost: Send + Sync {
    fn images(
        &self,
        filters: ImageFilters,
    ) -> impl Future<Output = Result<Vec<ImageSummary>, BackendError>> + Send;

    fn n_images(&self) -> impl Future<Output = Result<usize, BackendError>> + Send;

    /// `platform`, such as `linux/arm64`, is what the image has to be made for.
    fn inspect_image(
        &self,
        name: &str,
        platform: Option<&str>,
    ) -> impl Future<Output = Result<ImageInspect, BackendError>> + Send;

    fn image_history(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<Vec<HistoryItem>, BackendError>> + Send;

    /// All references with tags that the registry has under a name.
    fn remote_tags(
        &self,
        request: &ImageRequest,
    ) -> impl Future<Output = Result<Vec<String>, BackendError>> + Send;

    /// The digest that the registry has for a name now.
    fn remote_digest(
        &self,
        request: &ImageRequest,
    ) -> impl Future<Output = Result<String, BackendError>> + Send;

    /// A small artifact out of a registry, of the first of these kinds that is there.
    fn artifact(
        &self,
        request: &ImageRequest,
        kinds: &[String],
    ) -> impl Future<Output = Result<Artifact, BackendError>> + Send;

    /// What the registry has for a name now: its descriptor and platforms.
    fn describe_remote(
        &self,
        request: &ImageRequest,
    ) -> impl Future<Output = Result<DistributionInspect, BackendError>> + Send;

    /// Gives an image a further name.
    fn tag_image(
        &self,
        name: &str,
        reference: &str,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;

    fn delete_image(
        &self,
        name: &str,
        force: bool,
    ) -> impl Future<Output = Result<Vec<DeleteItem>, BackendError>> + Send;

    fn prune_images(
        &self,
        filters: ImageFilters,
    ) -> impl Future<Output = Result<ImagesPruned, BackendError>> + Send;

    /// A file without a name where an archive that is uploaded can be kept.
    fn upload_file(&self) -> impl Future<Output = Result<File, BackendError>> + Send;

    /// Loads the images of an archive. What happens is told as it happens, a failure last.
    fn load_images(
        &self,
        archive: File,
        platform: Option<String>,
        lines: mpsc::UnboundedSender<ProgressLine>,
    ) -> impl Future<Output = ()> + Send;

    /// An archive of images. That they are there and can be saved is known before the stream
    /// begins.
    fn save_images(
        &self,
        names: Vec<String>,
    ) -> impl Future<Output = Result<BoxStream<'static, std::io::Result<Bytes>>, BackendError>> + Send;

    /// Makes an image of a file system in a tar; returns the id.
    fn import_image(
        &self,
        archive: File,
        import: Import,
    ) -> impl Future<Output = Result<String, BackendError>> + Send;

    /// Reads everything that images consist of and compares it with their digests; what a local
    /// source still has is healed. All images when none is named.
    fn check_images(
        &self,
        names: Vec<String>,
    ) -> impl Future<Output = Result<Vec<ImageVerdict>, BackendError>> + Send;

    fn disk_usage(&self) -> impl Future<Output = Result<DiskUsage, BackendError>> + Send;
}

/// What an imported image is to be called and to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Import {
    pub reference: Option<String>,
    pub message: String,
    /// Instructions of a Dockerfile.
    pub changes: Vec<String>,
    pub platform: Option<String>,
}

/// The `filters` parameter of `GET /images/json` and `POST /images/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFilters(BTreeMap<String, Vec<String>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum FilterValues {
    List(Vec<String>),
    Set(HashMap<String, bool>),
}

/// Which command the filters are for: each knows some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FiltersOf {
    List,
    Prune,
}

fn invalid(message: String) -> BackendError {
    BackendError {
        kind: FailureKind::Invalid,
        message,
        hints: Vec::new(),
    }
}

/// An image as filters see it.
#[derive(Debug, Clone)]
pub struct Filtered<'a> {
    pub tags: &'a [String],
    pub digests: &'a [String],
    /// Seconds since the epoch.
    pub created: i64,
    pub labels: &'a BTreeMap<String, String>,
}

impl ImageFilters {
    /// # Errors
    /// `Invalid` for text that is not such JSON, and for keys that would be ignored.
    pub fn parse(json: &str, of: FiltersOf) -> Result<ImageFilters, BackendError> {
        let keys: &[&str] = match of {
            FiltersOf::List => &["dangling", "label", "before", "since", "reference", "until"],
            FiltersOf::Prune => &["dangling", "label", "label!", "until"],
        };
        if json.is_empty() {
            return Ok(ImageFilters::default());
        }
        let parsed: BTreeMap<String, FilterValues> = serde_json::from_str(json)
            .map_err(|error| invalid(format!("invalid filters: {error}")))?;
        let mut filters = BTreeMap::new();
        for (key, values) in parsed {
            if !keys.contains(&key.as_str()) {
                return Err(invalid(format!("invalid filter '{key}'")));
            }
            let values: Vec<String> = match values {
                FilterValues::List(values) => values,
                FilterValues::Set(set) => set
                    .into_iter()
                    .filter(|(_, on)| *on)
                    .map(|(v, _)| v)
                    .collect(),
            };
            if key == "dangling" && values.iter().any(|value| boolean(value).is_none()) {
                return Err(invalid(format!(
                    "invalid filter 'dangling={}'",
                    values.join(",")
                )));
            }
            let is_bad = |pattern: &&String| PathPattern::parse(pattern).is_none();
            if key == "reference"
                && let Some(bad) = values.iter().find(is_bad)
            {
                return Err(invalid(format!(
                    "invalid filter 'reference={bad}': syntax error in pattern"
                )));
            }
            if key == "until" && values.iter().any(|value| seconds(value, 0).is_none()) {
                return Err(invalid(format!(
                    "invalid filter 'until={}'",
                    values.join(",")
                )));
            }
            filters.insert(key, values);
        }
        Ok(ImageFilters(filters))
    }

    fn of(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// `None` when it is not asked.
    pub fn dangling(&self) -> Option<bool> {
        self.of("dangling").last().and_then(|value| boolean(value))
    }

    /// Images that `before` and `since` name.
    pub fn neighbours(&self) -> (&[String], &[String]) {
        (self.of("before"), self.of("since"))
    }

    /// Whether the image passes all filters but those that name other images.
    pub fn accept(&self, image: &Filtered<'_>, now: i64) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => image.labels.get(key).is_some_and(|found| found == value),
            None => image.labels.contains_key(wanted),
        };
        let has_name = self.of("reference").is_empty() || {
            let mut names = image.tags.iter().chain(image.digests);
            names.any(|name| self.shows(name))
        };
        has_name
            && self.of("label").iter().all(has)
            && !self.of("label!").iter().any(has)
            && self
                .of("until")
                .iter()
                .all(|until| seconds(until, now).is_some_and(|until| image.created <= until))
    }

    /// Whether a name is one that is asked for: of an image with several the others are not shown.
    pub fn shows(&self, name: &str) -> bool {
        let references = self.of("reference");
        // One that cannot be read was refused when the filters were.
        references.is_empty()
            || references.iter().any(|pattern| {
                PathPattern::parse(pattern).is_some_and(|pattern| matches_reference(&pattern, name))
            })
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "true" | "True" => Some(true),
        "0" | "f" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A point in time as Docker's daemon takes it: an age (`24h`), seconds, RFC 3339, or a date.
fn seconds(text: &str, now: i64) -> Option<i64> {
    if let Ok(at) = text.parse::<i64>() {
        return Some(at);
    }
    if let Some((whole, fraction)) = text.split_once('.')
        && fraction.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(at) = whole.parse::<i64>()
    {
        return Some(at);
    }
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(at.as_second());
    }
    if let Ok(at) = text.parse::<jiff::civil::DateTime>() {
        return Some(
            at.to_zoned(jiff::tz::TimeZone::UTC)
                .ok()?
                .timestamp()
                .as_second(),
        );
    }
    let age = text.parse::<jiff::SignedDuration>().ok()?;
    Some(now.saturating_sub(age.as_secs()))
}

/// Docker's `reference` filter: a pattern of Go's `path.Match` over the name as it is shown, with
/// its tag or without.
fn matches_reference(pattern: &PathPattern, name: &str) -> bool {
    let bare = match name.split_once('@') {
        Some((bare, _)) => bare,
        None => match name.rsplit_once(':') {
            Some((bare, tag)) if !tag.contains('/') => bare,
            _ => name,
        },
    };
    pattern.matches(name) || pattern.matches(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_match_as_in_go() {
        for (pattern, name, expected) in [
            ("busybox", "busybox:latest", true),
            ("busybox:*", "busybox:1.36", true),
            ("*", "busybox:1.36", true),
            ("*", "ghcr.io/a/b:1", false),
            ("*/*/b", "ghcr.io/a/b:1", true),
            ("busy*:[0-9].*", "busybox:1.36", true),
            ("busybox:[^0-9]*", "busybox:1.36", false),
            ("localhost:5000/x", "localhost:5000/x:1", true),
            ("bu?ybox", "busybox:1", true),
            ("busybox", "busybox2:1", false),
        ] {
            assert_eq!(
                matches_reference(&PathPattern::parse(pattern).unwrap(), name),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn filters_are_read_in_both_forms_and_unknown_ones_refused() {
        let filters = ImageFilters::parse(
            r#"{"dangling":{"true":true},"label":["a=b"]}"#,
            FiltersOf::List,
        )
        .unwrap();
        assert_eq!(filters.dangling(), Some(true));
        for (json, of) in [
            (r#"{"nonsense":["x"]}"#, FiltersOf::List),
            (r#"{"before":["x"]}"#, FiltersOf::Prune),
            (r#"{"dangling":["perhaps"]}"#, FiltersOf::List),
            (r#"{"until":["yesterday"]}"#, FiltersOf::Prune),
            (r#"{"reference":["ok","busy[box"]}"#, FiltersOf::List),
            ("[]", FiltersOf::List),
        ] {
            assert!(ImageFilters::parse(json, of).is_err(), "{json}");
        }
    }

    #[test]
    fn labels_and_ages_decide() {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let image = Filtered {
            tags: &[],
            digests: &[],
            created: 1_000,
            labels: &labels,
        };
        for (json, expected) in [
            (r#"{"label":["a"]}"#, true),
            (r#"{"label":["a=b"]}"#, true),
            (r#"{"label":["a=c"]}"#, false),
            (r#"{"label!":["a"]}"#, false),
            (r#"{"label!":["c"]}"#, true),
            (r#"{"until":["1h"]}"#, true),
            (r#"{"until":["500"]}"#, false),
            (r#"{"until":["1970-01-01T01:00:00Z"]}"#, true),
        ] {
            let filters = ImageFilters::parse(json, FiltersOf::Prune).unwrap();
            assert_eq!(filters.accept(&image, 10_000), expected, "{json}");
        }
    }
}

//! `wharf image ls`.

use clap::Args;

use super::{NONE, age, filter, filters_json, moment, short_id, split_tag};
use crate::api::wire::image::ImageSummary;
use crate::cli::clock::now_ns;
use crate::cli::command::with_engine;
use crate::cli::globals::Context;
use crate::cli::output::{Failure, Rows, long_size, short_size};

/// List images
///
/// Sizes are what an image takes of the disk; layers that images share count for each of them here
/// and once in `wharf system df`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf image ls app                       all tags of a repository\n  \
    wharf image ls -f dangling=true -q       ids of images without a name, for scripts\n  \
    wharf image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}'")]
pub struct Ls {
    /// Only this repository, or this tag of it
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub reference: Option<String>,
    /// All images; there are no hidden ones
    #[arg(short = 'a', long)]
    pub all: bool,
    /// Digests, too
    #[arg(long)]
    pub digests: bool,
    /// Only what matches: dangling=BOOL, label=KEY[=VALUE], before=IMAGE, since=IMAGE, reference=PATTERN, until=TIME
    #[arg(short = 'f', long = "filter", value_name = "KEY=VALUE", value_parser = filter)]
    pub filters: Vec<(String, String)>,
    /// `table`, `table TEMPLATE`, `json`, or a Go template for each line
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
    /// Whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Ids only
    #[arg(short = 'q', long)]
    pub quiet: bool,
}

const COLUMNS: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "VIRTUAL SIZE"),
    ("Containers", "CONTAINERS"),
];

impl Ls {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let mut filters = self.filters.clone();
        if let Some(reference) = &self.reference {
            filters.push(("reference".to_owned(), reference.clone()));
        }
        let filters = filters_json(&filters);
        let images = with_engine(context, async |client| Ok(client.images(&filters).await?))?;
        let text = self.render(&images, now_ns())?;
        context.output.out(text.as_bytes())
    }

    fn render(&self, images: &[ImageSummary], now_ns: u64) -> Result<String, Failure> {
        if self.quiet {
            let ids = images.iter().map(|image| match self.no_trunc {
                true => image.id.as_str(),
                false => short_id(&image.id),
            });
            let mut seen = std::collections::HashSet::new();
            return Ok(ids
                .filter(|id| seen.insert(*id))
                .map(|id| format!("{id}\n"))
                .collect());
        }
        let mut shown = vec!["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"];
        if !self.digests {
            shown.retain(|column| *column != "Digest");
        }
        let wants_digests = self.digests || self.format.contains(".Digest");
        let rows = images.iter().flat_map(|image| {
            names(image, wants_digests)
                .into_iter()
                .map(move |name| self.row(image, name, now_ns))
        });
        let rows = Rows {
            columns: COLUMNS,
            shown,
            rows: rows.collect(),
        };
        rows.render(&self.format)
    }

    fn row(&self, image: &ImageSummary, name: Name, now_ns: u64) -> Vec<String> {
        let unknown = |size: i64| match u64::try_from(size) {
            Ok(size) => long_size(size),
            Err(_) => "N/A".to_owned(),
        };
        vec![
            name.repository,
            name.tag,
            name.digest,
            match self.no_trunc {
                true => image.id.clone(),
                false => short_id(&image.id).to_owned(),
            },
            age(image.created, now_ns),
            moment(image.created),
            short_size(image.size),
            unknown(image.shared_size),
            unknown(image.size as i64 - image.shared_size),
            long_size(image.size),
            match image.containers {
                -1 => "N/A".to_owned(),
                n => n.to_string(),
            },
        ]
    }
}

/// One name of an image; parts that it does not have are `<none>`.
#[derive(Debug, PartialEq, Eq)]
pub struct Name {
    pub repository: String,
    pub tag: String,
    pub digest: String,
}

/// The names of an image as Docker lists them: one row for each tag, and one for a repository of
/// which only a digest is known.
pub fn names(image: &ImageSummary, with_digests: bool) -> Vec<Name> {
    let digests: Vec<(&str, &str)> = image
        .repo_digests
        .iter()
        .filter_map(|name| name.split_once('@'))
        .collect();
    let mut names = Vec::new();
    for name in &image.repo_tags {
        let (repository, tag) = split_tag(name);
        let of_repository = digests.iter().filter(|(of, _)| *of == repository);
        let mut row = |digest: &str| {
            names.push(Name {
                repository: repository.to_owned(),
                tag: tag.to_owned(),
                digest: digest.to_owned(),
            });
        };
        let mut n_rows = 0;
        if with_digests {
            for (_, digest) in of_repository {
                row(digest);
                n_rows += 1;
            }
        }
        if n_rows == 0 {
            row(NONE);
        }
    }
    for (repository, digest) in digests {
        let has_tag = names
            .iter()
            .any(|name| name.repository == repository && name.tag != NONE);
        if !has_tag {
            names.push(Name {
                repository: repository.to_owned(),
                tag: NONE.to_owned(),
                digest: digest.to_owned(),
            });
        }
    }
    if names.is_empty() {
        names.push(Name {
            repository: NONE.to_owned(),
            tag: NONE.to_owned(),
            digest: NONE.to_owned(),
        });
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(tags: &[&str], digests: &[&str]) -> ImageSummary {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        ImageSummary {
            id: format!("sha256:{}", "ab".repeat(32)),
            repo_tags: owned(tags),
            repo_digests: owned(digests),
            created: 1_700_000_000,
            size: 4_281_234,
            ..ImageSummary::default()
        }
    }

    fn ls(format: &str) -> Ls {
        Ls {
            reference: None,
            all: false,
            digests: false,
            filters: Vec::new(),
            format: format.to_owned(),
            no_trunc: false,
            quiet: false,
        }
    }

    #[test]
    fn the_table_is_dockers() {
        let images = [image(&["busybox:1", "busybox:2"], &[]), image(&[], &[])];
        let now_ns = 1_700_000_000_000_000_000 + 3 * 86_400 * 1_000_000_000;
        insta::assert_snapshot!(ls("table").render(&images, now_ns).unwrap(), @r"
        REPOSITORY   TAG      IMAGE ID       CREATED      SIZE
        busybox      1        abababababab   3 days ago   4.28MB
        busybox      2        abababababab   3 days ago   4.28MB
        <none>       <none>   abababababab   3 days ago   4.28MB
        ");
        let quiet = Ls {
            quiet: true,
            ..ls("table")
        };
        assert_eq!(quiet.render(&images, now_ns).unwrap(), "abababababab\n");
        assert_eq!(
            ls("{{.Repository}}:{{.Tag}}")
                .render(&images[..1], now_ns)
                .unwrap(),
            "busybox:1\nbusybox:2\n"
        );
    }

    #[test]
    fn a_digest_stands_beside_the_tags_of_its_repository() {
        let image = image(&["a:1"], &["a@sha256:x", "b@sha256:y"]);
        let rows = names(&image, true);
        let row = |at: usize| {
            let name: &Name = &rows[at];
            (
                name.repository.as_str(),
                name.tag.as_str(),
                name.digest.as_str(),
            )
        };
        assert_eq!(row(0), ("a", "1", "sha256:x"));
        assert_eq!(row(1), ("b", NONE, "sha256:y"));
    }
}

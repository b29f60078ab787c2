//! Platforms: `linux/arm64/v8`.

use std::fmt;

use oci_spec::image::ImageConfiguration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    /// As Go calls it.
    pub architecture: String,
    pub variant: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a platform such as linux/amd64")]
pub struct PlatformError {
    text: String,
}

impl Platform {
    /// `os/architecture[/variant]`, or one of the first two alone.
    pub fn parse(text: &str) -> Result<Platform, PlatformError> {
        let refuse = || PlatformError {
            text: text.to_owned(),
        };
        let is_word = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(is_word) {
            return Err(refuse());
        }
        let host = Platform::host();
        let (os, architecture, variant) = match parts[..] {
            [os @ ("linux" | "windows" | "darwin" | "freebsd")] => {
                (os, host.architecture.as_str(), None)
            }
            [architecture] => ("linux", architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(refuse()),
        };
        Ok(Platform::new(os, architecture, variant))
    }

    fn new(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        let architecture = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        // v8 is the only arm64 and v1 the only base amd64: naming it says nothing.
        let variant = match (architecture, variant) {
            ("arm64", Some("v8" | "8")) | ("amd64", Some("v1")) | (_, Some("")) => None,
            (_, variant) => variant,
        };
        Platform {
            os: os.to_lowercase(),
            architecture: architecture.to_lowercase(),
            variant: variant.map(str::to_owned),
        }
    }

    /// What this program was built for.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "x86" => ("386", None),
            other => (other, None),
        };
        Platform::new("linux", architecture, variant)
    }

    pub fn of(platform: &oci_spec::image::Platform) -> Platform {
        Platform::new(
            &platform.os().to_string(),
            &platform.architecture().to_string(),
            platform.variant().as_deref(),
        )
    }

    pub fn of_config(config: &ImageConfiguration) -> Platform {
        Platform::new(
            &config.os().to_string(),
            &config.architecture().to_string(),
            config.variant().as_deref(),
        )
    }

    /// Whether an image made for `offered` is what this asks for.
    pub fn accepts(&self, offered: &Platform) -> bool {
        self.fit(offered).is_some()
    }

    /// How well an image made for `offered` fits: more is better, `None` is not at all.
    ///
    /// Processors run what was made for the earlier variants of their architecture. What names no
    /// variant is made for all of them.
    pub fn fit(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let level = |variant: &str| variant.trim_start_matches('v').parse::<u32>().ok();
        match (self.variant.as_deref(), offered.variant.as_deref()) {
            (None, None) => Some(u32::MAX),
            // Nobody said which; the least is the safest.
            (None, Some(offered)) => Some(1000 - level(offered).unwrap_or(999).min(999)),
            (Some(_), None) => Some(1),
            (Some(wanted), Some(offered)) if wanted == offered => Some(u32::MAX),
            (Some(wanted), Some(offered)) => {
                let (wanted, offered) = (level(wanted)?, level(offered)?);
                (offered <= wanted).then_some(1 + offered)
            }
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_variants_run_on_later_processors() {
        let fit = |wanted: &str, offered: &str| {
            let wanted = Platform::parse(wanted).unwrap();
            wanted.fit(&Platform::parse(offered).unwrap())
        };
        assert!(fit("linux/arm/v7", "linux/arm/v7") > fit("linux/arm/v7", "linux/arm/v6"));
        assert!(fit("linux/arm/v7", "linux/arm/v6") > fit("linux/arm/v7", "linux/arm/v5"));
        assert_eq!(fit("linux/arm/v6", "linux/arm/v7"), None);
        assert!(fit("linux/amd64/v3", "linux/amd64/v2") > fit("linux/amd64/v3", "linux/amd64"));
        assert!(fit("linux/amd64", "linux/amd64") > fit("linux/amd64", "linux/amd64/v2"));
        assert!(fit("linux/amd64", "linux/amd64/v2") > fit("linux/amd64", "linux/amd64/v3"));
        assert!(fit("linux/arm64/v8", "linux/arm64").is_some());
        assert_eq!(fit("linux/arm64", "linux/amd64"), None);
        assert_eq!(fit("windows/amd64", "linux/amd64"), None);
    }
}

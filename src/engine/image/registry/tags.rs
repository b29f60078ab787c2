//! The tags of a repository.

use reqwest::header::LINK;
use reqwest::{Response, Url};
use serde::Deserialize;

use super::RegistryError;
use super::repository::{Ask, Repository, read_body};
use crate::engine::image::content::MAX_DOCUMENT_BYTES;

/// A registry that never comes to an end is stopped here; the largest public repositories have
/// some ten thousand tags, a hundred and more on a page.
const MAX_PAGES: usize = 1000;

#[derive(Deserialize)]
struct Page {
    /// `null` in place of an empty list is what some registries write.
    tags: Option<Vec<String>>,
}

impl Repository {
    /// All tags, in the registry's order.
    pub async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let what = format!("tags of {}", self.name);
        let mut tags = Vec::new();
        let mut next = Some(self.url("tags/list"));
        for _ in 0..MAX_PAGES {
            let Some(url) = next.take() else {
                return Ok(tags);
            };
            let response = self.ask(Ask::get(url.clone(), &what)).await?.response;
            // The next page is asked for with the rights that are for this registry.
            next = following(&url, &response).filter(|next| self.endpoint.is_origin_of(next));
            let bytes = read_body(response, self.host(), &what, MAX_DOCUMENT_BYTES).await?;
            let page: Page = serde_json::from_slice(&bytes).map_err(|_| RegistryError::Status {
                host: self.host().to_owned(),
                what: what.clone(),
                status: 200,
                said: ": it is not a list of tags".to_owned(),
            })?;
            tags.extend(page.tags.unwrap_or_default());
        }
        Err(RegistryError::TooLarge {
            host: self.host().to_owned(),
            what,
            limit: MAX_PAGES as u64,
        })
    }
}

/// `Link: </v2/app/tags/list?last=b&n=2>; rel="next"` (RFC 8288).
fn following(url: &Url, response: &Response) -> Option<Url> {
    let mut links = response.headers().get_all(LINK).iter();
    links.find_map(|link| next_of(url, link.to_str().ok()?))
}

fn next_of(url: &Url, link: &str) -> Option<Url> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let mut parameters = parameters.split(';').map(str::trim);
    let is_next = parameters.any(|p| matches!(p, "rel=\"next\"" | "rel=next"));
    is_next.then(|| url.join(target).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_where_the_link_leads() {
        let url = Url::parse("https://reg.example/v2/app/tags/list?n=2").unwrap();
        for (link, next) in [
            (
                r#"</v2/app/tags/list?n=2&last=b>; rel="next""#,
                Some("https://reg.example/v2/app/tags/list?n=2&last=b"),
            ),
            (
                "<https://other.example/x>;rel=next",
                Some("https://other.example/x"),
            ),
            (r#"</v2/app/tags/list>; rel="prev""#, None),
            ("nonsense", None),
        ] {
            let found = next_of(&url, link);
            assert_eq!(found.as_ref().map(Url::as_str), next, "{link}");
        }
    }
}

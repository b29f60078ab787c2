//! Proof of who asks: challenges answered, tokens kept until they expire.
//!
//! One [`Authorizer`] belongs to one endpoint and one login, and what it makes goes nowhere else:
//! passwords to the token service that the endpoint names, if that is a safe place, tokens to the
//! endpoint.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::RegistryError;
use super::challenge::Challenge;
use super::endpoint::Endpoint;
use super::repository::{read_body, refusal};
use super::settings::{Settings, split_port};
use super::tls::Trust;
use super::transport::{Outgoing, Transport};
use crate::plan::Login;

/// The token specification: a token without a time is good for a minute.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
const MAX_ANSWER_BYTES: u64 = 1 << 20;

pub struct Authorizer {
    login: Option<Login>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    scheme: Option<Scheme>,
    /// By scope.
    tokens: HashMap<String, Token>,
}

#[derive(Clone)]
enum Scheme {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

struct Token {
    header: HeaderValue,
    until: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// What an authorizer needs to fetch a token.
pub struct Via<'a> {
    pub transport: &'a Transport,
    pub settings: &'a Settings,
    pub endpoint: &'a Endpoint,
}

impl Authorizer {
    pub fn new(login: Option<Login>) -> Authorizer {
        Authorizer {
            login: login.filter(|login| !login.is_empty()),
            state: Mutex::default(),
        }
    }

    pub fn has_login(&self) -> bool {
        self.login.is_some()
    }

    /// What to send along without having been asked, as far as that is known.
    pub async fn header(
        &self,
        via: &Via<'_>,
        scope: &str,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        if let Some(token) = self.registry_token() {
            return Ok(Some(token));
        }
        let mut state = self.state.lock().await;
        match state.scheme.clone() {
            None => Ok(None),
            Some(Scheme::Basic) => Ok(self.basic()),
            Some(Scheme::Bearer { realm, service }) => {
                if let Some(token) = state.tokens.get(scope)
                    && Instant::now() < token.until
                {
                    return Ok(Some(token.header.clone()));
                }
                let token = self.fetch(via, &realm, service.as_deref(), scope).await?;
                let header = token.header.clone();
                state.tokens.insert(scope.to_owned(), token);
                Ok(Some(header))
            }
        }
    }

    /// The answer to a refusal of `used`; `None` when there is nothing better to show.
    pub async fn answer(
        &self,
        via: &Via<'_>,
        challenges: &[Challenge],
        scope: &str,
        used: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        if self.registry_token().is_some() {
            return Ok(None);
        }
        let mut state = self.state.lock().await;
        // Another request may have got a new one while this one was refused.
        if let Some(token) = state.tokens.get(scope)
            && Some(&token.header) != used
            && Instant::now() < token.until
        {
            return Ok(Some(token.header.clone()));
        }
        let bearer = challenges.iter().find(|c| c.scheme == "bearer");
        if let Some(bearer) = bearer {
            let realm = bearer.parameter("realm").unwrap_or_default();
            let realm = safe_realm(via.endpoint, realm)?;
            let service = bearer.parameter("service").map(str::to_owned);
            let token = self.fetch(via, &realm, service.as_deref(), scope).await?;
            state.scheme = Some(Scheme::Bearer { realm, service });
            let header = token.header.clone();
            state.tokens.insert(scope.to_owned(), token);
            return Ok((Some(&header) != used).then_some(header));
        }
        if challenges.iter().any(|c| c.scheme == "basic") {
            state.scheme = Some(Scheme::Basic);
            return Ok(self.basic().filter(|basic| Some(basic) != used));
        }
        match challenges.is_empty() {
            // A plain refusal.
            true => Ok(None),
            false => Err(RegistryError::Challenge {
                host: via.endpoint.host.clone(),
            }),
        }
    }

    fn registry_token(&self) -> Option<HeaderValue> {
        let token = &self.login.as_ref()?.registry_token;
        match token.is_empty() {
            true => None,
            false => sensitive(&format!("Bearer {token}")),
        }
    }

    fn basic(&self) -> Option<HeaderValue> {
        let login = self.login.as_ref()?;
        if login.username.is_empty() || login.password.is_empty() {
            return None;
        }
        let pair = STANDARD.encode(format!("{}:{}", login.username, login.password));
        sensitive(&format!("Basic {pair}"))
    }

    async fn fetch(
        &self,
        via: &Via<'_>,
        realm: &Url,
        service: Option<&str>,
        scope: &str,
    ) -> Result<Token, RegistryError> {
        let refresh = self
            .login
            .as_ref()
            .map(|login| login.identity_token.as_str())
            .filter(|token| !token.is_empty());
        let mut headers = HeaderMap::new();
        // Several scopes are several parameters.
        let scopes = scope.split(' ').filter(|scope| !scope.is_empty());
        let outgoing = match refresh {
            Some(refresh) => {
                let mut form = Url::parse("http://form/").expect("a constant address");
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("client_id", "wharf")
                    .append_pair("refresh_token", refresh)
                    .extend_pairs(service.map(|service| ("service", service)))
                    .append_pair("scope", scope);
                headers.insert(
                    CONTENT_TYPE,
                    HeaderValue::from_static("application/x-www-form-urlencoded"),
                );
                Outgoing {
                    method: Method::POST,
                    url: realm.clone(),
                    headers,
                    body: form.query().map(|form| form.to_owned().into()),
                }
            }
            None => {
                let mut url = realm.clone();
                url.query_pairs_mut()
                    .extend_pairs(service.map(|service| ("service", service)))
                    .extend_pairs(scopes.map(|scope| ("scope", scope)));
                if let Some(basic) = self.basic() {
                    let name = self.login.iter().map(|l| ("account", l.username.as_str()));
                    url.query_pairs_mut().extend_pairs(name);
                    headers.insert(AUTHORIZATION, basic);
                }
                Outgoing {
                    method: Method::GET,
                    url,
                    headers,
                    body: None,
                }
            }
        };
        let incoming = via
            .transport
            .send(via.settings, via.endpoint, outgoing)
            .await
            .map_err(|error| error.into_error())?;
        let what = "a token";
        if !incoming.response.status().is_success() {
            return Err(refusal(&via.endpoint.host, what, self.has_login(), incoming).await);
        }
        let body = read_body(
            incoming.response,
            &via.endpoint.host,
            what,
            MAX_ANSWER_BYTES,
        )
        .await?;
        let no_token = || RegistryError::NoToken {
            host: via.endpoint.host.clone(),
        };
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| no_token())?;
        let token = answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.is_empty())
            .ok_or_else(no_token)?;
        let life = answer
            .expires_in
            .filter(|seconds| *seconds > 0)
            .map_or(DEFAULT_LIFE, Duration::from_secs);
        // Renewed a little early, so that a request does not travel with a token that dies on the
        // way; one that does is answered by 401 and renewed then.
        let margin = (life / 5).min(Duration::from_secs(10));
        Ok(Token {
            header: sensitive(&format!("Bearer {token}")).ok_or_else(no_token)?,
            until: Instant::now() + (life - margin).min(Duration::from_secs(86_400)),
        })
    }
}

/// A password is sent to an encrypted place, or to a registry that was declared insecure itself.
fn safe_realm(endpoint: &Endpoint, realm: &str) -> Result<Url, RegistryError> {
    let refuse = || RegistryError::Realm {
        host: endpoint.host.clone(),
        realm: realm.chars().take(200).collect(),
    };
    let url = Url::parse(realm).map_err(|_| refuse())?;
    let same_name = url.host_str() == Some(split_port(&endpoint.host).0);
    match url.scheme() {
        "https" => Ok(url),
        "http" if endpoint.trust == Trust::Insecure && same_name => Ok(url),
        _ => Err(refuse()),
    }
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    // Kept out of debugging output of everything that handles headers.
    value.set_sensitive(true);
    Some(value)
}

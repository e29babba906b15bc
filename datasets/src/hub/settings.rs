//! What a user sets about the Hub, in the variables that the `huggingface_hub` library reads.

use std::fmt;
use std::path::PathBuf;

use reqwest::header::HeaderValue;
use url::Url;

use crate::stores::Environment;
use crate::{DatasetError, Result};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Where the Hub is, who asks, and where downloaded files lie.
#[derive(Clone)]
pub(crate) struct Settings {
    /// `HF_ENDPOINT`, without a slash at the end.
    pub(crate) endpoint: Url,
    /// The `Authorization` header: from `HF_TOKEN`, or from the file that logging in writes.
    pub(crate) authorization: Option<HeaderValue>,
    /// `HF_HUB_CACHE`: the folder that holds `datasets--<owner>--<name>` and its like.
    pub(crate) cache: Option<PathBuf>,
    /// `HF_HUB_OFFLINE`: nothing but that folder is read.
    pub(crate) is_offline: bool,
}

impl Settings {
    pub(crate) fn of(environment: &Environment) -> Result<Self> {
        let endpoint = environment.get("HF_ENDPOINT").unwrap_or(DEFAULT_ENDPOINT).trim_end_matches('/');
        let endpoint = Url::parse(endpoint)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| DatasetError::Setting {
                key: "HF_ENDPOINT".to_owned(),
                message: "is no http or https address".to_owned(),
            })?;
        let home = environment.path("HF_HOME").or_else(|| {
            let caches = environment.path("XDG_CACHE_HOME").or_else(|| Some(environment.home()?.join(".cache")));
            Some(caches?.join("huggingface"))
        });
        let cache = environment
            .path("HF_HUB_CACHE")
            .or_else(|| environment.path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(home.as_ref()?.join("hub")));
        let authorization = match token(environment, home) {
            Some(token) if !environment.is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") => Some(header(&token)?),
            _ => None,
        };
        Ok(Self { endpoint, authorization, cache, is_offline: environment.is_on("HF_HUB_OFFLINE") })
    }

    /// Whether an address is on the same server as the Hub, so that it may see the token.
    pub(crate) fn is_of_hub(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Settings")
            .field("endpoint", &self.endpoint.host_str())
            .field("has_token", &self.authorization.is_some())
            .field("cache", &self.cache)
            .field("is_offline", &self.is_offline)
            .finish()
    }
}

fn token(environment: &Environment, home: Option<PathBuf>) -> Option<String> {
    let from_variable = environment.get("HF_TOKEN").or_else(|| environment.get("HUGGING_FACE_HUB_TOKEN"));
    if let Some(token) = from_variable {
        return Some(token.trim().to_owned());
    }
    let path = environment.path("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")))?;
    let token = std::fs::read_to_string(path).ok()?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

fn header(token: &str) -> Result<HeaderValue> {
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| DatasetError::Setting {
        key: "HF_TOKEN".to_owned(),
        message: "holds letters that no token has".to_owned(),
    })?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn of(variables: &[(&str, &str)]) -> Settings {
        Settings::of(&Environment::of(variables.iter().copied())).unwrap()
    }

    #[rstest]
    #[case(&[("HOME", "/h")], "/h/.cache/huggingface/hub")]
    #[case(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub")]
    #[case(&[("HOME", "/h"), ("HF_HOME", "~/hf")], "/h/hf/hub")]
    #[case(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")], "/c")]
    #[case(&[("HUGGINGFACE_HUB_CACHE", "/old")], "/old")]
    fn finds_the_cache(#[case] variables: &[(&str, &str)], #[case] cache: &str) {
        assert_eq!(of(variables).cache, Some(PathBuf::from(cache)));
    }

    type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);

    #[test]
    fn finds_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("token"), "from-home\n").unwrap();
        std::fs::write(folder.path().join("other"), "from-path").unwrap();
        let other = folder.path().join("other");
        let other = other.to_str().unwrap();
        let cases: [Case; 6] = [
            (&[("HF_HOME", home)], Some("Bearer from-home")),
            (&[("HF_HOME", home), ("HF_TOKEN_PATH", other)], Some("Bearer from-path")),
            (&[("HF_HOME", home), ("HF_TOKEN", " set ")], Some("Bearer set")),
            (&[("HF_HOME", home), ("HF_TOKEN", "")], Some("Bearer from-home")),
            (&[("HF_TOKEN", "set"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None),
            (&[("HOME", "/nonexistent")], None),
        ];
        for (variables, expected) in cases {
            let settings = of(variables);
            assert_eq!(settings.authorization.as_ref().map(|header| header.to_str().unwrap()), expected);
            assert!(!format!("{settings:?}").contains("from-") && !format!("{settings:?}").contains("set "));
        }
    }

    #[test]
    fn wrong_values_are_named_but_not_shown() {
        let error = Settings::of(&Environment::of([("HF_TOKEN", "se\ncret")])).unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("cret"), "{error}");
        let error = Settings::of(&Environment::of([("HF_ENDPOINT", "hub.local")])).unwrap_err().to_string();
        assert!(error.contains("HF_ENDPOINT"), "{error}");
    }
}

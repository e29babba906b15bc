//! Files of web servers. A server cannot be listed, so each location names one file.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine};
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use percent_encoding::percent_decode_str;
use reqwest::header::HeaderValue;
use url::Url;

use super::Stores;
use crate::stores::errors::store_error;
use crate::stores::network::Connector;
use crate::stores::redact::redact;
use crate::{DatasetError, Result};

/// A store for one server. The query stays part of every request, so a signed address has a store of its own.
pub(super) fn connect(stores: &Stores, url: &Url) -> Result<Arc<dyn ObjectStore>> {
    let mut address = base(url);
    // Both cannot fail for addresses that have a host, and others have no user information.
    let _ = address.set_username("");
    let _ = address.set_password(None);
    let store = HttpBuilder::new()
        .with_url(address.as_str())
        .with_retry(stores.retry_config())
        .with_http_connector(Connector { authorization: authorization(url), ..stores.connector()? })
        .build()
        .map_err(|error| store_error(url.as_str(), error))?;
    Ok(Arc::new(store))
}

/// User information as a header: in an address it would be shown by whatever logs requests, and it would not be sent.
fn authorization(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let user = [decoded(url.username()), b":".to_vec(), decoded(url.password().unwrap_or_default())].concat();
    let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(user))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What selects the store: everything but the path.
pub(super) fn base(url: &Url) -> Url {
    let mut base = url.clone();
    base.set_path("/");
    base.set_fragment(None);
    base
}

/// The path of the file in its store.
pub(super) fn path(url: &Url) -> Result<Path> {
    Path::from_url_path(url.path())
        .map_err(|error| DatasetError::Location { location: redact(url.as_str()), message: redact(&error.to_string()) })
}

/// Size and tag of a file. An address that is signed for GET refuses HEAD, and some servers do not know it; then the
/// first byte is asked for, and the answer tells the rest.
pub(super) async fn head(store: &dyn ObjectStore, path: &Path) -> object_store::Result<ObjectMeta> {
    let first = match store.head(path).await {
        Ok(meta) => return Ok(meta),
        Err(error) => error,
    };
    let options = GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
    store.get_opts(path, options).await.map(|result| result.meta).map_err(|_| first)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn user_information_becomes_a_header() {
        for (url, expected) in [
            ("https://host/a", None),
            ("https://me:pa55word@host/a", Some("Basic bWU6cGE1NXdvcmQ=")),
            ("https://me@host/a", Some("Basic bWU6")),
            ("https://a%40b:c%3Ad%25@host/a", Some("Basic YUBiOmM6ZCU=")),
        ] {
            let header = authorization(&Url::parse(url).unwrap());
            assert_eq!(header.as_ref().map(|value| value.to_str().unwrap()), expected, "{url}");
            assert!(header.is_none_or(|value| value.is_sensitive()), "{url}");
        }
    }
}

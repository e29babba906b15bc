//! Files of web servers. A server cannot be listed, so each location names one file.

use std::sync::Arc;

use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use url::Url;

use super::Stores;
use crate::stores::errors::store_error;
use crate::stores::redact::redact;
use crate::{DatasetError, Result};

/// A store for one server. The query stays part of every request, so a signed address has a store of its own.
pub(super) fn connect(stores: &Stores, url: &Url) -> Result<Arc<dyn ObjectStore>> {
    let store = HttpBuilder::new()
        .with_url(base(url).as_str())
        .with_retry(stores.retry_config())
        .with_http_connector(stores.connector()?)
        .build()
        .map_err(|error| store_error(url.as_str(), error))?;
    Ok(Arc::new(store))
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

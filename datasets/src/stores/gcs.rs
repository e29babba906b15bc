//! Google Cloud Storage. Settings come from the `GOOGLE_*` variables, among them `GOOGLE_APPLICATION_CREDENTIALS`.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};

use super::Stores;
use crate::Result;
use crate::stores::errors::store_error;

pub(super) fn connect(stores: &Stores, bucket: &str) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in stores.environment().with_prefix("GOOGLE_") {
        match name.to_ascii_lowercase().parse() {
            Err(_) | Ok(GoogleConfigKey::Client(_) | GoogleConfigKey::Bucket) => {}
            Ok(key) => builder = builder.with_config(key, value),
        }
    }
    let store = builder
        .with_bucket_name(bucket)
        .with_retry(stores.retry_config())
        .with_http_connector(stores.connector()?)
        .build()
        .map_err(|error| store_error(&format!("gs://{bucket}"), error))?;
    Ok(Arc::new(store))
}

//! Azure Blob Storage and Data Lake Storage. Settings come from the `AZURE_*` variables.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use super::Stores;
use crate::Result;
use crate::stores::errors::store_error;

pub(super) fn connect(stores: &Stores, account: Option<&str>, container: &str) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in stores.environment().with_prefix("AZURE_") {
        match name.to_ascii_lowercase().parse() {
            Err(_) | Ok(AzureConfigKey::Client(_) | AzureConfigKey::ContainerName) => {}
            Ok(key) => builder = builder.with_config(key, value),
        }
    }
    if let Some(account) = account {
        builder = builder.with_account(account);
    }
    let store = builder
        .with_container_name(container)
        .with_retry(stores.retry_config())
        .with_http_connector(stores.connector()?)
        .build()
        .map_err(|error| store_error(&format!("az://{container}"), error))?;
    Ok(Arc::new(store))
}

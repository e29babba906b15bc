//! Amazon S3 and services that speak its protocol.
//!
//! Settings come from the `AWS_*` variables, then from the profile (`AWS_PROFILE`), then from the roles of the machine:
//! the order of the AWS tools. `object_store` knows the variables and the roles, but no profiles.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

use super::Stores;
use super::environment::Environment;
use super::profile::Profile;
use crate::stores::errors::store_error;
use crate::{DatasetError, Result};

pub(super) fn connect(stores: &Stores, bucket: &str) -> Result<Arc<dyn ObjectStore>> {
    let url = format!("s3://{bucket}");
    let store = builder(stores.environment(), bucket)?
        .with_retry(stores.retry_config())
        .with_http_connector(stores.connector()?)
        .build()
        .map_err(|error| store_error(&url, error))?;
    Ok(Arc::new(store))
}

fn builder(environment: &Environment, bucket: &str) -> Result<AmazonS3Builder> {
    let profile = Profile::of(environment)?;
    let mut builder = AmazonS3Builder::new();
    for (name, value) in environment.with_prefix("AWS_") {
        match name.to_ascii_lowercase().parse() {
            // The client is ours, and the bucket is the location's.
            Err(_) | Ok(AmazonS3ConfigKey::Client(_) | AmazonS3ConfigKey::Bucket) => {}
            Ok(key) => builder = builder.with_config(key, value),
        }
    }
    let has_keys = environment.get("AWS_ACCESS_KEY_ID").is_some();
    if has_keys != environment.get("AWS_SECRET_ACCESS_KEY").is_some() {
        return Err(DatasetError::Setting {
            key: "AWS_ACCESS_KEY_ID".to_owned(),
            message: "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set together or not at all".to_owned(),
        });
    }
    if !has_keys && let (Some(id), Some(secret)) = (profile.access_key_id, profile.secret_access_key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        if let Some(token) = profile.session_token {
            builder = builder.with_token(token);
        }
    }
    let has_region = environment.get("AWS_REGION").or(environment.get("AWS_DEFAULT_REGION")).is_some();
    if let Some(region) = profile.region.filter(|_| !has_region) {
        builder = builder.with_region(region);
    }
    let variables = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
    let endpoint = variables
        .iter()
        .find_map(|name| environment.get(name))
        .filter(|_| !environment.is_on("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"))
        .map(str::to_owned)
        .or(profile.endpoint_url);
    if let Some(endpoint) = endpoint {
        let is_http = endpoint.to_ascii_lowercase().starts_with("http://");
        builder = builder.with_endpoint(endpoint.trim_end_matches('/')).with_allow_http(is_http);
    }
    if environment.is_on("AWS_NO_SIGN_REQUEST") || environment.is_on("AWS_SKIP_SIGNATURE") {
        builder = builder.with_skip_signature(true);
    }
    Ok(builder.with_bucket_name(bucket))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::variables(
        &[("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "S"), ("AWS_SESSION_TOKEN", "T"), ("AWS_REGION", "r")],
        &[("aws_access_key_id", "A"), ("aws_session_token", "T"), ("aws_region", "r")]
    )]
    #[case::profile(&[("AWS_PROFILE", "p")], &[("aws_access_key_id", "PA"), ("aws_region", "pr"), ("aws_endpoint", "http://own:9000")])]
    #[case::variables_win(
        &[("AWS_PROFILE", "p"), ("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "S"), ("AWS_DEFAULT_REGION", "r")],
        &[("aws_access_key_id", "A"), ("aws_default_region", "r"), ("aws_endpoint", "http://own:9000")]
    )]
    #[case::endpoint_of_the_service(
        &[("AWS_ENDPOINT_URL", "https://all"), ("AWS_ENDPOINT_URL_S3", "https://s3/")],
        &[("aws_endpoint", "https://s3")]
    )]
    #[case::anonymous(&[("AWS_NO_SIGN_REQUEST", "true")], &[("aws_skip_signature", "true")])]
    fn settings(#[case] variables: &[(&str, &str)], #[case] expected: &[(&str, &str)]) {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config");
        std::fs::write(
            &config,
            "[profile p]\naws_access_key_id=PA\naws_secret_access_key=PS\nregion=pr\nendpoint_url=http://own:9000\n",
        )
        .unwrap();
        let mut all = vec![("AWS_CONFIG_FILE", config.to_str().unwrap()), ("HOME", "/nonexistent")];
        all.extend(variables);
        let builder = builder(&Environment::of(all), "bucket").unwrap();
        for (key, value) in expected {
            assert_eq!(builder.get_config_value(&key.parse().unwrap()).as_deref(), Some(*value), "{key}");
        }
        if !variables.iter().any(|(name, _)| name.contains("TOKEN")) {
            assert_eq!(builder.get_config_value(&AmazonS3ConfigKey::Token), None, "no token of another key pair");
        }
    }

    #[test]
    fn half_a_key_pair_is_refused() {
        let environment = Environment::of([("AWS_ACCESS_KEY_ID", "A"), ("HOME", "/nonexistent")]);
        assert!(builder(&environment, "b").is_err_and(|error| error.to_string().contains("set together")));
    }
}

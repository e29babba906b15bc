//! The profiles of the AWS configuration files.
//!
//! Two files hold them: `config` with sections `[default]` and `[profile name]`, and `credentials` with sections
//! `[default]` and `[name]`. Keys of the second win. A line that is indented continues or nests the setting before it; the
//! nested settings of `s3 =` are read as `s3.<name>`. `services = name` points to a `[services name]` section whose `s3`
//! settings hold the end point. The rules are those of the AWS SDK reference guide, "Shared config and credentials files".

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use crate::{DatasetError, Result};

type Sections = BTreeMap<String, BTreeMap<String, String>>;

/// What a profile says about access to S3.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) access_key_id: Option<String>,
    pub(crate) secret_access_key: Option<String>,
    pub(crate) session_token: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) endpoint_url: Option<String>,
}

impl Profile {
    /// The profile that `AWS_PROFILE` names, or the default one where the files have it.
    ///
    /// # Errors
    /// A profile that is asked for by name must exist and must hold keys, or nothing that would give keys in a way that is
    /// not supported here.
    pub(crate) fn of(environment: &Environment) -> Result<Self> {
        let config_path = file(environment, "AWS_CONFIG_FILE", "config");
        let credentials_path = file(environment, "AWS_SHARED_CREDENTIALS_FILE", "credentials");
        let config = read(config_path.as_deref())?;
        let credentials = read(credentials_path.as_deref())?;
        let wanted = environment.get("AWS_PROFILE").or_else(|| environment.get("AWS_DEFAULT_PROFILE"));
        let name = wanted.unwrap_or("default");
        let in_config =
            config.get(&format!("profile {name}")).or_else(|| config.get(name).filter(|_| name == "default"));
        let in_credentials = credentials.get(name);
        if in_config.is_none() && in_credentials.is_none() {
            let Some(wanted) = wanted else { return Ok(Self::default()) };
            return Err(setting(unknown_profile(wanted, &config, &credentials)));
        }
        let mut settings = in_config.cloned().unwrap_or_default();
        // A key and its secret belong together: the pair comes from one file.
        if let Some(found) = in_credentials {
            if found.contains_key("aws_access_key_id") {
                for key in ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"] {
                    settings.remove(key);
                }
            }
            settings.extend(found.clone());
        }
        let services = settings.get("services").and_then(|services| config.get(&format!("services {services}")));
        let endpoint_of_service = services.and_then(|services| services.get("s3.endpoint_url").cloned());
        let mut take = |key: &str| settings.remove(key).filter(|value| !value.is_empty());
        let profile = Self {
            access_key_id: take("aws_access_key_id"),
            secret_access_key: take("aws_secret_access_key"),
            session_token: take("aws_session_token"),
            region: take("region"),
            endpoint_url: endpoint_of_service.or_else(|| take("endpoint_url")),
        };
        profile.check(name, wanted.is_some(), &settings)?;
        Ok(profile)
    }

    fn check(&self, name: &str, is_wanted: bool, others: &BTreeMap<String, String>) -> Result<()> {
        match (&self.access_key_id, &self.secret_access_key) {
            (Some(_), None) => {
                return Err(setting(format!("profile '{name}' has aws_access_key_id but no aws_secret_access_key")));
            }
            (None, Some(_)) => {
                return Err(setting(format!("profile '{name}' has aws_secret_access_key but no aws_access_key_id")));
            }
            (Some(_), Some(_)) => return Ok(()),
            (None, None) => {}
        }
        let unsupported = ["sso_session", "sso_start_url", "role_arn", "credential_process", "login_session"];
        let found = unsupported.into_iter().find(|key| others.contains_key(*key));
        match found {
            Some(key) if is_wanted => Err(setting(format!(
                "profile '{name}' gets its credentials through {key}, which is not read here; run \
                 `eval \"$(aws configure export-credentials --profile {name} --format env)\"` first"
            ))),
            _ => Ok(()),
        }
    }
}

fn setting(message: String) -> DatasetError {
    DatasetError::Setting { key: "AWS_PROFILE".to_owned(), message }
}

fn file(environment: &Environment, variable: &str, name: &str) -> Option<PathBuf> {
    environment.path(variable).or_else(|| Some(environment.home()?.join(".aws").join(name)))
}

fn read(path: Option<&Path>) -> Result<Sections> {
    let Some(path) = path else { return Ok(Sections::new()) };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Sections::new()),
        Err(error) => Err(setting(format!("'{}' cannot be read: {error}", path.display()))),
    }
}

fn unknown_profile(wanted: &str, config: &Sections, credentials: &Sections) -> String {
    let mut names: Vec<&str> = config
        .keys()
        .filter_map(|section| section.strip_prefix("profile ").or((section == "default").then_some("default")))
        .chain(credentials.keys().map(String::as_str))
        .collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return format!("there is no profile '{wanted}': the AWS configuration files are absent or empty");
    }
    format!("there is no profile '{wanted}'; profiles: {}", names.join(", "))
}

fn parse(text: &str) -> Sections {
    let mut sections = Sections::new();
    let mut section: Option<String> = None;
    let mut parent: Option<String> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') || trimmed.starts_with(';') {
            continue;
        }
        if let Some(header) = trimmed.strip_prefix('[') {
            let header = header.split(']').next().unwrap_or_default();
            // Any white space may separate the word from the name, and a name may be quoted.
            let name = header.split_whitespace().collect::<Vec<_>>().join(" ").replace(['"', '\''], "");
            sections.entry(name.clone()).or_default();
            (section, parent) = (Some(name), None);
            continue;
        }
        let Some(settings) = section.as_ref().and_then(|section| sections.get_mut(section)) else { continue };
        let Some((key, value)) = trimmed.split_once('=') else { continue };
        let key = key.trim().to_ascii_lowercase();
        let value = without_comment(value).trim().to_owned();
        if line.starts_with([' ', '\t'])
            && let Some(parent) = &parent
        {
            settings.insert(format!("{parent}.{key}"), value);
            continue;
        }
        parent = value.is_empty().then(|| key.clone());
        settings.insert(key, value);
    }
    sections
}

/// A comment behind a value begins with white space, so that a secret may hold the sign.
fn without_comment(value: &str) -> &str {
    let end = [" #", " ;", "\t#", "\t;"].iter().filter_map(|sign| value.find(sign)).min();
    end.map_or(value, |end| &value[..end])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use rstest::rstest;

    use super::*;

    const CONFIG: &str = "\
# a comment
[default]
region = eu-west-1
output=json

[profile work]
region=eu-central-1   # behind the value
aws_access_key_id = CONFIGKEY
aws_secret_access_key = config#secret
s3 =
    max_concurrent_requests = 20
    addressing_style = path

[ profile\t'own store' ]
endpoint_url = http://127.0.0.1:9000
services = local
[services local]
s3 =
  endpoint_url = http://127.0.0.1:9001
[profile single]
sso_session = corp
region = us-east-1
[profile role]
role_arn = arn:aws:iam::1:role/x
source_profile = work
[profile half]
aws_access_key_id = A
";
    const CREDENTIALS: &str = "\
[default]
aws_access_key_id = DEFAULTKEY
aws_secret_access_key = a/b+c=d
[work]
aws_access_key_id=WORKKEY
aws_secret_access_key=worksecret
aws_session_token=token==
[only]
AWS_ACCESS_KEY_ID = ONLYKEY
aws_secret_access_key = only
[own store]
aws_access_key_id = OWN
aws_secret_access_key = own
";

    fn environment(folder: &Path, profile: Option<&str>) -> Environment {
        std::fs::write(folder.join("config"), CONFIG).unwrap();
        std::fs::write(folder.join("credentials"), CREDENTIALS).unwrap();
        let mut variables = vec![
            ("AWS_CONFIG_FILE".to_owned(), folder.join("config").display().to_string()),
            ("AWS_SHARED_CREDENTIALS_FILE".to_owned(), folder.join("credentials").display().to_string()),
        ];
        variables.extend(profile.map(|profile| ("AWS_PROFILE".to_owned(), profile.to_owned())));
        Environment::of(variables)
    }

    #[rstest]
    #[case::default(None, [Some("DEFAULTKEY"), Some("a/b+c=d"), None, Some("eu-west-1"), None])]
    #[case::credentials_win(Some("work"), [Some("WORKKEY"), Some("worksecret"), Some("token=="), Some("eu-central-1"), None])]
    #[case::credentials_only(Some("only"), [Some("ONLYKEY"), Some("only"), None, None, None])]
    #[case::service(Some("own store"), [Some("OWN"), Some("own"), None, None, Some("http://127.0.0.1:9001")])]
    fn reads(#[case] name: Option<&str>, #[case] expected: [Option<&str>; 5]) {
        let folder = tempfile::tempdir().unwrap();
        let profile = Profile::of(&environment(folder.path(), name)).unwrap();
        let found = [
            profile.access_key_id,
            profile.secret_access_key,
            profile.session_token,
            profile.region,
            profile.endpoint_url,
        ];
        assert_eq!(found, expected.map(|value| value.map(str::to_owned)));
    }

    #[rstest]
    #[case("absent", "there is no profile 'absent'; profiles: default, half, only, own store, role, single, work")]
    #[case("single", "profile 'single' gets its credentials through sso_session")]
    #[case("role", "through role_arn")]
    #[case("half", "no aws_secret_access_key")]
    fn refuses(#[case] name: &str, #[case] message: &str) {
        let folder = tempfile::tempdir().unwrap();
        let Err(error) = Profile::of(&environment(folder.path(), Some(name))) else { panic!("must be refused") };
        assert!(error.to_string().contains(message), "{error}");
    }

    #[test]
    fn files_below_the_home_folder_are_found() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        std::fs::write(home.path().join(".aws/config"), "[default]\nregion = sa-east-1\n").unwrap();
        let environment = Environment::of([("HOME", home.path().to_str().unwrap())]);
        assert_eq!(Profile::of(&environment).unwrap().region.as_deref(), Some("sa-east-1"));
    }

    #[test]
    fn nothing_configured_is_no_error() {
        let environment = Environment::of([("HOME", "/nonexistent")]);
        assert!(Profile::of(&environment).unwrap() == Profile::default());
        let environment = Environment::of([("HOME", "/nonexistent"), ("AWS_PROFILE", "x")]);
        assert!(Profile::of(&environment).is_err_and(|error| error.to_string().contains("absent or empty")));
    }
}

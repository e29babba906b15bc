//! Keeps credentials out of messages, logs and records.
//!
//! Credentials reach a location in two ways: as user information before the host (`https://user:password@host/`) and as
//! parameters of a signed query (`?X-Amz-Signature=…`). They reach a message through what a store answers, too. Whatever
//! is shown or recorded goes through [`redact`] first. It errs on the side of hiding: everything that belongs to a known
//! signing scheme goes, also the harmless parts, because they change with each signature and so are no identity either.

const MASK: &str = "***";

/// Returns `text` without user information and signed query parameters in the URLs in it, without tokens of the Hub, without
/// what follows `Bearer` and `Basic`, and without the values of credential-like `name=value` and `<Name>value` pairs.
///
/// # Example
/// ```
/// use gristmill_datasets::redact;
///
/// let shown = redact("GET https://me:secret@host/a?part=2&X-Amz-Signature=0f failed");
/// assert_eq!(shown, "GET https://host/a?part=2 failed");
/// ```
#[must_use]
pub fn redact(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    let mut hide_next = false;
    while !rest.is_empty() {
        let word_end = rest.find(is_separator).unwrap_or(rest.len());
        if word_end > 0 {
            let (word, after) = rest.split_at(word_end);
            if hide_next {
                shown.push_str(MASK);
            } else {
                shown.push_str(&redact_word(word));
            }
            hide_next = announces_secret(word, after);
            rest = after;
        }
        let separator_end = rest.find(|character| !is_separator(character)).unwrap_or(rest.len());
        let (separators, after) = rest.split_at(separator_end);
        // The value of an XML element follows its name directly; a closing tag has none.
        if hide_next && separators.starts_with("></") {
            hide_next = false;
        }
        shown.push_str(separators);
        rest = after;
    }
    shown
}

/// Removes the parameters of a query that belong to a signature or look like a credential; `None` when nothing is left.
pub(crate) fn public_query(query: &str) -> Option<String> {
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            !pair.is_empty() && !is_secret_parameter(name) && !looks_like_token(value)
        })
        .collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

fn is_separator(character: char) -> bool {
    character.is_whitespace() || matches!(character, '"' | '\'' | '`' | '<' | '>' | '(' | ')' | ',' | ';' | '{' | '}')
}

fn redact_word(word: &str) -> String {
    if let Some(at) = word.find("://") {
        let scheme_start = word[..at]
            .rfind(|character: char| !character.is_ascii_alphanumeric() && !matches!(character, '+' | '-' | '.'))
            .map_or(0, |position| position + 1);
        let (before, url) = word.split_at(scheme_start);
        return format!("{before}{}", redact_url(url));
    }
    if looks_like_token(word) {
        return MASK.to_owned();
    }
    if word.contains('=') {
        return redact_pairs(word);
    }
    word.to_owned()
}

fn redact_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority_end);
    let host = match authority.rsplit_once('@') {
        // `abfss://container@account…` and `hf://name@revision` are names, not credentials.
        Some((user, _)) if (scheme.starts_with("abfs") || scheme == "hf") && !user.contains(':') => authority,
        Some((_, host)) => host,
        None => authority,
    };
    // Only http has queries: in the keys of other stores a question mark is a letter or a wildcard.
    let tail = if let (Some((path, query)), true) = (tail.split_once('?'), scheme.starts_with("http")) {
        let (query, fragment) = query.split_once('#').unwrap_or((query, ""));
        let fragment = if fragment.is_empty() { String::new() } else { format!("#{fragment}") };
        match public_query(query) {
            Some(kept) => format!("{path}?{kept}{fragment}"),
            None => format!("{path}{fragment}"),
        }
    } else {
        tail.to_owned()
    };
    format!("{scheme}://{host}{tail}")
}

/// `name=value` pairs, joined by `&` or standing alone.
fn redact_pairs(word: &str) -> String {
    if !word.contains('=') {
        return word.to_owned();
    }
    word.split('&')
        .map(|pair| match pair.split_once('=') {
            // `year=2024/key=5/part.parquet` names folders.
            Some((name, value)) if name.contains('/') || value.contains('/') && !name.contains('?') => {
                format!("{name}={value}")
            }
            Some((name, _)) if is_secret_parameter(name.rsplit('?').next().unwrap_or(name)) => format!("{name}={MASK}"),
            Some((name, value)) if looks_like_token(value) => format!("{name}={MASK}"),
            _ => pair.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("&")
}

/// Whether the word that follows is a credential: an authorization scheme, or the XML elements in which S3 repeats one.
fn announces_secret(word: &str, after: &str) -> bool {
    if after.starts_with('>') {
        return [
            "AWSAccessKeyId",
            "SignatureProvided",
            "StringToSign",
            "StringToSignBytes",
            "CanonicalRequest",
            "Token",
        ]
        .contains(&word);
    }
    word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("basic")
}

fn is_secret_parameter(name: &str) -> bool {
    const NAMES: [&str; 30] = [
        "signature",
        "sig",
        "token",
        "access_token",
        "accesstoken",
        "auth_token",
        "authtoken",
        "id_token",
        "refresh_token",
        "api_key",
        "apikey",
        "api-key",
        "key",
        "secret",
        "secret_key",
        "password",
        "passwd",
        "pwd",
        "auth",
        "authorization",
        "credential",
        "credentials",
        "policy",
        "key-pair-id",
        "expires",
        "awsaccesskeyid",
        "googleaccessid",
        "aws_secret_access_key",
        "aws_session_token",
        "session_token",
    ];
    // The parameters of a shared access signature: version, services, start, end, permissions and so on.
    const SHARED_ACCESS: [&str; 15] =
        ["sv", "ss", "srt", "sp", "se", "st", "spr", "sr", "sip", "skoid", "sktid", "skt", "ske", "sks", "skv"];
    let name = name.to_ascii_lowercase();
    name.starts_with("x-amz-")
        || name.starts_with("x-goog-")
        || name.starts_with("x-oss-")
        || NAMES.contains(&name.as_str())
        || SHARED_ACCESS.contains(&name.as_str())
}

/// Tokens that can be told by their form: those of the Hub, of GitHub, and JSON web tokens.
fn looks_like_token(word: &str) -> bool {
    let is_long = |rest: &str| rest.len() >= 20;
    let has_only =
        |rest: &str, more: &str| rest.chars().all(|letter| letter.is_ascii_alphanumeric() || more.contains(letter));
    let plain = ["hf_", "api_org_", "ghp_", "gho_"].iter().find_map(|prefix| word.strip_prefix(prefix));
    plain.is_some_and(|rest| is_long(rest) && has_only(rest, ""))
        || word.strip_prefix("github_pat_").is_some_and(|rest| is_long(rest) && has_only(rest, "_"))
        || word.strip_prefix("eyJ").is_some_and(|rest| is_long(rest) && rest.contains('.') && has_only(rest, "._-"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::nothing("plain words, with: signs", "plain words, with: signs")]
    #[case::user("at https://me:pass@host:8443/a/b now", "at https://host:8443/a/b now")]
    #[case::user_only("https://token@host/a", "https://host/a")]
    #[case::amazon(
        "(https://b.s3.amazonaws.com/k?X-Amz-Algorithm=A&X-Amz-Credential=AK%2F1&X-Amz-Signature=00&versionId=7)",
        "(https://b.s3.amazonaws.com/k?versionId=7)"
    )]
    #[case::cloudfront("https://cdn/x?Expires=1&Signature=a~b&Key-Pair-Id=K&Policy=p", "https://cdn/x")]
    #[case::azure(
        "https://a.blob.core.windows.net/c/b?sv=1&sr=b&sig=x%3D&se=2&part=1",
        "https://a.blob.core.windows.net/c/b?part=1"
    )]
    #[case::google(
        "https://storage.googleapis.com/b/k?X-Goog-Signature=1&alt=media",
        "https://storage.googleapis.com/b/k?alt=media"
    )]
    #[case::hub_token("token hf_abcdefghijklmnopqrstuv is bad", "token *** is bad")]
    #[case::token_in_query("https://host/f?file=3&t=hf_abcdefghijklmnopqrstuv", "https://host/f?file=3")]
    #[case::a_name_is_no_token(
        "hf_dataset.jsonl and hf_internal_testing_data.parquet",
        "hf_dataset.jsonl and hf_internal_testing_data.parquet"
    )]
    #[case::bearer("header Authorization: Bearer abc.def failed", "header Authorization: Bearer *** failed")]
    #[case::pairs("aws_secret_access_key=abc x=1", "aws_secret_access_key=*** x=1")]
    #[case::xml(
        "<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId><SignatureProvided>abc</SignatureProvided></Error>",
        "<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>***</AWSAccessKeyId><SignatureProvided>***</SignatureProvided></Error>"
    )]
    #[case::hive_folders("s3://bucket/year=2024/key=5/a.parquet", "s3://bucket/year=2024/key=5/a.parquet")]
    #[case::relative_hive_folders("year=2024/key=5/a.parquet", "year=2024/key=5/a.parquet")]
    #[case::container("abfss://files@account.dfs.core.windows.net/a", "abfss://files@account.dfs.core.windows.net/a")]
    #[case::revision("hf://datasets/o/n@main/a?.parquet", "hf://datasets/o/n@main/a?.parquet")]
    #[case::keys_in_front("s3://AKIA:secret@bucket/key", "s3://bucket/key")]
    #[case::json(r#"{"url":"https://u:p@h/x?sig=1","n":1}"#, r#"{"url":"https://h/x","n":1}"#)]
    fn credentials_are_hidden(#[case] text: &str, #[case] shown: &str) {
        assert_eq!(redact(text), shown);
        assert_eq!(redact(shown), shown, "hiding twice changes nothing");
    }
}

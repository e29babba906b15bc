//! Turns what a store answers into errors that callers act on.

use std::error::Error;
use std::io::ErrorKind;

use super::redact::redact;
use crate::DatasetError;

const LONGEST_MESSAGE: usize = 400;

/// Maps an error of `object_store` to the error of this crate, naming `url`, without credentials.
///
/// # Example
/// ```
/// use gristmill_datasets::{DatasetError, store_error};
///
/// let error = object_store::Error::NotFound { path: "a".into(), source: "404".into() };
/// assert!(matches!(store_error("s3://bucket/a", error), DatasetError::NotFound { .. }));
/// ```
#[must_use]
pub fn store_error(url: &str, error: object_store::Error) -> DatasetError {
    use object_store::Error as Store;
    let location = redact(url);
    match error {
        Store::Generic { source, .. }
        | Store::NotFound { source, .. }
        | Store::NotSupported { source }
        | Store::PermissionDenied { source, .. }
        | Store::Unauthenticated { source, .. }
        | Store::Precondition { source, .. }
            if source.is::<DatasetError>() =>
        {
            match source.downcast::<DatasetError>() {
                Ok(own) => *own,
                Err(source) => DatasetError::Store { location, message: concise(source.as_ref()) },
            }
        }
        Store::NotFound { .. } => DatasetError::NotFound { location, hint: None },
        Store::PermissionDenied { source, .. } | Store::Unauthenticated { source, .. } => {
            denied(location, &concise(source.as_ref()))
        }
        // A conflict on a read is no matter of what is there already.
        Store::AlreadyExists { source, .. } => DatasetError::Store { location, message: concise(source.as_ref()) },
        Store::Precondition { source, .. } | Store::NotModified { source, .. } => {
            DatasetError::Changed { location, message: concise(source.as_ref()) }
        }
        Store::InvalidPath { source } => DatasetError::Location { location, message: redact(&source.to_string()) },
        other => generic(location, &other),
    }
}

/// Access was refused: says which settings give access to this kind of location.
pub(crate) fn denied(location: String, message: &str) -> DatasetError {
    let scheme = location.split("://").next().unwrap_or_default();
    let settings = match scheme {
        "s3" => {
            "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or \
             AWS_NO_SIGN_REQUEST=true for a public bucket"
        }
        "gs" => "set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
        "az" | "abfss" => "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
        "hf" => "set HF_TOKEN, and accept the terms on its page where the repository is gated",
        "http" | "https" => "the address needs user information or a signed query that is valid now",
        _ => "check who may read and write the file and its folders",
    };
    DatasetError::Denied { message: format!("{message}; {settings}"), location }
}

fn generic(location: String, error: &object_store::Error) -> DatasetError {
    let message = concise(error);
    if let Some(kind) = find::<std::io::Error>(error).map(std::io::Error::kind) {
        match kind {
            // Below a file there is nothing.
            ErrorKind::NotFound | ErrorKind::NotADirectory => return DatasetError::NotFound { location, hint: None },
            ErrorKind::PermissionDenied => return denied(location, &message),
            ErrorKind::Interrupted
            | ErrorKind::TimedOut
            | ErrorKind::WouldBlock
            | ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::StaleNetworkFileHandle => return DatasetError::Transient { location, message },
            ErrorKind::UnexpectedEof if location.starts_with("file:") => {
                return DatasetError::Changed { location, message };
            }
            _ => {}
        }
    }
    #[cfg(feature = "http")]
    if let Some(missing) = find::<super::network::NoCredentials>(error) {
        return denied(location, &missing.to_string());
    }
    #[cfg(feature = "http")]
    if find::<object_store::client::HttpError>(error).is_some() {
        return DatasetError::Transient { location, message };
    }
    let text = chain(error);
    match status(&text) {
        Some(401 | 403) => denied(location, &message),
        Some(404 | 410) => DatasetError::NotFound { location, hint: None },
        Some(412 | 416) => DatasetError::Changed { location, message },
        Some(408 | 425 | 429 | 500..=599) => DatasetError::Transient { location, message },
        _ if is_out_of_range(&text) => DatasetError::Changed { location, message },
        _ => DatasetError::Store { location, message },
    }
}

/// What `object_store` says when fewer bytes are there than were asked for.
fn is_out_of_range(text: &str) -> bool {
    ["but object was only", "Out of range of file", "Requested range was invalid", "but got "]
        .iter()
        .any(|phrase| text.contains(phrase))
        || (text.contains("Requested ") && text.contains(", got "))
}

/// The status of an answer. `object_store` keeps the type that holds it to itself, so it is read from the message.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// All messages of an error and its sources, each once.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let message = source.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        next = source.source();
    }
    text
}

/// One line for people: the code and message of an XML answer where there is one, no credentials, a bounded length.
pub(crate) fn concise(error: &(dyn Error + 'static)) -> String {
    let text = chain(error);
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once("</").map(|(value, _)| value.trim().to_owned())
    };
    let text = match (status(&text), element("Code"), element("Message")) {
        (Some(status), Some(code), message) => {
            format!("status {status}, {code}{}", message.map(|message| format!(": {message}")).unwrap_or_default())
        }
        _ => without_internals(&text),
    };
    shorten(&redact(&text))
}

/// What `object_store` says of a request, without the names of its types, the address (which stands before the message)
/// and its settings: `status 503 Service Unavailable: busy, after 10 retries`.
fn without_internals(text: &str) -> String {
    let text = match text.strip_prefix("Generic ").and_then(|rest| rest.split_once(" error: ")) {
        Some((store, rest)) if !store.contains(' ') => rest,
        _ => text,
    };
    let Some((request, cause)) = text.strip_prefix("Error performing ").and_then(|rest| rest.split_once(" - ")) else {
        return text.to_owned();
    };
    let tried =
        request.split_once(", after ").and_then(|(_, rest)| rest.split_once(" retries")).map(|(count, _)| count);
    let mut cause = match cause.split_once("status code: ") {
        Some((_, answer)) => format!("status {answer}"),
        None => cause.to_owned(),
    };
    for wrapper in ["HTTP error: ", "error sending request: ", "client error (Connect): ", "tcp connect error: "] {
        cause = cause.strip_prefix(wrapper).unwrap_or(&cause).to_owned();
    }
    let cause = cause.trim_end_matches([':', ' ']);
    match tried {
        Some("1") => format!("{cause}, after 1 retry"),
        Some(count) => format!("{cause}, after {count} retries"),
        None => cause.to_owned(),
    }
}

/// Joins lines and bounds the length, on a character boundary.
pub(crate) fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::io;

    use rstest::rstest;

    use super::*;

    fn answered(status: u16, body: &str) -> object_store::Error {
        let message = format!(
            "Error performing GET https://u:pw@h/k?X-Amz-Signature=ab in 1ms - Server returned non-2xx status code: {status} X: {body}"
        );
        object_store::Error::Generic { store: "S3", source: message.into() }
    }

    fn of_file(kind: ErrorKind) -> object_store::Error {
        object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(io::Error::from(kind)) }
    }

    #[rstest]
    #[case(answered(401, ""), "Denied")]
    #[case(answered(403, "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"), "Denied")]
    #[case(answered(404, ""), "NotFound")]
    #[case(answered(416, ""), "Changed")]
    #[case(answered(429, ""), "Transient")]
    #[case(answered(503, "SlowDown"), "Transient")]
    #[case(answered(400, "bad"), "Store")]
    #[case(of_file(ErrorKind::PermissionDenied), "Denied")]
    #[case(of_file(ErrorKind::NotADirectory), "NotFound")]
    #[case(of_file(ErrorKind::ConnectionReset), "Transient")]
    #[case(of_file(ErrorKind::StorageFull), "Store")]
    #[case(object_store::Error::Precondition { path: "k".into(), source: "etag".into() }, "Changed")]
    #[case(object_store::Error::Unauthenticated { path: "k".into(), source: "who".into() }, "Denied")]
    fn maps(#[case] error: object_store::Error, #[case] variant: &str) {
        let error = store_error("s3://bucket/k", error);
        assert!(format!("{error:?}").starts_with(variant), "{error:?}");
        let message = error.to_string();
        assert!(message.contains("s3://bucket/k"), "{message}");
        assert!(!message.contains("pw") && !message.contains("Signature"), "{message}");
    }

    #[test]
    fn an_answer_in_xml_is_put_in_words() {
        let body = "<?xml?><Error><Code>AccessDenied</Code><Message>Access Denied</Message><AWSAccessKeyId>AK</AWSAccessKeyId></Error>";
        let message = store_error("s3://b/k", answered(403, body)).to_string();
        assert!(
            message.starts_with("no access to 's3://b/k': status 403, AccessDenied: Access Denied; set AWS_PROFILE"),
            "{message}"
        );
    }

    #[rstest]
    #[case(
        "Generic S3 error: Error performing GET http://h/k in 4.7s, after 10 retries, max_retries: 10, retry_timeout: 86400s  - \
         Server returned non-2xx status code: 503 Service Unavailable: busy",
        "status 503 Service Unavailable: busy, after 10 retries"
    )]
    #[case(
        "Generic HTTP error: Error performing HEAD http://h/k in 1ms, after 2 retries, max_retries: 2, retry_timeout: 1s - HTTP \
         error: error sending request: client error (Connect): tcp connect error: Connection refused (os error 111)",
        "Connection refused (os error 111), after 2 retries"
    )]
    #[case(
        "Error performing GET http://h/k in 1ms - Server returned non-2xx status code: 409 Conflict: ",
        "status 409 Conflict"
    )]
    #[case(
        "Generic LocalFileSystem error: Unable to open file /a: Permission denied (os error 13)",
        "Unable to open file /a: Permission denied (os error 13)"
    )]
    #[case("something else", "something else")]
    fn requests_are_put_in_words(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(without_internals(text), expected);
    }

    #[test]
    fn an_own_error_passes_through() {
        let own = DatasetError::Transient { location: "hf://datasets/o/n".into(), message: "later".into() };
        let error = object_store::Error::Generic { store: "Hub", source: Box::new(own) };
        assert!(store_error("hf://x", error).is_transient());
    }

    #[tokio::test]
    async fn a_short_local_file_has_changed() {
        use object_store::ObjectStoreExt;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "abc").unwrap();
        let store = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        let error = store.get_range(&"a".into(), 10..20).await.unwrap_err();
        assert!(matches!(store_error("file:///a", error), DatasetError::Changed { .. }));
    }

    #[test]
    fn long_answers_are_cut() {
        let message = store_error("s3://b/k", answered(400, &"é".repeat(10_000))).to_string();
        assert!(message.chars().count() < LONGEST_MESSAGE + 50);
    }
}

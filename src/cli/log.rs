//! The log on standard error, chosen by `GRISTMILL_LOG`: text on a terminal, JSON lines elsewhere.

use std::io::{self, IsTerminal, Write};

use gristmill::datasets::redact;
use tracing_subscriber::EnvFilter;

/// What is logged unless `GRISTMILL_LOG` says otherwise: warnings of gristmill, errors of everything else.
const DEFAULT_LOG: &str =
    "error,gristmill=warn,gristmill_datasets=warn,gristmill_operators=warn,gristmill_pipelines=warn";

/// Starts logging.
pub(super) fn start() {
    let filter = EnvFilter::try_from_env("GRISTMILL_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Redacted);
    if io::stderr().is_terminal() {
        subscriber.with_ansi(std::env::var_os("NO_COLOR").is_none()).init();
    } else {
        subscriber.json().init();
    }
}

/// Standard error without credentials. What libraries log of their requests is not in this program's hands.
struct Redacted;

impl Write for Redacted {
    /// Takes a whole event, as the subscriber writes it.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(redact(&String::from_utf8_lossy(event)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

//! A look-alike of the Hub as a process of its own, from the folder of shared tools.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The running server; it ends with this value.
pub struct HubServer {
    process: Child,
    pub endpoint: String,
}

impl HubServer {
    /// Serves `root/datasets/<owner>/<name>/…` and `root/models/…`, with faults at the given rate. Nothing where the tool is
    /// absent.
    pub fn start(root: &Path, faults: Option<(u32, f64)>) -> Option<Self> {
        let tool = tool()?;
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address").port();
        let mut command = Command::new("python3");
        command.arg(tool).arg(root).arg(port.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((seed, rate)) = faults {
            command.args(["--faults", &seed.to_string(), &rate.to_string()]);
        }
        let Ok(process) = command.spawn() else {
            println!("skipped: there is no python3");
            return None;
        };
        let server = Self { process, endpoint: format!("http://127.0.0.1:{port}") };
        let begin = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(60), "the server did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(server)
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn tool() -> Option<PathBuf> {
    let beside = |data: PathBuf| data.join("../tools/hub_server.py");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let candidates = match std::env::var_os("GRISTMILL_DATA") {
        Some(data) => vec![beside(PathBuf::from(data))],
        // Of the workspace's own package, or of a package in it.
        None => ["../shared/data", "../../shared/data"].map(|data| beside(root.join(data))).to_vec(),
    };
    let found = candidates.iter().find(|tool| tool.is_file()).cloned();
    if found.is_none() {
        println!("skipped: '{}' is absent", candidates[0].display());
    }
    found
}

//! Progress of a run: a live view on a terminal, JSON lines elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use gristmill::datasets::run::RunPlan;
use gristmill::pipelines::PipelineError;
use gristmill::pipelines::run::{Learning, Observer, Progress, Snapshot};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use super::table::{bytes, count, number, percent, seconds};

/// How often the live view is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(250);
/// How often a JSON line is written.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    Nothing,
    Terminal,
    JsonLines,
}

impl Show {
    pub(super) fn choose(quiet: bool, json: bool) -> Self {
        match (quiet, json) {
            (true, _) => Self::Nothing,
            (false, true) => Self::JsonLines,
            (false, false) if std::io::stderr().is_terminal() => Self::Terminal,
            (false, false) => Self::JsonLines,
        }
    }
}

/// Shows a run while it goes on. Stops when dropped.
pub(super) struct Live {
    show: Show,
    /// The thread that shows the run that was begun last, and how it is told to end.
    thread: parking_lot::Mutex<Option<(Arc<AtomicBool>, JoinHandle<()>)>>,
    lines: MultiProgress,
    was_complete: AtomicBool,
}

impl Live {
    pub(super) fn new(show: Show) -> Self {
        Self {
            show,
            thread: parking_lot::Mutex::new(None),
            lines: MultiProgress::new(),
            was_complete: AtomicBool::new(false),
        }
    }

    /// Whether every split of the run had been committed before it was begun this time.
    pub(super) fn was_complete(&self) -> bool {
        self.was_complete.load(Ordering::Relaxed)
    }

    /// Stops drawing.
    pub(super) fn end(&self) {
        if let Some((ended, thread)) = self.thread.lock().take() {
            ended.store(true, Ordering::Relaxed);
            thread.thread().unpark();
            // A thread that failed to draw has nothing else to tell.
            let _ = thread.join();
        }
    }

    fn say(&self, event: serde_json::Value, text: &str) {
        match self.show {
            Show::Nothing => {}
            // A terminal that cannot be written to is noticed by the drawing, not by the run.
            Show::Terminal => drop(self.lines.println(text)),
            Show::JsonLines => eprintln!("{event}"),
        }
    }

    fn watch(&self, progress: &Arc<Progress>) {
        let ended = Arc::new(AtomicBool::new(false));
        let (show, is_told, progress) = (self.show, Arc::clone(&ended), Arc::clone(progress));
        let lines = self.lines.clone();
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(move || match show {
            Show::Nothing => {}
            Show::Terminal => draw(&lines, &progress, &is_told),
            Show::JsonLines => report(&progress, &is_told),
        });
        match thread {
            Ok(thread) => *self.thread.lock() = Some((ended, thread)),
            Err(error) => tracing::warn!(%error, "progress is not shown"),
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}

impl Observer for Live {
    fn learning(&self, learning: &Learning) {
        self.end();
        let Learning { step, key, rows, .. } = learning;
        let of = rows.map_or_else(|| "the rows".to_owned(), |rows| format!("the first {}", number(rows, "row")));
        self.say(
            json!({"event": "learning", "step": step, "key": key, "rows": rows}),
            &format!("step '{step}' learns '{key}' from {of} that reach it:"),
        );
    }

    fn started(&self, folder: &str, plan: &RunPlan, resumed: u64, progress: &Arc<Progress>) {
        self.end();
        let event = json!({
            "event": "started", "folder": folder, "splits": plan.total(), "resumed": resumed,
            "files": plan.files.len(), "fingerprint": plan.fingerprint.value,
        });
        self.was_complete.store(resumed > 0 && resumed == plan.total(), Ordering::Relaxed);
        let text = match resumed {
            0 => format!(
                "{}: {} of {} -> {folder}",
                plan.name,
                number(plan.total(), "split"),
                number(plan.files.len() as u64, "file")
            ),
            _ if resumed == plan.total() => format!("{}: every split is done -> {folder}", plan.name),
            _ => format!("{}: resuming, {resumed} of {} splits are done -> {folder}", plan.name, plan.total()),
        };
        self.say(event, &text);
        if resumed < plan.total() {
            self.watch(progress);
        }
    }

    fn retrying(&self, split: u64, error: &PipelineError, pause: Duration) {
        let event = json!({"event": "retrying", "split": split, "error": error.to_string(), "pause_seconds": pause.as_secs_f64()});
        self.say(event, &format!("split {split} failed, next attempt in {}: {error}", seconds(pause.as_secs_f64())));
    }

    fn gave_up(&self, split: u64, error: &str) {
        self.say(
            json!({"event": "gave_up", "split": split, "error": error}),
            &format!("split {split} is given up: {error}"),
        );
    }
}

fn draw(lines: &MultiProgress, progress: &Progress, ended: &AtomicBool) {
    let style =
        |template: &str| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = lines.add(ProgressBar::new(progress.snapshot().bytes_total.max(1)));
    bar.set_style(style("{bar:30} {percent:>3} %  {msg}").progress_chars("=> "));
    let detail = lines.add(ProgressBar::new_spinner());
    detail.set_style(style("{msg}"));
    while !ended.load(Ordering::Relaxed) {
        let now = progress.snapshot();
        bar.set_position(now.bytes_in);
        bar.set_message(headline(&now));
        detail.set_message(step_line(&now));
        std::thread::park_timeout(DRAW_EVERY);
    }
    bar.finish_and_clear();
    detail.finish_and_clear();
}

fn headline(now: &Snapshot) -> String {
    let eta = now.eta_seconds.map_or_else(|| "?".to_owned(), seconds);
    format!(
        "{}/{} splits  {} rows  {:.1} MB/s  {:.0} docs/s  ETA {eta}",
        now.splits_done,
        now.splits_total,
        count(now.rows_in),
        now.megabytes_per_second,
        now.rows_per_second
    )
}

fn step_line(now: &Snapshot) -> String {
    let total: f64 = now.steps.iter().map(|step| step.seconds).sum();
    let steps: Vec<String> = now
        .steps
        .iter()
        .map(|step| {
            let dropped = step.rows_rejected + step.rows_quarantined;
            let drops = if dropped > 0 { format!(" -{}", count(dropped)) } else { String::new() };
            format!("{} {}{drops}", step.name, percent(step.seconds, total))
        })
        .collect();
    let aside = now.rows_rejected + now.rows_quarantined;
    format!(
        "  text {}  out {}  aside {}  {}",
        bytes(now.text_bytes as f64),
        count(now.rows_out),
        count(aside),
        steps.join("  ")
    )
}

fn report(progress: &Progress, ended: &AtomicBool) {
    loop {
        let mut waited = Duration::ZERO;
        while waited < REPORT_EVERY {
            if ended.load(Ordering::Relaxed) {
                return;
            }
            std::thread::park_timeout(DRAW_EVERY);
            waited += DRAW_EVERY;
        }
        let mut event = json!({"event": "progress"});
        if let (Some(map), Ok(serde_json::Value::Object(now))) =
            (event.as_object_mut(), serde_json::to_value(progress.snapshot()))
        {
            map.extend(now);
        }
        eprintln!("{event}");
    }
}

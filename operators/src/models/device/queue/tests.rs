//! The queue with an artificial device.

#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

/// Gives back the ids, and remembers its batches. It has memory for so many tokens.
struct Artificial {
    memory: usize,
    batches: Arc<Mutex<Vec<(Task, Vec<usize>)>>>,
    gate: Option<Arc<(Mutex<bool>, Condvar)>>,
    panics: bool,
}

impl Runner for Artificial {
    fn run(&mut self, task: Task, batch: &Batch) -> Result<Vec<Vec<f32>>, DeviceError> {
        if let Some(gate) = &self.gate {
            let mut open = lock(&gate.0);
            while !*open {
                open = wait(&gate.1, open);
            }
        }
        assert!(!self.panics, "as asked for");
        if batch.tokens() > self.memory {
            return Err(DeviceError::OutOfMemory { device: "artificial".into(), bytes: batch.tokens() });
        }
        let rows: Vec<&[i64]> = batch.offsets().windows(2).collect();
        lock(&self.batches).push((task, rows.iter().map(|row| (row[1] - row[0]) as usize).collect()));
        let ids = |row: &[i64]| batch.ids()[row[0] as usize..row[1] as usize].iter().map(|&id| id as f32).collect();
        Ok(rows.into_iter().map(ids).collect())
    }

    fn release(&mut self) {}
}

fn queue(memory: usize, tokens: usize) -> (Queue, Arc<Mutex<Vec<(Task, Vec<usize>)>>>) {
    let batches = Arc::default();
    let runner = Artificial { memory, batches: Arc::clone(&batches), gate: None, panics: false };
    (Queue::start(Arc::new(Mutex::new(runner)), tokens).unwrap(), batches)
}

fn texts(count: usize, seed: usize) -> Vec<Vec<u32>> {
    (0..count).map(|text| (0..(text * 7 + seed) % 13).map(|id| (seed * 1000 + text + id) as u32).collect()).collect()
}

fn as_floats(texts: &[Vec<u32>]) -> Vec<Vec<f32>> {
    texts.iter().map(|text| text.iter().map(|&id| id as f32).collect()).collect()
}

fn slices(texts: &[Vec<u32>]) -> Vec<&[u32]> {
    texts.iter().map(Vec::as_slice).collect()
}

#[test]
fn many_callers_get_their_own_results_in_order() {
    let (queue, batches) = queue(usize::MAX, 40);
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let queue = &queue;
            scope.spawn(move || {
                let task = if seed % 2 == 0 { Task::Losses } else { Task::Classify };
                for round in 0..5 {
                    let texts = texts(60, seed * 10 + round);
                    assert_eq!(queue.run(task, &slices(&texts)).unwrap(), as_floats(&texts));
                }
            });
        }
    });
    let batches = lock(&batches);
    assert!(batches.iter().all(|(_, lengths)| lengths.iter().sum::<usize>() <= 40));
    assert_eq!(batches.iter().map(|(_, lengths)| lengths.len()).sum::<usize>(), 8 * 5 * 60);
    assert_eq!(lock(&queue.shared.waiting).tokens, 0);
}

#[test]
fn a_window_is_sorted_and_packed() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let batches = Arc::default();
    let runner =
        Artificial { memory: usize::MAX, batches: Arc::clone(&batches), gate: Some(Arc::clone(&gate)), panics: false };
    let queue = Queue::start(Arc::new(Mutex::new(runner)), 10).unwrap();
    let lengths = [2, 30, 5, 1, 4, 3, 5];
    let texts: Vec<Vec<u32>> = lengths.iter().map(|&length| vec![7; length]).collect();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| queue.run(Task::Losses, &[&[1]]).unwrap());
        // The thread of the device holds the first request, and these wait: all but the last, for which there is no room.
        let is_taken = |waiting: &Waiting| waiting.tokens == 1 && waiting.requests.is_empty();
        while !is_taken(&lock(&queue.shared.waiting)) {
            std::thread::yield_now();
        }
        let others = scope.spawn(|| queue.run(Task::Losses, &slices(&texts[..6])).unwrap());
        while lock(&queue.shared.waiting).requests.len() < 4 {
            std::thread::yield_now();
        }
        // There is room for 40 tokens.
        assert_eq!(lock(&queue.shared.waiting).tokens, 1 + 2 + 30 + 5 + 1);
        *lock(&gate.0) = true;
        gate.1.notify_all();
        first.join().unwrap();
        assert_eq!(others.join().unwrap(), as_floats(&texts[..6]));
    });
    let batches = lock(&batches);
    // The longest alone, and the others together as far as they fit, with those that came when there was room.
    assert_eq!(batches[0], (Task::Losses, vec![1]));
    assert_eq!(batches[1], (Task::Losses, vec![30]));
    assert_eq!(batches[2], (Task::Losses, vec![1, 2, 5]));
}

#[test]
fn batches_shrink_until_they_fit_and_a_document_that_never_does_is_an_error() {
    let (queue, batches) = queue(9, 64);
    let texts: Vec<Vec<u32>> = (0..20).map(|text| vec![text; 3]).collect();
    assert_eq!(queue.run(Task::NextLogits, &slices(&texts)).unwrap(), as_floats(&texts));
    assert!(lock(&batches).iter().all(|(_, lengths)| lengths.iter().sum::<usize>() <= 9));
    let error = queue.run(Task::NextLogits, &[&[1, 2], &[5; 10]]).unwrap_err();
    assert_eq!(error, DeviceError::OutOfMemory { device: "artificial".into(), bytes: 10 });
    // The next ones are not affected.
    assert_eq!(queue.run(Task::NextLogits, &[&[1, 2]]).unwrap(), [[1.0, 2.0]]);
    assert!(queue.run(Task::NextLogits, &[]).unwrap().is_empty());
    assert_eq!(queue.run(Task::NextLogits, &[&[]]).unwrap(), [Vec::<f32>::new()]);
}

#[test]
fn nobody_waits_for_a_thread_that_has_ended() {
    let runner = Artificial { memory: 9, batches: Arc::default(), gate: None, panics: true };
    let queue = Queue::start(Arc::new(Mutex::new(runner)), 2).unwrap();
    let texts = vec![vec![1; 3]; 20];
    for _ in 0..2 {
        let error = queue.run(Task::Losses, &slices(&texts)).unwrap_err().to_string();
        assert_eq!(error, "the thread of the device: it has ended");
    }
}

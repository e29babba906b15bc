//! How much memory the twin of `linear_ce` takes, counted: it is bounded by what it says, whatever the number of tokens and the size of
//! the vocabulary.

#![allow(clippy::unwrap_used)]
#![allow(unsafe_code, reason = "an allocator that counts")]

use gristmill_kernels::gemm::{Matrix, Precision, Values};
use gristmill_kernels::linear_ce::{Gradients, Head, HeadGradients, Ids, LinearCe, Scores, Tokens};
use gristmill_kernels::workers::Serial;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what is held, and the most that was.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the same conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the same conditions.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that were held at once during a call, beyond those held before.
fn most_during(call: impl FnOnce()) -> usize {
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    call();
    MOST.load(Ordering::Relaxed) - before
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 7919 % 1009) as f32 / 504.0 - 1.0).collect()
}

/// One test alone in its program: another beside it would be counted, too.
#[test]
fn memory_is_what_it_says_whatever_the_tokens_and_the_vocabulary() {
    let mut of_width = Vec::new();
    for (rows, width, vocabulary) in
        [(1, 24, 9), (40, 24, 3000), (700, 24, 3000), (300, 24, 40_000), (300, 1100, 300), (1, 1100, 5000)]
    {
        let (hidden, weights) = (numbers(rows * width), numbers(vocabulary * width));
        let matrix = Matrix::row_major(Values::F32(&weights), vocabulary, width).unwrap();
        let linear_ce = LinearCe { width, vocabulary, logit_scale: 1.0, label_smoothing: 0.1 };
        let ids: Vec<i32> = (0..rows).map(|row| (row * 31 % vocabulary) as i32).collect();
        let row_weights = vec![1.0; rows];
        let (mut loss, mut log_sum_exp, mut rank) = (vec![0.0; rows], vec![0.0; rows], vec![0; rows]);
        let (mut dh, mut dw, mut db) = (vec![0.0; rows * width], vec![0.0; vocabulary * width], vec![0.0; vocabulary]);
        for precision in [Precision::F32, Precision::Bf16] {
            let head = Head::with_gradients(matrix, None, precision).unwrap();
            let forward = most_during(|| {
                let scores = Scores { rank: Some(&mut rank), ..Scores::new(&mut loss, &mut log_sum_exp) };
                let tokens = Tokens { ids: Ids::I32(&ids), offsets: None };
                linear_ce.forward(&Serial, &hidden, &head, tokens, scores).unwrap();
            });
            let backward = most_during(|| {
                let gradients = Gradients {
                    hidden: Some(&mut dh),
                    head: Some(HeadGradients { weights: &mut dw, bias: Some(&mut db) }),
                };
                let ids = Ids::I32(&ids);
                linear_ce.backward(&Serial, &hidden, &head, ids, &log_sum_exp, &row_weights, gradients).unwrap();
            });
            let together = most_during(|| {
                let scores = Scores { rank: Some(&mut rank), ..Scores::new(&mut loss, &mut log_sum_exp) };
                let linear_ce = LinearCe { label_smoothing: 0.0, ..linear_ce };
                let ids = Ids::I32(&ids);
                linear_ce.forward_backward(&Serial, &hidden, &head, ids, &row_weights, scores, &mut dh).unwrap();
            });
            assert!(together <= linear_ce.forward_backward_memory(1));
            let said = (linear_ce.forward_memory(1), linear_ce.backward_memory(1));
            println!(
                "{rows} x {width}, {vocabulary} tokens, {precision:?}: {forward} and {backward} of {said:?} bytes"
            );
            assert!(forward <= said.0 && backward <= said.1);
            of_width.push((width, said));
        }
    }
    // What it says depends on the width alone, and is no idle bound: less than the logits of a thousand tokens would take.
    for (width, said) in &of_width {
        assert!(of_width.iter().all(|(other, also)| other != width || also == said));
    }
    assert!(of_width[0].1.0 < 1000 * 40_000 * 4);
}

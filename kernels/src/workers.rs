//! Who does the work of a CPU twin.
//!
//! A twin divides its work into tasks by shape alone, so that a result does not depend on who runs them. The caller decides
//! how many threads there are and when: [`Serial`] for programs that are parallel above this level (one document per thread),
//! [`Threads`] for a few large calls. A pool of the caller's own, such as rayon's, is a few lines: implement [`Workers`] by
//! running `task(0)` to `task(tasks - 1)` in it.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs the tasks of one call.
pub trait Workers: Sync {
    /// Calls `task` with each number below `tasks` exactly once, in any order, on any threads, and returns when all have
    /// ended.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}

/// Runs everything on the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Workers for Serial {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}

/// Starts threads for each call and ends them with it, which costs about 50 microseconds: for large calls.
///
/// ```
/// use gristmill_kernels::workers::{Threads, Workers};
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// let sum = AtomicUsize::new(0);
/// Threads::new(4).run(100, &|task| {
///     sum.fetch_add(task, Ordering::Relaxed);
/// });
/// assert_eq!(sum.into_inner(), 4950);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    count: usize,
}

impl Threads {
    /// At least one thread, the caller's.
    pub fn new(count: usize) -> Self {
        Self { count: count.max(1) }
    }
}

impl Workers for Threads {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= tasks {
                    return;
                }
                task(number);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.count.min(tasks) {
                scope.spawn(work);
            }
            work();
        });
    }
}

/// A slice of which tasks write different parts.
#[derive(Debug)]
pub(crate) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

#[allow(unsafe_code, reason = "see below")]
// SAFETY: a `Parts` gives out nothing but slices of its elements, under the condition of `part`.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(crate) const fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// The elements of `range`, of which those beyond the end are left out.
    ///
    /// # Safety
    /// As long as the result is used, no other range that overlaps this one may be asked for.
    #[allow(unsafe_code, reason = "tasks of one call write disjoint parts of one slice")]
    #[allow(clippy::mut_from_ref, reason = "the condition of the function is what makes it right")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        let end = range.end.min(self.len);
        let start = range.start.min(end);
        // SAFETY: the range is within the slice that this borrows mutably, and the caller answers for it being the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), end - start) }
    }
}

/// Rows of a task, such that a task has about 64 KiB to read: enough to pay for handing it out, little enough to balance.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (16_384 / width.max(1)).max(1)
}

/// Calls `f` with pieces of `y`, whole rows of `width` each, and with the range of elements that the piece is.
pub(crate) fn for_rows<T: Send>(
    workers: &dyn Workers,
    width: usize,
    y: &mut [T],
    f: impl Fn(Range<usize>, &mut [T]) + Sync,
) {
    let (len, width) = (y.len(), width.max(1));
    let elements = rows_per_task(width) * width;
    let parts = Parts::new(y);
    workers.run(len.div_ceil(elements), &|task| {
        let range = task * elements..((task + 1) * elements).min(len);
        // SAFETY: tasks have ranges that do not overlap.
        #[allow(unsafe_code, reason = "tasks write their own rows")]
        let part = unsafe { parts.part(range.clone()) };
        f(range, part);
    });
}

#[cfg(test)]
mod tests {
    use super::{Parts, Serial, Threads, Workers};

    #[test]
    fn every_task_runs_once() {
        for workers in [&Serial as &dyn Workers, &Threads::new(1), &Threads::new(3), &Threads::new(0)] {
            for tasks in [0, 1, 2, 1000] {
                let mut counts = vec![0_u32; tasks];
                let parts = Parts::new(&mut counts);
                #[allow(unsafe_code, reason = "each task has its own element")]
                // SAFETY: each task number is given once, so each element is borrowed once.
                workers.run(tasks, &|task| unsafe { parts.part(task..task + 1)[0] += 1 });
                assert!(counts.iter().all(|&count| count == 1));
            }
        }
    }
}

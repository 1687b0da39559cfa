//! Jobs on several threads, their results in order.
//!
//! Guarantee: what the caller sees does not depend on the number of threads. Each job is taken by
//! one thread; a result is handed over as soon as all before it were. Where the system does not
//! give as many threads as were asked for, there are fewer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::cli::exit::{Failure, guarded};

/// Runs `work` on each of `0..jobs` with `threads` threads and gives the results to `done` in
/// order. Says on standard error when there are fewer threads, unless `quiet`.
///
/// `idle` is called once for each thread that has nothing to do, from when on there is nothing.
///
/// Ends early, after the jobs that were already taken, when `done` fails. A panic in `work` becomes
/// that job's [`Failure`].
///
/// # Errors
///
/// The first error of `done`.
pub fn run<T: Send>(
    jobs: usize,
    threads: usize,
    quiet: bool,
    idle: impl Fn() + Sync,
    work: impl Fn(usize) -> Result<T, Failure> + Sync,
    mut done: impl FnMut(usize, Result<T, Failure>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let next = AtomicUsize::new(0);
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        (jobs..threads).for_each(|_| idle());
        let threads = threads.min(jobs);
        for begun in 0..threads {
            let (send, next, work, idle) = (send.clone(), &next, &work, &idle);
            let thread = move || {
                loop {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    if job >= jobs || send.send((job, guarded(|| work(job)))).is_err() {
                        break;
                    }
                }
                idle();
            };
            if let Err(error) = thread::Builder::new().spawn_scoped(scope, thread) {
                if !quiet {
                    say!("note: {} of {threads} jobs at once: {error}", begun.max(1));
                }
                if begun == 0 {
                    return (0..jobs).try_for_each(|job| done(job, guarded(|| work(job))));
                }
                break;
            }
        }
        drop(send);
        let mut waiting = BTreeMap::new();
        let mut expected = 0;
        for (job, result) in receive {
            waiting.insert(job, result);
            while let Some(result) = waiting.remove(&expected) {
                if let Err(failure) = done(expected, result) {
                    next.store(jobs, Ordering::Relaxed);
                    return Err(failure);
                }
                expected += 1;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_whatever_the_number_of_threads() {
        for threads in [1, 2, 7] {
            let mut seen = Vec::new();
            let slow_first = |job: usize| {
                thread::sleep(std::time::Duration::from_millis(8_u64.saturating_sub(job as u64)));
                Ok(job * job)
            };
            run(
                9,
                threads,
                true,
                || {},
                slow_first,
                |job, result| {
                    seen.push((job, result?));
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(seen, (0..9).map(|job| (job, job * job)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_panic_in_a_job_is_its_result() {
        let mut failures = 0;
        run(
            3,
            2,
            true,
            || {},
            |job| if job == 1 { panic!("one") } else { Ok(()) },
            |_, result| {
                failures += usize::from(result.is_err());
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(failures, 1);
    }
}

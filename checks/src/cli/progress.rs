//! Progress on standard error: one line on a terminal, else a line every ten seconds.

use std::io::{IsTerminal, stderr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kvmmu_sim::outcome::Stats;

use crate::lab::judge::counted;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How far a search has come: in states, or in executions where those are not counted.
fn how_far(stats: &Stats) -> String {
    match stats.states {
        0 => counted(stats.executions, "execution"),
        states => counted(states, "state"),
    }
}

/// Says on standard error how a run goes. Threads share it.
#[derive(Debug)]
pub struct Progress {
    how: How,
    begun: Instant,
    variants: u64,
    done: AtomicU64,
    transitions: AtomicU64,
}

#[derive(Debug)]
enum How {
    Silent,
    Bar(ProgressBar),
    Lines(Mutex<Instant>),
}

impl Progress {
    /// For a run of `variants`.
    pub fn new(variants: usize, quiet: bool) -> Progress {
        let begun = Instant::now();
        let how = if quiet {
            How::Silent
        } else if stderr().is_terminal() {
            let target = ProgressDrawTarget::stderr_with_hz(10);
            let bar = ProgressBar::with_draw_target(Some(variants as u64), target);
            let form = "{pos}/{len} variants  {elapsed}  {msg}";
            if let Ok(style) = ProgressStyle::with_template(form) {
                bar.set_style(style);
            }
            How::Bar(bar)
        } else {
            How::Lines(Mutex::new(begun))
        };
        let variants = variants as u64;
        Progress { how, begun, variants, done: AtomicU64::new(0), transitions: AtomicU64::new(0) }
    }

    /// The search of the variant called `name` has come this far.
    pub fn tick(&self, name: &str, stats: &Stats) {
        match &self.how {
            How::Silent => {}
            How::Bar(bar) => {
                let (steps, far) = (stats.transitions, how_far(stats));
                bar.set_message(format!("{name}: {far}, {steps} transitions"));
            }
            How::Lines(last) => {
                let Ok(mut last) = last.try_lock() else { return };
                if last.elapsed() >= LINE_EVERY {
                    *last = Instant::now();
                    let (done, all) = (self.done.load(Ordering::Relaxed), self.variants);
                    let (seconds, far) = (self.begun.elapsed().as_secs(), how_far(stats));
                    say!("{seconds} s: {done}/{all} variants done; {name}: {far}");
                }
            }
        }
    }

    /// The variant called `name` is being explored by a tool that does not say how far it is.
    pub fn busy(&self, name: &str) {
        match &self.how {
            How::Silent => {}
            How::Bar(bar) => bar.set_message(name.to_owned()),
            How::Lines(last) => {
                let Ok(mut last) = last.try_lock() else { return };
                if last.elapsed() >= LINE_EVERY {
                    *last = Instant::now();
                    let (done, all) = (self.done.load(Ordering::Relaxed), self.variants);
                    let seconds = self.begun.elapsed().as_secs();
                    say!("{seconds} s: {done}/{all} variants done; at {name}");
                }
            }
        }
    }

    /// A variant is done. `print` writes its verdict, with the progress line out of the way.
    pub fn done<T>(&self, transitions: u64, print: impl FnOnce() -> T) -> T {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.transitions.fetch_add(transitions, Ordering::Relaxed);
        match &self.how {
            How::Bar(bar) => {
                bar.inc(1);
                bar.suspend(print)
            }
            _ => print(),
        }
    }

    /// The run is over: times and rates.
    pub fn finish(&self) {
        if let How::Bar(bar) = &self.how {
            bar.finish_and_clear();
        }
        let transitions = self.transitions.load(Ordering::Relaxed);
        if !matches!(self.how, How::Silent) && transitions != 0 {
            let seconds = self.begun.elapsed().as_secs_f64();
            let rate = transitions as f64 / seconds.max(1e-9) / 1e6;
            say!("{seconds:.1} s, {transitions} transitions, {rate:.2} M/s");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_that_count_no_states_say_how_many_executions_there_were() {
        let stats = |states, executions| Stats { states, executions, ..Stats::default() };
        assert_eq!(how_far(&stats(7, 3)), "7 states");
        assert_eq!(how_far(&stats(0, 3)), "3 executions");
        assert_eq!(how_far(&stats(0, 1)), "1 execution");
    }
}

//! shuttle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Counter, Ordering::Relaxed};
use std::time::{Duration, Instant};

use kvmmu_sim::mini::Mini;
use shuttle::scheduler::DfsScheduler;

use crate::peer::{Rate, platform};

platform!(OnShuttle, shuttle);

/// Runs a program by shuttle's depth-first search until it is through or the time is up.
pub(crate) fn run<M: Mini + Copy + Send + Sync + 'static>(mini: M, time: Duration) -> Rate
where
    M::On<OnShuttle>: Send + Sync + 'static,
{
    let executions = Arc::new(Counter::new(0));
    let mut config = shuttle::Config::new();
    config.failure_persistence = shuttle::FailurePersistence::None;
    config.silence_warnings = true;
    config.max_time = Some(time);
    let started = Instant::now();
    let count = Arc::clone(&executions);
    shuttle::Runner::new(DfsScheduler::new(None, false), config).run(move || {
        count.fetch_add(1, Relaxed);
        execute(&mini);
    });
    let seconds = started.elapsed();
    Rate {
        executions: executions.load(Relaxed),
        seconds: seconds.as_secs_f64(),
        complete: seconds < time,
    }
}

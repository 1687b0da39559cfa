//! Waiting, with a bound: no wait of this program is without one.

use super::exit::{Exit, exit};
use super::{smp, sysreg};

/// How long anybody waits for anything, in seconds.
const LIMIT: u64 = 30;
/// How many looks there are between two looks at the clock.
const LOOKS: u32 = 256;

/// A span of time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(u64);

impl Deadline {
    /// So many microseconds from now.
    pub(crate) fn after_us(us: u64) -> Deadline {
        Deadline(sysreg::now() + us * sysreg::cntfrq() / 1_000_000)
    }
    /// True when it has passed.
    pub(crate) fn has_passed(self) -> bool {
        sysreg::now() >= self.0
    }
}

/// Waits until `done`; ends the run if that takes too long.
#[inline]
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    if done() {
        return;
    }
    let deadline = Deadline::after_us(LIMIT * 1_000_000);
    if !until_deadline(deadline, done) {
        let cpu = smp::this_cpu();
        exit(Exit::Bound, format_args!("deadlock: cpu{cpu} has waited {LIMIT} s for {what}"));
    }
}

/// Waits until `done` or until the deadline has passed; true: it is done.
pub(crate) fn until_deadline(deadline: Deadline, mut done: impl FnMut() -> bool) -> bool {
    loop {
        for _ in 0..LOOKS {
            if done() {
                return true;
            }
            core::hint::spin_loop();
        }
        if deadline.has_passed() {
            return done();
        }
    }
}

/// Lets time pass.
pub(crate) fn sleep_us(us: u64) {
    until_deadline(Deadline::after_us(us), || false);
}

//! Schedules. Knobs: the built-in scenario, the guard that is missing (if any).

use kvmmu::commands::replay;
use kvmmu::lab::run::Simulated;
use kvmmu::lab::variant::Variant;
use kvmmu_sim::schedule::StampedSchedule;

use super::{builtin, no_internal_error, scenario};
use crate::input::Knobs;

/// No longer one is replayed.
pub(super) const MOVES_MAX: usize = 3_000;

pub(super) fn run([name, guard, ..]: Knobs, text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let stamped: StampedSchedule = match text.parse() {
        Ok(stamped) => stamped,
        Err(error) => {
            assert!(!error.to_string().is_empty(), "a refusal without a word");
            return;
        }
    };
    let printed = stamped.to_string();
    let again: Result<StampedSchedule, _> = printed.parse();
    assert_eq!(again.as_ref(), Ok(&stamped), "{printed}");
    if stamped.schedule.0.len() > MOVES_MAX {
        return;
    }
    let variant = Variant::of(&builtin(name), None, scenario::without(guard));
    let to = &mut std::io::sink();
    no_internal_error(replay::from_schedule(&Simulated, &variant, &printed, true, to));
}

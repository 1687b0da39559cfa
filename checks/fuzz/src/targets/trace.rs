//! Trace files of the simulator. Knobs: the seal stays broken; made for something else is fine.

use std::path::Path;
use std::sync::OnceLock;

use kvmmu::cli::args::{Command, ReplayArgs};
use kvmmu::commands::replay;
use kvmmu::report::trace;
use kvmmu_sim::schedule::StampedSchedule;

use super::{command, file, no_internal_error, schedule, write};
use crate::input::Knobs;
use crate::seal;

/// `kvmmu replay FILE`, and with `--force`.
fn arguments(force: bool) -> &'static ReplayArgs {
    static BOTH: OnceLock<[ReplayArgs; 2]> = OnceLock::new();
    let of = |words: &[&str]| match command(&[&["replay", file()], words].concat()).command {
        Command::Replay(args) => args,
        _ => unreachable!("it is 'replay'"),
    };
    &BOTH.get_or_init(|| [of(&[]), of(&["--force"])])[usize::from(force)]
}

pub(super) fn run([broken, force, ..]: Knobs, text: &[u8]) {
    let sealed = (broken % 8 != 7).then(|| seal::trace(&String::from_utf8_lossy(text)));
    let path = write(sealed.as_ref().map_or(text, String::as_bytes));
    let Some(trace) = no_internal_error(trace::read(Path::new(path))) else { return };
    let stamped: Result<StampedSchedule, _> = trace.header.schedule.parse();
    if stamped.is_ok_and(|s| s.schedule.0.len() > schedule::MOVES_MAX) {
        return;
    }
    no_internal_error(replay::run(arguments(force % 2 == 1), &mut std::io::sink()));
}

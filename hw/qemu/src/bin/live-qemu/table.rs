//! The table, and the verdict of each row.

use std::time::Duration;

use kvmmu_qemu::{Exit, Failure};

use crate::boot::Booted;
use crate::kernels::Kernel;
use crate::modes::{Fast, Mode};
use crate::watch::Run;

/// The columns.
const HEADER: [&str; 8] =
    ["kernel and mode", "runs", "stores", "lost", "fast faults", "rounds", "caught", "verdict"];

/// A mode of a kernel.
#[derive(Debug)]
pub(crate) struct Row {
    kernel: String,
    name: String,
    runs: usize,
    stores: u64,
    lost: u64,
    fast: Option<(u64, u64)>,
    rounds: u64,
    controls: usize,
    caught: usize,
    /// Why it is not as promised; empty: it is.
    wrong: Vec<String>,
    /// Why it was not run.
    skipped: Option<String>,
    /// The time limit was hit, or the machine fell silent.
    cut_off: Option<String>,
    /// What this kernel does not offer.
    missing: Vec<String>,
}

impl Row {
    /// What mode `index` of a boot came to.
    pub(crate) fn new(kernel: &Kernel, mode: &Mode, booted: &Booted, index: usize) -> Row {
        let watch = &booted.watch;
        let of_mode: Vec<&Run> = watch.runs.iter().filter(|run| run.mode == index).collect();
        let correct = || of_mode.iter().filter(|run| !run.control);
        let controls = || of_mode.iter().filter(|run| run.control);
        let named = |list: &[(usize, String)]| -> Vec<String> {
            let of_mode = list.iter().filter(|(mode, _)| *mode == index);
            of_mode.map(|(_, text)| text.clone()).collect()
        };
        let fast = correct().map(|run| run.fast);
        let fast = fast.collect::<Option<Vec<_>>>().filter(|all| !all.is_empty());
        let sum = |all: Vec<(u64, u64)>| all.iter().fold((0, 0), |(f, s), n| (f + n.0, s + n.1));
        let mut row = Row {
            kernel: kernel.name(),
            name: kernel.name_with(mode),
            runs: of_mode.len(),
            stores: of_mode.iter().map(|run| run.stores).sum(),
            lost: correct().map(|run| run.lost).sum(),
            fast: fast.map(sum),
            rounds: of_mode.iter().map(|run| run.rounds).sum(),
            controls: controls().count(),
            caught: controls().filter(|run| run.verdict == "caught").count(),
            wrong: named(&watch.failures),
            skipped: None,
            cut_off: None,
            missing: named(&watch.skipped),
        };
        for run in of_mode.iter().filter(|run| !["ok", "caught"].contains(&run.verdict.as_str())) {
            row.wrong.push(format!("{}: {}", run.name, run.verdict));
        }
        row.judge(mode.fast);
        row
    }

    /// A mode that was not run.
    pub(crate) fn skipped(kernel: &Kernel, mode: &Mode, why: &Failure) -> Row {
        Row {
            kernel: kernel.name(),
            name: kernel.name_with(mode),
            runs: 0,
            stores: 0,
            lost: 0,
            fast: None,
            rounds: 0,
            controls: 0,
            caught: 0,
            wrong: Vec::new(),
            skipped: Some(format!("{}; {}", why.message, why.help)),
            cut_off: None,
            missing: Vec::new(),
        }
    }

    /// A mode without a verdict.
    pub(crate) fn cut_off(kernel: &Kernel, mode: &Mode, why: &Failure) -> Row {
        let mut row = Row::skipped(kernel, mode, why);
        row.cut_off = row.skipped.take();
        row
    }

    /// What the protocol says of the path that was taken, and that nothing is vacuous.
    fn judge(&mut self, fast: Fast) {
        match (fast, self.fast) {
            (Fast::Yes, Some((0, 0))) => self.wrong.push("no fast fault was seen".to_owned()),
            (Fast::Never, Some((fixed, spurious))) if fixed + spurious > 0 => {
                self.wrong.push("a fast fault was seen, where there must be none".to_owned());
            }
            (Fast::Yes | Fast::Never, None) => {
                self.wrong.push("fast faults were not counted".to_owned());
            }
            _ => {}
        }
        if self.runs == self.controls {
            self.wrong.push("no correct run came to an end".to_owned());
        }
        if self.controls == 0 {
            self.wrong.push("no negative control came to an end".to_owned());
        }
    }

    fn cells(&self) -> [String; 8] {
        let verdict = match (&self.skipped, &self.cut_off, self.wrong.is_empty()) {
            (Some(_), ..) => "skipped",
            (None, Some(_), _) => "NO VERDICT",
            (None, None, true) => "ok",
            (None, None, false) => "NOT AS PROMISED",
        };
        if self.skipped.is_some() || self.cut_off.is_some() {
            let dash = || "-".to_owned();
            let name = self.name.clone();
            return [name, dash(), dash(), dash(), dash(), dash(), dash(), verdict.to_owned()];
        }
        let fast = self.fast.map_or("not counted".to_owned(), |(fixed, spurious)| {
            format!("{fixed} fixed, {spurious} spurious")
        });
        [
            self.name.clone(),
            self.runs.to_string(),
            self.stores.to_string(),
            self.lost.to_string(),
            fast,
            self.rounds.to_string(),
            format!("{}/{}", self.caught, self.controls),
            verdict.to_owned(),
        ]
    }
}

/// All rows.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// One for each mode.
    pub(crate) rows: Vec<Row>,
    /// Boots that were repeated.
    pub(crate) repeated: u32,
}

impl Table {
    /// Prints it, and below what a cell has no room for.
    pub(crate) fn print(&self, took: Duration) {
        print!("{}", self.text());
        println!(
            "{} boots repeated (infrastructure), {} s; rates under emulation mean nothing",
            self.repeated,
            took.as_secs()
        );
    }

    fn text(&self) -> String {
        let mut lines = vec![HEADER.map(str::to_owned)];
        lines.extend(self.rows.iter().map(Row::cells));
        let width = |column: usize| lines.iter().map(|cells| cells[column].len()).max();
        let widths: Vec<usize> = (0..HEADER.len()).map(|c| width(c).unwrap_or(0)).collect();
        let mut text = String::new();
        for cells in &lines {
            let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        let mut left_out = Vec::new();
        for row in &self.rows {
            for what in &row.missing {
                let note = format!("{}: left out: {what}\n", row.kernel);
                if !left_out.contains(&note) {
                    text.push_str(&note);
                    left_out.push(note);
                }
            }
            let skipped = row.skipped.iter().map(|why| format!("skipped: {why}"));
            let skipped = skipped.chain(row.cut_off.iter().cloned());
            let wrong = row.wrong.iter().cloned();
            for note in skipped.chain(wrong) {
                text.push_str(&format!("{}: {note}\n", row.name));
            }
        }
        text
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        if self.rows.iter().any(|row| !row.wrong.is_empty()) {
            Exit::Unexpected
        } else if self.rows.iter().any(|row| row.cut_off.is_some()) {
            Exit::Bound
        } else if self.rows.iter().all(|row| row.skipped.is_some()) {
            Exit::Nothing
        } else {
            Exit::Expected
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::KERNELS;
    use crate::watch::Watch;

    fn run(control: bool, verdict: &str, lost: u64, fast: Option<(u64, u64)>) -> Run {
        let (name, verdict) = ("paged get".to_owned(), verdict.to_owned());
        Run { mode: 0, name, verdict, control, stores: 10, lost, rounds: 2, fast }
    }

    /// The exit code of a table with one row of these runs.
    fn exit(mode: usize, runs: Vec<Run>) -> Exit {
        let watch = Watch { runs, end: Some(0), ..Watch::default() };
        let booted = Booted { watch, repeated: 0 };
        let row = Row::new(&KERNELS[0], &KERNELS[0].modes[mode], &booted, 0);
        Table { rows: vec![row], repeated: 0 }.exit()
    }

    #[test]
    fn a_row_is_as_promised_only_if_all_of_it_is() {
        let control = || run(true, "caught", 3, Some((5, 0)));
        let correct = || run(false, "ok", 0, Some((5, 1)));
        assert_eq!(exit(0, vec![correct(), control()]), Exit::Expected);
        // A lost page; a control that is not caught; none of either; the fast path not taken.
        let lost = run(false, "LOST", 1, Some((5, 1)));
        assert_eq!(exit(0, vec![correct(), lost, control()]), Exit::Unexpected);
        let missed = run(true, "MISSED", 0, Some((5, 1)));
        assert_eq!(exit(0, vec![correct(), missed]), Exit::Unexpected);
        assert_eq!(exit(0, vec![correct()]), Exit::Unexpected);
        assert_eq!(exit(0, vec![control()]), Exit::Unexpected);
        let slow = run(false, "ok", 0, Some((0, 0)));
        assert_eq!(exit(0, vec![slow.clone(), control()]), Exit::Unexpected);
        let blind = run(false, "ok", 0, None);
        assert_eq!(exit(0, vec![blind, control()]), Exit::Unexpected);
        // The last mode must never take the fast path.
        assert_eq!(exit(3, vec![slow, control()]), Exit::Expected);
        assert_eq!(exit(3, vec![correct(), control()]), Exit::Unexpected);
    }

    #[test]
    fn all_skipped_is_nothing() {
        let why = Failure::usage("no QEMU", "install it");
        let row = Row::skipped(&KERNELS[0], &KERNELS[0].modes[0], &why);
        let table = Table { rows: vec![row], repeated: 0 };
        assert_eq!(table.exit(), Exit::Nothing);
        assert!(table.text().contains("skipped: no QEMU; install it"));
    }
}

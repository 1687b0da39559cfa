//! What was found: lines on the console, and the verdict at the end.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::limits::Limit;
use crate::el2::cpu::console::say;
use crate::el2::cpu::exit::{Exit, exit};

/// What came of the runs of a variant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Came {
    /// No property was violated.
    Holds,
    /// One was, as it must, in so many runs.
    Lost(&'static str, u64),
    /// None was, though one may be: here that does not show.
    Hidden(Limit),
    /// None was, though one may be.
    NotSeen,
    /// One was, and must not.
    Violated,
    /// It was not run, because it would not end, or does what the architecture forbids.
    NotRun,
}

/// A variant, in the table of all of them.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The scenario.
    pub(crate) scenario: String,
    /// Without which guards.
    pub(crate) variant: String,
    pub(crate) runs: u64,
    /// Of so many stories.
    pub(crate) stories: usize,
    /// So many could be forced.
    pub(crate) forced: usize,
    pub(crate) came: Came,
}

impl Row {
    /// One that was not run.
    pub(crate) fn not_run(scenario: &str, variant: String) -> Row {
        let scenario = String::from(scenario);
        Row { scenario, variant, runs: 0, stories: 0, forced: 0, came: Came::NotRun }
    }
}

/// The findings of a run.
#[derive(Debug)]
pub(crate) struct Report {
    rows: Vec<Row>,
    expected: u32,
    unexpected: Vec<String>,
    nothing: bool,
    is_qemu: bool,
}

impl Report {
    /// Nothing found yet.
    pub(crate) fn new(is_qemu: bool) -> Report {
        Report { rows: Vec::new(), expected: 0, unexpected: Vec::new(), nothing: false, is_qemu }
    }
    /// True if this is QEMU, of whose TLBs we know what they keep.
    pub(crate) fn is_qemu(&self) -> bool {
        self.is_qemu
    }
    /// Something has to be lost, or not. What has to be lost may survive on a board, whose TLBs
    /// need not keep what they may keep: that is told, and no failure.
    pub(crate) fn check_lost(&mut self, lost: bool, must: bool, what: String) {
        if must && !lost && !self.is_qemu {
            self.note(format!("{what} (it may be lost, and was not)"));
        } else {
            self.check(lost == must, what);
        }
    }
    /// Something was as it must be.
    pub(crate) fn expected(&mut self, what: String) {
        say!("ok: {what}");
        self.expected += 1;
    }
    /// Something was not.
    pub(crate) fn unexpected(&mut self, what: String) {
        say!("UNEXPECTED: {what}");
        self.unexpected.push(what);
    }
    /// Something that is neither.
    pub(crate) fn note(&mut self, what: String) {
        say!("note: {what}");
    }
    /// What was asked for is not there.
    pub(crate) fn select_nothing(&mut self, why: String) {
        say!("error: {why}");
        self.nothing = true;
    }
    /// Something has to be so.
    pub(crate) fn check(&mut self, is_so: bool, what: String) {
        if is_so { self.expected(what) } else { self.unexpected(what) }
    }
    /// A variant was run.
    pub(crate) fn row(&mut self, row: Row) {
        self.rows.push(row);
    }
    /// Ends the run, and says again what was not as it must be: the end of a long log is what is
    /// read first.
    pub(crate) fn end(self) -> ! {
        table(&self.rows);
        let Report { expected, unexpected, nothing, .. } = self;
        for what in &unexpected {
            say!("again, UNEXPECTED: {what}");
        }
        let code = match (nothing, unexpected.len()) {
            (true, _) => Exit::Nothing,
            (false, 0) => Exit::Expected,
            _ => Exit::Unexpected,
        };
        exit(code, format_args!("{expected} as expected, {} unexpected", unexpected.len()))
    }
}

/// Every variant: how often it ran, which of its stories could be forced, and what came of it.
fn table(rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    say!("");
    say!("{:44} {:>4} {:>6}  what came of it", "scenario, and without what", "runs", "forced");
    let mut scenario = "";
    for row in rows {
        if row.scenario != scenario {
            scenario = &row.scenario;
            say!("{scenario}");
        }
        let forced = match row.stories {
            0 => String::from("-"),
            stories => format!("{}/{stories}", row.forced),
        };
        let came = match &row.came {
            Came::Holds => String::from("holds"),
            Came::Lost(property, runs) => format!("LOST in {runs}: {property}"),
            Came::Hidden(limit) => format!("not in QEMU ({})", limit.letter()),
            Came::NotSeen => String::from("not seen"),
            Came::Violated => String::from("VIOLATED"),
            Came::NotRun => String::from("not run"),
        };
        // The longest sets of guards take a line of their own.
        if row.variant.len() > 42 {
            say!("  {}", row.variant);
            say!("{:44} {:>4} {forced:>6}  {came}", "", row.runs);
        } else {
            say!("  {:42} {:>4} {forced:>6}  {came}", row.variant, row.runs);
        }
    }
    for limit in Limit::ALL {
        if rows.iter().any(|row| row.came == Came::Hidden(limit)) {
            say!("({}) {}", limit.letter(), limit.why());
        }
    }
    let count = |of: fn(&Came) -> bool| rows.iter().filter(|row| of(&row.came)).count();
    say!(
        "{} variants: {} hold, {} lose, {} not in QEMU, {} not seen, {} VIOLATED, {} not run",
        rows.len(),
        count(|came| *came == Came::Holds),
        count(|came| matches!(came, Came::Lost(..))),
        count(|came| matches!(came, Came::Hidden(_))),
        count(|came| *came == Came::NotSeen),
        count(|came| *came == Came::Violated),
        count(|came| *came == Came::NotRun),
    );
    say!("");
}

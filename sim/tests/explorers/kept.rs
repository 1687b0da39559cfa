//! Goal: a search that was saved anywhere and gone on with by another engine comes to the same
//! outcome, to the last number. Method: searches cut after every few states, each piece by a new
//! engine, on random programs of all kinds and on scenarios.

use std::io::{self, Read, Write};

use kvmmu_model::GuardSet;
use kvmmu_scenarios::{Property, builtin, loader};
use kvmmu_sim::keep::Keep;
use kvmmu_sim::mini::{FastFault, Simulated};
use kvmmu_sim::outcome::{Outcome, Reason, Stats, Verdict};
use kvmmu_sim::program::Program;
use kvmmu_sim::race::Race;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Auto, Explorer, Goal, Limits};

use super::random::{in_turn, kinds};

/// Keeps a search in memory, and saves it whenever it ends.
#[derive(Default)]
struct InMemory {
    saved: Option<Vec<u8>>,
    /// How often it was saved, and gone on with.
    saves: usize,
    reads: usize,
    /// Saves whenever it is asked.
    always: bool,
}

impl Keep for InMemory {
    fn saved(&mut self) -> Option<Box<dyn Read>> {
        let saved = self.saved.clone()?;
        self.reads += 1;
        Some(Box::new(io::Cursor::new(saved)))
    }

    fn is_due(&mut self, end: Option<Reason>) -> bool {
        self.always || end.is_some()
    }

    fn save(&mut self, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) {
        let mut saved = Vec::new();
        write(&mut saved).expect("there is room in memory");
        self.saved = Some(saved);
        self.saves += 1;
    }
}

/// Explores in pieces of `piece` states, more from one to the next.
fn in_pieces(
    make: &dyn Fn() -> Box<dyn Explorer>,
    program: &dyn Program,
    goal: &Goal,
    piece: u64,
    keep: &mut InMemory,
) -> Outcome {
    let mut states_max = piece;
    loop {
        let limits = Limits { states_max, ..Limits::default() };
        let outcome = make().explore_kept(program, goal, &limits, &|_: &Stats| true, keep);
        if outcome.verdict != Verdict::Inconclusive(Reason::States) {
            return outcome;
        }
        states_max += states_max / 4 + piece;
    }
}

fn assert_same(outcome: &Outcome, at_once: &Outcome) {
    assert_eq!(outcome.verdict, at_once.verdict);
    assert_eq!(outcome.others, at_once.others);
    assert_eq!(outcome.seen, at_once.seen);
    assert_eq!(outcome.locks, at_once.locks);
    assert_eq!(outcome.stats, at_once.stats);
}

/// Compares the outcome of a search in pieces with that of a search at once. Returns how many
/// pieces there were.
fn compare(
    make: &dyn Fn() -> Box<dyn Explorer>,
    program: &dyn Program,
    goal: &Goal,
    piece: u64,
) -> usize {
    let at_once = make().explore(program, goal, &Limits::default(), &|_: &Stats| true);
    let mut keep = InMemory::default();
    let outcome = in_pieces(make, program, goal, piece, &mut keep);
    assert_same(&outcome, &at_once);
    assert_eq!(keep.saves, keep.reads);
    keep.reads
}

/// The same for `auto`, in pieces of 500 states. A violation may be found by an earlier search of
/// its at once, for which the pieces have too few states: then what was found is compared, and not
/// how; of cycles each search may come to another.
fn compare_auto(program: &dyn Program, goal: &Goal) -> usize {
    let make = || Box::new(Auto::default()) as Box<dyn Explorer>;
    let at_once = make().explore(program, goal, &Limits::default(), &|_: &Stats| true);
    if at_once.verdict == Verdict::Holds {
        return compare(&make, program, goal, 500);
    }
    let mut keep = InMemory::default();
    let outcome = in_pieces(&make, program, goal, 500, &mut keep);
    let livelock = Rule::from(Property::Livelock);
    match (&outcome.verdict, &at_once.verdict) {
        (Verdict::Violated(one), Verdict::Violated(other)) if other.rule == livelock => {
            assert_eq!((one.rule, one.story), (other.rule, other.story));
        }
        (one, other) => assert_eq!(one, other),
    }
    assert_eq!(outcome.others, at_once.others);
    keep.reads
}

fn mini(vcpus: usize, writes: usize) -> Simulated<FastFault> {
    Simulated(FastFault { vcpus, writes, zap: true, harvest: true, plain_store: false })
}

fn stateful(reduced: bool) -> Box<dyn Explorer> {
    Box::new(Stateful { reduced, ..Stateful::default() })
}

#[test]
fn random_programs_in_pieces() {
    let (kinds, mut pieces) = (kinds(), 0);
    for (at, kind, program) in in_turn(&kinds, 40) {
        for reduced in [false, true] {
            let make = || stateful(reduced);
            pieces += compare(&make, &*program, &kind.goal, [1, 2, 7, 30][at % 4]);
        }
    }
    assert!(pieces > 2000, "only {pieces} times");
}

#[test]
fn scenarios_in_pieces() {
    let few = Limits { states_max: 20_000, ..Limits::default() };
    let (mut compared, mut held, mut pieces) = (0, 0, 0);
    for (file, text) in builtin::FILES {
        let scenario = loader::load(file, text, 1).expect("built-in files load");
        let variants = scenario.expects.iter().map(|e| e.without);
        for without in variants.chain([GuardSet::EMPTY]) {
            let race = Race::new(scenario.clone(), without);
            let goal = race.goal();
            let outcome = stateful(true).explore(&race, &goal, &few, &|_: &Stats| true);
            if matches!(outcome.verdict, Verdict::Inconclusive(_)) {
                continue;
            }
            compared += 1;
            pieces += compare(&|| stateful(true), &race, &goal, 100);
            held += u64::from(outcome.verdict == Verdict::Holds);
            // Those that hold are compared in full.
            if compared % 20 == 0 || outcome.verdict == Verdict::Holds && held % 5 == 0 {
                pieces += compare_auto(&race, &goal);
            }
        }
    }
    assert!(compared > 50 && pieces > 500, "{compared} variants, {pieces} pieces");
}

#[test]
fn a_search_that_is_saved_all_the_time_is_the_same() {
    let program = mini(2, 2);
    let at_once = stateful(false).explore(&program, &Goal::ANY, &Limits::default(), &|_| true);
    let mut keep = InMemory { always: true, ..InMemory::default() };
    let limits = Limits::default();
    let outcome = stateful(false).explore_kept(&program, &Goal::ANY, &limits, &|_| true, &mut keep);
    assert_same(&outcome, &at_once);
    assert!(keep.saves > 2, "{}", keep.saves);
    // From the last save on, which is not the end: the same once more.
    let outcome = stateful(false).explore_kept(&program, &Goal::ANY, &limits, &|_| true, &mut keep);
    assert_same(&outcome, &at_once);
}

#[test]
fn a_saved_search_of_something_else_is_refused() {
    let program = mini(2, 1);
    let limits = Limits { states_max: 100, ..Limits::default() };
    let mut keep = InMemory::default();
    stateful(false).explore_kept(&program, &Goal::ANY, &limits, &|_| true, &mut keep);
    let saved = keep.saved.clone().expect("it was cut");
    let refused = |program: &dyn Program, reduced: bool, saved: Vec<u8>| {
        let mut keep = InMemory { saved: Some(saved), ..InMemory::default() };
        let mut explorer = stateful(reduced);
        let outcome =
            explorer.explore_kept(program, &Goal::ANY, &Limits::default(), &|_| true, &mut keep);
        assert_eq!(outcome.verdict, Verdict::Inconclusive(Reason::InternalError));
        outcome.others[0].detail.clone()
    };
    let other = mini(3, 1);
    assert!(refused(&other, false, saved.clone()).contains("another program"));
    assert!(refused(&program, true, saved.clone()).contains("another strategy"));
    for cut in [0, 1, saved.len() / 2, saved.len() - 1] {
        let detail = refused(&program, false, saved[..cut].to_vec());
        assert!(detail.contains("cannot be gone on with"), "{cut}: {detail}");
    }
}

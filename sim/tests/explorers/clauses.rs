//! Goal: each clause of the argument that few threads of a state are enough is needed.
//! Method: a search without it misses something, of a program made for that and of random ones.

use std::ops::RangeInclusive;

use kvmmu_sim::Goal;
use kvmmu_sim::explore::clause::Clause;
use kvmmu_sim::outcome::Verdict;

use super::persistent::{Laps, Op};
use super::random::{Drawn, Kind, NOTHING, by_states, in_turn, kinds};

/// How many random programs of each kind may be drawn. The rarest that is needed is one in 300.
const PROGRAMS: usize = 3_000;
/// Those with more states are left out.
const STATES_MAX: u64 = 5_000;

/// Says of a clause whether something is wrong without it.
pub(super) type Wrong<'a> = Box<dyn Fn(Clause) -> bool + 'a>;

/// How many threads a program has.
type Threads = RangeInclusive<usize>;

/// Draws random programs of so many threads till each of these clauses is known to be needed. `of`
/// says what goes wrong with a program; none if it is of no use.
pub(super) fn each_is_needed(
    mut left: Vec<(Clause, Threads)>,
    of: for<'a> fn(&'a Kind, &'a dyn Drawn) -> Option<Wrong<'a>>,
) {
    let kinds = kinds();
    for (at, kind, program) in in_turn(&kinds, PROGRAMS) {
        let threads = program.threads().len();
        if !left.iter().any(|(_, of)| of.contains(&threads)) {
            continue;
        }
        let Some(wrong) = of(kind, &*program) else { continue };
        left.retain(|(clause, of)| {
            let needed = of.contains(&threads) && wrong(*clause);
            if needed {
                println!("{clause:?}, of {of:?} threads: program {at} of {}", kind.name);
            }
            !needed
        });
        if left.is_empty() {
            return;
        }
    }
    panic!("nothing goes wrong without {left:?}");
}

/// What a search finds without a clause and with all of them, if they differ.
fn misses<'a>(kind: &'a Kind, program: &'a dyn Drawn) -> Option<Wrong<'a>> {
    let (all, outcome) = by_states(program, &kind.goal, false, None);
    let given_up = matches!(outcome.verdict, Verdict::Inconclusive(_));
    if given_up || outcome.stats.states > STATES_MAX {
        return None;
    }
    Some(Box::new(move |clause| by_states(program, &kind.goal, true, Some(clause)).0 != all))
}

#[test]
fn without_any_clause_something_of_a_random_program_is_missed() {
    let mut clauses: Vec<_> = Clause::ALL.map(|clause| (clause, 1..=4)).into();
    // Of more threads not each set has a future: two families of sets stand for all.
    clauses.push((Clause::Together, 5..=8));
    each_is_needed(clauses, misses);
}

/// A program of which something is missed without the clause. The first thread goes first: no
/// search knows of a better one where it begins.
fn program(clause: Clause) -> Vec<Vec<Op>> {
    let store = Op::Store;
    match clause {
        // The second store seems to touch nothing: it never comes first.
        Clause::Step => vec![vec![store(0, 1)], vec![store(0, 2)]],
        // The load is in no way, and so what follows it never is.
        Clause::Then => vec![vec![store(0, 1)], vec![Op::Load(1), store(0, 2)]],
        // While the first thread has the lock the other one seems to want nothing.
        Clause::Waits => {
            let locked = |v| vec![Op::Locked(Box::new(store(0, v)))];
            vec![locked(1), locked(2)]
        }
        // After the store all is over, and nobody knows of the wait that it kept from ending.
        Clause::WaitsAtEnd => vec![vec![store(0, 1)], vec![Op::WaitIs(0, 0)]],
        // The load is explored alone, and the second thread is forgotten for the state before it.
        Clause::Rest => vec![vec![store(0, 1), Op::Load(1)], vec![store(0, 2)]],
        // The second thread seems to wait for ever, though the third one ends that, and seems not
        // to come to its store. Neither of the two comes there alone: that both have to be
        // regarded together, and both to be added, is shown by the same program.
        Clause::WaitEnded | Clause::Together | Clause::AllAdded => {
            vec![vec![store(0, 1)], vec![Op::WaitIs(1, 1), store(0, 2)], vec![store(1, 1)]]
        }
        // After the violation nobody goes on: the other thread seems to have nothing to do.
        Clause::Violation => vec![vec![Op::Forbid(0, 0)], vec![store(0, 1)]],
        // The first thread goes round by itself for ever.
        Clause::Open => vec![vec![Op::Spin(0, 1)], vec![store(0, 1)]],
        // The third thread is added to the first, which it is in the way of; that the second one is
        // in the way of the third shows only when the third one's step is compared, too. Without,
        // words 0 and 1 never end as 1 and 2.
        Clause::EveryStep | Clause::EveryRound => {
            vec![vec![store(0, 1)], vec![store(1, 1)], vec![store(1, 2), store(0, 2)]]
        }
    }
}

#[test]
fn without_any_clause_something_of_a_small_program_is_missed() {
    // Of more than four threads not each set has a future.
    let mut many = program(Clause::Together);
    many.extend(vec![vec![Op::Load(2)]; 2]);
    let programs = Clause::ALL.into_iter().map(|clause| (clause, program(clause)));
    for (clause, threads) in programs.chain([(Clause::Together, many)]) {
        let program = Laps { threads };
        let find = |reduced, removed| by_states(&program, &Goal::of(NOTHING), reduced, removed).0;
        let all = find(false, None);
        assert_eq!(find(true, None), all, "{clause:?}: {program:?}");
        assert_ne!(find(true, Some(clause)), all, "{clause:?} is not needed: {program:?}");
    }
}

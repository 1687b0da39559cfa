//! Goal: each clause of the argument that few threads of a state are enough is needed.
//! Method: without it a search misses something of some random program.

use std::ops::RangeInclusive;

use kvmmu_sim::explore::clause::Clause;
use kvmmu_sim::outcome::Verdict;

use super::random::{by_states, kinds};

/// The most programs of each kind. Half as many were enough when this was written.
const PROGRAMS: usize = 600;
/// Programs of more states take too long.
const STATES_MAX: u64 = 5_000;

/// Clauses, and how many threads the programs have that show what they are for.
fn demands() -> Vec<(Clause, RangeInclusive<usize>)> {
    let apart = Clause::ALL.into_iter().filter(|clause| *clause != Clause::Together);
    let apart = apart.map(|clause| (clause, 1..=8));
    // Of up to four threads each set has a future, of more threads only two families of sets.
    let together = [1..=4, 5..=8].map(|threads| (Clause::Together, threads));
    apart.chain(together).collect()
}

#[test]
fn without_any_clause_something_is_missed() {
    let kinds = kinds();
    let mut drawn: Vec<_> = kinds.iter().map(|kind| (kind, kind.draw())).collect();
    let mut demands = demands();
    for at in 0..PROGRAMS {
        for (kind, programs) in &mut drawn {
            let program = programs.next().expect("there is no end of them");
            let (all, outcome) = by_states(&*program, &kind.goal, false, None);
            let given_up = matches!(outcome.verdict, Verdict::Inconclusive(_));
            if given_up || outcome.stats.states > STATES_MAX {
                continue;
            }
            demands.retain(|(clause, threads)| {
                let of_use = threads.contains(&program.threads().len());
                let keep =
                    !of_use || by_states(&*program, &kind.goal, true, Some(*clause)).0 == all;
                if !keep {
                    println!("{clause:?} ({threads:?} threads): program {at} of {}", kind.name);
                }
                keep
            });
        }
        if demands.is_empty() {
            return;
        }
    }
    panic!("nothing is missed without {demands:?}");
}

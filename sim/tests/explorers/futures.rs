//! Goal: the future that a reduced search finds for a state contains what its threads may touch.
//! Method: of small random programs the whole graph of states, with what each step touches; what
//! sets of threads may touch from each state on follows from it by going round until nothing is
//! added, without any argument about what need not be explored.

use std::collections::BTreeMap;

use kvmmu_sim::explore::clause::Clause;
use kvmmu_sim::footprint::Footprint;
use kvmmu_sim::outcome::Verdict;
use kvmmu_sim::program::Program;
use kvmmu_sim::schedule::Move;
use kvmmu_sim::snapshot::Snapshots;
use kvmmu_sim::stateful::{FuturesFound, Stateful};
use kvmmu_sim::{Engine, Goal, Limits};

use super::clauses::{Wrong, each_is_needed};
use super::random::{self, Drawn, Kind, kinds};

/// Programs with more states are left out.
const STATES_MAX: usize = 2_000;

/// A state: what threads wait for that cannot move, and the steps of the others.
#[derive(Default)]
struct State {
    waits: Vec<(usize, Footprint)>,
    steps: Vec<(usize, Footprint, usize)>,
}

/// All states of a program. The first stands for all in which something is violated.
struct Graph {
    states: Vec<State>,
    numbers: BTreeMap<u128, usize>,
    /// Their numbers, in the order in which a depth-first search leaves them.
    left: Vec<usize>,
}

impl Graph {
    /// None if there are too many.
    fn of(engine: &mut Engine) -> Option<Graph> {
        let states = vec![State::default()];
        let mut graph = Graph { states, numbers: BTreeMap::new(), left: Vec::new() };
        engine.reset();
        let mut snapshots = Snapshots::new();
        let mut path = Vec::new();
        let (_, first) = graph.arrive(engine);
        path.extend(first);
        engine.save(&mut snapshots);
        while let Some((from, moves)) = path.last_mut() {
            let Some(step) = moves.pop() else {
                graph.left.push(*from);
                path.pop();
                engine.truncate(&mut snapshots, path.len());
                continue;
            };
            engine.restore(&snapshots, snapshots.len() - 1);
            let footprint = engine.step(step);
            let (to, new) = graph.arrive(engine);
            graph.states[*from].steps.push((step.actor.index(), footprint, to));
            if let Some(new) = new {
                path.push(new);
                engine.save(&mut snapshots);
            }
            if graph.states.len() > STATES_MAX {
                return None;
            }
        }
        Some(graph)
    }

    /// The number of the engine's state; if it is new, that and its moves.
    fn arrive(&mut self, engine: &Engine) -> (usize, Option<(usize, Vec<Move>)>) {
        if engine.is_violated() {
            return (0, None);
        }
        let number = self.states.len();
        let known = *self.numbers.entry(engine.key() >> 33 << 33).or_insert(number);
        if known != number {
            return (known, None);
        }
        let waiting = engine.unfinished() & !engine.enabled();
        let waiting = engine.actors().filter(|actor| waiting >> actor.index() & 1 == 1);
        let waits = waiting.map(|actor| (actor.index(), engine.waits_on(actor))).collect();
        self.states.push(State { waits, steps: Vec::new() });
        let mut moves = Vec::new();
        engine.moves(&mut moves);
        (number, Some((number, moves)))
    }

    /// For each state what a set of threads may touch on paths on which no other moves, and what
    /// those of them that are blocked there wait for.
    fn futures(&self, set: u32) -> Vec<Footprint> {
        let in_set = |t: usize| set >> t & 1 == 1;
        let mut futures = vec![Footprint::default(); self.states.len()];
        loop {
            let mut same = true;
            for &at in &self.left {
                let state = &self.states[at];
                let waits = state.waits.iter().filter(|(t, _)| in_set(*t)).map(|(_, f)| *f);
                let steps = state.steps.iter().filter(|(t, _, _)| in_set(*t));
                let steps = steps.map(|(_, f, to)| f.union(&futures[*to]));
                let all = waits.chain(steps).fold(futures[at], |all, f| all.union(&f));
                same &= all == futures[at];
                futures[at] = all;
            }
            if same {
                return futures;
            }
        }
    }
}

/// True if all that conflicts with the second one conflicts with the first one.
fn contains(one: &Footprint, other: &Footprint) -> bool {
    // What reads and adds conflicts with all that a write conflicts with.
    let writes = one.writes | (one.reads & one.adds);
    (other.writes - writes).is_empty()
        && (other.reads - (one.reads | one.writes)).is_empty()
        && (other.adds - (one.adds | one.writes)).is_empty()
        && other.locks() & !one.locks() == 0
}

/// How many futures there were: of what size, compared with the least one.
#[derive(Default, Debug)]
struct Tally {
    programs: u64,
    least: u64,
    larger: u64,
    anything: u64,
}

/// Compares the futures that a search finds with those of the graph. An error says which is too
/// small.
fn compare(
    program: &dyn Program,
    goal: &Goal,
    removed: Option<Clause>,
    tally: &mut Tally,
) -> Result<(), String> {
    // One engine: footprints of two number locations differently.
    let mut engine = Engine::new(program, goal.clone());
    let mut search = Stateful {
        reduced: true,
        futures: Some(FuturesFound::new()),
        removed,
        ..Stateful::default()
    };
    let limits = Limits { states_max: STATES_MAX as u64, ..Limits::default() };
    let outcome = search.explore_by(&mut engine, &limits, &|_| true);
    if matches!(outcome.verdict, Verdict::Inconclusive(_)) {
        return Ok(());
    }
    let Some(graph) = Graph::of(&mut engine) else { return Ok(()) };
    let found = search.futures.expect("they were asked for");
    assert!(found.len() as u64 >= outcome.stats.states, "a state without a future");
    tally.programs += 1;
    for set in 0..1u32 << engine.threads() {
        let least = graph.futures(set);
        for (key, by_set) in &found {
            let number = graph.numbers[key];
            let least = &least[number];
            match &by_set[set as usize] {
                None => tally.anything += 1,
                Some(future) if !contains(future, least) => {
                    return Err(format!(
                        "of threads {set:#b} in state {number}: {future:?}, not {least:?}"
                    ));
                }
                Some(future) if contains(least, future) => tally.least += 1,
                Some(_) => tally.larger += 1,
            }
        }
    }
    Ok(())
}

#[test]
fn futures_contain_what_threads_may_touch() {
    let programs = random::config().cases as usize;
    for kind in kinds() {
        let mut tally = Tally::default();
        for program in kind.draw().take(programs) {
            if let Err(why) = compare(&*program, &kind.goal, None, &mut tally) {
                panic!("{}: {why}: {program:?}", kind.name);
            }
        }
        println!("{}: {tally:?}", kind.name);
        assert!(tally.programs * 2 > programs as u64, "{}: {tally:?}", kind.name);
    }
}

/// Whether some future is too small without a clause.
fn too_small<'a>(kind: &'a Kind, program: &'a dyn Drawn) -> Option<Wrong<'a>> {
    Some(Box::new(move |clause| {
        compare(program, &kind.goal, Some(clause), &mut Tally::default()).is_err()
    }))
}

/// Those clauses, too, that are no part of a future: threads that were not enough are taken to
/// commute with all others (3).
#[test]
fn without_any_clause_some_future_is_too_small() {
    each_is_needed(Clause::ALL.map(|clause| (clause, 1..=8)).into(), too_small);
}

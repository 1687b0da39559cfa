//! Goal: states with equal keys are equal, and few equal states have different keys.
//! Method: the state graph of each small variant of the built-in scenarios, recorded. Wherever a
//! known key is reached again, the state must look the same and each of its moves lead where it led
//! before; and the graph is folded by bisimulation, to count the states that a perfect key would
//! tell apart. Variants of 100,000 states and more are left out.

use std::cell::Cell;

use kvmmu::run;
use kvmmu_model::{GuardSet, Object, Ordering::SeqCst, Platform, Tag, Word};
use kvmmu_sim::graph::Graph;
use kvmmu_sim::outcome::{Stats, Verdict};
use kvmmu_sim::program::{Instance, Program};
use kvmmu_sim::race::Race;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Engine, Explorer, Goal, Limits, Sim};

/// Variants of so many states are looked at.
const STATES_MAX: u64 = 100_000;
/// How many times as many states as a perfect key's there may be.
const RATIO_MAX: f64 = 2.5;

/// The graph of everything that a program can reach; `None`: it is too large.
fn graph(program: &dyn Program, goal: &Goal) -> Option<Graph> {
    let limits = Limits { states_max: STATES_MAX, ..Limits::default() };
    let mut engine = Engine::new(program, goal.clone());
    let mut progress = |_: &Stats| true;
    let mut quick = Stateful::default();
    if quick.explore(&mut engine, &limits, &mut progress).verdict != Verdict::Holds {
        return None;
    }
    let mut recorded = Stateful { graph: Some(Graph::default()), ..Stateful::default() };
    let outcome = recorded.explore(&mut engine, &limits, &mut progress);
    assert_eq!(outcome.verdict, Verdict::Holds);
    let graph = recorded.graph.expect("it was asked for");
    assert_eq!(graph.states() as u64, outcome.stats.states, "a state has no place in the graph");
    Some(graph)
}

/// What a variant's own expectation watches for, but never found, so that everything is explored.
fn nothing(race: &Race) -> Goal {
    Goal { property: Some("no-such-property"), ..race.goal() }
}

#[test]
fn no_two_states_of_a_small_variant_share_a_key() {
    let mut variants = Vec::new();
    for scenario in run::builtin(1).expect("built-in files load") {
        let mut sets: Vec<GuardSet> = scenario.expects.iter().map(|e| e.without).collect();
        if !sets.contains(&GuardSet::EMPTY) {
            sets.push(GuardSet::EMPTY);
        }
        variants.extend(sets.into_iter().map(|without| (scenario.clone(), without)));
    }
    let (mut small, mut worst) = (0, 0.0_f64);
    for (scenario, without) in &variants {
        let race = Race::new(scenario.as_ref().clone(), *without);
        let names: Vec<&str> = without.iter().map(|g| g.info().name).collect();
        let name = format!("{} without {names:?}", scenario.name);
        let Some(graph) = graph(&race, &nothing(&race)) else {
            println!("{name}: {STATES_MAX} states or more");
            continue;
        };
        assert_eq!(graph.clashes, 0, "{name}: {:?}", graph.first_clash);
        let (states, quotient) = (graph.states(), graph.quotient());
        let ratio = states as f64 / quotient as f64;
        println!("{name}: {states} states, {quotient} of them different, ratio {ratio:.3}");
        assert!(ratio <= RATIO_MAX, "{name}: {ratio}");
        small += 1;
        worst = worst.max(ratio);
    }
    println!("{small} of {} variants, highest ratio {worst:.3}", variants.len());
    assert!(small >= 50, "only {small} variants are small enough to be checked");
}

/// Thread 0 reads a word, forgets it by a checkpoint that says that nothing is alive, and then
/// stores what it has read; thread 1 changes the word. Honest, the checkpoint names what was read.
struct Forgetful {
    honest: bool,
}

struct ForgetfulOn<W> {
    honest: bool,
    sim: Sim,
    from: W,
    to: W,
}

impl Program for Forgetful {
    fn threads(&self) -> Vec<String> {
        vec!["reader".to_owned(), "writer".to_owned()]
    }
    fn build(&self, sim: &Sim) -> Box<dyn Instance> {
        let word = |i| sim.word(Tag::nth(Object::Var, i), 0);
        Box::new(ForgetfulOn { honest: self.honest, sim: *sim, from: word(0), to: word(1) })
    }
}

impl<W: Word> Instance for ForgetfulOn<W> {
    fn run(&self, thread: usize) {
        if thread == 1 {
            self.from.store(1, SeqCst);
            self.from.store(0, SeqCst);
            return;
        }
        let seen = Cell::new(self.from.load(SeqCst));
        self.sim.checkpoint(if self.honest { seen.get() } else { 0 });
        // The address and the value of the next two steps do not say what was read; the third does.
        self.to.load(SeqCst);
        self.to.load(SeqCst);
        if seen.get() == 1 {
            self.to.store(1, SeqCst);
        }
    }
}

#[test]
fn a_checkpoint_that_forgets_a_live_value_is_caught() {
    let clashes = |honest| {
        let graph = graph(&Forgetful { honest }, &Goal::of("no-such-property"));
        let graph = graph.expect("a tiny program");
        assert_eq!(graph.clashes > 0, graph.first_clash.is_some());
        graph.clashes
    };
    assert_eq!(clashes(true), 0);
    assert!(clashes(false) > 0);
}

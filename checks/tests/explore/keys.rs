//! Goal: states with equal keys are equal, and few equal states have different keys.
//! Method: the state graph of each small variant of the built-in scenarios, recorded. Wherever a
//! known key is reached again, the state must look the same and each of its moves lead where it led
//! before. That looks one step ahead; further on look random executions that nothing prunes: they
//! must reach keys of the graph only, and equal keys must look and go on alike in all of them. Then
//! the graph is folded by bisimulation, to count the states that a perfect key would tell apart.
//! Variants of 100,000 states and more have no graph here, only random executions.

use std::collections::{BTreeMap, BTreeSet};

use kvmmu::lab::load;
use kvmmu_model::{GuardSet, Object, Ordering::SeqCst, Platform, Tag, Word};
use kvmmu_scenarios::loader;
use kvmmu_sim::graph::Graph;
use kvmmu_sim::outcome::{Stats, Verdict};
use kvmmu_sim::pending::Kind;
use kvmmu_sim::program::{Instance, Program};
use kvmmu_sim::race::Race;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::schedule::Move;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Actor, Engine, Explorer, Goal, Limits, Sim};

/// Variants of so many states are looked at.
const STATES_MAX: u64 = 100_000;
/// How many times as many states as a perfect key's there may be.
const RATIO_MAX: f64 = 2.5;
/// Random executions of each variant.
const EXECUTIONS: u32 = 300;

/// The graph of everything that a program can reach; `None`: it is too large.
fn graph(program: &dyn Program, goal: &Goal) -> Option<Graph> {
    let limits = Limits { states_max: STATES_MAX, ..Limits::default() };
    let progress = |_: &Stats| true;
    let mut quick = Stateful::default();
    if quick.explore(program, goal, &limits, &progress).verdict != Verdict::Holds {
        return None;
    }
    let mut recorded = Stateful { graph: Some(Graph::default()), ..Stateful::default() };
    let outcome = recorded.explore(program, goal, &limits, &progress);
    assert_eq!(outcome.verdict, Verdict::Holds);
    let graph = recorded.graph.expect("it was asked for");
    assert_eq!(graph.states() as u64, outcome.stats.states, "a state has no place in the graph");
    Some(graph)
}

/// A generator of random numbers: splitmix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut v = self.0;
        v = (v ^ v >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        v = (v ^ v >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((v ^ v >> 31) % n as u64) as usize
    }
}

/// How a state looks from outside: what each thread will do, and whether it can. (What is shared is
/// in the moves that follow.)
fn look(engine: &Engine) -> String {
    let one = |t: usize| {
        let p = engine.pending(t);
        if p.kind == Kind::Done {
            return "done; ".to_owned();
        }
        let (line, column) = (p.site.line(), p.site.column());
        let actor = Actor::Thread(t as u8);
        let choices = if engine.is_enabled(actor) { engine.choices(actor) } else { 0 };
        format!("{:?} {line}:{column} {} {} {choices}; ", p.kind, p.loc, p.arg)
    };
    (0..engine.threads()).map(one).collect()
}

/// No execution that ends has so many steps.
const STEPS_MAX: usize = 5_000;

/// Random executions against the graph, if there is one, and against each other.
fn walk(program: &dyn Program, goal: &Goal, graph: Option<&Graph>) -> Result<(), String> {
    let keys: Option<BTreeSet<u128>> = graph.map(|graph| graph.keys().collect());
    let mut looks: BTreeMap<u128, String> = BTreeMap::new();
    let mut leads: BTreeMap<(u128, Move), Option<u128>> = BTreeMap::new();
    let mut engine = Engine::new(program, goal.clone());
    let (mut rng, mut moves) = (Rng(1), Vec::new());
    for _ in 0..EXECUTIONS {
        engine.reset();
        // One that goes round for ever is left.
        for _ in 0..STEPS_MAX {
            let (key, now) = (engine.key(), look(&engine));
            if keys.as_ref().is_some_and(|keys| !keys.contains(&key)) {
                return Err(format!("a state that is not in the graph: {now}"));
            }
            let known = looks.entry(key).or_insert_with(|| now.clone());
            if *known != now {
                return Err(format!("one key, two looks: {known} and {now}"));
            }
            moves.clear();
            engine.moves(&mut moves);
            if moves.is_empty() {
                break;
            }
            let step = moves[rng.below(moves.len())];
            engine.step(step);
            let to = (!engine.is_violated()).then(|| engine.key());
            if *leads.entry((key, step)).or_insert(to) != to {
                return Err(format!("move {step:?} leads to two states from: {now}"));
            }
            if to.is_none() {
                break;
            }
        }
    }
    Ok(())
}

/// What a variant's own expectation watches for, but never found, so that everything is explored.
fn nothing(race: &Race) -> Goal {
    Goal { rule: Some(Rule::Own("no-such-rule")), ..race.goal() }
}

#[test]
fn no_two_states_of_a_variant_share_a_key() {
    let mut variants = Vec::new();
    for scenario in load::builtin(1).expect("built-in files load") {
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
        let graph = graph(&race, &nothing(&race));
        let walked = walk(&race, &nothing(&race), graph.as_ref());
        walked.unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        let Some(graph) = graph else {
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

/// Goal: what user space has in mind between steps is part of a state. Method: two threads of a VMM
/// that store, and two that clear what they have fetched, held against random executions.
#[test]
fn what_user_space_has_in_mind_is_in_the_key() {
    let programs = [
        ("vmm-write gfn0\", \"vmm-write gfn0", "vmm-write gfn1\", \"vmm-write gfn1"),
        ("fetch-dirty-log slot0\", \"copy-harvested\", \"clear-dirty-log slot0", "vmm-write gfn1"),
    ];
    for (one, two) in programs {
        let text = format!(
            "title = \"t\"\nsource = \"s\"\nabout = \"a\"\npaging = \"direct\"\nspte = \"ept\"\n\
             [[slot]]\ngfn = 0\npages = 2\nlog = true\n\
             [map]\n\"gfn0\" = {{ pfn = 0, spte = \"110\" }}\n\
             \"gfn1\" = {{ pfn = 1, spte = \"110\" }}\n\
             [[thread]]\nname = \"vcpu0\"\nrun = [\"write gfn0\", \"write gfn1\"]\n\
             [[thread]]\nname = \"user0\"\nrun = [\"{one}\"]\n\
             [[thread]]\nname = \"user1\"\nrun = [\"{two}\"]\n\
             [check]\nalways = [\"spte-legal\"]\n"
        );
        let scenario = loader::load("t.toml", &text, 1).unwrap_or_else(|e| panic!("{e}"));
        let race = Race::new(scenario, GuardSet::EMPTY);
        let graph = graph(&race, &nothing(&race));
        walk(&race, &nothing(&race), graph.as_ref())
            .unwrap_or_else(|wrong| panic!("{one}: {wrong}"));
        assert_eq!(graph.map_or(0, |graph| graph.clashes), 0, "{one}");
    }
}

/// Thread 0 reads a word, forgets what it has read by a checkpoint that does not name it, takes so
/// many steps that do not depend on it, and then stores it elsewhere; thread 1 changes the word.
struct Forgetful {
    /// The checkpoint names what was read.
    honest: bool,
    steps_between: u32,
}

struct ForgetfulOn<W> {
    honest: bool,
    steps_between: u32,
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
        let Forgetful { honest, steps_between } = *self;
        Box::new(ForgetfulOn { honest, steps_between, sim: *sim, from: word(0), to: word(1) })
    }
}

impl<W: Word> Instance for ForgetfulOn<W> {
    fn run(&self, thread: usize) {
        if thread == 1 {
            self.from.store(1, SeqCst);
            self.from.store(0, SeqCst);
            return;
        }
        let seen = self.from.load(SeqCst);
        self.sim.checkpoint(if self.honest { seen } else { 0 });
        for _ in 0..self.steps_between {
            self.to.load(SeqCst);
        }
        self.to.store(seen, SeqCst);
    }
}

/// The graph of a [`Forgetful`] program, and what is wrong with it by random executions.
fn forgetful(honest: bool, steps_between: u32) -> (Graph, Result<(), String>) {
    let (program, goal) =
        (Forgetful { honest, steps_between }, Goal::of(Rule::Own("no-such-rule")));
    let graph = graph(&program, &goal).expect("a tiny program");
    assert_eq!(graph.clashes > 0, graph.first_clash.is_some());
    let walked = walk(&program, &goal, Some(&graph));
    (graph, walked)
}

#[test]
fn a_checkpoint_that_forgets_a_live_value_is_caught() {
    for steps_between in [0, 1, 2, 8] {
        let (graph, walked) = forgetful(true, steps_between);
        assert_eq!((graph.clashes, walked), (0, Ok(())));
    }
    let (graph, walked) = forgetful(false, 0);
    assert!(graph.clashes > 0 && walked.is_err());
}

#[test]
fn a_value_that_is_forgotten_long_before_it_matters_is_caught_by_random_executions() {
    for steps_between in [1, 2, 8] {
        let (_, walked) = forgetful(false, steps_between);
        assert!(walked.is_err(), "{steps_between}");
    }
}

//! Goal: what the state leaves out because nobody will read it matters to nobody, and each of these
//! things makes states fewer. Method: small built-in variants with it and without it: as many
//! classes of states that no future tells apart, and in some variant fewer states. And a program
//! that says so of a word and reads it all the same.

use kvmmu::lab::load::builtin;
use kvmmu_model::{Object, Ordering::SeqCst, Platform, Tag, Word};
use kvmmu_sim::classes::Classes;
use kvmmu_sim::outcome::{Reason, Verdict};
use kvmmu_sim::program::{Instance, Program};
use kvmmu_sim::race::{Forgotten, Race};
use kvmmu_sim::rule::Rule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Explorer, Goal, Limits, Sim};

/// Variants with more states are left out.
const STATES_MAX: u64 = 10_000;

fn limits() -> Limits {
    Limits { states_max: STATES_MAX, ..Limits::default() }
}

fn races() -> impl Iterator<Item = Race> {
    let scenarios = builtin(1).expect("built-in files load");
    scenarios.into_iter().flat_map(|scenario| {
        let race =
            |e: &kvmmu_scenarios::scenario::Expect| Race::new(scenario.as_ref().clone(), e.without);
        scenario.expects.iter().map(race).collect::<Vec<_>>()
    })
}

/// Everything that a program can do is explored: nothing is found.
fn nothing() -> Goal {
    Goal::of(Rule::Own("no-such-rule"))
}

#[test]
fn what_is_forgotten_tells_no_states_apart() {
    let (mut compared, mut fewer) = (0, 0);
    for race in races() {
        let classes = |race: &Race| Classes::of(race, &nothing(), &limits(), false).ok();
        let Some(all) = classes(&race.clone().remembering(&Forgotten::ALL)) else { continue };
        let now = classes(&race).expect("it has no more states");
        let name = &race.scenario().name;
        assert_eq!(now.classes, all.classes, "{name}");
        assert!(now.states <= all.states, "{name}: {} of {} states", now.states, all.states);
        compared += 1;
        fewer += u32::from(now.states < all.states);
    }
    println!("{compared} variants, {fewer} of them with fewer states");
    assert!(compared >= 50 && fewer * 2 > compared, "{compared} variants, {fewer} with fewer");
}

#[test]
fn each_thing_that_is_forgotten_makes_states_fewer() {
    let counted = |race: &Race| {
        let outcome = Stateful::default().explore(race, &nothing(), &limits(), &|_| true);
        matches!(outcome.verdict, Verdict::Holds).then_some(outcome.stats.states)
    };
    for what in Forgotten::ALL {
        let fewer = |race: Race| {
            let now = counted(&race);
            now.is_some() && now != counted(&race.remembering(&[what]))
        };
        assert!(races().any(fewer), "{what:?}");
    }
}

/// A thread says of a word that nobody will read it, and then does this.
#[derive(Clone, Copy)]
struct Afterwards(fn(&dyn Fn() -> u64, &dyn Fn()));

struct On<W> {
    afterwards: Afterwards,
    sim: Sim,
    word: W,
}

impl Program for Afterwards {
    fn threads(&self) -> Vec<String> {
        vec!["one".to_owned(), "other".to_owned()]
    }
    fn build(&self, sim: &Sim) -> Box<dyn Instance> {
        let word = sim.word(Tag::nth(Object::Var, 0), 0);
        Box::new(On { afterwards: *self, sim: *sim, word })
    }
}

impl<W: Word> Instance for On<W>
where
    Sim: Platform<Word = W>,
{
    fn run(&self, thread: usize) {
        if thread == 1 {
            // Nobody sees whether it was there before or after.
            self.word.or(1, SeqCst);
            return;
        }
        self.word.or(2, SeqCst);
        self.sim.forget(&self.word);
        (self.afterwards.0)(&|| self.word.load(SeqCst), &|| self.word.store(4, SeqCst));
    }
}

/// Its states, or the reason why there is no verdict.
fn explored(afterwards: fn(&dyn Fn() -> u64, &dyn Fn())) -> Result<u64, Reason> {
    let program = Afterwards(afterwards);
    let outcome = Stateful::default().explore(&program, &nothing(), &limits(), &|_| true);
    match outcome.verdict {
        Verdict::Holds => Ok(outcome.stats.states),
        Verdict::Inconclusive(reason) => Err(reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_reads_a_word_that_nobody_reads_ends_the_search() {
    let read = explored(|load, _| {
        load();
    });
    assert_eq!(read, Err(Reason::InternalError));
}

#[test]
fn after_a_store_it_is_a_word_like_any_other() {
    let states = explored(|load, store| {
        store();
        load();
    });
    assert!(states.is_ok(), "{states:?}");
}

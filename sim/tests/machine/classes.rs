//! Goal: states that no future tells apart are counted as one, and what tells them apart all the
//! same is named. Method: programs of a few lines whose states and classes are counted by hand, and
//! one whose states are known.

use kvmmu_model::{Mark, Ordering::SeqCst, Platform, Word};
use kvmmu_sim::classes::Classes;
use kvmmu_sim::mini::{FastFault, Simulated};
use kvmmu_sim::outcome::Reason;
use kvmmu_sim::program::{Moment, Program, Story};
use kvmmu_sim::rule::Rule;
use kvmmu_sim::{Goal, Limits, Sim, SimWord};

use super::ad::{Ad, AdInstance, Body, instance, program, var};

/// A goal that nothing meets, so that samples do not end early.
const NOTHING: Goal = Goal::of(Rule::Own("nothing"));

fn classes(program: &dyn Program) -> Classes {
    let limits = Limits { steps_max: 100, ..Limits::default() };
    Classes::of(program, &NOTHING, &limits, true).expect("it is small")
}

/// States, classes, and what could be left out of the keys.
fn counts(program: &dyn Program) -> (u64, u64, Vec<(String, usize)>) {
    let found = classes(program);
    let attribution = found.attribution.expect("it was asked for");
    assert_eq!((attribution.states as u64, attribution.keys as u64), (found.states, found.states));
    assert_eq!(attribution.classes as u64, found.classes);
    let parts = attribution.parts.iter().map(|part| (part.names.join(" + "), part.keys));
    (found.states, found.classes, parts.collect())
}

/// Two threads each write their number, from 1 on, to each of these words at once; more bodies; and
/// what the stop phase forbids the first word to be.
fn writing(
    words: usize,
    forbidden: u64,
    more: impl Fn(&Sim, &SimWord) -> Vec<Body> + Sync,
    threads: usize,
) -> impl Program {
    program(threads, move |sim: &Sim| -> AdInstance {
        let (sim, all) = (*sim, (0..words).map(|i| sim.word(var(i), 0)).collect::<Vec<_>>());
        let body = |t: u64| -> Body {
            let all = all.clone();
            Box::new(move || {
                all[0].store(t, SeqCst);
                all[1..].iter().for_each(|word| word.poke(t));
            })
        };
        let bodies = [body(1), body(2)].into_iter().chain(more(&sim, &all[0])).collect();
        let first = all[0];
        instance(bodies, move || {
            if first.peek() == forbidden {
                sim.violate(Rule::Own("forbidden"), || "at the end".to_string());
            }
        })
    })
}

#[test]
fn a_value_that_nobody_reads_tells_no_classes_apart() {
    let none = |_: &Sim, _: &SimWord| Vec::new();
    // The second of two writers wins, if that is ever looked at.
    assert_eq!(counts(&writing(1, 3, none, 2)), (5, 4, vec![("var".to_owned(), 4)]));
    assert_eq!(counts(&writing(1, 2, none, 2)), (5, 5, Vec::new()));
    // Words that always differ together.
    let both = vec![("var + var[1]".to_owned(), 4)];
    assert_eq!(counts(&writing(2, 3, none, 2)), (5, 4, both));
}

#[test]
fn a_step_that_violates_something_tells_classes_apart() {
    let reader = |forbidden: u64| {
        move |sim: &Sim, word: &SimWord| -> Vec<Body> {
            let (sim, word) = (*sim, *word);
            vec![Box::new(move || {
                if word.load(SeqCst) == forbidden {
                    sim.violate(Rule::Own("seen"), || "by the reader".to_string());
                }
            })]
        }
    };
    assert_eq!(counts(&writing(1, 3, reader(3), 3)), (10, 8, vec![("var".to_owned(), 8)]));
    // Of the five states before the reader, all differ; of those behind it, four.
    assert_eq!(counts(&writing(1, 3, reader(2), 3)), (10, 9, vec![("var".to_owned(), 9)]));
}

#[test]
fn cycles_have_classes_too() {
    let spinning = |sim: &Sim, word: &SimWord| -> Vec<Body> {
        let (sim, word) = (*sim, *word);
        vec![Box::new(move || {
            loop {
                sim.checkpoint(0);
                if word.load(SeqCst) == 3 {
                    break;
                }
            }
        })]
    };
    assert_eq!(counts(&writing(1, 3, spinning, 3)), (5, 4, vec![("var".to_owned(), 4)]));
}

#[test]
fn what_a_thread_remembers_for_nothing_is_named_with_the_place_where_it_stands() {
    let remembering = |sim: &Sim, word: &SimWord| -> Vec<Body> {
        let (own, word) = (sim.word(var(7), 0), *word);
        vec![Box::new(move || {
            word.load(SeqCst);
            own.store(1, SeqCst);
        })]
    };
    let found = classes(&writing(1, 3, remembering, 3));
    let parts = found.attribution.expect("it was asked for").parts;
    let seen = parts.iter().find(|part| part.names == ["what t2 has seen"]).expect("it differs");
    assert_eq!(seen.places.len(), 1);
    assert!(seen.places[0].name.starts_with("t2 Store sim/tests/machine/classes.rs:"));
    let word = parts.iter().find(|part| part.names == ["var"]).expect("it differs");
    // 1 or 2, and what merges has both writers behind it.
    assert_eq!((seen.bits, word.bits), (None, Some(3)));
    assert!(word.places[0].name == "t0 Done" && word.places[1].name == "t1 Done");
    assert_eq!(parts.last().expect("there are two").keys as u64, found.classes);
    assert_eq!(found.classes, 4 * 3);
}

#[test]
fn progress_towards_a_witness_that_samples_see_makes_no_states() {
    let marking = |sim: &Sim| {
        let (sim, words) = (*sim, [0, 1].map(|i| sim.word(var(i), 0)));
        let body = |t: usize| -> Body {
            Box::new(move || {
                words[t].store(1, SeqCst);
                sim.mark([Mark::Harvest, Mark::MarkDirty][t]);
                words[t].store(2, SeqCst);
            })
        };
        instance(vec![body(0), body(1)], || {})
    };
    let moment = |mark| Moment { mark, thread: None };
    let watching = |witnesses| counts(&Ad { witnesses, ..program(2, marking) });
    let seen = Story(vec![moment(Mark::Harvest), moment(Mark::MarkDirty)]);
    assert_eq!(watching(vec![seen]), watching(Vec::new()));
    // One that nobody passes is watched on.
    let unseen = Story([Mark::Harvest, Mark::MarkDirty, Mark::PageCopied].map(moment).to_vec());
    assert!(watching(vec![unseen]).0 > watching(Vec::new()).0);
}

#[test]
fn all_states_are_counted_and_limits_are_kept() {
    let program = Simulated(FastFault::new(2, 1));
    let found = classes(&program);
    // As `Stateful` counts them.
    assert_eq!((found.states, found.transitions), (1485, 3718));
    let count = |states_max| {
        Classes::of(&program, &Goal::ANY, &Limits { states_max, ..Limits::default() }, false)
    };
    assert_eq!(count(1485).expect("that is enough").classes, found.classes);
    assert_eq!(count(1484).expect_err("one more than there may be"), Reason::States);
}

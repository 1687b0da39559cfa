//! Goal: what no thread asks for again makes no states differ. Method: small programs that ask, and
//! that do not, against each other and against naive.

use std::collections::BTreeSet;

use kvmmu_model::{CpuId, CpuMask, Mark, Ordering::SeqCst, Platform, Word};
use kvmmu_sim::dpor::{Dpor, Record};
use kvmmu_sim::event::{What, Write};
use kvmmu_sim::graph::Graph;
use kvmmu_sim::naive::Naive;
use kvmmu_sim::outcome::{Found, Verdict};
use kvmmu_sim::program::{Moment, Program, Story};
use kvmmu_sim::replay::replay;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Auto, Engine, Goal, Sim, SimWord};

use super::ad::{Ad, AdInstance, Body, check, explore, found, instance, kind, program, var};

/// Changes a word for thread `t`, and drops what it held or never sees it.
type Change = fn(&SimWord, u64);

const SEEN: [Change; 3] = [
    |word, t| _ = word.fetch_or(1 << t, SeqCst),
    |word, t| _ = word.fetch_and(!(1 << t), SeqCst),
    |word, t| _ = word.fetch_add(1 << t, SeqCst),
];
const UNSEEN: [Change; 3] = [
    |word, t| word.or(1 << t, SeqCst),
    |word, t| word.and(!(1 << t), SeqCst),
    |word, t| word.add(1 << t, SeqCst),
];

/// Each of three threads changes one word, and then writes one of its own.
fn changing(change: Change) -> impl Program {
    program(3, move |sim: &Sim| {
        let word = sim.word(var(0), 5);
        let body = |t: usize| -> Body {
            let own = sim.word(var(1 + t), 0);
            Box::new(move || {
                change(&word, t as u64);
                own.store(1, SeqCst);
            })
        };
        instance((0..3).map(body).collect(), || {})
    })
}

/// How many states there are, and the keys of the shared states where executions end.
fn states_and_ends(program: &dyn Program) -> (u64, BTreeSet<u128>) {
    assert_eq!(check(program), Verdict::Holds);
    let mut naive = Naive::default();
    explore(program, &mut naive, Goal::ANY);
    (explore(program, &mut Stateful::default(), Goal::ANY).stats.states, naive.finals)
}

#[test]
fn what_a_word_held_makes_no_states_if_no_thread_sees_it() {
    for (seen, unseen) in SEEN.into_iter().zip(UNSEEN) {
        let (more, ends) = states_and_ends(&changing(seen));
        let (fewer, same_ends) = states_and_ends(&changing(unseen));
        // Each thread is before its change, before its store, or has ended.
        assert!(fewer == 27 && more > 27, "{more} and {fewer}");
        assert_eq!(ends, same_ends);
    }
}

#[test]
fn additions_commute_if_no_thread_sees_what_was_there() {
    let executions = |change, adds_commute| {
        let record = Some(Record::default());
        let mut dpor = Dpor { adds_commute, record, ..Dpor::default() };
        let outcome = explore(&changing(change), &mut dpor, Goal::ANY);
        let mut naive = Naive::default();
        naive.adds_commute = adds_commute;
        explore(&changing(change), &mut naive, Goal::ANY);
        let record = dpor.record.expect("it was asked for");
        assert_eq!((record.traces, record.finals), (naive.traces, naive.finals));
        assert_eq!(outcome.stats.blocked, 0);
        outcome.stats.executions
    };
    let [or, and, add] = UNSEEN;
    assert_eq!(executions(add, false), 1);
    assert_eq!([executions(or, false), executions(and, false)], [6, 6]);
    let [_, _, fetch_add] = SEEN;
    assert_eq!([executions(fetch_add, false), executions(fetch_add, true)], [6, 1]);
}

/// Thread 0 frees the word that thread 1 changes.
fn freed(change: Change) -> impl Program {
    program(2, move |sim: &Sim| {
        let (platform, word, gate) = (*sim, sim.word(var(0), 0), sim.word(var(1), 0));
        let free = move || {
            gate.store(1, SeqCst);
            platform.freed(&[word]);
        };
        instance(vec![Box::new(free), Box::new(move || change(&word, 1))], || {})
    })
}

#[test]
fn a_change_that_sees_nothing_is_checked_and_reported_all_the_same() {
    let hows = [Write::Or, Write::And, Write::Add];
    for ((seen, unseen), expected) in SEEN.into_iter().zip(UNSEEN).zip(hows) {
        let program = freed(unseen);
        assert_eq!(found(check(&program)).rule.name(), "use-after-free");
        let by_dpor = explore(&program, &mut Dpor::default(), Goal::ANY).verdict;
        assert_eq!(kind(&by_dpor), Some("use-after-free"));

        let writes = |change| {
            let mut engine = Engine::new(&changing(change), Goal::ANY);
            let schedule =
                "v1-00000000:0*2,1*2,2*2".parse::<kvmmu_sim::schedule::StampedSchedule>();
            let events =
                replay(&mut engine, &schedule.expect("it parses").schedule).expect("it fits");
            events.events.into_iter().map(|event| event.what).collect::<Vec<_>>()
        };
        assert_eq!(writes(unseen), writes(seen));
        let is_expected = |what: &What| matches!(what, What::Write { how, .. } if *how == expected);
        assert_eq!(writes(unseen).iter().filter(|what| is_expected(what)).count(), 3);
    }
}

/// Each of two threads passes a mark of its own three times.
fn marking(sim: &Sim) -> AdInstance {
    let (platform, words) = (*sim, [0, 1].map(|i| sim.word(var(i), 0)));
    let body = |t: usize| -> Body {
        Box::new(move || {
            for i in 0..3 {
                platform.checkpoint(i);
                words[t].store(i, SeqCst);
                platform.mark([Mark::Harvest, Mark::MarkDirty][t]);
            }
        })
    };
    let stop = move || platform.violate(Rule::Own("always"), || "at the end".to_string());
    instance(vec![body(0), body(1)], stop)
}

/// These marks in this order, by any thread.
fn order<const N: usize>(marks: [Mark; N]) -> Story {
    Story(marks.map(|mark| Moment { mark, thread: None }).to_vec())
}

#[test]
fn a_witness_that_the_samples_saw_makes_no_states() {
    use Mark::{Harvest, MarkDirty};
    let seen = [order([Harvest, MarkDirty]), order([MarkDirty, Harvest, MarkDirty, Harvest])];
    let never = order([Harvest, MarkDirty, Harvest, MarkDirty, Harvest, MarkDirty, Harvest]);
    let explore = |witnesses: &[Story], executions: u64| {
        let program = Ad { witnesses: witnesses.to_vec(), ..program(2, marking) };
        let mut auto = Auto { executions, ..Auto::default() };
        let goal = Goal::of(Rule::Own("something else"));
        let outcome = explore(&program, &mut auto, goal.clone());
        let oracle = explore(&program, &mut Naive::default(), goal);
        assert_eq!(outcome.verdict, Verdict::Holds);
        assert_eq!((&outcome.verdict, &outcome.seen), (&oracle.verdict, &oracle.seen));
        let rules = |found: &[Found]| found.iter().map(|f| f.rule).collect::<Vec<_>>();
        assert_eq!(rules(&outcome.others), rules(&oracle.others));
        outcome
    };
    let without = explore(&[], 500).stats.states;
    let all = explore(&seen, 500);
    assert_eq!((all.stats.states, all.seen.witnesses), (without, 0b11));
    assert!(explore(&seen, 0).stats.states > without);

    // Those that were not seen yet are watched on, and found: no execution has both of these.
    let either =
        [[Harvest, Harvest, Harvest, MarkDirty], [MarkDirty, MarkDirty, MarkDirty, Harvest]];
    assert_eq!(explore(&either.map(order), 1).seen.witnesses, 0b11);
    assert!(explore(&[never], 500).stats.states > without);
}

/// Thread 0 interrupts each other thread, and then takes one more step. They turn interrupts off
/// and on.
fn interrupting(targets: u8, wait: bool) -> impl Program {
    program(1 + usize::from(targets), move |sim: &Sim| {
        let (platform, word) = (*sim, sim.word(var(0), 0));
        let send = move || {
            let all = CpuMask((2 << targets) - 2);
            platform.smp_call_function_many(Some(CpuId(0)), all, wait);
            word.store(1, SeqCst);
        };
        let target = |cpu| -> Body {
            Box::new(move || {
                platform.local_irq_disable(CpuId(cpu));
                platform.local_irq_enable(CpuId(cpu));
            })
        };
        let send: Body = Box::new(send);
        instance(core::iter::once(send).chain((1..=targets).map(target)).collect(), || {})
    })
}

#[test]
fn a_sender_remembers_only_whom_it_waits_for() {
    let states = |targets, wait| states_and_ends(&interrupting(targets, wait)).0;
    // A target is before, between or behind its two steps; so is the sender, and it may wait for a
    // target between them or behind.
    assert_eq!(states(1, true), 3 * 3 + 2);
    // Instead of waiting, it may have left its interrupt to a target between them.
    assert_eq!(states(1, false), 3 * 3 + 2);
    // With two it cannot do better, either.
    for (wait, fewest) in [(true, 58), (false, 53)] {
        let mut stateful = Stateful { graph: Some(Graph::default()), ..Stateful::default() };
        explore(&interrupting(2, wait), &mut stateful, Goal::ANY);
        let graph = stateful.graph.expect("it was asked for");
        assert_eq!((graph.states(), graph.quotient()), (fewest, fewest));
        assert_eq!(states(2, wait), fewest as u64);
    }
}

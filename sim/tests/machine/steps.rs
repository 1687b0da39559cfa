//! Goal: the simulated machine does what its documentation says.
//! Method: programs of a few lines, explored completely.

use std::sync::Arc;

use kvmmu_model::{
    CpuId, CpuMask, Lock, LockClass, Mark, Object, Ordering::SeqCst, Platform, Tag, Until, Word,
};
use kvmmu_sim::dpor::Dpor;
use kvmmu_sim::event::What;
use kvmmu_sim::footprint::LOCS;
use kvmmu_sim::naive::Naive;
use kvmmu_sim::outcome::{Reason, Verdict};
use kvmmu_sim::program::{Moment, Story};
use kvmmu_sim::random::Random;
use kvmmu_sim::replay::replay;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::snapshot::Snapshots;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Engine, Goal, Sim};

use super::ad::{Ad, AdInstance, Body, check, explore, found, instance, kind, program, var};

#[test]
fn data_changed_through_a_reference_that_lives_across_steps_is_part_of_the_state() {
    let build = |sim: &Sim| {
        let lock = sim.lock(LockClass::VarLock.one(), [0u16; 3]);
        let word = sim.word(var(0), 0);
        let add = move |n: u16| {
            let mut guard = lock.lock();
            let data: &mut [u16; 3] = &mut guard;
            data[0] += n;
            word.load(SeqCst);
            data[1] = data[0] * 2;
            word.store(n as u64, SeqCst);
            data[2] += 1;
        };
        let sim = *sim;
        let stop = move || {
            let data = lock.peek();
            if data[0] != 7 || data[2] != 3 || data[1] != 14 {
                sim.violate(Rule::Own("sum"), || format!("{data:?}"));
            }
        };
        instance((0..3).map(|t| Box::new(move || add(1 << t)) as Body).collect(), stop)
    };
    assert_eq!(check(&program(3, build)), Verdict::Holds);
}

#[test]
fn locks_taken_in_two_orders_deadlock() {
    let build = |sim: &Sim| {
        let locks = [0, 1].map(|i| sim.lock(LockClass::VarLock.nth(i), ()));
        let take = move |first: usize| {
            let _outer = locks[first].lock();
            let _inner = locks[1 - first].lock();
        };
        instance(vec![Box::new(move || take(0)), Box::new(move || take(1))], || {})
    };
    let program = program(2, build);
    let found = found(check(&program));
    assert_eq!(found.rule.name(), "deadlock");
    assert!(found.detail.starts_with("t0 waits for lock[1]"), "{}", found.detail);
    let mut engine = Engine::new(&program, Goal::ANY);
    let replay = replay(&mut engine, &found.schedule).expect("it fits");
    assert!(matches!(replay.events.last().map(|e| &e.what), Some(What::Violation { .. })));
}

/// Thread `t` spins until word `t` is 1; the last thread writes these words.
fn spins(writes: &'static [usize]) -> impl Fn(&Sim) -> AdInstance + Sync {
    move |sim: &Sim| {
        let (words, platform) = ([0, 1].map(|i| sim.word(var(i), 0)), *sim);
        let spin = move |i: usize| {
            while words[i].load(SeqCst) == 0 {
                platform.checkpoint(());
            }
        };
        let write = move || writes.iter().for_each(|i| words[*i].store(1, SeqCst));
        instance(vec![Box::new(move || spin(0)), Box::new(move || spin(1)), Box::new(write)], || {})
    }
}

#[test]
fn going_round_for_ever_is_a_livelock_unless_a_preempted_thread_would_end_it() {
    for (writes, verdict) in [
        (&[0, 1][..], None),
        (&[0][..], Some("t1 can go round for ever")),
        (&[][..], Some("t0, t1 can go round for ever")),
    ] {
        let program = program(3, spins(writes));
        let outcome = explore(&program, &mut Stateful::default(), Goal::ANY);
        let found = match outcome.verdict {
            Verdict::Violated(found) => Some(found),
            _ => None,
        };
        assert_eq!(found.as_ref().map(|f| f.detail.as_str()), verdict);
        if let Some(found) = found {
            assert_eq!(found.rule.name(), "livelock");
            let mut engine = Engine::new(&program, Goal::ANY);
            let keys = replay(&mut engine, &found.schedule).expect("it fits").keys;
            assert!(keys[..keys.len() - 1].contains(keys.last().expect("there are steps")));
        }
    }
}

/// One thread retries until a word is 1; the other writes these values to it.
fn retries(values: &'static [u64]) -> impl Fn(&Sim) -> AdInstance + Sync {
    move |sim: &Sim| {
        let (word, noise, platform) = (sim.word(var(0), 0), sim.word(var(1), 0), *sim);
        let retry = move || {
            loop {
                platform.checkpoint(());
                platform.attempt_begin();
                noise.swap(1, SeqCst);
                let done = platform.call("attempt", || word.load(SeqCst) == 1);
                noise.swap(0, SeqCst);
                if done {
                    break;
                }
                platform.wait_for_change();
            }
            platform.attempt_end();
        };
        let write = move || values.iter().for_each(|v| word.store(*v, SeqCst));
        instance(vec![Box::new(retry), Box::new(write)], || {})
    }
}

#[test]
fn a_retry_that_changed_nothing_waits_for_a_change() {
    assert_eq!(check(&program(2, retries(&[1]))), Verdict::Holds);
    assert_eq!(check(&program(2, retries(&[2, 0, 1]))), Verdict::Holds);
    // A value that is back is no change: in the end the retry waits, and nothing will come.
    assert_eq!(found(check(&program(2, retries(&[2, 0])))).rule.name(), "livelock");
    assert_eq!(found(check(&program(2, retries(&[])))).rule.name(), "livelock");
}

/// CPU 0 works with interrupts off; an IPI that is waited for must not overlap its work.
fn interrupts(wait: bool) -> impl Fn(&Sim) -> AdInstance + Sync {
    move |sim: &Sim| {
        let (platform, inside) = (*sim, sim.cell(false));
        let target = move || {
            platform.local_irq_disable(CpuId(0));
            inside.set(true);
            platform.irq_pending(CpuId(0));
            inside.set(false);
            platform.local_irq_enable(CpuId(0));
        };
        let word = sim.word(var(0), 0);
        let send = move || {
            let was_inside = inside.get();
            platform.observe(&was_inside);
            platform.smp_call_function_many(None, CpuMask(1), wait);
            word.load(SeqCst);
            if was_inside && inside.get() {
                platform.violate(Rule::Own("overlap"), || "the interrupt was not handled".into());
            }
        };
        // The first access of the sender is in the middle of the run.
        let send = move || {
            word.store(1, SeqCst);
            send();
        };
        instance(vec![Box::new(target), Box::new(send)], || {})
    }
}

#[test]
fn an_ipi_is_waited_for_until_interrupts_are_on() {
    assert_eq!(check(&program(2, interrupts(true))), Verdict::Holds);
    assert_eq!(found(check(&program(2, interrupts(false)))).rule.name(), "overlap");
}

#[test]
fn freed_words_must_not_be_touched() {
    let build = |sim: &Sim| {
        let (platform, word) = (*sim, sim.word(Tag::nth(Object::Page, 2), 5));
        let free = move || {
            word.store(0, SeqCst);
            platform.freed(&[word]);
        };
        let read = move || {
            word.load(SeqCst);
        };
        instance(vec![Box::new(free), Box::new(read)], || {})
    };
    let found = found(check(&program(2, build)));
    assert_eq!(found.rule.name(), "use-after-free");
    assert_eq!(found.detail, "page[2] is accessed after it was freed");
}

#[test]
fn a_guest_access_branches_over_its_outcomes() {
    let build = |sim: &Sim| {
        let (platform, word) = (*sim, sim.word(var(0), 1));
        let results = sim.cell(0u64);
        let access = move || {
            let choice = platform.access(3);
            results.with(|r| *r |= 1 << choice);
        };
        let widen = move || word.store(4, SeqCst);
        let stop = move || {
            if results.get() == 1 << 3 {
                platform.violate(Rule::Own("fourth"), || {
                    "the outcome that the store made possible".into()
                });
            }
        };
        let bodies: Vec<Body> = vec![Box::new(access), Box::new(widen)];
        let choices = Box::new(move |_| word.peek() as u8);
        AdInstance { choices, ..instance(bodies, stop) }
    };
    let program = program(2, build);
    let found = found(check(&program));
    assert_eq!(found.schedule.to_string(), "1,0/3");
    let mut naive = Naive::default();
    explore(&program, &mut naive, Goal::ANY);
    assert_eq!((naive.finals.len(), naive.violations), (4, 1));
}

#[test]
fn a_panic_in_a_thread_is_an_error_of_the_run() {
    let build = |sim: &Sim| {
        let word = sim.word(var(0), 0);
        let lock = sim.lock(LockClass::VarLock.one(), 0u8);
        let fail = move || {
            let _guard = lock.lock();
            assert!(word.load(SeqCst) == 0, "on purpose");
        };
        instance(vec![Box::new(fail), Box::new(move || word.store(1, SeqCst))], || {})
    };
    let outcome = explore(&program(2, build), &mut Stateful::default(), Goal::ANY);
    assert_eq!(outcome.verdict, Verdict::Inconclusive(Reason::InternalError));
    assert_eq!(outcome.others[0].rule.name(), "internal-error");
    assert_eq!(outcome.others[0].detail, "on purpose");
}

fn moment(mark: Mark) -> Moment {
    Moment { mark, thread: None }
}

/// Two threads pass one mark each around a shared access.
fn marks(sim: &Sim) -> AdInstance {
    let (platform, word) = (*sim, sim.word(var(0), 0));
    let pass = move |mark| {
        word.load(SeqCst);
        platform.mark(mark);
    };
    let stop = move || platform.violate(Rule::Own("always"), || "in the end".into());
    let bodies: Vec<Body> =
        vec![Box::new(move || pass(Mark::Harvest)), Box::new(move || pass(Mark::MarkDirty))];
    instance(bodies, stop)
}

#[test]
fn a_goal_with_a_story_is_met_by_that_story_alone() {
    for (story, schedule) in
        [([Mark::Harvest, Mark::MarkDirty], "0,1"), ([Mark::MarkDirty, Mark::Harvest], "1,0")]
    {
        let story = Story(story.map(moment).to_vec());
        let goal = Goal { rule: Some(Rule::Own("always")), story: Some(story), nesting: None };
        let outcome = explore(&program(2, marks), &mut Stateful::default(), goal);
        let found = found(outcome.verdict);
        assert_eq!((found.schedule.to_string().as_str(), found.story), (schedule, true));
    }
    let never = Story(vec![moment(Mark::Harvest), moment(Mark::Harvest)]);
    let goal = Goal { rule: None, story: Some(never), nesting: None };
    let outcome = explore(&program(2, marks), &mut Stateful::default(), goal);
    assert_eq!(outcome.verdict, Verdict::Holds);
    assert_eq!((outcome.others.len(), outcome.others[0].story), (1, false));
}

#[test]
fn witnesses_are_seen_wherever_they_happen() {
    let mine = Story(vec![Moment { mark: Mark::Harvest, thread: Some(0) }]);
    let other = Story(vec![Moment { mark: Mark::Harvest, thread: Some(1) }]);
    let pair = Story(vec![moment(Mark::MarkDirty), moment(Mark::Harvest)]);
    let witnesses = vec![mine, other, pair];
    let program = Ad { witnesses, ..program(2, marks) };
    let goal = Goal::of(Rule::Own("something else"));
    let outcome = explore(&program, &mut Stateful::default(), goal);
    assert_eq!(outcome.verdict, Verdict::Holds);
    assert_eq!(outcome.seen.witnesses, 0b101);
    assert!(outcome.seen.mark(Mark::MarkDirty) && !outcome.seen.mark(Mark::Gup));
    assert_eq!(outcome.others.len(), 1);
}

#[test]
fn waiting_is_not_spinning() {
    let build = |sim: &Sim| {
        let word = sim.word(var(0), 0);
        let wait = move || assert_eq!(word.wait_until(Until::Not(0)), 2);
        let write = move || {
            word.store(2, SeqCst);
        };
        instance(vec![Box::new(wait), Box::new(write)], || {})
    };
    let mut naive = Naive::default();
    let outcome = explore(&program(2, build), &mut naive, Goal::ANY);
    assert_eq!((outcome.verdict, outcome.stats.executions), (Verdict::Holds, 1));
}

#[test]
fn snapshots_bring_back_what_replay_reaches() {
    let program = program(2, retries(&[2, 0, 1]));
    let mut engine = Engine::new(&program, Goal::ANY);
    let mut snapshots = Snapshots::new();
    let (mut keys, mut path, mut moves) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        engine.save(&mut snapshots);
        keys.push(engine.key());
        moves.clear();
        engine.moves(&mut moves);
        let Some(step) = moves.get(path.len() % moves.len().max(1)).copied() else { break };
        engine.step(step);
        path.push(step);
    }
    for at in (0..keys.len()).chain((0..keys.len()).rev()) {
        engine.restore(&snapshots, at);
        assert_eq!(engine.key(), keys[at]);
        for (step, key) in path[at..].iter().zip(&keys[at + 1..]) {
            engine.step(*step);
            assert_eq!(engine.key(), *key);
        }
    }
}

#[test]
fn engines_on_several_os_threads_do_not_disturb_each_other() {
    let run = || {
        let program = program(2, retries(&[2, 0, 1]));
        let outcome = explore(&program, &mut Stateful::default(), Goal::ANY);
        (kind(&outcome.verdict), outcome.stats)
    };
    let alone = run();
    let others: Vec<_> = (0..4).map(|_| std::thread::spawn(run)).collect();
    others.into_iter().for_each(|t| assert_eq!(t.join().expect("no panic"), alone));
}

#[test]
fn an_engine_frees_its_instance_and_reuses_its_machine() {
    let witness = Arc::new(());
    for _ in 0..3 {
        let held = witness.clone();
        let build = move |sim: &Sim| {
            let (word, held) = (sim.word(var(0), 0), held.clone());
            instance(vec![Box::new(move || word.store(1, SeqCst))], move || drop(held.clone()))
        };
        explore(&program(1, build), &mut Random, Goal::ANY);
    }
    assert_eq!(Arc::strong_count(&witness), 1);
}

#[test]
fn a_trace_names_calls_locks_and_values() {
    let build = |sim: &Sim| {
        let (platform, word) = (*sim, sim.word(var(0), 7));
        let lock = sim.lock(LockClass::MmuLock.one(), ());
        let body = move || {
            platform.call("outer", || {
                let _guard = lock.lock();
                platform.call("inner", || word.swap(8, SeqCst))
            });
        };
        let stop = move || {
            word.load(SeqCst);
        };
        instance(vec![Box::new(body)], stop)
    };
    let mut engine = Engine::new(&program(1, build), Goal::ANY);
    let schedule = "v1-00000000:0*2".parse::<kvmmu_sim::schedule::StampedSchedule>();
    let replay = replay(&mut engine, &schedule.expect("it parses").schedule).expect("it fits");
    let texts: Vec<String> = replay
        .events
        .iter()
        .map(|e| format!("{} {} {:?} {} {:?}", e.step, e.thread, e.stack, e.held.len(), e.what))
        .collect();
    let expected = [
        r#"0 0 [] 0 Call("outer")"#,
        "1 0 [\"outer\"] 1 Acquire { object: Tag { object: Lock(MmuLock), index: [0, 0] }, \
         mode: Exclusive }",
        r#"1 0 ["outer"] 1 Call("inner")"#,
        "2 0 [\"outer\", \"inner\"] 1 Write { object: Tag { object: Var, index: [0, 0] }, \
         how: Swap, old: 7, new: 8 }",
        r#"2 0 ["outer"] 1 Return("inner")"#,
        r#"2 0 ["outer"] 0 Release { object: Tag { object: Lock(MmuLock), index: [0, 0] } }"#,
        r#"2 0 [] 0 Return("outer")"#,
        r#"3 255 [] 0 Load { object: Tag { object: Var, index: [0, 0] }, value: 8 }"#,
    ];
    assert_eq!(texts, expected);
    assert!(replay.events.iter().all(|e| e.file.ends_with("steps.rs")));
}

#[test]
fn each_of_many_locations_is_one_of_its_own_and_what_is_not_is_reported() {
    let count = |each: usize| {
        let build = move |sim: &Sim| {
            let body = |t: usize| -> Body {
                let words: Vec<_> = (0..each).map(|i| sim.word(var(t * each + i), 0)).collect();
                Box::new(move || words.iter().for_each(|word| word.store(1, SeqCst)))
            };
            instance(vec![body(0), body(1)], || {})
        };
        let outcome = explore(&program(2, build), &mut Dpor::default(), Goal::ANY);
        assert_eq!(outcome.verdict, Verdict::Holds);
        (outcome.stats.executions, outcome.stats.lumped)
    };
    // No step of one thread depends on one of the other.
    assert_eq!(count(LOCS / 2), (1, 0));
    assert_eq!(count(LOCS / 2 + 1).1, 3);
}

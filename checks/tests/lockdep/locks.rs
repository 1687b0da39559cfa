//! Goal: programs of locks and choices do what they say, in every strategy, and what is wrong with
//! them is found.
//! Method: small scenarios as text, through the loader. Each is explored by stateful, dpor, naive
//! and random; random programs of locks, not checked, must lead the exhaustive three to the same
//! states, final states and deadlocks.

use std::collections::BTreeSet;
use std::fmt::Write;

use kvmmu_model::GuardSet;
use kvmmu_scenarios::loader;
use kvmmu_sim::dpor::{Dpor, Record};
use kvmmu_sim::graph::Graph;
use kvmmu_sim::naive::Naive;
use kvmmu_sim::outcome::{Outcome, Stats, Verdict};
use kvmmu_sim::race::Race;
use kvmmu_sim::random::Random;
use kvmmu_sim::replay::replay;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Engine, Explorer, Goal, Limits};

/// How many random programs there are.
const CASES: u64 = 150;
/// Never found, so that everything is explored.
const NOTHING: Goal = Goal::of(Rule::Own("no-such-rule"));
/// What `[check]` says.
const ON: &str = "";
const OFF: &str = "lock-checks = false";

/// A thread: its name, and its program as the file has it.
type Program<'a> = (&'a str, &'a str);

/// A scenario of these threads.
fn race(threads: &[Program<'_>], check: &str) -> Race {
    let mut text =
        String::from("title = \"t\"\nsource = \"s\"\nabout = \"a\"\npaging = \"direct\"\n");
    text += "spte = \"ept\"\n[host]\npages = 8\n[[slot]]\ngfn = 0\npages = 6\n";
    for (name, run) in threads.iter().filter(|(name, _)| *name != "stop") {
        let _ = writeln!(text, "[[thread]]\nname = \"{name}\"\nrun = [{run}]");
    }
    let _ = writeln!(text, "[check]\n{check}");
    for (_, run) in threads.iter().filter(|(name, _)| *name == "stop") {
        let _ = writeln!(text, "[at-stop]\nrun = [{run}]");
    }
    let scenario = loader::load("locks.toml", &text, 1);
    Race::new(scenario.unwrap_or_else(|e| panic!("{e}\n{text}")), GuardSet::EMPTY)
}

fn explore(race: &Race, explorer: &mut dyn Explorer, limits: &Limits, goal: Goal) -> Outcome {
    explorer.explore(race, &goal, limits, &|_: &Stats| true)
}

/// What was violated, by property.
fn violated(outcome: &Outcome) -> BTreeSet<&'static str> {
    outcome.others.iter().map(|found| found.rule.name()).collect()
}

/// Every strategy violates something, and nothing but `allowed`; or nothing at all.
#[track_caller]
fn finds(threads: &[Program<'_>], check: &str, allowed: &[&str]) {
    let race = race(threads, check);
    let sampled = Limits { executions_max: 300, ..Limits::default() };
    let strategies: [(&str, Box<dyn Explorer>, Limits); 4] = [
        ("stateful", Box::<Stateful>::default(), Limits::default()),
        ("dpor", Box::<Dpor>::default(), Limits::default()),
        ("naive", Box::<Naive>::default(), Limits::default()),
        ("random", Box::<Random>::default(), sampled),
    ];
    for (name, mut explorer, limits) in strategies {
        let outcome = explore(&race, &mut *explorer, &limits, NOTHING);
        let found = violated(&outcome);
        assert_eq!(found.is_empty(), allowed.is_empty(), "{name} of {threads:?}: {found:?}");
        assert!(found.iter().all(|p| allowed.contains(p)), "{name} of {threads:?}: {found:?}");
        if name != "random" {
            assert_eq!(outcome.verdict, Verdict::Holds, "{name} has seen all there is");
        }
    }
}

const RIGHT: &str =
    r#""lock kvm->lock", "lock slots_lock", "unlock slots_lock", "unlock kvm->lock""#;
const WRONG: &str =
    r#""lock slots_lock", "lock kvm->lock", "unlock kvm->lock", "unlock slots_lock""#;

#[test]
fn an_inversion_is_found_and_so_is_its_deadlock() {
    let both = [("user", RIGHT), ("user1", WRONG)];
    finds(&both, ON, &["lock-order", "lock-cycle"]);
    finds(&both, OFF, &["deadlock"]);
    finds(&[("user", RIGHT), ("user1", RIGHT)], ON, &[]);
    // No run deadlocks: one thread takes them both ways, one after the other.
    finds(&[("user", &format!("{RIGHT}, {WRONG}"))], ON, &["lock-cycle", "lock-order"]);
    finds(&[("user", &format!("{RIGHT}, {WRONG}"))], OFF, &[]);
}

#[test]
fn a_grace_period_waits_for_readers() {
    let update = r#""lock slots_lock", "synchronize srcu", "unlock slots_lock""#;
    let reads = r#""read-lock srcu", "lock mmu_lock", "unlock mmu_lock", "read-unlock srcu""#;
    let waits = r#""read-lock srcu", "lock slots_lock", "unlock slots_lock", "read-unlock srcu""#;
    finds(&[("user", update), ("user1", reads)], ON, &[]);
    // The cycle is told once; further on the deadlock is reached.
    finds(&[("user", update), ("user1", waits)], ON, &["lock-cycle", "deadlock"]);
    finds(&[("user", update), ("user1", waits)], OFF, &["deadlock"]);
    // Sections nest, and one that has ended leaves the other.
    let nested = r#""read-lock srcu", "read-lock srcu", "read-unlock srcu", "lock slots_lock",
        "unlock slots_lock", "read-unlock srcu""#;
    finds(&[("user", update), ("user1", nested)], OFF, &["deadlock"]);
    finds(&[("host", nested)], ON, &[]);
    let two = r#""read-lock srcu", "read-lock srcu", "read-unlock srcu", "read-unlock srcu",
        "lock slots_lock", "unlock slots_lock""#;
    finds(&[("user", update), ("user1", two)], ON, &[]);
    finds(&[("user", update), ("user1", two)], OFF, &[]);
    // A thread that waits for itself.
    finds(
        &[("user", r#""read-lock srcu", "synchronize srcu", "read-unlock srcu""#)],
        ON,
        &["lock-usage"],
    );
    finds(
        &[("user", r#""read-lock srcu", "synchronize srcu", "read-unlock srcu""#)],
        OFF,
        &["deadlock"],
    );
}

#[test]
fn readers_block_one_another_through_a_writer_that_waits() {
    let outer = r#""read-lock mmap_lock", "lock slots_lock", "unlock slots_lock",
        "read-unlock mmap_lock""#;
    let inner = r#""lock slots_lock", "read-lock mmap_lock", "read-unlock mmap_lock",
        "unlock slots_lock""#;
    let writer = r#""lock mmap_lock", "unlock mmap_lock""#;
    finds(&[("user", outer), ("user1", inner)], ON, &["lock-cycle"]);
    finds(&[("user", outer), ("user1", inner)], OFF, &[]);
    finds(&[("user", outer), ("user1", inner), ("user2", writer)], OFF, &["deadlock"]);
    finds(&[("user", outer), ("user1", outer), ("user2", writer)], ON, &[]);
    let twice = r#""read-lock mmap_lock", "read-lock mmap_lock""#;
    finds(&[("user", twice)], ON, &["lock-usage"]);
}

#[test]
fn each_rule_is_enforced() {
    let found_alone = [
        (r#""lock slots_lock", "lock slots_lock""#, "lock-usage"),
        (r#""lock mmap_lock", "read-lock mmap_lock""#, "lock-usage"),
        (r#""lock slots_lock""#, "lock-usage"),
        (r#""read-lock srcu""#, "lock-usage"),
        (r#""read-lock mmap_lock""#, "lock-usage"),
        (r#""lock mmu_lock", "lock slots_lock""#, "lock-sleep"),
        (r#""lock mmu_lock", "read-lock mmap_lock""#, "lock-sleep"),
        (r#""lock mmu_lock", "synchronize srcu""#, "lock-sleep"),
        (r#""lock mmu_lock", "lock host_mm""#, "lock-leaf"),
        (r#""lock vcpu1->mutex", "lock kvm->lock""#, "lock-order"),
    ];
    for (run, property) in found_alone {
        finds(&[("host", run)], ON, &[property]);
    }
    let alone = r#""lock slots_lock""#;
    finds(&[("host", alone)], OFF, &[]);
    finds(&[("host", alone), ("user", alone)], OFF, &["deadlock"]);
    finds(&[("user", r#""lock slots_lock", "lock slots_lock""#)], OFF, &["deadlock"]);
}

#[test]
fn the_end_runs_programs_of_locks_too() {
    let idle = ("host", r#""shrink""#);
    finds(&[idle, ("stop", RIGHT)], ON, &[]);
    finds(&[idle, ("stop", r#""lock slots_lock""#)], ON, &["lock-usage"]);
    finds(&[idle, ("stop", WRONG)], ON, &["lock-order"]);
    finds(&[("host", r#""lock slots_lock""#), ("stop", RIGHT)], OFF, &["deadlock"]);
}

/// KVM_RUN has `vcpu->mutex` and, outside of the guest, a read section of `kvm->srcu`.
#[test]
fn a_vcpu_runs_its_program_inside_of_kvm_run() {
    finds(&[("vcpu0", r#""lock vcpu0->mutex""#)], ON, &["lock-usage"]);
    finds(&[("vcpu0", r#""lock kvm->lock", "unlock kvm->lock""#)], ON, &["lock-order"]);
    finds(&[("vcpu0", r#""synchronize srcu""#)], ON, &["lock-usage"]);
    finds(&[("vcpu0", r#""lock slots_lock", "unlock slots_lock""#)], ON, &[]);
    finds(&[("vcpu0", r#""read-lock srcu""#)], ON, &["lock-usage"]);
    let over = r#""read-lock srcu", "read gfn0", "read-unlock srcu""#;
    finds(&[("vcpu0", over)], ON, &[]);
    // The guest that runs holds nobody up, a section around it does.
    let mutex = r#""lock vcpu0->mutex", "unlock vcpu0->mutex""#;
    finds(&[("vcpu0", r#""prefault gfn0""#), ("user", mutex)], ON, &[]);
}

#[test]
fn a_choice_goes_every_way() {
    let first = r#"["change-pte gfn0 pfn6", "change-pte gfn1 pfn6", "change-pte gfn2 pfn6"]"#;
    let second = r#"["change-pte gfn3 pfn6", "change-pte gfn4 pfn6", "change-pte gfn5 pfn6"]"#;
    let race = race(&[("host", first), ("host1", second)], ON);
    let everything = Limits::default();
    let mut stateful = Stateful { graph: Some(Graph::default()), ..Stateful::default() };
    let by_state = explore(&race, &mut stateful, &everything, NOTHING);
    let graph = stateful.graph.expect("it was asked for");
    assert_eq!(graph.clashes, 0, "{:?}", graph.first_clash);
    // Both moved, or one alone: the other found the page in its hands, and gave up.
    let ends = 3 * 3 + 3 + 3;
    assert_eq!((by_state.stats.executions, &by_state.verdict), (ends, &Verdict::Holds));
    let mut naive = Naive::default();
    explore(&race, &mut naive, &everything, NOTHING);
    assert_eq!(naive.finals.len() as u64, ends);
    let mut dpor = Dpor { record: Some(Record::default()), ..Dpor::default() };
    explore(&race, &mut dpor, &everything, NOTHING);
    let record = dpor.record.expect("it was asked for");
    assert_eq!(record.finals, naive.finals);
    assert_eq!(record.traces, naive.traces);
    let keys: BTreeSet<u128> = graph.keys().map(|key| key & !1).collect();
    assert_eq!(naive.states.iter().map(|key| key & !1).collect::<BTreeSet<_>>(), keys);
}

#[test]
fn a_schedule_replays_the_choices() {
    let run = r#"["read gfn0", "read gfn1", "write gfn0"], "read gfn0""#;
    let race = race(&[("vcpu0", run)], "always = [\"guest-never-writes\"]");
    let mut explorers: [Box<dyn Explorer>; 3] =
        [Box::<Stateful>::default(), Box::<Dpor>::default(), Box::<Naive>::default()];
    for explorer in &mut explorers {
        let outcome = explore(&race, &mut **explorer, &Limits::default(), Goal::ANY);
        let Verdict::Violated(found) = outcome.verdict else { panic!("{:?}", outcome.verdict) };
        assert_eq!(found.rule.name(), "guest-never-writes");
        assert!(found.schedule.0.iter().any(|step| step.choice == 2), "{}", found.schedule);
        let mut engine = Engine::new(&race, Goal::ANY);
        let again = replay(&mut engine, &found.schedule).expect("it fits");
        assert_eq!(again.violation.expect("the same").rule.name(), "guest-never-writes");
    }
}

#[test]
fn a_vcpu_with_locks_and_a_choice_has_states_that_dpor_knows_too() {
    let vcpu = r#"["read gfn0", "write gfn1", "synchronize mmu_notifier_srcu"], "lock slots_lock",
        ["prefault gfn1", "read gfn1"], "unlock slots_lock""#;
    let user = r#""lock slots_lock", ["synchronize srcu", "age gfn0"], "unlock slots_lock""#;
    let race = race(&[("vcpu0", vcpu), ("user", user)], OFF);
    let mut stateful = Stateful { graph: Some(Graph::default()), ..Stateful::default() };
    let by_state = explore(&race, &mut stateful, &Limits::default(), NOTHING);
    let graph = stateful.graph.expect("it was asked for");
    assert_eq!(graph.clashes, 0, "{:?}", graph.first_clash);
    let by_trace = explore(&race, &mut Dpor::default(), &Limits::default(), NOTHING);
    assert_eq!(violated(&by_state), BTreeSet::from(["deadlock"]));
    assert_eq!(violated(&by_trace), violated(&by_state));
    assert_eq!(by_trace.seen, by_state.seen);
}

#[test]
fn programs_print_as_files_have_them() {
    let run = r#""lock slots_lock", ["read gfn0", "prefault gfn1"], "read-lock mmap_lock",
        "synchronize srcu", "unlock slots_lock", "lock vcpu3->mutex", "read-unlock mmap_lock""#;
    let race = race(&[("vcpu0", run)], ON);
    assert_eq!(
        race.scenario().threads[0].run.to_string(),
        "lock slots_lock, one of (read gfn0 | prefault gfn1), read-lock mmap_lock, \
         synchronize srcu, unlock slots_lock, lock vcpu3->mutex, read-unlock mmap_lock"
    );
}

/// A random program: locks that are given back in any order or not at all, and choices.
fn program(random: &mut impl FnMut(usize) -> usize) -> String {
    const LOCKS: [(&str, &str, &str); 6] = [
        ("lock", "unlock", "slots_lock"),
        ("lock", "unlock", "kvm->lock"),
        ("read-lock", "read-unlock", "srcu"),
        ("read-lock", "read-unlock", "mmap_lock"),
        ("lock", "unlock", "mmap_lock"),
        ("lock", "unlock", "mmu_lock"),
    ];
    let (mut steps, mut held) = (Vec::new(), Vec::new());
    for _ in 0..2 + random(5) {
        match random(8) {
            0..=3 => {
                let lock = LOCKS[random(LOCKS.len())];
                held.push(lock);
                steps.push(format!("\"{} {}\"", lock.0, lock.2));
            }
            4..=5 if !held.is_empty() => {
                let lock = held.swap_remove(random(held.len()));
                steps.push(format!("\"{} {}\"", lock.1, lock.2));
            }
            6 => steps.push("[\"synchronize srcu\", \"clear-young gfn0\"]".to_owned()),
            _ => steps.push("\"synchronize srcu\"".to_owned()),
        }
    }
    while !held.is_empty() && random(6) > 0 {
        let lock = held.swap_remove(random(held.len()));
        steps.push(format!("\"{} {}\"", lock.1, lock.2));
    }
    steps.join(", ")
}

#[test]
fn random_programs_lead_to_the_same_states_in_every_strategy() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let (mut compared, mut stuck, mut states) = (0, 0, 0);
    for _ in 0..CASES {
        let programs = [program(&mut random), program(&mut random), program(&mut random)];
        let names = ["host", "user", "user1"];
        let threads: Vec<Program<'_>> = names
            .into_iter()
            .zip(programs.iter().map(String::as_str))
            .take(2 + random(2))
            .collect();
        let race = race(&threads, OFF);
        let everything = Limits::default();
        let mut stateful = Stateful { graph: Some(Graph::default()), ..Stateful::default() };
        let by_state = explore(&race, &mut stateful, &everything, NOTHING);
        let graph = stateful.graph.expect("it was asked for");
        assert_eq!(graph.clashes, 0, "{:?} in {threads:?}", graph.first_clash);
        let bounded = Limits { executions_max: 20_000, ..everything };
        let mut dpor = Dpor { record: Some(Record::default()), ..Dpor::default() };
        let by_trace = explore(&race, &mut dpor, &bounded, NOTHING);
        let record = dpor.record.expect("it was asked for");
        if by_trace.verdict != Verdict::Holds {
            assert!(violated(&by_trace).is_subset(&violated(&by_state)), "{threads:?}");
            continue;
        }
        assert_eq!(violated(&by_trace), violated(&by_state), "{threads:?}");
        let mut naive = Naive::default();
        let by_hand = explore(&race, &mut naive, &bounded, NOTHING);
        let keys: BTreeSet<u128> = graph.keys().map(|key| key & !1).collect();
        let seen: BTreeSet<u128> = naive.states.iter().map(|key| key & !1).collect();
        if by_hand.verdict == Verdict::Holds {
            assert_eq!(violated(&by_hand), violated(&by_state), "{threads:?}");
            assert_eq!(seen, keys, "{threads:?}");
            assert_eq!(record.finals, naive.finals, "{threads:?}");
            assert_eq!(record.traces, naive.traces, "{threads:?}");
            compared += 1;
        } else {
            assert!(seen.is_subset(&keys), "{threads:?}");
        }
        stuck += u64::from(!by_state.others.is_empty());
        states += by_state.stats.states;
    }
    println!("{compared} of {CASES} with naive; {stuck} deadlock; {states} states in all");
    assert!(compared > CASES * 2 / 3, "{compared}");
    assert!(stuck > CASES / 5 && stuck < CASES * 4 / 5, "{stuck}");
}

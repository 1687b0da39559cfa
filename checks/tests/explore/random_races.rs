//! Goal: on scenarios that nobody wrote, dpor and stateful see what naive sees.
//! Method: random small scenarios as text, through the loader: one or two vCPUs and perhaps the
//! host or user space, one operation each, over every layout, initial SPTE and set of missing
//! guards. Operations that take the fewest steps come most often: naive takes every interleaving
//! one by one, and two page faults at once are beyond it. Where it finishes, everything must agree:
//! violations, witnesses, states, final states, traces. Where it does not, what it saw must be
//! among what the others see, and those two must agree with each other. How many cases of each kind
//! there have to be is asserted.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Write;

use kvmmu_model::{Guard, GuardSet};
use kvmmu_scenarios::Property;
use kvmmu_scenarios::loader;
use kvmmu_sim::dpor::{Dpor, Record};
use kvmmu_sim::graph::Graph;
use kvmmu_sim::naive::Naive;
use kvmmu_sim::outcome::{Outcome, Reason, Stats, Verdict};
use kvmmu_sim::race::Race;
use kvmmu_sim::rule::Rule;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Explorer, Goal, Limits};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestError, TestRunner};

/// How many scenarios there are.
const CASES: u32 = 300;
/// How many interleavings naive may take, and how many executions dpor.
const EXECUTIONS_MAX: u64 = 8_000;
/// How many states a scenario may have: naive is far from finishing the larger ones.
const STATES_MAX: u64 = 5_000;
/// How many scenarios naive has to finish at least, dpor of the others, and how many of them all
/// have to violate something.
const NAIVE_MIN: u32 = 100;
const DPOR_MIN: u32 = 20;
const BROKEN_MIN: u32 = 20;

/// A thread with one operation. Frames 1 and 2 are data, 3 the guest's leaf table, 4 its root.
#[derive(Clone, Copy, Debug)]
enum Vcpu {
    Direct(&'static str),
    Shadow(&'static str),
}

#[derive(Clone, Debug)]
struct Case {
    format: &'static str,
    vcpus: Vec<Vcpu>,
    /// Kind and operation of the last thread.
    other: Option<(&'static str, &'static str)>,
    log: bool,
    /// H, M, W; accessed, dirty or tracked; cached.
    map: Option<(&'static str, bool, bool, bool)>,
    always: &'static [&'static str],
    without: Vec<Guard>,
}

impl Case {
    /// The scenario file.
    fn text(&self) -> String {
        let shadow = self.vcpus.iter().any(|v| matches!(v, Vcpu::Shadow(_)));
        let mut t = String::from("title = \"t\"\nsource = \"s\"\nabout = \"a\"\n");
        let _ = writeln!(t, "paging = \"direct\"\nspte = \"{}\"\n[host]\npages = 6", self.format);
        let _ = writeln!(t, "[[slot]]\ngfn = 1\npages = 4\nlog = {}", self.log);
        if shadow {
            t += "[guest]\nroot = \"gfn4\"\n\"gfn4\" = [\"gfn3 w\"]\n\"gfn3\" = [\"gfn1 w\"]\n";
        }
        if let Some(map) = self.map {
            let direct = self.vcpus.iter().any(|v| matches!(v, Vcpu::Direct(_)));
            let _ = writeln!(t, "[map]");
            let addresses = [("gfn1", direct), ("gva0", shadow)];
            for (address, _) in addresses.iter().filter(|(_, used)| *used) {
                let _ = writeln!(t, "\"{address}\" = {}", self.spte(map));
            }
        }
        for (i, vcpu) in self.vcpus.iter().enumerate() {
            let (paging, op) = match vcpu {
                Vcpu::Direct(op) => ("direct", op),
                Vcpu::Shadow(op) => ("shadow", op),
            };
            let _ = writeln!(t, "[[thread]]\nname = \"vcpu{i}\"\npaging = \"{paging}\"");
            let _ = writeln!(t, "run = [\"{op}\"]");
        }
        if let Some((kind, op)) = self.other {
            let _ = writeln!(t, "[[thread]]\nname = \"{kind}\"\nrun = [\"{op}\"]");
        }
        if self.log {
            t += "[at-stop]\nrun = [\"get-dirty-log slot0\", \"copy-harvested\"]\n";
        }
        // Without a dirty log there is no migration to watch.
        let watched = self.always.iter().filter(|p| self.log || **p != "migration");
        let always: Vec<&str> = watched.copied().chain(["deadlock"]).collect();
        let _ = writeln!(t, "[check]\nalways = {always:?}");
        t + "sometimes = [\"fast-fault-read < spte-zapped\", \"spte-set < write-protected\"]\n"
    }

    /// An SPTE of `[map]` that the format can have.
    fn spte(&self, (hmw, first, second, cached): (&str, bool, bool, bool)) -> String {
        let w = hmw.ends_with('1');
        if self.format == "ept-no-ad" {
            let tracked = first && !w;
            let cached = cached && !tracked;
            return format!(
                "{{ pfn = 0, spte = \"{hmw}\", tracked = {tracked}, cached = {cached} }}"
            );
        }
        let (accessed, dirty, cached) = (first, second, cached && first);
        let bits = format!("accessed = {accessed}, dirty = {dirty}, cached = {cached}");
        format!("{{ pfn = 0, spte = \"{hmw}\", {bits} }}")
    }

    fn race(&self) -> Race {
        let text = self.text();
        let scenario = loader::load("random.toml", &text, 1);
        let scenario = scenario.unwrap_or_else(|error| panic!("{error}\n{text}"));
        Race::new(scenario, self.without.iter().copied().collect::<GuardSet>())
    }
}

fn vcpu() -> impl Strategy<Value = Vcpu> {
    let direct = ["read gfn1", "write gfn1", "fetch gfn1", "write gfn2", "prefault gfn1"];
    let shadow = ["read gva0", "write gva0", "set-gpte gva0[0] gfn2", "emulate-gpte gfn3[0] gfn2"];
    prop_oneof![
        6 => prop::sample::select(direct.to_vec()).prop_map(Vcpu::Direct),
        1 => prop::sample::select(shadow.to_vec()).prop_map(Vcpu::Shadow),
        2 => Just(Vcpu::Shadow("invlpg gva0")),
    ]
}

fn other() -> impl Strategy<Value = (&'static str, &'static str)> {
    let long = ["swap-out gfn1", "ksm-merge gfn2 gfn1", "change-pte gfn1 pfn4", "cow-break gfn1"];
    let short = ["clear-young gfn1", "swap-in gfn1", "age gfn1", "shrink"];
    prop_oneof![
        1 => prop::sample::select(long.to_vec()).prop_map(|op| ("host", op)),
        2 => prop::sample::select(short.to_vec()).prop_map(|op| ("host", op)),
        1 => prop::sample::select(vec!["get-dirty-log slot0", "swap-out gfn1"])
            .prop_map(|op| ("user", op)),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let format = prop::sample::select(vec!["ept", "ept-no-ad", "npt"]);
    let hmw = prop::sample::select(vec!["111", "110", "110", "100", "000"]);
    let map = prop::option::weighted(0.8, (hmw, any::<bool>(), any::<bool>(), any::<bool>()));
    let guards = prop::sample::select(Guard::ALL.to_vec());
    let threads = prop_oneof![
        5 => (prop::collection::vec(vcpu(), 1), other().prop_map(Some)),
        2 => (prop::collection::vec(vcpu(), 2), Just(None)),
        1 => (prop::collection::vec(vcpu(), 2), other().prop_map(Some)),
    ];
    // What can be violated at the end only lets traces be compared one to one.
    let at_end: &[&str] = &["migration"];
    let all: &[&str] = &[
        "migration",
        "swap",
        "pfn-safety",
        "shadowed-pt-readonly",
        "host-readonly",
        "spte-legal",
        "rmap-exact",
    ];
    // Any write of the guest is a violation: a cheap one, in the middle of executions.
    let writes: &[&str] = &["migration", "guest-never-writes"];
    let always = prop_oneof![2 => Just(at_end), 2 => Just(all), 1 => Just(writes)];
    let without = prop::collection::vec(guards, 0..=3);
    (format, threads, any::<bool>(), map, always, without).prop_map(
        |(format, (vcpus, other), log, map, always, without)| Case {
            format,
            vcpus,
            other,
            log,
            map,
            always,
            without,
        },
    )
}

/// Never found, so that everything is explored.
const NOTHING: Goal = Goal::of(Rule::Own("no-such-rule"));

fn explore(race: &Race, explorer: &mut dyn Explorer, limits: &Limits) -> Outcome {
    explorer.explore(race, &NOTHING, limits, &|_: &Stats| true)
}

/// What was violated.
fn violated(outcome: &Outcome) -> BTreeSet<Rule> {
    outcome.others.iter().map(|found| found.rule).collect()
}

/// What became of a case.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compared {
    /// All three explorers finished.
    WithNaive,
    /// dpor and stateful did.
    WithoutNaive,
    /// It has too many states, or dpor did not finish.
    No,
}

pub(crate) fn compare(race: &Race) -> Result<(Compared, Outcome), TestCaseError> {
    let bounded = Limits { executions_max: EXECUTIONS_MAX, steps_max: 1_000, ..Limits::default() };
    let few = Limits { states_max: STATES_MAX, ..Limits::default() };
    let quick = explore(race, &mut Stateful::default(), &few);
    if quick.verdict == Verdict::Inconclusive(Reason::States) {
        return Ok((Compared::No, quick));
    }
    let mut stateful = Stateful { graph: Some(Graph::default()), ..Stateful::default() };
    let by_state = explore(race, &mut stateful, &Limits::default());
    let graph = stateful.graph.expect("it was asked for");
    prop_assert_eq!(&by_state.verdict, &Verdict::Holds);
    prop_assert_eq!(graph.clashes, 0, "{:?}", graph.first_clash);
    let keys: BTreeSet<u128> = graph.keys().map(|key| key & !1).collect();
    let broken = violated(&by_state);

    let mut naive = Naive::default();
    let by_hand = explore(race, &mut naive, &bounded);
    let states: BTreeSet<u128> = naive.states.iter().map(|key| key & !1).collect();
    let finished = by_hand.verdict == Verdict::Holds;
    if finished {
        prop_assert_eq!(&by_hand.seen, &by_state.seen);
        prop_assert_eq!(violated(&by_hand), broken.clone());
        prop_assert_eq!(states, keys);
    } else {
        let cut = [Reason::Executions, Reason::Steps].map(Verdict::Inconclusive);
        prop_assert!(cut.contains(&by_hand.verdict), "{:?}", by_hand.verdict);
        prop_assert!(violated(&by_hand).is_subset(&broken));
        prop_assert!(states.is_subset(&keys));
    }

    let mut dpor = Dpor { record: Some(Record::default()), ..Dpor::default() };
    let by_trace = explore(race, &mut dpor, &bounded);
    let record = dpor.record.expect("it was asked for");
    if by_trace.verdict != Verdict::Holds {
        prop_assert!(!finished, "dpor needs more executions than naive");
        return Ok((Compared::No, by_state));
    }
    prop_assert_eq!(&by_trace.seen, &by_state.seen);
    prop_assert_eq!(violated(&by_trace), broken.clone());
    prop_assert_eq!(record.traces.len() as u64, by_trace.stats.executions, "a trace twice");
    if !finished {
        return Ok((Compared::WithoutNaive, by_state));
    }
    prop_assert!(record.traces.is_subset(&naive.traces));
    prop_assert!(record.finals.is_subset(&naive.finals));
    // A violation in mid-execution ends it, and dpor need not see every place where it does.
    let at_end = [Property::Migration.into(), Rule::DEADLOCK, Rule::LIVELOCK];
    if broken.iter().all(|rule| at_end.contains(rule)) {
        prop_assert_eq!(record.traces, naive.traces);
        prop_assert_eq!(record.finals, naive.finals);
    }
    Ok((Compared::WithNaive, by_state))
}

/// The same scenarios in every run, unless the environment says otherwise (`PROPTEST_RNG_SEED`).
pub(crate) fn config(cases: u32) -> ProptestConfig {
    let environment = ProptestConfig::default();
    let rng_seed = match environment.rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        fixed => fixed,
    };
    ProptestConfig { rng_seed, failure_persistence: None, cases, ..environment }
}

#[test]
fn dpor_and_stateful_see_what_naive_sees_in_random_scenarios() {
    let (with, without, broken, states) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(0));
    let add = |counter: &Cell<u32>, n: u64| counter.set(counter.get() + n as u32);
    let result = TestRunner::new(config(CASES)).run(&case(), |case| {
        let (compared, outcome) = compare(&case.race())?;
        add(&with, u64::from(compared == Compared::WithNaive));
        add(&without, u64::from(compared == Compared::WithoutNaive));
        add(&broken, u64::from(!outcome.others.is_empty()));
        add(&states, outcome.stats.states);
        Ok(())
    });
    if let Err(error) = result {
        let TestError::Fail(reason, case) = error else { panic!("{error}") };
        let guards: Vec<&str> = case.without.iter().map(|g| g.info().name).collect();
        panic!("{reason}\nwithout {guards:?}:\n{}", case.text());
    }
    let (with, without) = (with.get(), without.get());
    println!("{with} of {CASES} with naive, {without} more with dpor and stateful");
    println!("{} violate something; {} states in all", broken.get(), states.get());
    assert!(with >= NAIVE_MIN, "{with}");
    assert!(without >= DPOR_MIN, "{without}");
    assert!(broken.get() >= BROKEN_MIN, "{}", broken.get());
}

/// Found by the test above: with the sequence number read as 1, "the page was looked up" and
/// "number and page are known" had one hash and one site, that of a caller, and so one key.
#[test]
fn a_key_tells_apart_two_places_that_have_one_site() {
    let case = Case {
        format: "npt",
        vcpus: vec![Vcpu::Direct("read gfn1")],
        other: Some(("user", "swap-out gfn1")),
        log: false,
        map: None,
        always: &["migration"],
        without: vec![Guard::NotifierSeqBeforeGup],
    };
    compare(&case.race()).unwrap_or_else(|error| panic!("{error}"));
}

/// Found by the test above: the access that finds freed memory ended the execution before it was
/// noted what it touched, so that dpor never let it come before the free.
#[test]
fn an_access_to_freed_memory_races_with_what_freed_it() {
    let case = Case {
        format: "ept-no-ad",
        vcpus: vec![Vcpu::Direct("fetch gfn1")],
        other: Some(("host", "shrink")),
        log: false,
        map: Some(("110", true, false, false)),
        always: &["migration"],
        without: vec![Guard::LocklessWalkMode],
    };
    let (_, outcome) = compare(&case.race()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(violated(&outcome), BTreeSet::from([Rule::USE_AFTER_FREE]));
}

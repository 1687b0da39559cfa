//! Goal: the TLBs of arm64 keep what x86 drops, and nothing else changes. Method: scenarios on
//! stage-2 descriptors and on the layouts of x86, with and without what only arm64 needs.

use std::collections::{BTreeMap, BTreeSet};

use kvmmu_model::{Guard, GuardSet};
use kvmmu_scenarios::mmu::format_of;
use kvmmu_scenarios::scenario::{Format, Paging};
use kvmmu_scenarios::{Scenario, builtin, loader};
use kvmmu_sim::dpor::Dpor;
use kvmmu_sim::outcome::{Outcome, Verdict};
use kvmmu_sim::outcomes::collect;
use kvmmu_sim::race::Race;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Explorer, Goal, Limits};

const LAYOUTS: [Format; 6] =
    [Format::Ept, Format::EptNoAd, Format::Npt, Format::NptV6_1, Format::Stage2, Format::Stage2Hd];

fn explore(scenario: &Scenario, without: GuardSet, goal: Goal) -> Outcome {
    let limits = Limits { states_max: 100_000, ..Limits::default() };
    Stateful::default().explore(&Race::new(scenario.clone(), without), &goal, &limits, &|_| true)
}

/// A page that is mapped read-only and may be written: its vCPU has it in its TLB.
fn read_only(spte: Format) -> Scenario {
    let text = r#"
        title = "t"
        source = "s"
        about = "a"
        paging = "direct"
        spte = "ept"
        [[slot]]
        gfn = 0
        pages = 1
        [map]
        "gfn0" = { pfn = 0, spte = "110", accessed = true, dirty = true, cached = true }
        [[thread]]
        name = "vcpu0"
        run = ["write gfn0"]
        [check]
        always = ["spte-legal"]
        sometimes = ["guest-write"]
    "#;
    let scenario = loader::load("read-only.toml", text, 1).unwrap_or_else(|e| panic!("{e}"));
    Scenario { spte, ..scenario }
}

/// Goal: without its local flush a CPU may fault for ever on arm64, and there alone; with it all
/// complete. Method: one vCPU, every layout.
#[test]
fn only_arm64_faults_for_ever_without_the_local_flush() {
    let missing = GuardSet::EMPTY.with(Guard::RelaxPermsLocalFlush);
    for layout in LAYOUTS {
        let scenario = read_only(layout);
        let arm64 = format_of(layout).caches_permission_faults;
        let name = format_of(layout).name;
        let with = explore(&scenario, GuardSet::EMPTY, Goal::ANY);
        assert_eq!(with.verdict, Verdict::Holds, "{name}");
        let without = explore(&scenario, missing, Goal::ANY);
        match without.verdict {
            Verdict::Violated(found) if arm64 => {
                assert_eq!(found.rule.name(), "livelock", "{name}")
            }
            verdict => assert_eq!((verdict, arm64), (Verdict::Holds, false), "{name}"),
        }
        if !arm64 {
            assert_eq!(without.stats, with.stats, "{name}: a guard of arm64 changes x86");
            assert!(
                missing.iter().all(|g| !without.seen.asked.contains(g)),
                "{name}: x86 asks for a guard of arm64"
            );
        }
    }
}

/// Goal: a TLB that denies is one more thing that may happen, so arm64 has more states than a
/// machine that decides every fault by a walk. Method: two vCPUs that may both have the page
/// read-only, on layouts that differ in little else: neither has A and D.
#[test]
fn the_rule_adds_states_to_arm64_alone() {
    let (file, text) = builtin::FILES.iter().find(|(f, _)| *f == "relax-perms.toml").unwrap();
    let two = loader::load(file, text, 1).unwrap_or_else(|e| panic!("{e}"));
    let states = |spte| {
        let scenario = Scenario { spte, sometimes: Vec::new(), ..two.clone() };
        explore(&scenario, GuardSet::EMPTY, Goal::ANY).stats.states
    };
    assert!(states(Format::Stage2) > states(Format::EptNoAd));
}

/// Goal: with every guard nothing is lost on arm64 either. Method: each small scenario without
/// shadow paging, on stage-2 descriptors of both kinds.
#[test]
fn every_scenario_that_fits_holds_on_stage_2() {
    let load =
        |(file, text): &(&str, &str)| loader::load(file, text, 1).unwrap_or_else(|e| panic!("{e}"));
    let direct = |s: &Scenario| s.threads.iter().all(|t| t.paging == Paging::Direct);
    let fits =
        |s: &Scenario| direct(s) && !s.pml && s.name != "canary" && !s.name.starts_with("lock-");
    let mut explored: BTreeMap<&str, u32> = BTreeMap::new();
    for scenario in builtin::FILES.iter().map(load).filter(fits) {
        for spte in [Format::Stage2, Format::Stage2Hd] {
            let scenario = Scenario { spte, sometimes: Vec::new(), ..scenario.clone() };
            let outcome = explore(&scenario, GuardSet::EMPTY, Goal::ANY);
            if outcome.verdict == Verdict::Holds {
                *explored.entry(format_of(spte).name).or_insert(0) += 1;
            }
            let found = matches!(outcome.verdict, Verdict::Violated(_));
            assert!(!found, "{} on {}: {outcome:#?}", scenario.name, format_of(spte).name);
        }
    }
    println!("{explored:?}");
    assert!(explored.len() == 2 && explored.values().all(|n| *n >= 12), "{explored:?}");
}

/// Goal: a search over executions sees what a search over states sees where TLBs deny, too. Method:
/// the outcomes of each small scenario on stage 2, with every guard and without each of its sets.
#[test]
fn searches_agree_on_stage_2() {
    let bounds = Limits { states_max: 5_000, executions_max: 5_000, ..Limits::default() };
    let mut compared = 0;
    for (file, text) in builtin::FILES {
        let scenario = loader::load(file, text, 1).unwrap_or_else(|e| panic!("{e}"));
        let scenario = Scenario { spte: Format::Stage2, ..scenario };
        if scenario.threads.iter().any(|t| t.paging != Paging::Direct) || file.starts_with("lock-")
        {
            continue;
        }
        for without in scenario.expects.iter().map(|e| e.without) {
            let states = |explorer: &mut dyn Explorer| {
                collect(&scenario, without, explorer, &bounds, &|_| true)
            };
            let by_state = states(&mut Stateful::default());
            let by_execution = states(&mut Dpor::default());
            let seen: BTreeSet<_> = by_execution.outcomes.keys().collect();
            let all: BTreeSet<_> = by_state.outcomes.keys().collect();
            if by_state.verdict == Verdict::Holds {
                assert!(seen.is_subset(&all), "{file} without {without:?}");
                if by_execution.verdict == Verdict::Holds {
                    assert_eq!(seen, all, "{file} without {without:?}");
                    compared += 1;
                }
            }
        }
    }
    println!("{compared} compared");
    assert!(compared >= 20, "{compared}");
}

/// Goal: entries that give translation or access-flag faults are not cached: a page that is tracked
/// or not mapped is never denied by a TLB. Method: such entries first, and no flush at all.
#[test]
fn what_gives_access_flag_and_translation_faults_is_not_cached() {
    let missing = GuardSet::EMPTY.with(Guard::RelaxPermsLocalFlush);
    for spte in [Format::Stage2, Format::Stage2Hd] {
        let mut scenario = read_only(spte);
        scenario.map[0].cached = false;
        scenario.map[0].accessed = false;
        scenario.map[0].tracked = true;
        scenario.map[0].mmu_writable = true;
        let never = |s: &Scenario| {
            let outcome = explore(s, missing, Goal::ANY);
            let denied = outcome.seen.mark(kvmmu_model::Mark::StaleTranslation);
            (outcome.verdict, denied)
        };
        let name = format_of(spte).name;
        // Tracked: one fault gives AF and W back, so that no read-only entry is ever valid.
        let (verdict, denied) = never(&scenario);
        assert_eq!((verdict == Verdict::Holds, denied), (true, false), "{name}");
        scenario.map.clear();
        let (verdict, denied) = never(&scenario);
        assert_eq!((verdict == Verdict::Holds, denied), (true, false), "{name}");
    }
}

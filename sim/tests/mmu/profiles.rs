//! Goal: profile `x86-v6.1` is a kernel of its own: with every guard nothing is lost, and what 6.1
//! replaced is not missed. Method: each small scenario under both profiles, read from its text.

use kvmmu_model::{Guard, GuardSet};
use kvmmu_scenarios::scenario::Profile;
use kvmmu_scenarios::{Scenario, builtin, loader};
use kvmmu_sim::outcome::{Outcome, Verdict};
use kvmmu_sim::race::Race;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Explorer, Goal, Limits};

fn explore(scenario: &Scenario, without: GuardSet) -> Outcome {
    let limits = Limits { states_max: 100_000, ..Limits::default() };
    Stateful::default()
        .explore(&Race::new(scenario.clone(), without), &Goal::ANY, &limits, &|_| true)
}

/// A built-in scenario, as its file has it.
fn load((file, text): &(&str, &str)) -> Scenario {
    loader::load(file, text, 1).unwrap_or_else(|e| panic!("{e}"))
}

/// The same on 6.1, by the words that a file would use.
fn load_v6_1((file, text): &(&str, &str)) -> Scenario {
    let text = format!("profile = \"x86-v6.1\"\n{text}").replace("\"npt\"", "\"npt-v6.1\"");
    loader::load(file, &text, 1).unwrap_or_else(|e| panic!("{e}"))
}

fn is_of_arm64(text: &str) -> bool {
    text.contains("\nprofile = \"arm64-") || text.contains("\nprofile = [\"arm64-")
}

#[test]
fn the_default_is_fixed_and_files_name_the_other() {
    for (file, text) in builtin::FILES {
        let named = text.starts_with("profile") || text.contains("\nprofile");
        let says = file.ends_with("-v6.1.toml") || is_of_arm64(text);
        assert_eq!(named, says, "{file}: its name says the profile");
        assert_eq!(
            is_of_arm64(text),
            file.starts_with("s2-") || file.starts_with("vmid-"),
            "{file}: so does this"
        );
    }
    let file = &builtin::FILES[0];
    assert_eq!(load(file).profile, Profile::Fixed);
    assert_eq!(load_v6_1(file).profile, Profile::X86V6_1);
}

#[test]
fn every_small_scenario_holds_on_6_1() {
    // What goes out of sync is that of 5.10: the loader refuses it here.
    let is_of_5_10 = |text: &str| text.contains("\nunsync = true");
    let others = builtin::FILES.iter().filter(|(file, text)| {
        !file.ends_with("-v6.1.toml") && !is_of_5_10(text) && !is_of_arm64(text)
    });
    let fits = |s: &Scenario| s.name != "canary" && !s.name.starts_with("lock-");
    let mut holds = 0;
    for scenario in others.map(load_v6_1).filter(fits) {
        let scenario = Scenario { sometimes: Vec::new(), ..scenario };
        let outcome = explore(&scenario, GuardSet::EMPTY);
        let found = matches!(outcome.verdict, Verdict::Violated(_));
        assert!(!found, "{}: {outcome:#?}", scenario.name);
        holds += usize::from(outcome.verdict == Verdict::Holds);
    }
    assert!(holds >= 12, "only {holds} were explored");
}

/// Goal: 6.1 tests M alone, so that M without H is a page lost there, and only the test of H keeps
/// 5.10 from it. Method: the scenario of `change_pte`, without what keeps M and H together.
#[test]
fn m_without_h_is_fatal_to_6_1_alone() {
    let file = builtin::FILES.iter().find(|(name, _)| name.ends_with("host-writable.toml"));
    let file = file.expect("it is built in");
    let left_behind = GuardSet::EMPTY.with(Guard::ChangePteClearsMmuWritable);
    let verdict = |scenario: Scenario| {
        let scenario = Scenario { sometimes: Vec::new(), ..scenario };
        explore(&scenario, left_behind).verdict
    };
    assert_eq!(verdict(load(file)), Verdict::Holds);
    match verdict(load_v6_1(file)) {
        Verdict::Violated(found) => assert_eq!(found.rule.name(), "host-readonly"),
        verdict => panic!("{verdict:?}"),
    }
}

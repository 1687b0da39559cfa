//! Goal: what must always hold is judged before the first step, too. Method: a scenario that no
//! file can say, because the loader refuses it, is made by hand and explored.

use kvmmu_model::GuardSet;
use kvmmu_scenarios::loader;
use kvmmu_sim::goal::property;
use kvmmu_sim::outcome::Verdict;
use kvmmu_sim::race::Race;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Engine, Explorer, Goal, Limits};

#[test]
fn an_illegal_spte_of_the_initial_state_is_reported_though_nobody_writes_it() {
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
        "gfn0" = { pfn = 0, spte = "110" }
        [[thread]]
        name = "vcpu0"
        run = ["read gfn0"]
        [check]
        always = ["spte-legal"]
        "#;
    let mut scenario = loader::load("initial.toml", text, 1).unwrap_or_else(|e| panic!("{e}"));
    let mut verdict = |host_writable| {
        scenario.map[0].host_writable = host_writable;
        let mut engine = Engine::new(&Race::new(scenario.clone(), GuardSet::EMPTY), Goal::ANY);
        Stateful::default().explore(&mut engine, &Limits::default(), &mut |_| true).verdict
    };
    assert_eq!(verdict(true), Verdict::Holds);
    let Verdict::Violated(found) = verdict(false) else { panic!("(H, M, W) = (0, 1, 0) holds") };
    assert_eq!((found.property, found.schedule.0.len()), ("spte-legal", 0));
    assert_ne!(found.property, property::INTERNAL_ERROR);
}

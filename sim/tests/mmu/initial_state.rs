//! Goal: what must always hold is judged before the first step, too. Method: a scenario that no
//! file can say, because the loader refuses it, is made by hand and explored.

use kvmmu_sim::outcome::Verdict;

use super::small;

#[test]
fn an_illegal_spte_of_the_initial_state_is_reported_though_nobody_writes_it() {
    let mut scenario = small::scenario(
        "direct",
        "ept",
        r#"
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
        "#,
    );
    let mut verdict = |host_writable| {
        scenario.map[0].host_writable = host_writable;
        small::explore(scenario.clone(), &[]).verdict
    };
    assert_eq!(verdict(true), Verdict::Holds);
    let Verdict::Violated(found) = verdict(false) else { panic!("(H, M, W) = (0, 1, 0) holds") };
    assert_eq!((found.rule.name(), found.schedule.0.len()), ("spte-legal", 0));
}

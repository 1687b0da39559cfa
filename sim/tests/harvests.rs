//! Goal: which harvested pages user space copies. Method: migrations with one write, in which the
//! log is fetched more than once before anything is copied, every interleaving.

use kvmmu_model::GuardSet;
use kvmmu_scenarios::loader;
use kvmmu_sim::outcome::Verdict;
use kvmmu_sim::race::Race;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Engine, Explorer, Goal, Limits};

/// A page that is written once while `user` runs.
fn migrate(user: &str) -> Verdict {
    let text = format!(
        r#"
        title = "t"
        source = "s"
        about = "a"
        paging = "direct"
        spte = "ept"
        [[slot]]
        gfn = 0
        pages = 1
        log = true
        [map]
        "gfn0" = {{ pfn = 0, spte = "110" }}
        [[thread]]
        name = "vcpu0"
        run = ["write gfn0"]
        [[thread]]
        name = "user"
        run = [{user}]
        [at-stop]
        run = ["get-dirty-log slot0", "copy-harvested"]
        [check]
        always = ["migration"]
        "#
    );
    let scenario = loader::load("harvests.toml", &text, 1).unwrap_or_else(|e| panic!("{e}"));
    let mut engine = Engine::new(&Race::new(scenario, GuardSet::EMPTY), Goal::ANY);
    Stateful::default().explore(&mut engine, &Limits::default(), &mut |_| true).verdict
}

#[test]
fn a_copy_takes_what_every_harvest_since_the_last_copy_named() {
    assert_eq!(migrate(r#""get-dirty-log slot0""#), Verdict::Holds);
    assert_eq!(migrate(r#""get-dirty-log slot0", "get-dirty-log slot0""#), Verdict::Holds);
}

#[test]
fn a_harvest_that_is_dropped_loses_its_pages() {
    let dropped = migrate(r#""get-dirty-log slot0", "drop-harvested""#);
    let Verdict::Violated(found) = dropped else { panic!("{dropped:?}") };
    assert_eq!(found.property, "migration");
    assert_eq!(migrate(r#""drop-harvested", "get-dirty-log slot0""#), Verdict::Holds);
}

//! Goal: the host's memory manager never changes a page that nobody stored to. Method: programs in
//! which pages are merged, shared, swapped and written at the same time, every interleaving; a
//! frame that changes without a store is one that no dirty log names, and `migration` sees it.

use kvmmu_model::GuardSet;
use kvmmu_scenarios::loader;
use kvmmu_sim::outcome::Verdict;
use kvmmu_sim::race::Race;
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Engine, Explorer, Goal, Limits};

/// Two frames of one content, each mapped as `spte` says, and what a vCPU and the host do.
fn explore(vcpu: &str, host: &str) -> Verdict {
    let text = format!(
        r#"
        title = "t"
        source = "s"
        about = "a"
        paging = "direct"
        spte = "ept"
        [[slot]]
        gfn = 0
        pages = 2
        log = true
        [host]
        pages = 4
        [map]
        "gfn0" = {{ pfn = 0, spte = "110" }}
        "gfn1" = {{ pfn = 1, spte = "110" }}
        [[thread]]
        name = "vcpu0"
        run = [{vcpu}]
        [[thread]]
        name = "host"
        run = [{host}]
        [at-stop]
        run = ["get-dirty-log slot0", "copy-harvested"]
        [check]
        always = ["migration", "swap"]
        sometimes = ["guest-write"]
        "#
    );
    let scenario = loader::load("host.toml", &text, 1).unwrap_or_else(|e| panic!("{e}"));
    let mut engine = Engine::new(&Race::new(scenario, GuardSet::EMPTY), Goal::ANY);
    let limits = Limits { states_max: 2_000_000, ..Limits::default() };
    Stateful::default().explore(&mut engine, &limits, &mut |_| true).verdict
}

#[test]
fn ksm_gives_up_on_a_page_that_was_stored_to_since_it_was_compared() {
    assert_eq!(explore(r#""write gfn0""#, r#""ksm-merge gfn0 gfn1""#), Verdict::Holds);
    assert_eq!(explore(r#""write gfn1""#, r#""ksm-merge gfn0 gfn1""#), Verdict::Holds);
}

#[test]
fn a_swap_in_leaves_a_shared_page_read_only() {
    let host = r#""ksm-merge gfn0 gfn1", "swap-in gfn0""#;
    assert_eq!(explore(r#""write gfn0""#, host), Verdict::Holds);
}

#[test]
fn a_page_that_waits_in_the_swap_cache_is_still_shared() {
    let host = r#""ksm-merge gfn0 gfn1", "swap-out gfn0""#;
    assert_eq!(explore(r#""write gfn1""#, host), Verdict::Holds);
}

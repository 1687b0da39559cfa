//! Goal: with every guard, what KVM does for a guest whose tables it shadows is what the guest may
//! do. Method: small programs that were judged wrongly once, every interleaving.

use kvmmu_model::GuardSet;
use kvmmu_scenarios::Scenario;
use kvmmu_sim::Limits;
use kvmmu_sim::outcome::Verdict;
use kvmmu_sim::outcomes::collect;
use kvmmu_sim::stateful::Stateful;

use super::small;

/// Five frames, the root in gfn4, the leaf table in gfn3.
fn shadowed(tables: &str, threads: &[(&str, &str)], check: &str) -> Scenario {
    let threads: String = (threads.iter())
        .map(|(name, run)| format!("[[thread]]\nname = \"{name}\"\nrun = [{run}]\n"))
        .collect();
    small::scenario("shadow", "npt", &format!("{tables}\n{threads}\n[check]\n{check}"))
}

fn verdict(scenario: Scenario) -> Verdict {
    small::explore(scenario, &[]).verdict
}

fn property(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Violated(found) => found.rule.name(),
        verdict => panic!("{verdict:?}"),
    }
}

/// A leaf table that maps itself: a vCPU's store to it is emulated, and may go to gfn0 by then,
/// because the other vCPU has changed the entry.
const SELF_MAP: &str = r#"
    [[slot]]
    gfn = 0
    pages = 5
    [guest]
    root = "gfn4"
    "gfn4" = ["gfn3 w"]
    "gfn3" = ["gfn0 w", "gfn3 w"]
"#;

#[test]
fn an_emulated_store_leaves_the_hosts_page_dirty() {
    let clean = format!("[host]\n\"gfn0\" = {{ pfn = 0, dirty = false }}\n{SELF_MAP}");
    let set = r#""set-gpte gva1[1] gfn0""#;
    let threads = [("vcpu0", set), ("vcpu1", set), ("host", r#""swap-out gfn0""#)];
    assert_eq!(verdict(shadowed(&clean, &threads, "always = [\"swap\"]")), Verdict::Holds);
}

#[test]
fn an_emulated_store_brings_the_page_in() {
    let set = r#""set-gpte gva1[1] gfn0""#;
    let threads = [("vcpu0", set), ("vcpu1", set), ("user", r#""madvise-pageout gfn0""#)];
    assert_eq!(verdict(shadowed(SELF_MAP, &threads, "")), Verdict::Holds);
}

#[test]
fn an_emulated_store_breaks_a_shared_page() {
    let shared = "[host]\npages = 8\n\"gfn0\" = { pfn = 0, writable = false }\n\
                  \"gfn1\" = { pfn = 0, writable = false }\n";
    let threads =
        [("vcpu0", r#""set-gpte gva1[1] gfn0""#), ("vcpu1", r#""set-gpte gva1[1] gfn0""#)];
    let scenario = shadowed(&format!("{shared}{SELF_MAP}"), &threads, "");
    let mut stateful = Stateful::default();
    let found = collect(&scenario, GuardSet::EMPTY, &mut stateful, &Limits::default(), &|_| true);
    assert_eq!((found.verdict, found.broken.len()), (Verdict::Holds, 0));
    let outcomes: Vec<String> = found.outcomes.keys().map(ToString::to_string).collect();
    assert!(outcomes.iter().any(|o| !o.contains("gfn0=0x0 ")), "none stores to gfn0: {outcomes:?}");
    for outcome in outcomes {
        assert!(outcome.contains("gfn1=0x0 "), "gfn1 was never stored to: {outcome}");
    }
}

/// Two slots: the guest's tables are in the second.
const TABLES_APART: &str = r#"
    [[slot]]
    gfn = 0
    pages = 2
    [[slot]]
    gfn = 3
    pages = 2
    [guest]
    root = "gfn4"
    "gfn4" = ["gfn3 w"]
    "gfn3" = ["gfn0 w", "gfn1 w"]
"#;

#[test]
fn an_emulated_store_to_a_slot_on_its_way_out_becomes_mmio() {
    // So it is in every kernel yet: emulator_write_phys does not try again as a fault does.
    let threads =
        [("vcpu0", r#""emulate-gpte gfn3[0] gfn1""#), ("user", r#""delete-memslot slot1""#)];
    let check = "always = [\"ram-is-not-mmio\"]";
    assert_eq!(property(verdict(shadowed(TABLES_APART, &threads, check))), "ram-is-not-mmio");
    let check = "sometimes = [\"memslots-freed@user < mmio-exit@vcpu0\", \
                 \"memslots-freed@user < emulated@vcpu0\"]";
    let outcome = small::explore(shadowed(TABLES_APART, &threads, check), &[]);
    assert_eq!((outcome.verdict, outcome.seen.witnesses), (Verdict::Holds, 0b01));
}

#[test]
fn tables_of_a_deleted_slot_are_not_walked() {
    let threads = [("vcpu0", r#""read gva0""#), ("user", r#""delete-memslot slot1""#)];
    let check = "sometimes = [\"slow-fault@vcpu0 < memslots-freed@user\", \
                 \"memslots-freed@user < slow-fault@vcpu0\"]";
    let outcome = small::explore(shadowed(TABLES_APART, &threads, check), &[]);
    assert_eq!((outcome.verdict, outcome.seen.witnesses), (Verdict::Holds, 0b01));
}

#[test]
fn a_table_behind_a_read_only_entry_has_a_shadow_page_of_its_own() {
    let tables = r#"
        [[slot]]
        gfn = 0
        pages = 5
        [guest]
        root = "gfn4"
        "gfn4" = ["gfn3 w", "gfn3"]
        "gfn3" = ["gfn0 w"]
    "#;
    let check = "always = [\"guest-translation\"]";
    let one = [("vcpu0", r#""read gva4", "write gva0", "write gva4""#)];
    assert_eq!(verdict(shadowed(tables, &one, check)), Verdict::Holds);
    let two = [("vcpu0", r#""read gva4", "write gva4""#), ("vcpu1", r#""write gva0""#)];
    assert_eq!(verdict(shadowed(tables, &two, check)), Verdict::Holds);
}

#[test]
fn a_page_is_reached_by_its_new_frame_before_the_hosts_own_entry_says_so() {
    let tables = r#"
        [host]
        pages = 7
        "gfn0" = { pfn = 0, writable = false }
        "gfn1" = { pfn = 1, writable = false }
        [[slot]]
        gfn = 0
        pages = 5
        [guest]
        root = "gfn4"
        "gfn4" = ["gfn3 w"]
        "gfn3" = ["gfn1"]
        [map]
        "gva0" = { pfn = 1, spte = "000" }
    "#;
    let check = "always = [\"guest-translation\"]";
    for host in [r#""change-pte gfn1 pfn0""#, r#""ksm-merge gfn0 gfn1""#] {
        let threads = [("vcpu0", r#""read gva0""#), ("host", host)];
        assert_eq!(verdict(shadowed(tables, &threads, check)), Verdict::Holds, "{host}");
    }
}

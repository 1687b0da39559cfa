//! Goal: what becomes of the frames of a memslot that is deleted. Method: small programs, every
//! interleaving, with all guards and without some.

use kvmmu_model::Guard;
use kvmmu_sim::outcome::{Outcome, Verdict};

use super::small;

/// One frame, mapped as `spte` says and cached, and what vCPUs do while its slot is deleted.
fn explore(spte: &str, vcpus: &[&str], check: &str, without: &[Guard]) -> Outcome {
    let threads: String = (vcpus.iter().enumerate())
        .map(|(i, run)| format!("[[thread]]\nname = \"vcpu{i}\"\nrun = [{run}]\n"))
        .collect();
    let scenario = small::scenario(
        "direct",
        "ept",
        &format!(
            r#"
        [[slot]]
        gfn = 0
        pages = 1
        [map]
        "gfn0" = {{ pfn = 0, spte = "{spte}", cached = true }}
        {threads}
        [[thread]]
        name = "user"
        run = ["delete-memslot slot0"]
        {check}
        "#
        ),
    );
    small::explore(scenario, without)
}

fn property(outcome: &Outcome) -> &str {
    match &outcome.verdict {
        Verdict::Violated(found) => found.rule.name(),
        Verdict::Holds => "holds",
        Verdict::Inconclusive(_) => "inconclusive",
    }
}

#[test]
fn a_stale_tlb_maps_a_deleted_slot_as_well_as_an_spte_does() {
    let check = "[check]\nalways = [\"memslot-gone\"]";
    let verdict = |without: &[Guard]| {
        let outcome = explore("111", &[r#""write gfn0", "write gfn0""#], check, without);
        property(&outcome).to_owned()
    };
    assert_eq!(verdict(&[]), "holds");
    assert_eq!(verdict(&[Guard::FlushRequestWait]), "memslot-gone");
    assert_eq!(verdict(&[Guard::MemslotDeleteFlushes]), "memslot-gone");
    assert_eq!(verdict(&[Guard::MemslotDeleteZaps]), "memslot-gone");
    assert_eq!(verdict(&[Guard::EntryRequestCheck]), "memslot-gone");
}

#[test]
fn an_spte_of_a_deleted_slot_is_found_although_no_guest_uses_it() {
    let found = |without: &[Guard]| {
        let scenario = small::scenario(
            "direct",
            "ept",
            r#"
            slot = [{ gfn = 0, pages = 1 }, { gfn = 1, pages = 1 }]
            map = { gfn0 = { pfn = 0, spte = "111" } }
            thread = [{ name = "vcpu0", run = ["read gfn1"] },
                      { name = "user", run = ["delete-memslot slot0"] }]
            check = { always = ["memslot-gone"] }
            "#,
        );
        match small::explore(scenario, without).verdict {
            Verdict::Violated(found) => found.detail,
            other => format!("{other:?}"),
        }
    };
    assert_eq!(found(&[]), "Holds");
    let left = found(&[Guard::MemslotDeleteZaps]);
    assert_eq!(left, "slot0 is deleted, and an SPTE maps its gfn0");
}

#[test]
fn a_fault_in_an_invalid_slot_is_tried_again_and_does_not_become_mmio() {
    let check = "[check]\nalways = [\"ram-is-not-mmio\"]\nsometimes = [\
                 \"memslot-invalid@vcpu0 < memslots-installed@user < memslot-missing@vcpu0\"]";
    let vcpus = [r#""write gfn0""#, r#""read gfn0""#];
    let all = explore("110", &vcpus, check, &[]);
    assert_eq!((property(&all), all.seen.witnesses), ("holds", 1));
    let lacking = explore("110", &vcpus, check, &[Guard::InvalidSlotRetries]);
    assert_eq!(property(&lacking), "ram-is-not-mmio");
}

#[test]
fn a_fault_that_waits_for_other_memslots_holds_up_no_grace_period() {
    // Whoever waited inside its read section would wait for ever.
    let check = "[check]\nalways = [\"memslot-gone\", \"pfn-safety\"]";
    let vcpus = [r#""write gfn0", "read gfn0""#, r#""write gfn0""#];
    assert_eq!(property(&explore("110", &vcpus, check, &[])), "holds");
}

#[test]
fn an_access_to_deleted_ram_is_an_mmio_exit_and_calls_no_device() {
    let check = "[check]\nsometimes = [\"memslots-freed@user < mmio-exit@vcpu0\", \
                 \"memslots-freed@user < iodev-called@vcpu0\"]";
    let outcome = explore("111", &[r#""write gfn0", "read gfn0""#], check, &[]);
    assert_eq!((property(&outcome), outcome.seen.witnesses), ("holds", 0b01));
}

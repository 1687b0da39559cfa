//! Goal: each MMU of x86 is judged by its own rules: readers of mmu_lock store in the TDP MMU, and
//! nothing of it is called explained by the model; shadow paging is explained. Method: see
//! `main.rs`.

use super::{SHADOW, TDP, UNPAGED, broken};
use kvmmu_steps::event::{Event, User, What};
use kvmmu_steps::kernel::Mmu;
use kvmmu_steps::report::Verdict;
use kvmmu_steps::rules::Rule;

/// What a kernel says of how KVM is set.
fn set(events: &mut [Event], npt: u64, tdp: u64) {
    for event in events {
        if let What::User(User::Mark { op, fields, .. }) = &mut event.what
            && op == "mmu"
        {
            *fields = vec![("npt".to_owned(), npt), ("tdp".to_owned(), tdp)];
        }
    }
}

#[test]
fn the_model_explains_none_of_it() {
    let report = TDP.report("tdp", &TDP.events());
    assert_eq!((report.mmu, report.verdict), (Mmu::Tdp, Verdict::Holds), "{}", report.text());
    assert!(report.text().contains(", TDP MMU, schedule 3: "), "{}", report.text());
    let model = report.not_checked.iter().find(|left_out| left_out.rule == Rule::Model);
    assert_eq!(model.expect("the model is left out").why, "the model has no TDP MMU");
}

#[test]
fn as_the_legacy_mmu_it_would_break_rules() {
    let mut events = TDP.events();
    set(&mut events, 1, 0);
    let report = TDP.report("as-legacy", &events);
    assert!(broken(&report, Rule::Lock) > 10, "readers store: {}", report.text());
}

#[test]
fn shadow_paging_is_the_legacy_mmu() {
    for recording in [SHADOW, UNPAGED] {
        let report = recording.report("shadow", &recording.events());
        assert_eq!((report.mmu, report.verdict), (Mmu::Shadow, Verdict::Holds));
        let model = report.rules.iter().find(|line| line.rule == Rule::Model).unwrap();
        assert!(model.applied > 300, "{}", report.text());
        assert!(report.text().contains("maps its memory one to one"), "{}", report.text());
    }
    // Without long mode a vCPU has four roots in a page of its own, stored without mmu_lock: no
    // SPTEs. With nested paging they would be some.
    let mut events = UNPAGED.events();
    set(&mut events, 1, 0);
    let report = UNPAGED.report("unpaged-as-nested", &events);
    assert!(broken(&report, Rule::Model) > 3, "{}", report.text());
}

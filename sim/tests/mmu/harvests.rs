//! Goal: which harvested pages user space copies. Method: migrations with one write, in which the
//! log is fetched more than once before anything is copied, every interleaving.

use kvmmu_sim::outcome::Verdict;

use super::small;

/// A page that is written once while `user` runs.
fn migrate(user: &str) -> Verdict {
    migrate_from("write gfn0", user)
}

/// A page that a vCPU's operation writes while `user` runs.
fn migrate_from(vcpu: &str, user: &str) -> Verdict {
    let scenario = small::scenario(
        "direct",
        "ept",
        &format!(
            r#"
        [[slot]]
        gfn = 0
        pages = 1
        log = true
        [map]
        "gfn0" = {{ pfn = 0, spte = "110" }}
        [[thread]]
        name = "vcpu0"
        run = ["{vcpu}"]
        [[thread]]
        name = "user"
        run = [{user}]
        [at-stop]
        run = ["get-dirty-log slot0", "copy-harvested"]
        [check]
        always = ["migration"]
        "#
        ),
    );
    small::explore(scenario, &[]).verdict
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
    assert_eq!(found.rule.name(), "migration");
    assert_eq!(migrate(r#""drop-harvested", "get-dirty-log slot0""#), Verdict::Holds);
}

#[test]
fn what_kvm_writes_for_hyper_v_is_migrated_too() {
    assert_eq!(migrate_from("hv-set-msr", r#""get-dirty-log slot0""#), Verdict::Holds);
    let dropped = migrate_from("hv-set-msr", r#""get-dirty-log slot0", "drop-harvested""#);
    assert!(matches!(dropped, Verdict::Violated(_)), "{dropped:?}");
}

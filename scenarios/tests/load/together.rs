//! What is right in each part and makes no sense as a whole is refused where it can be mended.

use crate::common::{DIRECT, SHADOW, check, refused};

#[test]
fn entries_of_guest_tables_say_what_they_are() {
    check(
        SHADOW,
        &[
            (
                "\"gfn1\", \"-\"",
                "\"gfn1 w w\", \"-\"",
                "14:22: 'gfn1 w w' is no entry of a guest page table",
                "clean",
            ),
            ("\"gfn1\", \"-\"", "\"gfn0 large\"", "14:22: 'gfn0 large' is no large page", "root"),
            ("[\"gfn3 w\"]", "[\"gfn1 large\"]", "13:12: 'gfn1 large' is no large page", "gfn4"),
            (
                "\"gfn1\", \"-\"",
                "\"gfn1 mmio\"",
                "14:22: 'gfn1' is no frame of a device",
                "[[slot]]",
            ),
            ("\"gfn1\", \"-\"", "\"gfn9 mmio\"", "14:22: 'gfn9' is no frame of a device", "gfn7"),
            (
                "\"gfn0 w\"",
                "\"gfn0 w clean\"",
                "17:2: gva0 is MMU-writable here but read-only in the guest's page tables",
                "clean",
            ),
        ],
    );
}

#[test]
fn nothing_is_owed_for_tables_that_the_vmm_changes() {
    let user = "[[thread]]\nname = \"user\"\nrun = [\"vmm-set-gpte gfn3[1] gfn0\"]\n\n[check]\n\
                always = [\"guest-translation\"]\n#";
    check(
        SHADOW,
        &[(
            "[check]\n",
            user,
            "33:1: 'guest-translation' is watched, and the VMM changes guest page tables",
            "leave the property out",
        )],
    );
    check(
        SHADOW,
        &[(
            "[\"gfn3 w\"]",
            "[\"gfn3 w\", \"gfn7 mmio\"]",
            "13:22: 'gfn7 mmio': the root leads to a device",
            "add 'large'",
        )],
    );
}

#[test]
fn large_pages_take_shadow_pages_and_begin_where_they_can() {
    let user = |run: &str| format!("[[thread]]\nname = \"user\"\nrun = [\"{run}\"]\n\n[check]");
    let case = |run, head, hint| check(SHADOW, &[("[check]", &user(run), head, hint)]);
    case(
        "vmm-set-large-gpte gfn4[1] gfn2",
        "31:36: gfn2 does not begin a large page",
        "gfn0 or gfn4",
    );
    case(
        "vmm-set-large-gpte gfn3[1] gfn0",
        "31:28: 'vmm-set-large-gpte' on gfn3, a guest page table",
        "name the root",
    );
    case(
        "vmm-set-gpte gfn4[1] gfn1",
        "31:30: gfn1 is no guest page table, and gfn4 is the root",
        "vmm-set-large-gpte",
    );
    case("vmm-set-gpte gfn3[1] gfn8", "31:30: 'gfn8' is out of range", "gfn0 to gfn7");
    let large = SHADOW.replacen("[\"gfn3 w\"]", "[\"gfn3 w\", \"gfn0 w large\"]", 1);
    let error = refused(&large, "[check]", &user("vmm-set-large-gpte gfn4[1] gfn4"));
    assert_eq!(error.message, "2 guest page tables, and 2 large pages");
}

#[test]
fn hardware_that_keeps_a_log_or_a_is_asked_for() {
    check(
        DIRECT,
        &[
            (
                "\"ept\"",
                "\"npt\"\npml = true",
                "6:7: 'pml' without two-dimensional paging by EPT with D",
                "spte = \"ept\"",
            ),
            ("\"ept\"", "\"ept\"\npml = 1", "6:7: 'pml' is a whole number", "true or false"),
        ],
    );
    let no_ad = DIRECT.replacen("\"ept\"", "\"ept-no-ad\"", 1);
    check(
        &no_ad,
        &[(
            "[\"migration\"]",
            "[\"migration\", \"accessed\"]",
            "31:1: 'accessed' is watched, and the SPTEs have no A",
            "\"ept\" or \"npt\"",
        )],
    );
}

#[test]
fn what_a_vmcs_names_is_there_and_used() {
    check(
        DIRECT,
        &[
            (
                "\"ept\"",
                "\"ept\"\napic-page = \"gfn0\"",
                "6:14: 'apic-page', and no vCPU uses it",
                "access-apic",
            ),
            ("\"ept\"", "\"ept\"\napic-page = \"gfn7\"", "6:14: gfn7 is in no slot", "[[slot]]"),
            (
                "write gfn0",
                "access-apic",
                "19:1: access-apic, and there is no APIC access page",
                "apic-page = \"gfn0\"",
            ),
        ],
    );
    let used = DIRECT.replacen("write gfn0", "access-apic", 1);
    check(
        &used.replacen("\"ept\"", "\"ept\"\napic-page = \"gfn2\"", 1),
        &[(
            "pages = 3\n\"gfn1\"",
            "pages = 3\n\"gfn2\" = \"swapped\"\n\"gfn1\"",
            "6:14: gfn2 is swapped out, read-only in the host, or a guest page table",
            "a writable page of its own",
        )],
    );
    let there = used.replacen("\"ept\"", "\"ept\"\napic-page = \"gfn0\"", 1);
    check(
        &there,
        &[
            (
                "swap-out gfn0",
                "ksm-merge gfn0 gfn2",
                "6:14: gfn0 is the APIC access page, and there is: ksm-merge gfn0 gfn2",
                "another frame",
            ),
            (
                "\"copy-harvested\"]",
                "\"copy-harvested\", \"delete-memslot slot0\"]",
                "6:14: gfn0 is the APIC access page, and there is: delete-memslot slot0",
                "its memslot stays",
            ),
            (
                "[\"get-dirty-log slot0\"]",
                "[\"recreate-memslot slot0\"]",
                "6:14: gfn0 is the APIC access page, and there is: recreate-memslot slot0",
                "its memslot stays",
            ),
        ],
    );
}

#[test]
fn another_vm_has_one_worker_that_is_waited_for() {
    let closed = DIRECT.replacen("[\"get-dirty-log slot0\"]", "[\"close-vm\"]", 1);
    check(
        &closed,
        &[
            ("write gfn0", "read gfn0", "19:1: 0 workers of the other VM", "async-pf once"),
            (
                "[\"swap-out gfn0\"]",
                "[\"async-pf\", \"async-pf\"]",
                "19:1: 2 workers of the other VM",
                "async-pf once",
            ),
        ],
    );
    let worker = closed.replacen("swap-out gfn0", "async-pf", 1);
    check(
        &worker,
        &[
            (
                "[\"close-vm\"]",
                "[\"close-vm\", \"close-vm\"]",
                "19:1: the other VM is closed twice",
                "close-vm once",
            ),
            (
                "\"copy-harvested\"]",
                "\"copy-harvested\", \"rmmod\"]",
                "45:1: the other VM is closed, or KVM unloaded, when all threads have ended",
                "beside the worker",
            ),
        ],
    );
}

#[test]
fn a_slot_that_the_vmm_makes_again_is_nobody_elses() {
    let again = DIRECT.replacen("[\"get-dirty-log slot0\"]", "[\"recreate-memslot slot0\"]", 1);
    check(
        &again,
        &[
            (
                "log = true",
                "log = true\nthere = false",
                "20:1: slot0 is made again, and deleted or made elsewhere, too",
                "one program",
            ),
            (
                "\"copy-harvested\"]",
                "\"copy-harvested\", \"delete-memslot slot0\"]",
                "19:1: slot0 is made again, and deleted or made elsewhere, too",
                "one program",
            ),
            (
                "\"copy-harvested\"]",
                "\"copy-harvested\", \"recreate-memslot slot0\"]",
                "19:1: slot0 is made again, and deleted or made elsewhere, too",
                "one program",
            ),
        ],
    );
    let error = refused(DIRECT, "[\"get-dirty-log slot0\"]", "[\"recreate-memslot slot0\"]");
    assert_eq!(error.message, "slot0 is made again, and its log is lost with it");
    let user = "[[thread]]\nname = \"user\"\nrun = [\"recreate-memslot slot0\"]\n\n[check]\n\
                always = [\"ram-is-not-mmio\"]\n#";
    check(
        SHADOW,
        &[(
            "[check]\n",
            user,
            "20:1: recreate-memslot, 'ram-is-not-mmio', and a vCPU that shadows guest tables",
            "leave the property out",
        )],
    );
}

//! Goal: with every guard, nothing that the host does to its pages makes a property fail: no frame
//! changes to which nobody stored, and none loses a store. Method: programs in which pages are
//! merged, shared, moved, swapped and written at the same time, every interleaving; single ones
//! that were wrong once, and every pair of operations.

use kvmmu_sim::outcome::Verdict;

use super::small;

/// Two frames of one content, and what a vCPU and the host do.
fn explore(vcpu: &str, host: &str) -> Verdict {
    explore_with(vcpu, host, "")
}

/// The same, and what user space does to the host's pages at the same time.
fn explore_with(vcpu: &str, host: &str, user: &str) -> Verdict {
    let user = match user {
        "" => String::new(),
        run => format!("[[thread]]\nname = \"user\"\nrun = [{run}]\n"),
    };
    let scenario = small::scenario(
        "direct",
        "ept",
        &format!(
            r#"
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
        {user}
        [at-stop]
        run = ["get-dirty-log slot0", "copy-harvested"]
        [check]
        always = ["migration", "swap", "pfn-safety", "host-readonly", "spte-legal", "rmap-exact"]
        "#
        ),
    );
    small::explore(scenario, &[]).verdict
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

#[test]
fn a_write_to_a_shared_page_in_the_swap_cache_gets_a_copy() {
    let host = r#""ksm-merge gfn0 gfn1", "swap-out gfn1""#;
    assert_eq!(explore(r#""write gfn1""#, host), Verdict::Holds);
}

#[test]
fn a_merged_page_has_one_place_in_swap() {
    let host = r#""ksm-merge gfn0 gfn1", "swap-out gfn0", "swap-out gfn1""#;
    assert_eq!(explore(r#""write gfn0", "write gfn1""#, host), Verdict::Holds);
}

#[test]
fn change_pte_takes_the_contents_along_and_keeps_the_old_page_until_it_has() {
    for host in [r#""change-pte gfn0 pfn3""#, r#""change-pte gfn0 pfn3", "swap-in gfn0""#] {
        assert_eq!(explore(r#""write gfn0", "write gfn0""#, host), Verdict::Holds, "{host}");
        assert_eq!(explore(r#""fetch gfn0", "read gfn1""#, host), Verdict::Holds, "{host}");
    }
}

#[test]
fn no_pair_of_operations_of_the_host_makes_a_property_fail() {
    let operations = [
        "swap-out gfn0",
        "swap-out gfn1",
        "swap-in gfn1",
        "ksm-merge gfn0 gfn1",
        "ksm-merge gfn1 gfn0",
        "cow-break gfn0",
        "cow-break gfn1",
        "change-pte gfn0 pfn3",
        "change-pte gfn1 pfn2",
        "age gfn0",
    ];
    for first in operations {
        for second in operations {
            let host = format!("{first:?}, {second:?}");
            for vcpu in [r#""write gfn0""#, r#""read gfn1", "write gfn1""#] {
                assert_eq!(explore(vcpu, &host), Verdict::Holds, "{vcpu} against {host}");
            }
        }
    }
}

#[test]
fn two_threads_of_the_host_do_not_undo_one_another() {
    let pairs = [
        // A page is stored to and write-protected again between a comparison and what follows it.
        (r#""write gfn1""#, r#""ksm-merge gfn0 gfn1""#, r#""ksm-merge gfn1 gfn0""#),
        (r#""write gfn0""#, r#""change-pte gfn0 pfn3""#, r#""change-pte gfn0 pfn2""#),
        // Both want the same free page, for frames of different contents.
        (r#""write gfn0""#, r#""change-pte gfn0 pfn3""#, r#""change-pte gfn1 pfn3""#),
    ];
    for (vcpu, host, user) in pairs {
        assert_eq!(explore_with(vcpu, host, user), Verdict::Holds, "{vcpu}, {host}, {user}");
    }
}

#[test]
fn a_page_that_was_unmapped_and_not_freed_is_unmapped_again() {
    // A fault holds a reference while the page is unmapped first. What the second unmapping forgot
    // was a dirty page.
    let unmap = r#""swap-out gfn0", "swap-out gfn0""#;
    assert_eq!(explore(r#""write gfn0", "read gfn0""#, unmap), Verdict::Holds);
    let again = explore_with(r#""write gfn0""#, r#""swap-out gfn0""#, r#""madvise-pageout gfn0""#);
    assert_eq!(again, Verdict::Holds);
}

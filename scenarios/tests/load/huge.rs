//! Huge pages of the host, and large SPTEs, that no host and no fault would make are refused.

use crate::common::check;

const HUGE: &str = r#"title  = "t"
source = "s"
about  = "a"
paging = "direct"
spte   = "npt"

[host]
pages  = 7
huge   = ["gfn0"]
"gfn5" = { pfn = 4 }

[[slot]]
gfn   = 0
pages = 6

[guest]
root   = "gfn4"
"gfn4" = ["gfn3 w"]
"gfn3" = ["gfn1 w"]

[map]
"gfn0" = { pfn = 0, spte = "111", large = true }

[[thread]]
name = "vcpu0"
run  = ["write gfn0"]

[[thread]]
name   = "vcpu1"
paging = "shadow"
run    = ["read gva0"]

[[thread]]
name = "host"
run  = ["split-huge gfn1", "swap-out gfn2"]

[check]
always = ["pfn-safety"]
"#;

#[test]
fn huge_pages_that_no_host_has_are_refused_where_they_stand() {
    check(
        HUGE,
        &[
            ("[\"gfn0\"]", "[\"gfn1\"]", "9:12: no huge page begins at gfn1", "gfn0 or gfn4"),
            ("[\"gfn0\"]", "[\"gfn4\"]", "9:12: gfn6 is in no slot", "[[slot]]"),
            ("[\"gfn0\"]", "[\"gfn0\", \"gfn0\"]", "9:20: gfn0 twice", "once"),
            ("[\"gfn0\"]", "[\"pfn0\"]", "9:12: 'pfn0' is not a guest frame", "gfn0"),
            (
                "\"gfn5\" = { pfn = 4 }",
                "\"gfn1\" = \"swapped\"",
                "7:1: gfn1 is not as the rest of its huge page",
                "all writable",
            ),
            (
                "\"gfn5\" = { pfn = 4 }",
                "\"gfn1\" = { pfn = 1, dirty = true }",
                "7:1: gfn1 is not as the rest of its huge page",
                "all writable",
            ),
            (
                "\"gfn5\" = { pfn = 4 }",
                "\"gfn5\" = { pfn = 2 }",
                "7:1: gfn5 and gfn2, of a huge page, share pfn2",
                "another page",
            ),
            (
                "\"gfn0\" = { pfn = 0, spte = \"111\", large = true }",
                "\"gfn1\" = { pfn = 2, spte = \"111\" }",
                "7:1: the huge page of gfn0 has no four host pages in their places",
                "pfn0 or pfn4",
            ),
        ],
    );
}

#[test]
fn large_sptes_that_no_fault_would_map_are_refused_where_they_stand() {
    check(
        HUGE,
        &[
            (
                "\"gfn0\" = { pfn = 0, spte",
                "\"gfn5\" = { pfn = 4, spte",
                "22:43: gfn5 is no huge page of the host",
                "huge = [\"gfn0\"]",
            ),
            (
                "\"gfn0\" = { pfn = 0, spte = \"111\"",
                "\"gva0\" = { pfn = 1, spte = \"100\"",
                "22:43: gva0 is no huge page of the host",
                "first virtual page",
            ),
            (
                "pages = 6",
                "pages = 2\n[[slot]]\ngfn = 2\npages = 4",
                "25:43: the large page of gfn0 is in two slots",
                "one slot",
            ),
            (
                "pages = 6",
                "pages = 6\nlog = true",
                "23:43: the large page of gfn0 is writable, and its slot is logged",
                "\"110\"",
            ),
            (
                "large = true }",
                "large = true }\n\"gfn1\" = { pfn = 1, spte = \"111\" }",
                "22:43: gfn1 is in the large page of gfn0",
                "remove one",
            ),
            (
                "large = true }",
                "large = true }\n\"gva0\" = { pfn = 1, spte = \"111\" }",
                "22:29: MMU-writable, but gfn3 is a guest page table that is shadowed already",
                "\"100\"",
            ),
        ],
    );
}

#[test]
fn what_the_host_does_not_do_with_a_huge_page_is_refused() {
    check(
        HUGE,
        &[
            (
                "split-huge gfn1",
                "split-huge gfn5",
                "24:1: split-huge gfn5, and gfn5 is in no huge page",
                "huge page",
            ),
            (
                "split-huge gfn1",
                "cow-break gfn1",
                "24:1: cow-break gfn1, and gfn1 is in a huge page",
                "another",
            ),
            (
                "split-huge gfn1",
                "ksm-merge gfn5 gfn1",
                "24:1: ksm-merge gfn5 gfn1, and gfn1 is in a huge page",
                "splits",
            ),
            (
                "split-huge gfn1",
                "change-pte gfn1 pfn6",
                "24:1: change-pte gfn1 pfn6, and gfn1 is in a huge page",
                "split",
            ),
            (
                "[\"pfn-safety\"]",
                "[\"accessed\"]",
                "37:1: 'accessed' is watched, and the host has huge pages",
                "A of a",
            ),
        ],
    );
}

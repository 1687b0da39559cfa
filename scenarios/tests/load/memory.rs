//! Memory that contradicts itself is refused where the contradiction stands.

use kvmmu_scenarios::loader::load;

use crate::common::{DIRECT, SHADOW, check, refused};

#[test]
fn contradictory_memory_is_refused_where_it_stands() {
    check(
        DIRECT,
        &[
            (
                "log = true",
                "log = true\n[[slot]]\ngfn = 2\npages = 1",
                "16:7: gfn2 is in an earlier slot already",
                "overlap",
            ),
            ("gfn = 0\npages = 3", "gfn = 6\npages = 3", "13:9: the slot ends at gfn8", "gfn7"),
            (
                "log = true",
                "[[slot]]\ngfn = 4\npages = 1\n[[slot]]\ngfn = 6\npages = 1",
                "18:7: slot number 3",
                "at most 2",
            ),
            ("{ pfn = 0,", "{ pfn = 7,", "17:18: pfn7 does not exist in the host", "3 pages"),
            ("{ pfn = 0,", "{ pfn = 1,", "17:18: pfn1 backs gfn1 already", "page of its own"),
            (
                "\"gfn0\" = { pfn = 0,",
                "\"gfn1\" = { pfn = 0,",
                "17:18: the SPTE maps pfn0, but gfn1 is pfn1 in the host",
                "same page",
            ),
            (
                "\"gfn0\" = { pfn = 0,",
                "\"gfn1\" = { pfn = 1,",
                "17:29: host-writable, but the host maps gfn1 read-only",
                "\"000\"",
            ),
            (
                "pages = 3\n\"gfn1\"",
                "pages = 3\n\"gfn0\" = \"swapped\"\n\"gfn1\"",
                "18:18: the SPTE maps pfn0, but gfn0 is swapped out in the host",
                "same page",
            ),
            (
                "writable = false }",
                "writable = false }\n\"gfn2\" = { pfn = 1 }",
                "10:10: gfn1 and gfn2 share a host page that is writable",
                "two pages",
            ),
            ("\"gfn1\" = {", "\"gfn5\" = {", "9:2: gfn5 is in no slot", "[[slot]]"),
            ("\"gfn0\" = {", "\"gfn5\" = {", "17:2: gfn5 is in no slot", "[[slot]]"),
            (
                "pages = 3\n\"gfn1\"",
                "pages = 2\n\"gfn1\"",
                "7:1: no host page is left for gfn2",
                "raise 'pages'",
            ),
            (
                "= { pfn = 1, writable = false }",
                "= \"swaped\"",
                "9:11: unknown state of a frame 'swaped'",
                "'swapped'",
            ),
            (
                "\"110\"",
                "\"011\"",
                "17:29: '011': writable without host-writable and MMU-writable",
                "\"111\"",
            ),
            ("\"110\"", "\"11\"", "17:29: '11' is not three bits", "H, M and W"),
            ("\"110\"", "\"112\"", "17:29: '112' is not three bits", "H, M and W"),
            (
                "\"110\" }",
                "\"110\", tracked = true }",
                "17:45: access tracking with a format that has accessed bits",
                "ept-no-ad",
            ),
            (
                "\"110\" }",
                "\"110\", accessed = false, cached = true }",
                "17:62: a cached translation of an SPTE that was never used",
                "sets A",
            ),
            (
                "\"gfn0\" = {",
                "\"gva0\" = {",
                "17:2: no vCPU uses the guest page tables that 'gva0' needs",
                "paging = \"shadow\"",
            ),
            ("\"gfn0\" = {", "\"x\" = {", "17:2: 'x' is not an address", "guest frame"),
        ],
    );
    let no_ad = DIRECT.replacen("\"ept\"", "\"ept-no-ad\"", 1);
    check(
        &no_ad,
        &[
            (
                "\"110\" }",
                "\"110\", dirty = true }",
                "17:43: 'dirty' with a format that has no such bit",
                "\"ept\" or \"npt\"",
            ),
            (
                "\"110\" }",
                "\"111\", tracked = true }",
                "17:45: an access-tracked SPTE that is writable",
                "\"110\"",
            ),
        ],
    );
}

#[test]
fn guest_page_tables_and_their_shadows_must_agree() {
    check(
        SHADOW,
        &[
            (
                "root = \"gfn4\"",
                "root = \"gfn5\"",
                "12:9: the root gfn5 is not described",
                "\"gfn5\"",
            ),
            ("root = \"gfn4\"\n", "", "11:1: [guest] lacks 'root'", "root ="),
            (
                "[\"gfn3 w\"]",
                "[\"gfn2 w\"]",
                "13:10: the root points to gfn2, which is no leaf table",
                "\"gfn2\" =",
            ),
            (
                "[\"gfn3 w\"]",
                "[\"gfn3 w\", \"-\", \"-\"]",
                "13:27: a guest page table with 3 entries",
                "at most 2",
            ),
            (
                "\"gfn1\", \"-\"",
                "\"gfn1 r\", \"-\"",
                "14:22: 'gfn1 r' is no entry of a guest page table",
                "\"gfn1 w\"",
            ),
            ("\"gfn1\", \"-\"", "\"gfn7\", \"-\"", "14:22: gfn7 is in no slot", "[[slot]]"),
            (
                "\"gva0\" =",
                "\"gva2\" =",
                "17:2: the guest's page tables do not translate gva2",
                "entry 2",
            ),
            (
                "\"gva0\" =",
                "\"gva5\" =",
                "17:2: the guest's page tables do not translate gva5",
                "entry 1 of the root",
            ),
            (
                "\"gva0\" =",
                "\"gva1\" =",
                "17:2: gva1 is MMU-writable here but read-only in the guest's page tables",
                "\"100\"",
            ),
            ("\"gva0\" =", "\"gva9\" =", "17:2: 'gva9' is not a virtual page", "gva0 to gva7"),
            (
                "pfn = 3, spte = \"100\"",
                "pfn = 3, spte = \"110\"",
                "18:29: MMU-writable, but gfn3 is a guest page table that is shadowed already",
                "\"100\"",
            ),
            (
                "\"gfn3\" = { pfn = 3, spte = \"100\"",
                "\"gfn4\" = { pfn = 4, spte = \"111\"",
                "18:29: MMU-writable, but gfn4 is a guest page table that is shadowed already",
                "\"100\"",
            ),
            (
                "[guest]",
                "[host]\n\"gfn3\" = \"swapped\"\n[guest]",
                "16:2: the guest page table in gfn3 is swapped out",
                "[host]",
            ),
            (
                "\"-\"]",
                "\"-\"]\n\"gfn5\" = []\n\"gfn2\" = []",
                "11:1: 4 guest page tables",
                "at most 3",
            ),
            (
                "paging = \"direct\"\nrun = [\"prefault gfn0\"]",
                "run = [\"read gva0\"]",
                "18:2: no vCPU reaches gfn3 by a direct mapping",
                "virtual pages",
            ),
        ],
    );
}

#[test]
fn a_table_behind_a_read_only_entry_takes_two_of_the_shadow_pages() {
    let tables = |entry: &str| {
        format!(
            "pages = 8\n\n[guest]\nroot = \"gfn4\"\n\"gfn4\" = [\"gfn3 w\", \"gfn5{entry}\"]\n\
             \"gfn5\" = []"
        )
    };
    let old = "pages = 6\n\n[guest]\nroot = \"gfn4\"\n\"gfn4\" = [\"gfn3 w\"]";
    let writable = load("my-race.toml", &SHADOW.replacen(old, &tables(" w"), 1), 1);
    writable.unwrap_or_else(|e| panic!("{e}"));
    let error = refused(SHADOW, old, &tables("")).to_string();
    assert!(error.contains("3 guest page tables, 1 of them behind a read-only entry"), "{error}");
}

#[test]
fn a_pin_does_not_go_with_a_host_that_flushes_under_its_lock() {
    let host = "[[thread]]\nname = \"host\"\nrun = [\"change-pte gfn0 pfn6\"]\n[check]";
    let pinned = SHADOW.replace("[check]", host).replace("[[slot]]", "[host]\npages = 8\n[[slot]]");
    let key = "spte = \"npt\"\nindirect-fast-fault = \"pinned\"";
    let error = refused(&pinned, "spte = \"npt\"", key).to_string();
    assert!(error.contains("6:24: \"pinned\", and host does change-pte"), "{error}");
}

#[test]
fn what_goes_out_of_sync_is_a_table_that_is_shadowed_by_5_10() {
    check(
        SHADOW,
        &[
            (
                "spte = \"npt\"",
                "spte = \"npt\"\nunsync = 1",
                "6:10: 'unsync' is a whole number",
                "true or false",
            ),
            (
                "spte = \"npt\"",
                "spte = \"npt-v6.1\"\nprofile = \"x86-v6.1\"\nunsync = true",
                "7:10: 'unsync' with the algorithms of 6.1",
                "remove 'profile'",
            ),
        ],
    );
    let direct = SHADOW.replacen("spte = \"npt\"", "spte = \"npt\"\nunsync = true", 1);
    let programs =
        "run = [\"write gva0\", \"set-gpte gva2[1] gfn1\", \"emulate-gpte gfn3[0] gfn1\"]";
    let direct = direct.replace("paging = \"shadow\"", "paging = \"direct\"");
    let direct = direct.replace("\"gva0\" = { pfn = 0, spte = \"110\" }\n", "");
    let error = refused(&direct, programs, "run = [\"write gfn0\"]").to_string();
    assert!(error.contains("6:10: 'unsync', and no vCPU shadows guest page tables"), "{error}");
}

#[test]
fn mmio_is_judged_where_frames_are_what_vcpus_name() {
    let error = refused(SHADOW, "[\"swap\"]", "[\"mmio-generation\"]").to_string();
    assert!(error.contains("'mmio-generation' is watched, and a vCPU shadows"), "{error}");
}

#[test]
fn a_slot_that_is_to_come_is_empty_and_comes() {
    let two = "[[slot]]\ngfn = 6\npages = 1\nthere = false\n\n[guest]";
    let error = refused(SHADOW, "[guest]", two).to_string();
    assert!(error.contains("slot1 is not there at first, and nothing creates it"), "{error}");
    let user = "[[thread]]\nname = \"user\"\nrun = [\"create-memslot slot1\"]\n\n[check]";
    let comes = SHADOW.replacen("[check]", user, 1);
    let error = refused(&comes, "[guest]", &two.replace("there = false\n", "")).to_string();
    assert!(error.contains("create-memslot slot1, which is there by then"), "{error}");
    let create = "\"create-memslot slot1\"";
    let turns = user.replace(create, &format!("{create}, {create}"));
    let error = refused(&SHADOW.replacen("[check]", &turns, 1), "[guest]", two).to_string();
    assert!(error.contains("create-memslot slot1, which is there by then"), "{error}");
    let other = user.replace("\"user\"", "\"user1\"").replace("create", "delete");
    let both = SHADOW.replacen("[check]", &user.replace("[check]", &other), 1);
    let error = refused(&both, "[guest]", two).to_string();
    assert!(error.contains("two programs make or delete slot1"), "{error}");
    let file = comes.replacen("[guest]", two, 1).replace("pages = 6", "pages = 5");
    let file = file.replace("gfn = 6\npages = 1", "gfn = 5\npages = 1");
    load("my-race.toml", &file, 1).unwrap_or_else(|e| panic!("{e}"));
    let map = "\"gfn3\" = { pfn = 3, spte = \"100\" }\n\"gfn5\" = { pfn = 4, spte = \"110\" }";
    let error = refused(&file, "\"gfn3\" = { pfn = 3, spte = \"100\" }", map).to_string();
    assert!(error.contains("gfn5 is in slot1, which is not there at first"), "{error}");
    let table = "[guest]\n\"gfn5\" = [\"gfn0\"]";
    let error = refused(&file, "[guest]", table).to_string();
    assert!(error.contains("gfn5 is in slot1, which is not there at first"), "{error}");
}

//! Names, types, operations, threads and expectations.

use kvmmu_scenarios::loader::load;

use crate::common::{DIRECT, SHADOW, check, refused};

#[test]
fn unknown_names_are_answered_with_the_legal_ones_and_the_nearest() {
    check(
        DIRECT,
        &[
            ("write gfn0", "wrte gfn0", "21:9: unknown operation 'wrte'", "did you mean 'write'?"),
            (
                "write gfn0",
                "frobnicate",
                "21:9: unknown operation 'frobnicate'",
                "legal here: read",
            ),
            (
                "\"fast-fault-cmpxchg\"",
                "\"fast-fault-cmpxcgh\"",
                "40:13: unknown guard 'fast-fault-cmpxcgh'",
                "did you mean 'fast-fault-cmpxchg'?",
            ),
            (
                "\"fast-fault-cmpxchg\"",
                "\"smp-mb-after-in-guest-mode\"",
                "40:13: 'smp-mb-after-in-guest-mode' is a fence: not judged under SC",
                "remove it from 'without'",
            ),
            (
                "[\"migration\"]",
                "[\"migraton\"]",
                "32:12: unknown property 'migraton'",
                "did you mean 'migration'?",
            ),
            (
                "story = \"mark-dirty\"",
                "story = \"a < mark-dirty\"",
                "43:10: unknown mark 'a'",
                "mark-dirty",
            ),
            (
                "< harvest@user",
                "< harves@user",
                "33:28: unknown mark 'harves'",
                "did you mean 'harvest'?",
            ),
            (
                "harvest@user",
                "harvest@vcpu7",
                "33:36: unknown thread 'vcpu7'",
                "did you mean 'vcpu0'?",
            ),
            (
                "harvest@user",
                "harvest@user@host",
                "33:28: 'harvest@user@host' is no moment",
                "mark@thread",
            ),
            ("\"ept\"", "\"eptt\"", "5:9: unknown SPTE format 'eptt'", "did you mean 'ept'?"),
            (
                "= \"direct\"",
                "= \"indirect\"",
                "4:11: unknown paging mode 'indirect'",
                "did you mean 'direct'?",
            ),
            (
                "verdict = \"holds\"",
                "verdict = \"hold\"",
                "37:12: unknown verdict 'hold'",
                "'holds'",
            ),
            ("title", "titel", "1:1: unknown key of a scenario file: 'titel'", "'title'"),
            ("log = true", "lgo = true", "14:1: unknown key of a [[slot]]: 'lgo'", "'log'"),
            ("run = [\"swap", "rnu = [\"swap", "25:1: unknown key of a [[thread]]: 'rnu'", "'run'"),
            ("\"gfn1\" =", "\"fgn1\" =", "9:2: unknown key of [host]: 'fgn1'", "pages"),
            (
                "spte = \"110\" }",
                "spte = \"110\", dirt = true }",
                "17:35: unknown key of an SPTE in [map]: 'dirt'",
                "'dirty'",
            ),
            (
                "[check]",
                "profile = \"fxd\"\n[check]",
                "31:1: unknown key of a [[thread]]: 'profile'",
                "legal here",
            ),
            ("title", "profile = \"fxied\"\ntitle", "1:12: unknown profile 'fxied'", "'fixed'"),
        ],
    );
}

#[test]
fn what_is_missing_or_of_the_wrong_type_is_named() {
    check(
        DIRECT,
        &[
            ("title = \"t\"\n", "", "1:1: a scenario file lacks 'title'", "title ="),
            ("title = \"t\"", "title = \" \"", "1:10: 'title' is empty", "title ="),
            ("title = \"t\"", "title = 1", "1:9: 'title' is a whole number", "must be a string"),
            ("spte = \"ept\"\n", "", "1:1: a scenario file lacks 'spte'", "spte ="),
            ("log = true", "log = \"yes\"", "14:7: 'log' is a string", "true or false"),
            ("gfn = 0\n", "", "11:1: a [[slot]] lacks 'gfn'", "gfn = 0"),
            ("[[slot]]", "[slot]", "11:1: 'slot' is a table", "[[slot]]"),
            ("pages = 3\n\"", "pages = 9\n\"", "8:9: 'pages' is '9', out of range", "from 1 to 8"),
            (
                "pages = 3\n\"",
                "pages = -1\n\"",
                "8:9: 'pages' is '-1', out of range",
                "from 1 to 8",
            ),
            ("run = [\"swap-out gfn0\"]", "run = []", "25:7: 'host' does nothing", "program"),
            ("run = [\"swap-out gfn0\"]", "run = \"shrink\"", "25:7: 'run' is a string", "a list"),
            ("run = [\"swap-out gfn0\"]", "run = [3]", "25:8: 'run' is a whole number", "a string"),
            ("verdict = \"holds\"\n", "", "35:1: an [[expect]] lacks 'verdict'", "verdict"),
            ("without = []\n", "", "35:1: an [[expect]] lacks 'without'", "without = []"),
        ],
    );
    let error = refused(DIRECT, "always = ", "always = =");
    assert_eq!((error.line, error.message.starts_with("not TOML: ")), (32, true), "{error}");
    let error = refused(DIRECT, "title = \"t\"", "title = \"t\"\ntitle = \"u\"");
    assert_eq!((error.line, error.column), (2, 1), "{error}");
}

#[test]
fn operations_are_checked_word_by_word() {
    check(
        DIRECT,
        &[
            ("write gfn0", "", "21:9: an operation is empty", "name one of"),
            ("write gfn0", "write", "21:9: 'write' takes 1 argument, not 0", "write gfnN|gvaN"),
            ("write gfn0", "write gfn0 gfn1", "21:20: 'write' takes 1 argument, not 2", "write"),
            ("write gfn0", "write 0", "21:15: '0' is not of the form gfnN", "write gfnN|gvaN"),
            ("write gfn0", "write gfn9", "21:15: 'gfn9' is out of range", "gfn0 to gfn7"),
            ("write gfn0", "write gfn5", "21:15: gfn5 is in no slot", "[[slot]] with gfn = 5"),
            (
                "write gfn0",
                "write\u{a0}gfn0",
                "21:14: U+00A0 is no space, although it looks like one",
                "a plain space",
            ),
            ("write gfn0", "WRITE gfn0", "21:9: unknown operation 'WRITE'", "mean 'write'?"),
            ("slot0\"]\n\n", "slot9\"]\n\n", "29:23: 'slot9' does not exist", "there are 1"),
            (
                "write gfn0",
                "write gva0",
                "21:15: 'gva0': this vCPU does not use guest page tables",
                "paging = \"shadow\"",
            ),
            (
                "write gfn0",
                "shrink",
                "21:9: 'shrink' runs on host threads, and this is a vCPU thread",
                "read, write",
            ),
            (
                "swap-out gfn0",
                "read gfn0",
                "25:9: 'read' runs on vCPU threads, and this is a host thread",
                "swap-out",
            ),
            (
                "swap-out gfn0",
                "change-pte gfn0 pfn5",
                "25:25: 'pfn5' does not exist in the host",
                "the host has 3 pages",
            ),
            (
                "swap-out gfn0",
                "ksm-merge gfn0 gfn0",
                "25:24: gfn0 is merged with itself",
                "name two frames",
            ),
            (
                "swap-out gfn0",
                "change-pte gfn1 pfn0",
                "25:25: pfn0 is gfn0's own page, which the host maps writable",
                "name a free page",
            ),
            ("slot0", "slot1", "29:23: 'slot1' does not exist", "there are 1"),
            (
                "write gfn0",
                "set-gpte gfn0[0] gfn1",
                "21:18: 'gfn0' is not a guest page table",
                "[guest]",
            ),
            (
                "write gfn0",
                "set-gpte gfn0 gfn1",
                "21:18: 'gfn0' is not of the form gfnN[I]",
                "set-gpte",
            ),
        ],
    );
    check(
        SHADOW,
        &[
            (
                "write gva0",
                "write gfn0",
                "22:15: 'gfn0': this vCPU reaches memory by guest page tables",
                "paging = \"direct\"",
            ),
            ("write gva0", "write gva8", "22:15: 'gva8' is out of range", "gva0 to gva7"),
            ("gva2[1]", "gva2[4]", "22:37: '4' is no entry of a guest page table", "0 to 3"),
            (
                "write gva0",
                "prefault gfn0",
                "22:18: 'prefault' needs a vCPU with paging = \"direct\"",
                "paging",
            ),
            (
                "prefault gfn0",
                "load-cr3",
                "27:9: 'load-cr3' needs a vCPU with paging = \"shadow\"",
                "add paging = \"shadow\"",
            ),
            (
                "prefault gfn0",
                "write gfn3",
                "27:15: 'write' on gfn3, a guest page table",
                "set-gpte",
            ),
            (
                "gfn3[0] gfn1",
                "gfn4[0] gfn1",
                "22:61: 'emulate-gpte' on gfn4, a guest page table",
                "describe it in [guest]",
            ),
        ],
    );
}

#[test]
fn threads_are_named_counted_and_ordered() {
    check(
        DIRECT,
        &[
            ("\"vcpu0\"", "\"cpu0\"", "20:9: 'cpu0' is no name of a thread", "vcpu0, vcpu1"),
            ("\"vcpu0\"", "\"vcpu\"", "20:9: 'vcpu' is no name of a thread", "vcpu0, vcpu1"),
            (
                "\"host\"\n",
                "\"host\"\nfrom-size = 99\n",
                "25:13: 'from-size' is '99', out of range",
                "1 to 9",
            ),
            ("\"user\"", "\"host\"", "28:9: a second thread 'host'", "another"),
            ("\"user\"", "\"vcpu1\"", "28:9: 'vcpu1' stands after 'host'", "move it up"),
            (
                "name = \"host\"",
                "name = \"host\"\npaging = \"direct\"",
                "25:11: 'host' does not translate addresses",
                "remove",
            ),
            (
                "name = \"user\"",
                "name = \"user\"\nfrom-size = 2",
                "34:36: 'user' exists only from size 2 on",
                "vcpu0, host",
            ),
            (
                "name = \"vcpu0\"",
                "name = \"vcpu0\"\npaging = \"shadow\"",
                "20:9: 'vcpu0' shadows guest page tables, and there are none",
                "[guest]",
            ),
        ],
    );
    let vcpus: String = (1..5)
        .map(|i| format!("[[thread]]\nname = \"vcpu{i}\"\nrun = [\"read gfn0\"]\n"))
        .collect();
    let many = format!("{vcpus}[[thread]]\nname = \"host\"");
    let error = refused(DIRECT, "[[thread]]\nname = \"host\"", &many);
    assert_eq!(error.message, "too many CPUs: 'vcpu4' is vCPU number 5");
    assert_eq!((error.line, error.column), (33, 9));
    let hosts: String =
        (1..5).map(|i| format!("[[thread]]\nname = \"host{i}\"\nrun = [\"shrink\"]\n")).collect();
    let many = format!("{hosts}[[thread]]\nname = \"user\"");
    let error = refused(DIRECT, "[[thread]]\nname = \"user\"", &many);
    assert_eq!(error.message, "too many threads: 'user' is number 7");
}

#[test]
fn a_size_that_makes_a_program_too_long_is_refused_at_its_line() {
    let text = DIRECT.replacen(
        "run = [\"swap-out gfn0\"]",
        "run = [\"swap-out gfn0\"]\nmore = [\"swap-in gfn0\"]",
        1,
    );
    let at = |size| load("my-race.toml", &text, size).map(|s| s.threads[1].run.len());
    assert_eq!(at(1), Ok(1));
    assert_eq!(at(16), Ok(16));
    let error = at(17).expect_err("17 operations");
    assert_eq!((error.line, error.column), (26, 8));
    assert_eq!(error.message, "a program of 17 operations");
}

#[test]
fn expectations_must_be_complete_and_consistent() {
    check(
        DIRECT,
        &[
            ("property = \"migration\"\n", "", "39:1: an [[expect]] lacks 'property'", "property"),
            ("story = \"mark-dirty\"\n", "", "39:1: an [[expect]] lacks 'story'", "story"),
            (
                "property = \"migration\"",
                "property = \"swap\"",
                "42:13: 'swap' is not checked",
                "'always'",
            ),
            (
                "verdict = \"holds\"",
                "verdict = \"holds\"\nstory = \"harvest\"",
                "38:10: 'story' with verdict = \"holds\"",
                "remove",
            ),
            (
                "[\"fast-fault-cmpxchg\"]",
                "[]",
                "40:11: a second expectation for the same missing guards",
                "join",
            ),
            (
                "without = []",
                "without = [\"pin-hold\"]",
                "36:11: the first expectation has guards missing",
                "without = []",
            ),
            (
                "[\"fast-fault-cmpxchg\"]",
                "[\"pin-hold\", \"pin-hold\"]",
                "40:25: 'pin-hold' twice",
                "remove",
            ),
            (
                "[\"migration\"]",
                "[\"migration\", \"migration\"]",
                "32:25: 'migration' twice",
                "remove",
            ),
            (
                "verdict = \"holds\"",
                "verdict = \"holds\"\nengines = { shutle = \"holds\" }",
                "38:13: unknown key of 'engines': 'shutle'",
                "'shuttle'",
            ),
            (
                "verdict = \"holds\"",
                "verdict = \"holds\"\nengines = { loom = \"fails\" }",
                "38:21: unknown verdict of an engine 'fails'",
                "skip",
            ),
            (
                "verdict = \"holds\"",
                "verdict = \"holds\"\ndpor-executions = 0",
                "38:19: 'dpor-executions' is '0', out of range",
                "from 1",
            ),
        ],
    );
    let error = refused(DIRECT, "always = [\"migration\"]\nsometimes = ", "sometime = ");
    assert_eq!((error.line, error.column), (32, 1), "{error}");
}

#[test]
fn a_migration_that_is_watched_needs_a_log_and_a_last_copy() {
    check(
        DIRECT,
        &[
            (
                "\n[at-stop]\nrun = [\"get-dirty-log slot0\", \"copy-harvested\"]\n",
                "",
                "1:1: 'migration' is watched, and [at-stop] does not harvest and copy what is left",
                "add [at-stop]",
            ),
            (
                "log = true\n",
                "",
                "30:1: 'migration' is watched, and no slot has dirty logging",
                "add log = true",
            ),
        ],
    );
}

#[test]
fn a_vm_has_manual_protect_or_not() {
    let end = "run = [\"get-dirty-log slot0\", \"copy-harvested\"]";
    let with = |ops: &str| DIRECT.replace(end, &format!("run = [{ops}, \"copy-harvested\"]"));
    let error = load("f.toml", &with("\"fetch-dirty-log slot0\""), 1).expect_err("both kinds");
    assert!(error.message.contains("get-dirty-log beside an operation of manual"), "{error}");
    assert!(error.to_string().contains("take fetch-dirty-log and clear-dirty-log"), "{error}");
    let set = DIRECT.replace(
        "run = [\"get-dirty-log slot0\", \"copy-harvested\"]",
        "run = [\"start-dirty-log-set slot0\", \"get-dirty-log slot0\", \"copy-harvested\"]",
    );
    let error = load("f.toml", &set, 1).expect_err("it needs manual protect");
    assert!(error.message.contains("get-dirty-log beside"), "{error}");
    let error = load(
        "f.toml",
        &with(
            "\"start-dirty-log-set slot0\", \"start-dirty-log slot0\", \"fetch-dirty-log slot0\"",
        ),
        1,
    )
    .expect_err("both");
    assert!(error.message.contains("beside"), "{error}");
    let error = load("f.toml", &with("\"get-dirty-log slot0\", \"stop-dirty-log slot0\""), 1)
        .expect_err("the log is off");
    assert!(error.message.contains("ends with a dirty log off"), "{error}");
    // A log may begin while the program runs.
    let begins = DIRECT.replace("log = true\n", "").replace(
        "run = [\"get-dirty-log slot0\"",
        "run = [\"start-dirty-log slot0\", \"get-dirty-log slot0\"",
    );
    load("f.toml", &begins, 1).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn what_was_harvested_and_copied_at_the_end_may_be_deleted_after_it() {
    let end = "run = [\"get-dirty-log slot0\", \"copy-harvested\"]";
    let with = |op: &str| DIRECT.replace(end, &format!("{}, \"{op}\"]", &end[..end.len() - 1]));
    for op in ["delete-memslot slot0", "swap-out gfn0"] {
        load("f.toml", &with(op), 1).unwrap_or_else(|e| panic!("{op}: {e}"));
    }
    let error = load("f.toml", &with("get-dirty-log slot0"), 1).expect_err("it is not copied");
    assert!(error.message.contains("does not harvest and copy"), "{error}");
}

#[test]
fn virtual_cpus_are_numbered_from_zero() {
    check(DIRECT, &[("\"vcpu0\"", "\"vcpu3\"", "20:9: 'vcpu3' is vCPU number 0", "call it vcpu0")]);
}

#[test]
fn more_witnesses_than_machines_can_note_are_refused() {
    let one = "\"mark-dirty < harvest@user\"";
    let many = |n: usize| format!("sometimes = [{}]", vec![one; n].join(", "));
    let error = refused(DIRECT, &many(1), &many(65)).to_string();
    assert!(error.contains("witness 65 of 'sometimes'"), "{error}");
    let fits = DIRECT.replacen(&many(1), &many(64), 1);
    load("my-race.toml", &fits, 1).unwrap_or_else(|e| panic!("{e}"));
}

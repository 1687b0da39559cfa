//! Goal: a file of arm64 names what KVM for arm64 has, and a file of x86 nothing of that. Method: a
//! right file of each, and one word of the other in it.

use crate::common::check;
use kvmmu_scenarios::loader::{load, names};
use kvmmu_scenarios::ops::Op;
use kvmmu_scenarios::scenario::{Arch, Format, Profile};

const ARM64: &str = r#"title   = "t"
source  = "s"
about   = "a"
profile = "arm64-v5.10"

[host]
hugetlb = ["gfn0"]
huge    = ["gfn4"]

[[slot]]
gfn   = 0
pages = 8

[map]
"gfn0" = { pfn = 0, pte = "rw", block = true, cached = true }
"gfn5" = { pfn = 5, pte = "r", accessed = false }

[[thread]]
name = "vcpu0"
run  = ["read gfn0", "write gfn5"]

[[thread]]
name = "host"
run  = ["swap-out gfn5"]

[[thread]]
name = "user"
run  = ["mmap-small gfn1"]

[check]
always    = ["pfn-safety", "bbm"]
sometimes = ["stage2-mapped@vcpu0"]

[[expect]]
without = []
verdict = "holds"

[[expect]]
without  = ["s2-unmap-tlbi"]
verdict  = "violated"
property = "bbm"
story    = "stage2-unmapped@host"
"#;

#[test]
fn a_file_of_arm64_is_read() {
    let scenario = load("t.toml", ARM64, 1).expect("a right file");
    assert_eq!((scenario.profile.arch(), scenario.spte), (Arch::Arm64, Format::Arm64));
    assert_eq!((scenario.huge.len(), scenario.hugetlb.len()), (2, 1));
    let ops: Vec<String> = scenario.ops().map(|op: Op| op.to_string()).collect();
    assert_eq!(ops, ["read gfn0", "write gfn5", "swap-out gfn5", "mmap-small gfn1"]);
    let [block, page] = &scenario.map[..] else { panic!("two descriptors") };
    assert!(block.large && block.writable && block.cached && !page.writable && !page.accessed);
}

#[test]
fn what_x86_alone_has_is_refused_where_it_stands() {
    check(
        ARM64,
        &[
            (
                "[host]",
                "spte = \"ept\"\n[host]",
                "6:9: 'spte' with a profile of arm64",
                "one layout",
            ),
            (
                "[host]",
                "paging = \"shadow\"\n[host]",
                "6:11: guest page tables are shadowed on x86, and the profile is of arm64",
                "stage 2",
            ),
            (
                "[host]",
                "pml = true\n[host]",
                "6:7: 'pml' with a profile of arm64",
                "remove the line",
            ),
            (
                "[host]",
                "unsync = true\n[host]",
                "6:10: 'unsync' with a profile of arm64",
                "shadows no guest",
            ),
            (
                "[[slot]]",
                "[guest]\nroot = \"gfn1\"\n[[slot]]",
                "10:1: 'guest' with a profile of arm64",
                "own page tables",
            ),
            (
                "[host]",
                "indirect-fast-fault = \"walk\"\n[host]",
                "6:24: 'indirect-fast-fault' with a profile of arm64",
                "no fast fault",
            ),
            (
                "\"read gfn0\"",
                "\"invlpg gva0\"",
                "20:10: operation 'invlpg' is of x86, and the profile is of arm64",
                "read, write",
            ),
            (
                "\"swap-out gfn5\"",
                "\"shrink\"",
                "24:10: operation 'shrink' is of x86, and the profile is of arm64",
                "swap-out",
            ),
            (
                "\"pfn-safety\"",
                "\"swap\"",
                "31:15: property 'swap' is of x86, and the profile is of arm64",
                "pfn-safety",
            ),
            (
                "stage2-mapped@vcpu0",
                "fast-fault-read@vcpu0",
                "32:15: mark 'fast-fault-read' is of x86, and the profile is of arm64",
                "stage2-mapped",
            ),
            (
                "\"s2-unmap-tlbi\"",
                "\"fast-fault-cmpxchg\"",
                "39:14: guard 'fast-fault-cmpxchg' is of x86, and the profile is of arm64",
                "s2-unmap-tlbi",
            ),
            (
                "\"s2-unmap-tlbi\"",
                "\"x86-v5.10\"",
                "39:14: release 'x86-v5.10' is of x86, and the profile is of arm64",
                "s2-unmap-tlbi",
            ),
            (
                "pte = \"r\"",
                "spte = \"110\"",
                "16:21: unknown key of an SPTE in [map]: 'spte'",
                "pte",
            ),
            ("pte = \"r\"", "pte = \"w\"", "16:28: unknown set of permissions 'w'", "rw, r"),
            (
                "accessed = false",
                "accessed = false, cached = true",
                "16:59: a cached translation by a descriptor that was never used",
                "AF",
            ),
            (
                "\"arm64-v5.10\"",
                "\"arm64-v5.11\"",
                "4:12: unknown profile 'arm64-v5.11'",
                "arm64-v5.10",
            ),
        ],
    );
}

#[test]
fn pages_of_hugetlbfs_are_neither_split_nor_swapped_out() {
    check(
        ARM64,
        &[
            (
                "swap-out gfn5",
                "swap-out gfn1",
                "18:1: swap-out gfn1, and gfn1 is in a page of hugetlbfs",
                "'huge'",
            ),
            (
                "swap-out gfn5",
                "split-huge gfn1",
                "18:1: split-huge gfn1, and gfn1 is in a page of hugetlbfs",
                "'huge'",
            ),
            (
                "mmap-small gfn1",
                "mmap-small gfn4",
                "18:1: mmap-small gfn4, and gfn4 is in no page of hugetlbfs",
                "hugetlb =",
            ),
            ("[\"gfn4\"]", "[\"gfn0\"]", "7:13: gfn0 twice", "once"),
            (
                "pfn = 0, pte",
                "pfn = 1, pte",
                "6:1: the huge page of gfn0 has no four host pages in their places",
                "pfn0 or pfn4",
            ),
            (
                "\"gfn0\" = { pfn = 0,",
                "\"gfn1\" = { pfn = 1,",
                "15:41: gfn1 is no huge page of the host",
                "first",
            ),
        ],
    );
}

#[test]
fn what_arm64_alone_has_is_refused_on_x86() {
    let x86 = crate::common::DIRECT;
    check(
        x86,
        &[
            (
                "pages = 3\n\"gfn1\"",
                "hugetlb = [\"gfn0\"]\n\"gfn1\"",
                "8:11: 'hugetlb' with a profile of x86",
                "huge",
            ),
            (
                "\"get-dirty-log slot0\"]",
                "\"mmap-small gfn0\"]",
                "29:9: operation 'mmap-small' is of arm64, and the profile is of x86",
                "read",
            ),
            (
                "always = [\"migration\"]",
                "always = [\"bbm\"]",
                "32:12: property 'bbm' is of arm64, and the profile is of x86",
                "migration",
            ),
            (
                "\"mark-dirty < harvest",
                "\"stage2-mapped < harvest",
                "33:15: mark 'stage2-mapped' is of arm64, and the profile is of x86",
                "mark-dirty",
            ),
            (
                "[\"fast-fault-cmpxchg\"]",
                "[\"s2-bbm-break\"]",
                "40:13: guard 's2-bbm-break' is of arm64, and the profile is of x86",
                "fast-fault",
            ),
            (
                "spte = \"110\"",
                "pte = \"r\"",
                "17:21: unknown key of an SPTE in [map]: 'pte'",
                "spte",
            ),
        ],
    );
}

/// Goal: a file of several profiles is a scenario for each, with what is said of that alone; a
/// mistake is shown in the file. Method: such a file, and one word of another in it.
const SEVERAL: &str = r#"title   = "t"
source  = "s"
about   = "a"
profile = ["arm64-v5.10", "arm64-v6.12"]

[[slot]]
gfn   = 0
pages = 4

[[thread]]
name = "vcpu0"
run  = ["write gfn0"]

[check]
always    = ["pfn-safety"]
sometimes = ["stage2-mapped@vcpu0"]

[check."arm64-v6.12"]
sometimes = ["stage2-again"]

[[expect]]
without = []
verdict = "holds"

[[expect]]
profile = "arm64-v6.12"
without = ["s2-locked-marker"]
verdict = "holds"
because = "one vCPU"
"#;

#[test]
fn a_file_of_several_profiles_is_a_scenario_for_each() {
    let names = names("dir/t.toml", SEVERAL).expect("a right name");
    assert_eq!(names, ["dir/t.toml", "dir/t-v6.12.toml"]);
    let [first, second] = &names[..] else { panic!("two names") };
    let read = |name: &str| load(name, SEVERAL, 1).expect("a right file");
    let (first, second) = (read(first), read(second));
    assert_eq!((first.name.as_str(), second.name.as_str()), ("t", "t-v6.12"));
    assert_eq!((first.profile, second.profile), (Profile::Arm64V5_10, Profile::Arm64V6_12));
    assert_eq!((first.sometimes.len(), second.sometimes.len()), (1, 2));
    assert_eq!((first.expects.len(), second.expects.len()), (1, 2));
}

#[test]
fn profiles_that_do_not_fit_are_refused_where_they_stand() {
    check(
        SEVERAL,
        &[
            (
                "\"arm64-v5.10\", \"arm64-v6.12\"",
                "\"arm64-v5.10\", \"x86-v6.1\"",
                "4:28: 'x86-v6.1' is of another architecture than the first profile",
                "write another file",
            ),
            (
                "\"arm64-v5.10\", \"arm64-v6.12\"",
                "\"arm64-v6.12\", \"arm64-v6.12\"",
                "4:28: 'arm64-v6.12' twice",
                "remove one",
            ),
            (
                "[\"arm64-v5.10\", \"arm64-v6.12\"]",
                "[]",
                "4:11: 'profile' names none",
                "arm64-v6.1",
            ),
            (
                "[\"arm64-v5.10\", \"arm64-v6.12\"]",
                "\"arm64-v6.13\"",
                "4:12: unknown profile 'arm64-v6.13'",
                "did you mean",
            ),
            (
                "profile = \"arm64-v6.12\"\n",
                "profile = \"arm64-v6.1\"\n",
                "26:12: 'arm64-v6.1' is no profile of this file",
                "at the top",
            ),
            (
                "profile = \"arm64-v6.12\"\n",
                "",
                "26:13: guard 's2-locked-marker' is of kernels since 6.2, and the profile is \
                 arm64-v5.10",
                "profile = \"arm64-v6.12\"",
            ),
            (
                "[check.\"arm64-v6.12\"]",
                "[check.\"arm64-v6.1\"]",
                "18:9: 'arm64-v6.1' is no profile of this file",
                "at the top",
            ),
            (
                "profile = \"arm64-v6.12\"\n",
                "profile = []\n",
                "26:11: 'profile' names none",
                "arm64-v6.1",
            ),
            (
                "profile = \"arm64-v6.12\"\n",
                "profile = [\"arm64-v6.12\", \"arm64-v6.12\"]\n",
                "26:28: 'arm64-v6.12' twice",
                "remove one",
            ),
            (
                "[check.\"arm64-v6.12\"]\nsometimes",
                "[check.\"arm64-v6.12\"]\nalways",
                "19:1: unknown key of a profile in [check]: 'always'",
                "sometimes",
            ),
            (
                "\"write gfn0\"]",
                "\"write gfn0\"]\n[[thread]]\nname = \"host\"\nrun = [\"rcu-callbacks\"]",
                "4:11: 'rcu-callbacks', and a profile of kernels that free no table by RCU",
                "arm64-v6.12",
            ),
        ],
    );
    let later = SEVERAL.replace("because = \"one vCPU\"", "because = 1");
    let error = load("dir/t-v6.12.toml", &later, 1).expect_err("a number is no reason");
    assert_eq!(error.file, "dir/t.toml", "{error}");
    let bare = "[[expect]]\nwithout = []";
    let first = SEVERAL.replace(bare, "[[expect]]\nprofile = \"arm64-v5.10\"\nwithout = []");
    let error = load("t-v6.12.toml", &first, 1).expect_err("6.12 begins with a guard missing");
    assert!(error.message.starts_with("the first expectation of arm64-v6.12"), "{error}");
}

#[test]
fn no_profile_of_a_file_is_left_out_in_silence() {
    let error = names("dir/t-v6.12.toml", SEVERAL).expect_err("which of the two is it?");
    let (file, place) = (error.file.as_str(), (error.line, error.column));
    assert_eq!((file, place), ("dir/t-v6.12.toml", (4, 11)));
    assert!(error.message.ends_with("ends in '-v6.12'"), "{error}");
    let x86 = SEVERAL.replace("\"arm64-v5.10\", \"arm64-v6.12\"", "\"x86-v6.1\", \"fixed\"");
    let error = load("t.toml", &x86, 1).expect_err("'fixed' has no version");
    assert!(error.message.contains("has no version"), "{error}");
}

/// Goal: a host that calls change_pte alone is none of 6.12.
#[test]
fn change_pte_is_not_in_6_12() {
    let several = SEVERAL.replace("[check.\"arm64-v6.12\"]\nsometimes = [\"stage2-again\"]\n", "");
    let one = several.replace("[\"arm64-v5.10\", \"arm64-v6.12\"]", "\"arm64-v6.12\"");
    check(
        &one.replace("[[expect]]\nprofile = \"arm64-v6.12\"", "[[expect]]")
            .replace("[[slot]]", "[host]\npages = 5\n\n[[slot]]"),
        &[(
            "[check]",
            "[[thread]]\nname = \"host\"\nrun = [\"change-pte gfn0 pfn4\"]\n\n[check]",
            "4:12: 'change-pte', and a profile of kernels without that notifier (since 6.10)",
            "ksm-merge",
        )],
    );
}

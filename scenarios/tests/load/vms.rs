//! Goal: several VMs and their VMIDs, and a VM that ends, are read, and refused where they make no
//! sense. Method: a right file of each, and one thing in it that is wrong.

use crate::common::check;
use kvmmu_scenarios::loader::load;

const VMIDS: &str = r#"title   = "t"
source  = "s"
about   = "a"
profile = "arm64-v6.12"

[vmid]
bits  = 2
given = true

[host]
pages = 1

[[slot]]
gfn   = 0
pages = 1

[map]
"gfn0" = { pfn = 0, pte = "rw", cached = true }

[[thread]]
name = "vcpu0"
run  = ["read gfn0"]

[[thread]]
name = "vcpu1"
vm   = 1
run  = ["read gfn0", "new-vm", "move-to vcpu0"]

[check]
always = ["vm-isolation"]

[[expect]]
without = []
verdict = "holds"

[[expect]]
without  = ["vmid-rollover-flush"]
verdict  = "violated"
property = "vm-isolation"
story    = "vmid-rollover@vcpu1"
"#;

/// Goal: VMIDs and another VM are read; what makes no sense of them is refused.
#[test]
fn vmids_and_another_vm() {
    let scenario = load("t.toml", VMIDS, 1).expect("a right file");
    let vmid = scenario.vmid.expect("there are VMIDs");
    assert_eq!((vmid.bits, vmid.given, vmid.other_vm), (2, true, 0b10));
    assert!(scenario.moves_vcpus());
    let tail = VMIDS.find("[\"vm-isolation\"]").map(|at| &VMIDS[at..]).expect("it is there");
    check(
        VMIDS,
        &[
            ("bits  = 2", "bits  = 0", "7:9: 'bits' is '0', out of range", "1 to 2"),
            ("bits  = 2", "bits  = 3", "7:9: 'bits' is '3', out of range", "1 to 2"),
            ("bits  = 2\n", "", "6:1: [vmid] lacks 'bits'", "bits = 2"),
            ("bits  = 2", "bits  = 1", "7:9: two VMs, and one VMID for them", "bits = 2"),
            (
                "given = true",
                "given = false",
                "17:1: something is cached, and VM 0 has no VMID yet",
                "given = true",
            ),
            (
                "[vmid]\nbits  = 2\ngiven = true\n",
                "",
                "23:8: 'vcpu1' is of VM 1, and there are no VMIDs",
                "[vmid]",
            ),
            ("vm   = 1", "vm   = 2", "26:8: 'vm' is '2', out of range", "0 to 1"),
            ("name = \"vcpu0\"\n", "name = \"vcpu0\"\nvm = 1\n", "22:6: vcpu0 is of VM 1", "VM 0"),
            ("vm   = 1\n", "", "26:23: 'new-vm' on vcpu1, which is of VM 0", "vm = 1"),
            ("\"new-vm\"", "\"mmio\"", "27:23: 'mmio' on vcpu1, which is of VM 1", "new-vm"),
            (
                "\"new-vm\"",
                "[\"read gfn0\", \"halt\"]",
                "27:37: 'halt' on vcpu1, which is of VM 1",
                "new-vm",
            ),
            ("move-to vcpu0", "move-to vcpu1", "27:41: 'vcpu1' moves to its own CPU", "ended"),
            ("move-to vcpu0", "move-to vcpu2", "27:41: 'vcpu2' does not exist", "another vCPU"),
            (
                "run  = [\"read gfn0\"]",
                "run  = [\"move-to vcpu1\"]",
                "20:1: two vCPUs that move",
                "stay",
            ),
            ("pages = 1\n\n[[slot]]", "pages = 5\n\n[[slot]]", "10:1: 5 pages for VM 0", "4"),
            (
                tail,
                "[]\n\n[[expect]]\nwithout = []\nverdict = \"holds\"\n",
                "29:1: there is a VM 1, and 'vm-isolation' is not watched",
                "always",
            ),
            (
                "[\"vmid-rollover-flush\"]",
                "[\"vmid-rollover-exit\"]",
                "37:14: guard 'vmid-rollover-exit' is of kernels to 5.17, and the profile is \
                 arm64-v6.12",
                "arm64-v5.10",
            ),
            (
                "[check]",
                "[[thread]]\nname = \"user\"\nrun  = [\"recreate-memslot slot0\"]\n\n[check]",
                "20:1: 'recreate-memslot', and there are VMIDs",
                "remove",
            ),
            (
                "[check]",
                "[[thread]]\nname = \"vcpu2\"\nrun  = [\"read gfn0\"]\n\n[check]",
                "6:1: 3 VMIDs to give out, and 3 CPUs",
                "bits",
            ),
        ],
    );
}

/// Goal: a file without VMIDs moves no vCPU, and one of x86 has no VMIDs and no errata.
#[test]
fn vmids_are_of_arm64() {
    check(
        RELEASED,
        &[(
            "\"write gfn0\"]",
            "\"move-to vcpu1\"]",
            "15:10: 'move-to', and there are no VMIDs",
            "[vmid]",
        )],
    );
    check(
        crate::common::DIRECT,
        &[
            ("[host]", "[vmid]\nbits = 2\n\n[host]", "7:1: 'vmid' with a profile of x86", "remove"),
            (
                "[host]",
                "early-completion = true\n\n[host]",
                "7:20: 'early-completion' with a profile of x86",
                "remove",
            ),
        ],
    );
}

const RELEASED: &str = r#"title   = "t"
source  = "s"
about   = "a"
profile = "arm64-v5.10"

[host]
pages = 8

[[slot]]
gfn   = 0
pages = 8

[[thread]]
name = "vcpu0"
run  = ["write gfn0"]

[[thread]]
name = "user"
run  = ["madvise-dontneed slot0"]

[[thread]]
name = "user1"
run  = ["release-vm"]

[check]
always = ["pfn-safety"]

[[expect]]
without = []
verdict = "holds"

[[expect]]
without  = ["s2-pgt-reread"]
verdict  = "violated"
property = "use-after-free"
story    = "table-freed@user1"
"#;

/// Goal: a VM ends, once, beside what the host does; what needs it is refused beside that.
#[test]
fn a_vm_that_ends() {
    let scenario = load("t.toml", RELEASED, 1).expect("a right file");
    assert!(scenario.releases_vm());
    check(
        RELEASED,
        &[
            ("\"release-vm\"", "\"release-vm\", \"release-vm\"", "13:1: 'release-vm' twice", "one"),
            (
                "\"release-vm\"",
                "\"release-vm\", \"delete-memslot slot0\"",
                "13:1: 'release-vm' and delete-memslot slot0",
                "ioctl",
            ),
            (
                "pages = 8\n\n[[slot]]",
                "pages = 8\nhuge = [\"gfn4\"]\n\n[[slot]]",
                "6:1: madvise-dontneed slot0, and the slot has a huge page",
                "huge",
            ),
        ],
    );
    check(
        crate::common::DIRECT,
        &[
            (
                "\"get-dirty-log slot0\"]",
                "\"release-vm\"]",
                "29:9: operation 'release-vm' is of arm64, and the profile is of x86",
                "read",
            ),
            (
                "\"get-dirty-log slot0\"]",
                "\"madvise-dontneed slot0\"]",
                "31:1: 'migration' is watched, and user space has madvise-dontneed slot0",
                "leave",
            ),
        ],
    );
}

//! Goal: the page of real bugs is true: what it calls found is an expectation of a built-in
//! scenario, and each other bug says what is missing. Method: a table, held against the scenarios
//! and their pinned counts, from which docs/corpus.md is made (`KVMMU_BLESS=1` writes it).
#![cfg(feature = "loader")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use kvmmu_model::{Guard, GuardSet};
use kvmmu_scenarios::builtin::FILES;
use kvmmu_scenarios::loader;
use kvmmu_scenarios::scenario::{Expect, Expected};

/// A bug that a kernel or a VMM had.
struct Bug {
    what: &'static str,
    fixed: &'static str,
    here: Here,
}

/// What becomes of it here.
enum Here {
    /// This scenario is violated without these guards.
    Found(&'static str, &'static [&'static str]),
    /// What would be needed.
    Missing(&'static str),
}

use Here::{Found, Missing};

const fn bug(what: &'static str, fixed: &'static str, here: Here) -> Bug {
    Bug { what, fixed, here }
}

const MMU: &[Bug] = &[
    bug(
        "a fast fault on an indirect page marks another frame than the SPTE maps",
        "c7ba5b48cc8d (3.6), by design",
        Found("aba-indirect", &["fast-fault-direct-only", "lockless-walk-mode"]),
    ),
    bug(
        "D is lost where an SPTE that fast faults may change is cleared by a plain store",
        "3.6, with fast faults",
        Found("lost-dirty-clear", &["volatile-locklessly-writable"]),
    ),
    bug(
        "write protection of a guest page table sees W clear, and does not flush",
        "3.15, \"flush tlb if the spte can be locklessly modified\"",
        Found("stale-tlb-write-protect", &["flush-on-locklessly-writable"]),
    ),
    bug(
        "a fast fault retries in a table that has left the tree",
        "4.11",
        Missing("nothing: it is modelled, and breaks nothing by itself (guard fast-fault-rewalk)"),
    ),
    bug(
        "a fast fault takes an entry of another level for a leaf",
        "3.12",
        Missing("a walk that ends above the leaf: here it ends at a leaf, or at nothing"),
    ),
    bug(
        "a fast fault makes a large SPTE writable, and marks its first frame",
        "reverted by 6b73a9606 (3.9), again in c126d94f2c90 (3.15)",
        Found("large-log-begins", &["fast-fault-not-large"]),
    ),
    bug(
        "a dirty log begins without a flush, and aging has taken W before",
        "b64d740ea7dd (6.0)",
        Found("log-begins-after-age", &["log-flushes-always"]),
    ),
    bug(
        "rmap_write_protect misses what sync_page dropped",
        "f81602958c11 (5.16)",
        Found("unsync-dropped", &["sync-page-flushes"]),
    ),
    bug(
        "an SPTE is writable before its page counts as unsync",
        "578e1c4db221 (4.19)",
        Found("unsync-load-cr3", &["unsync-before-writable", "sync-roots-locks"]),
    ),
    bug(
        "a shadow page is linked that was not synchronised",
        "65855ed8b034 (5.16)",
        Missing("tables of three levels: a page of the 4K level is synchronised when it is found"),
    ),
    bug(
        "a direct shadow page of another frame is reused; CVE-2026-46113",
        "0cb2af2ea66a (7.1)",
        Found("child-of-another-frame", &["child-gfn-compare"]),
    ),
    bug(
        "a shadow page of another role is reused; CVE-2026-53359",
        "81ccda30b4e8 (7.2)",
        Found("child-of-another-role", &["child-role-compare"]),
    ),
    bug(
        "an MMIO SPTE takes the place of one that maps memory; CVE-2026-23401",
        "aad885e77496 (7.0)",
        Found("mmio-over-page", &["mmio-spte-drops"]),
    ),
    bug(
        "a fault reads the sequence of invalidations after it has looked its page up",
        "e930bffe95e1 (2.6.27), by design",
        Found("notifier-retry", &["notifier-seq-before-gup"]),
    ),
    bug(
        "the APIC access page is looked up again before it has gone",
        "e649b3f0188f (5.8)",
        Found("apic-page", &["apic-reload-after-unmap"]),
    ),
    bug(
        "a memslot comes between range_start and range_end",
        "52ac8b358b0c (5.15), by design",
        Found("memslot-between", &["range-start-counts-always"]),
    ),
    bug(
        "A is lost where an SPTE is cleared by a plain store",
        "a9221dd5ec12 (2.6.36)",
        Found("lost-accessed-zap", &["volatile-not-accessed"]),
    ),
    bug(
        "D is cleared without a flush",
        "7e71a59b2533 (4.6)",
        Found("pml-log-begins", &["update-flushes-dirty", "log-flushes-always"]),
    ),
    bug(
        "tlbs_dirty is cleared for a flush that began before",
        "3.15",
        Found("unsync-owed-harvest", &["sync-page-flushes", "tlbs-dirty-read-first"]),
    ),
    bug(
        "a lockless walk reads a page that is freed",
        "c142786c6291 (3.5), by design",
        Found("lockless-walk-vs-free", &["lockless-walk-mode"]),
    ),
    bug(
        "an MMIO access is cached with the generation of memslots that are not in use yet",
        "ee3d1570b586 (3.17), ddfd1730fd82 (5.1)",
        Found("mmio-memslot", &["memslots-generation-last"]),
    ),
    bug(
        "a fault that has found a memslot maps its frame after the flush",
        "11362b1befea (5.8, PowerPC)",
        Found("memslot-flush", &["memslot-invalid-before-zap"]),
    ),
    bug(
        "CLEAR_DIRTY_LOG with manual protect: protection comes before the bits are cleared",
        "2a31b9db1535 (5.0), by design",
        Found("manual-protect", &["clear-then-protect"]),
    ),
    bug(
        "A and D of a guest's entry are stored to a page that has gone; CVE-2022-1158",
        "2a8859f373b0 (5.18)",
        Found("guest-dirty-vs-swap", &["gpte-cmpxchg-by-address"]),
    ),
    bug(
        "change_pte leaves MMU-writable set",
        "f082d86ea685 (5.18)",
        Found("host-writable-v6.1", &["change-pte-clears-mmu-writable"]),
    ),
    bug(
        "aging overwrites the W of a fast fault",
        "6.15, \"Always update A/D-disabled SPTEs atomically\"",
        Found("age-vs-fast-fault", &["age-uses-xchg-result"]),
    ),
    bug(
        "the sequence of invalidations passes through an int, and faults are retried for ever",
        "ba6e3fe25543 (6.3), 82d811ff5665 (6.1.y)",
        Found("notifier-seq-cut", &["notifier-seq-whole"]),
    ),
    bug(
        "an emulated store to a table and its first shadow page miss each other",
        "open in 5.10 and 5.15",
        Missing("store buffers: here memory is sequentially consistent"),
    ),
];

const LOCKS: &[Bug] = &[
    bug(
        "kvm->lock is taken inside vcpu->mutex",
        "0acc7239c20a (6.4, arm64)",
        Found("lock-psci-deadlock", &["psci-without-kvm-lock"]),
    ),
    bug(
        "three CPUs, slots_lock, SRCU and cpu_hotplug_lock; CVE-2024-47744",
        "44d174596260 (6.12)",
        Found("lock-usage-count-deadlock", &["usage-count-own-lock"]),
    ),
    bug(
        "Xen events take kvm->lock inside of a read section of SRCU",
        "310bc39546a4 (6.2)",
        Found("lock-xen", &["xen-own-lock"]),
    ),
    bug(
        "a worker of asynchronous page faults drops the last reference of its VM; CVE-2024-26976",
        "3d75b8aa5c29 (6.9)",
        Found("module-unload", &["async-pf-flushed"]),
    ),
    bug(
        "a bus is freed before readers have gone; CVE-2021-47061",
        "2ee3757424be (5.13)",
        Found("lock-bus", &["bus-free-after-grace-period"]),
    ),
    bug(
        "an index of lpage_info is out of the slot; CVE-2026-63807",
        "ef057cbf825e (7.2)",
        Found("large-collapse-slot", &["collapsible-in-slot"]),
    ),
];

const REPORTED: &[Bug] = &[
    bug(
        "write protection comes before the bitmap is swapped",
        "edde99ce0529 (2.6.37)",
        Found("mark-dirty-order", &["harvest-clear-then-protect"]),
    ),
    bug(
        "the flush of the dirty log comes after mmu_lock, and another path relies on W",
        "6dbf79e7164e (3.3)",
        Found("stale-tlb-write-protect", &["write-protect-checks-mmu-writable"]),
    ),
    bug(
        "khugepaged frees pages of files and tells no notifier; CVE-2022-48991",
        "f268f6cf875f (6.1)",
        Found("host-zap", &["host-zap-notifies"]),
    ),
    bug("a memslot goes while its guest_memfd dies", "ae431059e75d (6.18)", Missing("guest_memfd")),
    bug(
        "a fault that meets an invalid memslot is emulated as MMIO",
        "5.13",
        Found("lock-memslots", &["invalid-slot-retries"]),
    ),
    bug(
        "the level of a host mapping is read twice",
        "44187235cbcc (5.18)",
        Missing(
            "the host's page tables as memory that is freed: the level is one look here, and a \
             split that notifies KVM comes before it or after the fault (large-unmap)",
        ),
    ),
    bug(
        "a notifier comes before a VM is complete",
        "07aeb70707b1 (6.18, pKVM)",
        Found("notifier-before-vm", &["vm-complete-before-notifier"]),
    ),
    bug(
        "a memslot is deleted and made again, and a vCPU finds none in between",
        "QEMU 7.2, cloud-hypervisor 1884",
        Found("memslot-again", &["vmm-pauses-vcpus"]),
    ),
    bug(
        "a dirty ring is reaped before it is there",
        "QEMU 56adee407fc5 (8.0)",
        Missing("dirty rings"),
    ),
    bug(
        "the cache is cleaned by an address of user space inside mmu_lock",
        "0d3e4d4fade6 (4.0, arm64)",
        Found("lock-clean-cache", &["clean-by-kernel-address"]),
    ),
    bug(
        "a table of stage 2 is merged into a block, and one page of it is flushed",
        "3a0b870e3448 (5.10, arm64)",
        Found("s2-merge-stale-page", &["s2-merge-flush-vmid"]),
    ),
    bug(
        "a fault uses the size of a VMA that is gone",
        "13ec9308a857 (6.3, arm64; not in 5.10.y)",
        Found("s2-vma-size", &["s2-seq-before-mmap-unlock"]),
    ),
    bug(
        "a table of stage 2 is freed before its descriptor is flushed",
        "f62d4c3eb687 (6.9, arm64)",
        Found("s2-table-free", &["s2-table-tlbi-before-free"]),
    ),
    bug(
        "a walk comes back into another fault's table, and maps what is behind its block",
        "1f0f4a2ef7a5 (6.4, arm64)",
        Found("s2-pa-from-ipa", &["s2-pa-from-ipa"]),
    ),
    bug(
        "the tables of stage 2 are freed while a walk of them has given mmu_lock back",
        "0c428a6a9256 (4.12, arm64)",
        Found("s2-teardown", &["s2-pgt-reread"]),
    ),
    bug(
        "a vCPU sees the new generation of VMIDs, and runs with the VMID of the old one",
        "f0cf47d939d0 (4.17), fb544d1ca65a (5.0, arm64)",
        Found("vmid-one-vm", &["vmid-before-gen"]),
    ),
    bug(
        "a vCPU is loaded while its VM has no VMID, and another one gets it",
        "fa808ed4e199 (6.14, 6.12.18, arm64)",
        Found("vmid-one-vm-v6.12", &["vmid-before-vttbr"]),
    ),
    bug(
        "a store is done after its translation was invalidated; Cortex-A55 erratum 2441007",
        "171df58028bf (6.1, arm64; not in 5.10.y)",
        Found("s2-early-completion", &["s2-tlbi-repeat"]),
    ),
    bug(
        "the state of a vCPU is encrypted while its ioctls run; CVE-2026-31591",
        "cb923ee6a80f (7.0)",
        Found("lock-vmsa", &["vmsa-locks-vcpus"]),
    ),
    bug(
        "the TLB still redirects the APIC page after a change of mode",
        "7.1, xAVIC to x2AVIC",
        Missing("redirections in TLBs"),
    ),
    bug(
        "a flush goes to the EPTP that is active now",
        "1438921c6dc1 (5.0)",
        Missing("nested guests"),
    ),
    bug(
        "a nested guest's writes are logged by its own frames",
        "1f4e5fc83a42 (5.1)",
        Missing("nested guests"),
    ),
    bug(
        "an entry is made invalid and stored in two steps",
        "b827ef02f409 (7.0, s390)",
        Missing("the MMU of s390; fast-fault-cmpxchg is its like"),
    ),
    bug(
        "a device of the VMM writes, and nobody logs it",
        "cloud-hypervisor 2458, 5356",
        Found("vmm-writes", &["vmm-marks-dirty"]),
    ),
    bug(
        "a snapshot fails after its harvest",
        "firecracker 4545",
        Found("snapshot-fails", &["vmm-keeps-harvest"]),
    ),
    bug(
        "a fault waits for a memslot to go, inside the section that the deletion waits for",
        "3ccbf6f47098 (6.18)",
        Found("memslot-retry", &["retry-leaves-srcu"]),
    ),
    bug(
        "gup says that it gave mmap_lock back",
        "96312e61282a (4.16)",
        Found("lock-gup-nowait", &["gup-says-what-it-holds"]),
    ),
];

/// The columns of `counts.txt` of a variant: transitions, executions, property.
fn counts(scenario: &str, without: &[&str]) -> (String, String, String) {
    let rows = include_str!("../counts.txt");
    let wanted: BTreeSet<&str> = without.iter().copied().collect();
    let row = rows.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|row| {
        let guards = row.get(1).map(|guards| guards.split('+').filter(|g| *g != "-").collect());
        row.first() == Some(&scenario) && guards.as_ref() == Some(&wanted) && row.len() > 6
    });
    let row = row.unwrap_or_else(|| panic!("counts.txt has no {scenario} without {without:?}"));
    (row[3].to_owned(), row[4].to_owned(), row[6].to_owned())
}

fn is_expected(scenario: &str, without: &[&str]) -> bool {
    let file = format!("{scenario}.toml");
    let (name, text) = FILES.iter().find(|(name, _)| *name == file).expect("it is built in");
    let scenario = loader::load(name, text, 1).unwrap();
    let guards = without.iter().map(|name| Guard::by_name(name).expect("a guard"));
    let guards = guards.fold(GuardSet::EMPTY, GuardSet::with);
    let expects = |without: GuardSet, verdict: Expected| {
        let is = |e: &Expect| e.without == without && e.verdict == verdict;
        scenario.expects.iter().any(is)
    };
    expects(GuardSet::EMPTY, Expected::Holds) && expects(guards, Expected::Violated)
}

fn page() -> String {
    let mut out = String::from(
        "<!-- made by `KVMMU_BLESS=1 cargo test -p kvmmu-scenarios --test corpus` -->\n\
         # Real bugs\n\n\
         Bugs that kernels and VMMs had, of what this model is about. *Found*: a built-in\n\
         scenario holds, and is violated without the guard that the bug lacks (`kvmmu explain\n\
         NAME --without GUARD` tells it); executions and steps are what `kvmmu check` needs for\n\
         that. The others say what the model has not yet.\n",
    );
    for (title, bugs) in
        [("The MMU", MMU), ("Locks and lifetimes", LOCKS), ("Reported in public", REPORTED)]
    {
        let found = bugs.iter().filter(|bug| matches!(bug.here, Found(..))).count();
        writeln!(out, "\n## {title}: {found} of {} found\n", bugs.len()).unwrap();
        out += "| bug | fixed | scenario | without | property | executions | steps |\n";
        out += "|---|---|---|---|---|---:|---:|\n";
        for Bug { what, fixed, here } in bugs {
            let Found(scenario, without) = here else { continue };
            let (steps, executions, property) = counts(scenario, without);
            let guards = without.join(", ");
            let row = format!("{what} | {fixed} | {scenario} | {guards} | {property}");
            writeln!(out, "| {row} | {executions} | {steps} |").unwrap();
        }
        out += "\n| bug | fixed | missing |\n|---|---|---|\n";
        for Bug { what, fixed, here } in bugs {
            if let Missing(missing) = here {
                writeln!(out, "| {what} | {fixed} | {missing} |").unwrap();
            }
        }
    }
    out
}

#[test]
fn each_bug_that_is_called_found_is_an_expectation() {
    for Bug { what, here, .. } in [MMU, LOCKS, REPORTED].into_iter().flatten() {
        if let Found(scenario, without) = here {
            assert!(is_expected(scenario, without), "{what}: {scenario} without {without:?}");
        }
    }
}

#[test]
fn the_page_is_made_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/corpus.md");
    let fresh = page();
    if std::env::var_os("KVMMU_BLESS").is_some() {
        std::fs::write(&path, &fresh).expect("docs/corpus.md can be written");
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(fresh == text, "run `KVMMU_BLESS=1 cargo test -p kvmmu-scenarios --test corpus`");
}

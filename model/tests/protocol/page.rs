//! docs/protocol.md: what is on it, and in which order.

use std::fmt::Write as _;
use std::path::Path;

use kvmmu_model::Guard;

use crate::items;

/// The parts of the page: a heading, a few words, and the files.
const PARTS: [(&str, &str, &[&str]); 9] = [
    (
        "What an SPTE is, and what one may become",
        "Pure functions: nothing here reads or writes shared memory.",
        &["spte.rs", "transition/mod.rs", "transition/v5_10.rs", "transition/v6_1.rs"],
    ),
    (
        "The state of the MMU",
        "Which lock protects what, and how tables are walked.",
        &["types.rs", "vm.rs", "host.rs", "virt/mod.rs", "x86/mmu/mod.rs", "x86/mmu/walk.rs"],
    ),
    (
        "Changing an SPTE without `mmu_lock`, and changing one under that",
        "",
        &["x86/mmu/fast_fault.rs", "x86/mmu/lockless.rs", "x86/mmu/spte_update.rs"],
    ),
    ("Flushing TLBs, and entering the guest", "", &["virt/requests.rs", "x86/enter.rs"]),
    ("Faults", "", &["x86/mmu/direct.rs", "x86/mmu/paging_tmpl.rs", "x86/mmu/map.rs"]),
    (
        "The host takes pages back, and the dirty log",
        "",
        &[
            "virt/notifier.rs",
            "x86/mmu/seam.rs",
            "x86/mmu/rmap.rs",
            "virt/dirty_log.rs",
            "x86/mmu/write_protect.rs",
        ],
    ),
    (
        "Shadow pages, and guest stores to page tables",
        "",
        &["x86/mmu/shadow_page.rs", "x86/mmu/pte_write.rs", "x86/emulate.rs"],
    ),
    (
        "What vCPUs read is replaced under them",
        "",
        &["virt/published.rs", "virt/memslots.rs", "virt/io_bus.rs", "virt/irq_routing.rs"],
    ),
    (
        "What no kernel does",
        "The fast fault on indirect pages, as locking.rst discusses it.",
        &["x86/mmu/fast_fault_indirect.rs"],
    ),
];

const HEAD: &str = "\
# The protocol of the KVM MMU

<!-- Made from model/src by `KVMMU_BLESS=1 cargo test -p kvmmu-model --test protocol`. -->

How KVM of Linux v5.10 on x86 changes page tables that hardware walks, that vCPUs repair without a
lock, and that the host may take pages out of at any time. Shadow paging and the legacy direct
MMU; v6.1 where it says so. Functions have the kernel's names and its order of steps; they are
written in Rust and from facts, not translated. It is the program that kvmmu explores, with the
explorer's own lines taken out.

**How to read it.** `// guard: flush-after-harvest` at the end of a line marks a protective step
that has a name: kvmmu can remove it (`--without flush-after-harvest`) and shows what breaks then.
All of them are in the table at the end. A step without one says why it needs none, or is no
protection. `// ORDERING:` says what a memory ordering pairs with. `l: &Locked` is what only the
owner of `mmu_lock` can have: a function that takes it is called under the lock. `load`, `store`,
`swap` (xchg), `compare_exchange` (cmpxchg) and `fetch_*` on a word are the accesses that others
can see; so is taking a lock, `smp_call_function_many`, and what hardware and guests do.
Everything else is private to the thread or to the owner of the lock. `smp_call_function_many`
with `wait` returns when each target has taken its interrupt: it had interrupts on, or left the
guest. `might_sleep` and `debug_assert!` (where the kernel WARNs) change nothing.

**Around it.** A vCPU thread in KVM_RUN holds `vcpu->mutex` and goes round: serve requests and enter
(`vcpu_enter_guest`), let the guest run until it faults or an interrupt comes, leave
(`vcpu_leave_guest`), handle the fault. It is in a read section of `kvm->srcu` all the time but
while the guest runs: entering ends the section, leaving begins another. What a fault returns
(`RetPf`) decides what is next: Fixed, Spurious, Invalid, Retry: the guest tries again; RetryAfter
and RetryAfterMemslots: it tries again, in vain until something has changed; Emulate: KVM carries
the store out (`emulator_write_phys`); BreakCow: the host gives a shared page its own copy, then
again; Mmio: to a device; GuestFault: into the guest. `RetPf::Invalid` of a fast fault means: the
slow way.

**Letters.** W: hardware may write. H: `SPTE_HOST_WRITEABLE`, the host maps the page writable. M:
`SPTE_MMU_WRITEABLE`, the guest may write and the page is no shadowed page table. A, D: accessed
and dirty.
";

/// The page.
pub(crate) fn page(source: &Path) -> String {
    let read = |name: &str| {
        std::fs::read_to_string(source.join(name)).unwrap_or_else(|why| panic!("{name}: {why}"))
    };
    let docs = items::trait_docs(&read("vm.rs"));
    let mut page = HEAD.to_owned();
    for (heading, words, files) in PARTS {
        write!(page, "\n## {heading}\n").expect("a String takes it");
        if !words.is_empty() {
            write!(page, "\n{words}\n").expect("a String takes it");
        }
        for name in files {
            let file = items::file(&read(name), &docs);
            write!(page, "\n### {name}\n\n{}\n", file.prose).expect("a String takes it");
            for item in file.items {
                if let Some(one) = one_line(&item.code) {
                    let prose = item.prose.replace('\n', " ");
                    write!(page, "\n- `{}`: {prose}\n", one.trim_end_matches(';'))
                        .expect("a String takes it");
                    continue;
                }
                write!(page, "\n#### `{}`\n", item.name).expect("a String takes it");
                if !item.prose.is_empty() {
                    write!(page, "\n{}\n", item.prose).expect("a String takes it");
                }
                write!(page, "\n```rust\n{}\n```\n", item.code.trim_end())
                    .expect("a String takes it");
            }
        }
    }
    let guards = guards(&page);
    page + &guards
}

/// A constant of one line.
fn one_line(code: &str) -> Option<&str> {
    let code = code.trim_end();
    code.strip_prefix("const ").filter(|rest| !rest.starts_with("fn ") && !rest.contains('\n'))
}

/// Every guard: where it stands, what it prevents, what takes its place.
fn guards(page: &str) -> String {
    let mut table = "\n## The protective steps\n\n\
        Those in brackets stand in code that is not on this page.\n\n\
        | guard | in | prevents | without it |\n|---|---|---|---|\n"
        .to_owned();
    for guard in Guard::ALL {
        let i = guard.info();
        let here = page.lines().any(|line| {
            line.split("// guard: ")
                .nth(1)
                .is_some_and(|tags| tags.split(", ").any(|t| t == i.name))
        });
        let name = if here { format!("`{}`", i.name) } else { format!("(`{}`)", i.name) };
        writeln!(table, "| {name} | `{}` | {} | {} |", i.function, i.prevents, i.without)
            .expect("a String takes it");
    }
    table
}

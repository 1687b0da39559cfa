//! docs/protocol.md: what is on it, and in which order.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use kvmmu_model::Guard;

use crate::items;

/// The parts of the page: a heading, a few words, and the files.
const PARTS: [(&str, &str, &[&str]); 11] = [
    (
        "What an SPTE is, and what one may become",
        "Pure functions: nothing here reads or writes shared memory.",
        &["spte.rs", "transition/mod.rs", "transition/v5_10.rs", "transition/v6_1.rs"],
    ),
    (
        "The state of the MMU",
        "Which lock protects what, and how tables are walked.",
        &[
            "types.rs",
            "vm.rs",
            "host.rs",
            "virt/mod.rs",
            "virt/mmu_lock.rs",
            "x86/mmu/mod.rs",
            "x86/mmu/paging.rs",
            "x86/mmu/walk.rs",
        ],
    ),
    (
        "Changing an SPTE without `mmu_lock`, and changing one under that",
        "",
        &["x86/mmu/fast_fault.rs", "x86/mmu/lockless.rs", "x86/mmu/spte_update.rs"],
    ),
    ("Flushing TLBs, and entering the guest", "", &["virt/requests.rs", "x86/enter.rs"]),
    (
        "Faults",
        "",
        &[
            "x86/mmu/direct.rs",
            "x86/mmu/paging_tmpl.rs",
            "x86/mmu/guest_ad.rs",
            "x86/mmu/child.rs",
            "x86/mmu/map.rs",
            "x86/mmu/large.rs",
            "x86/mmu/mmio.rs",
        ],
    ),
    (
        "The host takes pages back, and the dirty log",
        "",
        &[
            "virt/notifier.rs",
            "x86/mmu/seam.rs",
            "x86/mmu/rmap.rs",
            "virt/dirty_log.rs",
            "x86/mmu/write_protect.rs",
            "x86/vmx.rs",
            "x86/mmu/clear_dirty.rs",
            "x86/apic_page.rs",
        ],
    ),
    (
        "Shadow pages, and guest stores to page tables",
        "",
        &[
            "x86/mmu/shadow_page.rs",
            "x86/mmu/pte_write.rs",
            "x86/emulate.rs",
            "x86/mmu/unsync.rs",
            "x86/mmu/sync.rs",
            "x86/cr3.rs",
        ],
    ),
    (
        "What vCPUs read is replaced under them",
        "",
        &["virt/published.rs", "virt/memslots.rs", "virt/io_bus.rs", "virt/irq_routing.rs"],
    ),
    (
        "What kernels to 5.15 do",
        "Flushes that `sync_page` leaves to others.",
        &["virt/tlbs_dirty.rs"],
    ),
    (
        "The stage-2 MMU of arm64",
        "Another MMU behind the same generic KVM: `M` of `Vm` is `Stage2Mmu` here.",
        &[
            "arm64/pgtable/pte.rs",
            "arm64/pgtable/mod.rs",
            "arm64/pgtable/walk.rs",
            "arm64/pgtable/map.rs",
            "arm64/pgtable/break_make.rs",
            "arm64/pgtable/map_shared.rs",
            "arm64/pgtable/unlinked.rs",
            "arm64/pgtable/unmap.rs",
            "arm64/pgtable/attr.rs",
            "arm64/tlbi.rs",
            "arm64/tlb.rs",
            "arm64/mmu.rs",
            "arm64/vmid/mod.rs",
            "arm64/vmid/v5_10.rs",
            "arm64/vmid/v5_18.rs",
            "arm64/arm.rs",
            "arm64/seam.rs",
        ],
    ),
    (
        "What no kernel does",
        "The fast fault on indirect pages, as locking.rst discusses it.",
        &["x86/mmu/fast_fault_indirect.rs"],
    ),
];

/// What stands before the parts: the problem, how to read the page, and what holds.
const HEAD: &str = include_str!("opening.md");

/// The page.
pub(crate) fn page(source: &Path) -> String {
    let read = |name: &str| {
        std::fs::read_to_string(source.join(name)).unwrap_or_else(|why| panic!("{name}: {why}"))
    };
    let docs = items::trait_docs(&read("vm.rs"));
    let mut page = HEAD.to_owned();
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (heading, words, files) in PARTS {
        write!(page, "\n## {heading}\n").expect("a String takes it");
        if !words.is_empty() {
            write!(page, "\n{words}\n").expect("a String takes it");
        }
        for name in files {
            let file = items::file(&read(name), &docs);
            write!(page, "\n### {name}\n\n{}\n", file.prose).expect("a String takes it");
            for item in file.items {
                for guard in marks(&item.code) {
                    let here = places.entry(guard.to_owned()).or_default();
                    if !here.contains(&item.name) {
                        here.push(item.name.clone());
                    }
                }
                if item.code.is_empty() {
                    write!(page, "\n- {}\n", item.prose).expect("a String takes it");
                    continue;
                }
                if let Some(one) = one_line(&item.code) {
                    let prose = item.prose.replace('\n', " ");
                    write!(page, "\n- `{}`: {prose}\n", one.trim_end_matches(';'))
                        .expect("a String takes it");
                    continue;
                }
                write!(page, "\n#### `{}`\n", item.name).expect("a String takes it");
                let prose = without_heading(&item.prose, &item.name);
                if !prose.is_empty() {
                    write!(page, "\n{prose}\n").expect("a String takes it");
                }
                write!(page, "\n```rust\n{}\n```\n", item.code.trim_end())
                    .expect("a String takes it");
            }
        }
    }
    page + &guards(&places)
}

/// The guards that are marked in a text.
fn marks(code: &str) -> impl Iterator<Item = &str> {
    code.lines()
        .filter_map(|line| line.split("// guard: ").nth(1))
        .flat_map(|tags| tags.split(", "))
}

/// What an item's documentation says besides its name, which stands above it.
fn without_heading(prose: &str, name: &str) -> String {
    let name = name.rsplit("::").next().unwrap_or(name);
    let rest = prose.strip_prefix(&format!("`{name}`")).and_then(|rest| {
        let said = rest.strip_prefix(':').or_else(|| rest.strip_prefix('.'));
        if rest.is_empty() { Some(rest) } else { said }
    });
    let text = rest.unwrap_or(prose).trim_start();
    let mut letters = text.chars();
    letters
        .next()
        .map_or(String::new(), |first| first.to_uppercase().to_string() + letters.as_str())
}

/// A constant of one line.
fn one_line(code: &str) -> Option<&str> {
    let code = code.trim_end();
    code.strip_prefix("const ").filter(|rest| !rest.starts_with("fn ") && !rest.contains('\n'))
}

/// Every guard on the page: where it is marked, what it prevents, what takes its place.
fn guards(places: &BTreeMap<String, Vec<String>>) -> String {
    let mut table = "\n## The protective steps\n\n\
        In: the function of the kernel, and the heading where the page has the step elsewhere.\n\n\
        | guard | in | prevents | without it |\n|---|---|---|---|\n"
        .to_owned();
    let mut elsewhere = Vec::new();
    for guard in Guard::ALL {
        let i = guard.info();
        let Some(here) = places.get(i.name) else {
            elsewhere.push(format!("`{}`", i.name));
            continue;
        };
        let mut function = format!("`{}`", i.function);
        if !here.iter().any(|place| place == i.function) {
            write!(function, " (here `{}`)", here.join("`, `")).expect("a String takes it");
        }
        writeln!(table, "| `{}` | {function} | {} | {} |", i.name, i.prevents, i.without)
            .expect("a String takes it");
    }
    let rest = elsewhere.join(", ");
    write!(table, "\nOf code that is not on this page (`kvmmu guards` tells them): {rest}.\n")
        .expect("a String takes it");
    table
}

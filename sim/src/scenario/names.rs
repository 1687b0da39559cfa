//! What reports call the shared objects of a scenario, where their places say little.

use kvmmu_model::x86::mmu::Header;
use kvmmu_model::x86::mmu::paging::{PG_LEVEL_4K, PT_ENTRIES, ROOT_LEVEL, SHADOW_PAGES};
use kvmmu_model::x86::mmu::walk::GuestWalk;
use kvmmu_model::{Gfn, Gva, Object, SpId, Tag};
use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::machine::PAGES;
use kvmmu_scenarios::ops::{Address, HostOp, Op, TableEntry, UserOp, VcpuOp};
use kvmmu_scenarios::scenario::{Paging, read_gpte};

/// What the entries of shadow pages are called.
pub(super) fn shadow_names(
    scenario: &Scenario,
    header: impl Fn(SpId) -> Header,
) -> Vec<(Tag, String)> {
    let names = |sp| page_names(scenario, sp, header(SpId(sp as u8)));
    (0..SHADOW_PAGES).flat_map(names).collect()
}

/// What the entries of a shadow page are called: by what they map.
fn page_names(scenario: &Scenario, sp: usize, header: Header) -> Vec<(Tag, String)> {
    let gfn = header.gfn().0;
    let indirect_root = scenario.paging != Paging::Shadow
        && scenario.threads.iter().any(|t| t.paging == Paging::Shadow);
    let (page, entry): (String, Box<dyn Fn(usize) -> String>) = match header.level() {
        0 => (format!("sp{sp}"), Box::new(|i| format!("sp{sp}[{i}]"))),
        // Where some vCPUs have paging on and some off, there are roots of both kinds.
        ROOT_LEVEL if indirect_root && !header.is_direct() => {
            (format!("sp[root,gfn{gfn}]"), Box::new(|i| format!("root.gfn{gfn}[{i}]")))
        }
        ROOT_LEVEL => ("sp[root]".to_owned(), Box::new(|i| format!("root[{i}]"))),
        level if level > PG_LEVEL_4K => {
            let entry = move |i: usize| format!("spte{level}[gfn{gfn}][{i}]");
            (format!("sp{level}[gfn{gfn}]"), Box::new(entry))
        }
        _ if header.is_direct() => {
            let last = gfn + PT_ENTRIES as u64 - 1;
            let entry = move |i: usize| format!("spte[gfn{}]", gfn + i as u64);
            (format!("sp[gfn{gfn}..{last}]"), Box::new(entry))
        }
        _ => match first_gva(scenario, gfn) {
            Some(gva) => {
                (format!("sp[gfn{gfn}]"), Box::new(move |i| format!("spte[gva{}]", gva + i as u64)))
            }
            None => (format!("sp[gfn{gfn}]"), Box::new(|i| format!("spte[gfn{gfn}[{i}]]"))),
        },
    };
    let mut names = vec![(Tag::nth(Object::SpHeader, sp), format!("{page}->role"))];
    for i in 0..PT_ENTRIES {
        let name = entry(i);
        let gfns = match name.strip_prefix("spte") {
            Some(place) => format!("gfns{place}"),
            None => format!("gfns.{name}"),
        };
        names.push((Tag::at(Object::Spte, sp, i), name));
        names.push((Tag::at(Object::Gfns, sp, i), gfns));
    }
    names
}

/// The first virtual page that the guest table in this frame maps, if the tables above it say so in
/// one place and no thread changes those.
fn first_gva(scenario: &Scenario, table: u64) -> Option<u64> {
    let firsts = (0..PAGES as u64).step_by(PT_ENTRIES);
    let leaf = |gva: u64| scenario.leaf_table(Gva(gva));
    let mut pages = firsts.clone().filter(|gva| leaf(*gva) == Some(Gfn(table)));
    let first = pages.next().filter(|_| pages.next().is_none())?;
    let root = scenario.guest_root?;
    let is_above = |gfn| {
        let on_path = |gva| {
            let (mut above, mut level) = (false, ROOT_LEVEL);
            GuestWalk::new(root, Gva(gva), |table, index| {
                above |= table == gfn && level > PG_LEVEL_4K;
                level -= 1;
                read_gpte(&scenario.guest_tables, table, index)
            });
            above
        };
        firsts.clone().any(on_path)
    };
    let edits = |op| match op {
        Op::Vcpu(VcpuOp::EmulateGpte(TableEntry { table: gfn, .. }, _)) => is_above(gfn),
        Op::Vcpu(op) => op.stores_gpte().is_some_and(|(entry, _)| match entry.table {
            Address::Gfn(gfn) => is_above(gfn),
            Address::Gva(_) => true,
        }),
        _ => false,
    };
    let edited = scenario.threads.iter().flat_map(|t| t.run.ops()).any(|(_, op)| edits(op));
    (!edited).then_some(first)
}

/// The names that do not change in a run.
pub(super) fn fixed_names(scenario: &Scenario) -> Vec<(Tag, String)> {
    let mut names = Vec::new();
    if scenario.slots.len() == 1 {
        names.push((Tag::nth(Object::DirtyBitmap, 0), "dirty_bitmap".to_owned()));
    }
    for backing in &scenario.backing {
        let table = scenario.guest_tables.iter().any(|t| t.gfn == backing.gfn);
        let stays = !scenario.threads.iter().flat_map(|t| t.run.ops()).any(|(_, op)| {
            matches!(op, Op::Host(HostOp::SwapOut(gfn)) if gfn == backing.gfn)
                || matches!(op, Op::User(UserOp::MadvisePageout(gfn)) if gfn == backing.gfn)
        });
        if let (true, Some(pfn)) = (table && stays, backing.pfn) {
            let name = format!("gptes[gfn{}]", backing.gfn.0);
            names.push((Tag::nth(Object::Page, pfn.0 as usize), name));
        }
    }
    names
}

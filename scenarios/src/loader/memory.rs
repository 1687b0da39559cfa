//! `[[slot]]`, `[host]` and `[guest]`: what memory there is before the first step.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use kvmmu_model::virt;
use kvmmu_model::x86::mmu::paging;
use kvmmu_model::x86::mmu::walk::GuestWalk;
use kvmmu_model::{Gfn, GfnRange, Gpte, Gva, Pfn};

use super::error::{LoadError, Source, quoted};
use super::own_locks::OwnLocks;
use super::program::numbered;
use super::table::{Table, Text};
use crate::host_mm;
use crate::scenario::{Arch, Backing, GuestEntry, GuestTable, Slot, read_gpte};

/// How many guest frames there may be; also how many virtual pages: two guest tables of four.
pub(super) const GFNS: u8 = virt::GFNS as u8;
/// How many host pages there may be.
pub(super) const PFNS: u8 = host_mm::PFNS as u8;
/// How many entries a guest page table has.
pub(super) const TABLE_ENTRIES: u8 = paging::PT_ENTRIES as u8;
/// How many of them a root has: the ones that translate the frames that there are.
const ROOT_ENTRIES: u8 = GFNS.div_ceil(paging::frames_of(paging::ROOT_LEVEL - 1) as u8);

/// What operations may name: memory, as far as the file has been read, vCPUs, and its own locks.
#[derive(Clone, Default, Debug)]
pub(super) struct Memory {
    pub(super) arch: Arch,
    pub(super) slots: Vec<Slot>,
    pub(super) host_pages: u8,
    /// What `[host]` says of each frame; then, by [`Memory::back_the_rest`], of all of them.
    pub(super) backing: Vec<Backing>,
    /// The first frames of huge pages of the host.
    pub(super) huge: Vec<Gfn>,
    /// Those of hugetlbfs.
    pub(super) hugetlb: Vec<Gfn>,
    pub(super) guest_root: Option<Gfn>,
    pub(super) guest_tables: Vec<GuestTable>,
    /// How many vCPUs there are at every size.
    pub(super) vcpus: u8,
    pub(super) locks: OwnLocks,
}

impl Memory {
    /// Refuses a frame that KVM does not know.
    pub(super) fn in_slot(&self, gfn: Gfn, source: Source<'_>, at: usize) -> Result<(), LoadError> {
        if self.slots.iter().any(|s| contains(s, gfn)) {
            return Ok(());
        }
        Err(source.error(
            at,
            format!("gfn{} is in no slot", gfn.0),
            format!("add a [[slot]] with gfn = {} and pages = 1, or name another frame", gfn.0),
        ))
    }

    pub(super) fn backing(&self, gfn: Gfn) -> Option<&Backing> {
        self.backing.iter().find(|b| b.gfn == gfn)
    }

    /// Another frame on the same host page, unless the host maps both read-only.
    pub(super) fn clash(&self, of: &Backing) -> Option<Gfn> {
        let shared = |b: &&Backing| {
            b.gfn != of.gfn && b.pfn == of.pfn && of.pfn.is_some() && (b.writable || of.writable)
        };
        self.backing.iter().find(shared).map(|b| b.gfn)
    }

    pub(super) fn table(&self, gfn: Gfn) -> Option<&GuestTable> {
        self.guest_tables.iter().find(|t| t.gfn == gfn)
    }

    /// What the guest's tables say of a virtual page: the frame, and if all levels are writable.
    pub(super) fn translate(&self, gva: Gva) -> Option<(Gfn, bool)> {
        let walk = GuestWalk::new(self.guest_root?, gva, |table, index| self.gpte(table, index))?;
        Some((walk.gfn, walk.allows_writes() && walk.leaf().is_dirty()))
    }

    /// The first frame of the large page of the guest that begins with this virtual page.
    pub(super) fn large_page(&self, gva: Gva) -> Option<Gfn> {
        let walk = GuestWalk::new(self.guest_root?, gva, |table, index| self.gpte(table, index))?;
        (walk.level > paging::PG_LEVEL_4K && is_large_frame(walk.gfn)).then_some(walk.gfn)
    }

    /// The frame of the guest's leaf table for a virtual page.
    pub(super) fn leaf_table(&self, gva: Gva) -> Option<Gfn> {
        GuestWalk::leaf_table(self.guest_root?, gva, |table, index| self.gpte(table, index))
    }

    /// The frame is the root of the guest's tables, and the other one no table to be below it.
    pub(super) fn is_no_table_below_root(&self, gfn: Gfn, below: Gfn) -> bool {
        self.guest_root == Some(gfn) && (below == gfn || self.table(below).is_none())
    }

    fn gpte(&self, table: Gfn, index: u8) -> Option<Gpte> {
        read_gpte(&self.guest_tables, table, index)
    }

    /// Backs all frames of a huge page: with four pages in a row, at a multiple of four.
    fn back_huge(&mut self, root: &Table<'_>, first: Gfn) -> Result<(), LoadError> {
        let error =
            |what: String, help: &str| Err(root.source.error(root.place("host"), what, help));
        let pages = large_frames(first).count() as u64;
        let named = |gfn: &Gfn| self.backing(*gfn).copied();
        let begin = match large_frames(first).find_map(|gfn| named(&gfn)) {
            Some(Backing { gfn, pfn: Some(pfn), .. }) => pfn.0.checked_sub(gfn.0 - first.0),
            Some(Backing { gfn, pfn: None, .. }) => {
                return error(
                    format!("gfn{} is in a huge page, and swapped out", gfn.0),
                    "the host splits a huge page first: take it out of 'huge'",
                );
            }
            None => {
                let is_free = |page: u64| !self.backing.iter().any(|b| b.pfn == Some(Pfn(page)));
                let mut rows = (0..u64::from(self.host_pages)).step_by(pages as usize);
                rows.find(|begin| {
                    begin + pages <= u64::from(self.host_pages)
                        && (*begin..begin + pages).all(is_free)
                })
            }
        };
        let Some(begin) = begin.filter(|begin| begin.is_multiple_of(pages)) else {
            return error(
                format!("the huge page of gfn{} has no four host pages in their places", first.0),
                "four in a row begin at pfn0 or pfn4: raise 'pages' in [host], or name other pages \
                 there and in [map]",
            );
        };
        let one = large_frames(first).find_map(|gfn| named(&gfn));
        let (writable, dirty) = one.map_or((true, false), |b| (b.writable, b.dirty));
        for (gfn, pfn) in large_frames(first).zip((begin..).map(Pfn)) {
            let backing = Backing { gfn, pfn: Some(pfn), writable, dirty };
            if let Some(named) = self.backing(gfn) {
                if *named != backing {
                    return error(
                        format!("gfn{} is not as the rest of its huge page", gfn.0),
                        "one entry of the host maps four pages in a row, all writable or none, all \
                         dirty or none",
                    );
                }
                continue;
            }
            if let Some(other) = self.backing.iter().find(|b| b.pfn == Some(pfn)) {
                return error(
                    format!(
                        "gfn{} and gfn{}, of a huge page, share pfn{}",
                        other.gfn.0, gfn.0, pfn.0
                    ),
                    "give the other frame another page, in [host] or [map]",
                );
            }
            if pfn.0 >= u64::from(self.host_pages) {
                return error(
                    format!("pfn{} does not exist in the host", pfn.0),
                    "raise 'pages' in [host]",
                );
            }
            self.backing.push(backing);
        }
        Ok(())
    }

    /// Backs the frames that neither `[host]` nor `[map]` names with the lowest free host pages.
    pub(super) fn back_the_rest(&mut self, root: &Table<'_>) -> Result<(), LoadError> {
        for first in self.huge.clone() {
            self.back_huge(root, first)?;
        }
        let frames: Vec<Gfn> = (0..u64::from(GFNS))
            .map(Gfn)
            .filter(|gfn| self.slots.iter().any(|s| contains(s, *gfn)))
            .collect();
        for gfn in frames {
            if self.backing(gfn).is_some() {
                continue;
            }
            let used = |pfn: &u64| self.backing.iter().any(|b| b.pfn == Some(Pfn(*pfn)));
            let Some(pfn) = (0..u64::from(self.host_pages)).find(|pfn| !used(pfn)) else {
                return Err(root.source.error(
                    root.place("host"),
                    format!("no host page is left for gfn{}", gfn.0),
                    format!(
                        "raise 'pages' in [host] (at most {PFNS}), or write \"gfn{}\" = \
                         \"swapped\" there",
                        gfn.0
                    ),
                ));
            };
            self.backing.push(Backing { gfn, pfn: Some(Pfn(pfn)), writable: true, dirty: false });
        }
        self.backing.sort_by_key(|b| b.gfn);
        Ok(())
    }
}

/// The frames of the large page that begins here.
pub(super) fn large_frames(first: Gfn) -> impl Iterator<Item = Gfn> {
    GfnRange::new(first, paging::frames_of(paging::PG_LEVEL_4K) as u64).iter()
}

/// A large page may begin at this frame.
pub(super) fn is_large_frame(gfn: Gfn) -> bool {
    gfn.0.is_multiple_of(paging::frames_of(paging::PG_LEVEL_4K) as u64)
}

pub(super) fn contains(slot: &Slot, gfn: Gfn) -> bool {
    (slot.base.0..slot.base.0 + u64::from(slot.pages)).contains(&gfn.0)
}

/// `[[slot]]`
pub(super) fn slots(root: &Table<'_>) -> Result<Vec<Slot>, LoadError> {
    let mut slots: Vec<Slot> = Vec::new();
    for table in root.tables("slot", "a [[slot]]")? {
        table.only(&["gfn", "pages", "log", "there"])?;
        let gfn = table.need_small("gfn", 0..=GFNS - 1, "gfn = 0")?;
        let pages = table.need_small("pages", 1..=GFNS, "pages = 1")?;
        if slots.len() == virt::MEMSLOTS {
            return Err(root.source.error(
                gfn.at,
                format!("slot number {}", slots.len() + 1),
                format!("at most {} slots fit: join or remove some", virt::MEMSLOTS),
            ));
        }
        if gfn.value + pages.value > GFNS {
            return Err(root.source.error(
                pages.at,
                format!("the slot ends at gfn{}", gfn.value + pages.value - 1),
                format!("gfn0 to gfn{} exist", GFNS - 1),
            ));
        }
        let new = Slot {
            base: Gfn(u64::from(gfn.value)),
            pages: pages.value,
            log: table.flag("log")?.unwrap_or(false),
            there: table.flag("there")?.unwrap_or(true),
        };
        let meets = |gfn: &u64| slots.iter().any(|s| contains(s, Gfn(*gfn)));
        if let Some(gfn) = (new.base.0..new.base.0 + u64::from(new.pages)).find(meets) {
            return Err(root.source.error(
                table.place("gfn"),
                format!("gfn{gfn} is in an earlier slot already"),
                "slots must not overlap: change 'gfn' or 'pages' of one of them",
            ));
        }
        slots.push(new);
    }
    if slots.is_empty() {
        return Err(root.missing("slot", "[[slot]] with gfn = 0 and pages = 1"));
    }
    Ok(slots)
}

/// A guest frame as a key or in a list: `gfn3`.
pub(super) fn frame(text: &Text<'_>, memory: &Memory) -> Result<Gfn, LoadError> {
    match numbered(text.value, "gfn") {
        Some(n) if n < u64::from(GFNS) => {
            memory.in_slot(Gfn(n), text.source, text.at(0)).map(|()| Gfn(n))
        }
        Some(_) => Err(text.error(
            format!("{} is out of range", quoted(text.value)),
            format!("gfn0 to gfn{} exist", GFNS - 1),
        )),
        None => Err(text.error(
            format!("{} is not a guest frame", quoted(text.value)),
            "write a frame as gfn0, gfn1, ...",
        )),
    }
}

/// `[host]`: fills the backing of the frames that it names.
pub(super) fn host(root: &Table<'_>, memory: &mut Memory) -> Result<(), LoadError> {
    let Some(host) = root.table("host", "[host]")? else {
        memory.host_pages = default_pages(memory);
        return Ok(());
    };
    if let Some(pages) = host.small("pages", 1..=PFNS)? {
        memory.host_pages = pages.value;
    } else {
        memory.host_pages = default_pages(memory);
    }
    if host.has("huge") {
        for text in host.texts("huge")? {
            let first = huge(&text, memory)?;
            memory.huge.push(first);
        }
    }
    if host.has("hugetlb") {
        if memory.arch == Arch::X86 {
            return Err(root.source.error(
                host.place("hugetlb"),
                "'hugetlb' with a profile of x86",
                "KVM for x86 does not ask what VMA a frame is in: write 'huge'",
            ));
        }
        for text in host.texts("hugetlb")? {
            let first = huge(&text, memory)?;
            memory.huge.push(first);
            memory.hugetlb.push(first);
        }
    }
    let others = ["pages", "huge", "hugetlb"];
    for key in host.keys().into_iter().filter(|k| !others.contains(&k.value)) {
        if !key.value.starts_with("gfn") {
            let legal = ["pages", "huge", "hugetlb", "gfn0", "gfn1"];
            return Err(root.source.unknown(key.at(0), "key of [host]:", key.value, &legal));
        }
        let gfn = frame(&key, memory)?;
        let backing = backing(&host, key, gfn, memory.host_pages)?;
        if let Some(other) = memory.clash(&backing) {
            return Err(root.source.error(
                host.place(key.value),
                format!("gfn{} and gfn{} share a host page that is writable", other.0, gfn.0),
                "give them two pages, or writable = false for both",
            ));
        }
        memory.backing.push(backing);
    }
    Ok(())
}

/// The first frame of a huge page, all of which memslots have.
fn huge(text: &Text<'_>, memory: &Memory) -> Result<Gfn, LoadError> {
    let first = frame(text, memory)?;
    if !is_large_frame(first) {
        return Err(text.error(
            format!("no huge page begins at gfn{}", first.0),
            "a huge page of the host has four frames, and begins at gfn0 or gfn4",
        ));
    }
    if memory.huge.contains(&first) {
        return Err(text.error(format!("gfn{} twice", first.0), "name each huge page once"));
    }
    large_frames(first).try_for_each(|gfn| memory.in_slot(gfn, text.source, text.at(0)))?;
    Ok(first)
}

/// One page for each frame of the slots.
fn default_pages(memory: &Memory) -> u8 {
    memory.slots.iter().map(|s| s.pages).sum()
}

fn backing(
    host: &Table<'_>,
    key: Text<'_>,
    gfn: Gfn,
    host_pages: u8,
) -> Result<Backing, LoadError> {
    if let Ok(Some(text)) = host.text(key.value) {
        text.choose("state of a frame", &[("swapped", ())])?;
        return Ok(Backing { gfn, pfn: None, writable: false, dirty: false });
    }
    let Some(table) = host.table(key.value, "a frame in [host]")? else {
        return Err(host.missing(key.value, "\"gfn0\" = { pfn = 0 }"));
    };
    table.only(&["pfn", "writable", "dirty"])?;
    let pfn = need_page(&table, host_pages)?;
    Ok(Backing {
        gfn,
        pfn: Some(pfn),
        writable: table.flag("writable")?.unwrap_or(true),
        dirty: table.flag("dirty")?.unwrap_or(false),
    })
}

/// `pfn = N` of a host that has so many pages.
pub(super) fn need_page(table: &Table<'_>, host_pages: u8) -> Result<Pfn, LoadError> {
    let pfn = table.need_small("pfn", 0..=PFNS - 1, "pfn = 0")?;
    if pfn.value < host_pages {
        return Ok(Pfn(u64::from(pfn.value)));
    }
    Err(table.source.error(
        pfn.at,
        format!("pfn{} does not exist in the host", pfn.value),
        format!("the host has {host_pages} pages: raise 'pages' in [host]"),
    ))
}

/// `[guest]`
pub(super) fn guest(root: &Table<'_>, memory: &mut Memory) -> Result<(), LoadError> {
    let Some(guest) = root.table("guest", "[guest]")? else { return Ok(()) };
    let top = frame(&guest.need_text("root", "root = \"gfn4\"")?, memory)?;
    for key in guest.keys().into_iter().filter(|k| k.value != "root") {
        if !key.value.starts_with("gfn") {
            let legal = ["root", "gfn0", "gfn1"];
            return Err(root.source.unknown(key.at(0), "key of [guest]:", key.value, &legal));
        }
        let gfn = frame(&key, memory)?;
        if memory.backing(gfn).is_some_and(|b| b.pfn.is_none()) {
            return Err(key.error(
                format!("the guest page table in gfn{} is swapped out", gfn.0),
                "give the frame a page in [host]",
            ));
        }
        let texts = guest.texts(key.value)?;
        let limit = if gfn == top { ROOT_ENTRIES } else { TABLE_ENTRIES };
        if let Some(text) = texts.get(usize::from(limit)) {
            return Err(text.error(
                format!("a guest page table with {} entries", texts.len()),
                format!("a root has at most {ROOT_ENTRIES}, another table {TABLE_ENTRIES}"),
            ));
        }
        let mut entries = Vec::new();
        for text in &texts {
            entries.push(entry(text, memory, gfn == top)?);
        }
        memory.guest_tables.push(GuestTable { gfn, entries });
    }
    memory.guest_root = Some(top);
    check_root(&guest, top, memory)
}

/// One entry: `"-"`, or a frame and what is to be said of it: `"gfn1"`, `"gfn1 w"`, `"gfn4 large"`,
/// `"gfn7 w mmio"`, `"gfn1 w old clean"`.
fn entry(text: &Text<'_>, memory: &Memory, of_root: bool) -> Result<Option<GuestEntry>, LoadError> {
    let words = text.words();
    let malformed = || {
        text.error(
            format!("{} is no entry of a guest page table", quoted(text.value)),
            "write \"gfn1 w\" (writable), \"gfn1\" (read-only) or \"-\" (not present); in the root \
             \"gfn4 w large\" maps gfn4 to gfn7; \"gfn7 mmio\" is a frame in no slot; \
             \"gfn1 w clean\" has no D, \"gfn1 old\" no A",
        )
    };
    let Some((first, flags)) = words.split_first() else { return Err(malformed()) };
    if first.text == "-" && flags.is_empty() {
        return Ok(None);
    }
    let has = |flag: &str| flags.iter().any(|word| word.text == flag);
    let known = ["w", "large", "mmio", "old", "clean"];
    if known.iter().filter(|flag| has(flag)).count() != flags.len() {
        return Err(malformed());
    }
    let start = text.value.len() - text.value.trim_start().len();
    let name = text.part(start..start + first.text.len());
    let gfn = if has("mmio") { device(&name, memory)? } else { frame(&name, memory)? };
    let large = has("large");
    if large && !(of_root && is_large_frame(gfn)) {
        return Err(text.error(
            format!("{} is no large page", quoted(text.value)),
            "an entry of the root maps a large page, which begins at gfn0 or gfn4",
        ));
    }
    if has("mmio") && of_root && !large {
        return Err(text.error(
            format!("{}: the root leads to a device", quoted(text.value)),
            "its entries lead to tables: add 'large', or name the frame in a leaf table",
        ));
    }
    let (accessed, dirty) = (!has("old"), !has("clean"));
    Ok(Some(GuestEntry { gfn, writable: has("w"), large, accessed, dirty }))
}

/// A frame that is in no slot.
fn device(text: &Text<'_>, memory: &Memory) -> Result<Gfn, LoadError> {
    match numbered(text.value, "gfn") {
        Some(n) if n < u64::from(GFNS) && !memory.slots.iter().any(|s| contains(s, Gfn(n))) => {
            Ok(Gfn(n))
        }
        _ => Err(text.error(
            format!("{} is no frame of a device", quoted(text.value)),
            format!("name one of gfn0 to gfn{} that is in no [[slot]], or remove 'mmio'", GFNS - 1),
        )),
    }
}

/// The root is described, and so is each table that it points to.
fn check_root(guest: &Table<'_>, top: Gfn, memory: &Memory) -> Result<(), LoadError> {
    let Some(table) = memory.table(top) else {
        return Err(guest.source.error(
            guest.place("root"),
            format!("the root gfn{} is not described", top.0),
            format!("add its entries: \"gfn{}\" = [\"gfn3 w\"]", top.0),
        ));
    };
    for entry in table.entries.iter().flatten().filter(|entry| !entry.large) {
        if entry.gfn == top || memory.table(entry.gfn).is_none() {
            return Err(guest.source.error(
                guest.place(&format!("gfn{}", top.0)),
                format!("the root points to gfn{}, which is no leaf table", entry.gfn.0),
                format!("describe it in [guest]: \"gfn{}\" = [\"gfn0 w\", \"-\"]", entry.gfn.0),
            ));
        }
    }
    Ok(())
}

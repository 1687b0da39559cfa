//! `[map]`: the SPTEs that are there before the first step, and whether they contradict the rest.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use kvmmu_model::x86::mmu::paging::{PG_LEVEL_4K, ROOT_LEVEL, index_at};
use kvmmu_model::{Gfn, GfnRange, Gva};

use super::error::{LoadError, quoted};
use super::memory::{GFNS, Memory, contains, frame, large_frames, need_page};
use super::program::numbered;
use super::table::{Table, Text};
use crate::ops::Address;
use crate::scenario::{Arch, Backing, Format, InitialSpte};

/// Which kinds of translation the vCPUs of the file use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Uses {
    pub(super) direct: bool,
    pub(super) shadow: bool,
}

/// Reads `[map]`, and backs the frames that it maps.
pub(super) fn read(
    root: &Table<'_>,
    memory: &mut Memory,
    format: Format,
    uses: Uses,
) -> Result<Vec<InitialSpte>, LoadError> {
    let Some(map) = root.table("map", "[map]")? else { return Ok(Vec::new()) };
    let mut sptes = Vec::new();
    for key in map.keys() {
        let address = address(&key, memory, uses)?;
        let Some(table) = map.table(key.value, "an SPTE in [map]")? else { continue };
        let spte = spte(&table, address, memory, format)?;
        let gfn = target(&key, &spte, memory)?;
        back(&table, &spte, gfn, memory)?;
        sptes.push((spte, gfn, table));
    }
    for (spte, gfn, table) in &sptes {
        let frames =
            GfnRange::new(*gfn, if spte.large { large_frames(*gfn).count() as u64 } else { 1 });
        let other = sptes.iter().find(|(other, of, _)| {
            spte.large && other != spte && frames.contains(*of) && is_direct(other)
        });
        if let Some((other, ..)) = other {
            return Err(table.source.error(
                table.place("large"),
                format!("{} is in the large page of gfn{}", other.address, gfn.0),
                "a frame is mapped by 4K or by a large page: remove one of the two entries",
            ));
        }
        for gfn in frames.iter() {
            shadowed(table, spte, gfn, memory, uses, sptes.iter().map(|(s, ..)| s))?;
        }
    }
    Ok(sptes.into_iter().map(|(spte, ..)| spte).collect())
}

/// The SPTE is one of direct shadow pages.
fn is_direct(spte: &InitialSpte) -> bool {
    matches!(spte.address, Address::Gfn(_))
}

/// Refuses a large SPTE that no fault would map.
fn check_large(
    table: &Table<'_>,
    address: Address,
    writable: bool,
    memory: &Memory,
) -> Result<(), LoadError> {
    let (key, noun, read_only) = match memory.arch {
        Arch::X86 => ("large", "large SPTE", "spte = \"110\""),
        Arch::Arm64 => ("block", "block", "pte = \"r\""),
    };
    let error = |what: String, help: String| Err(table.source.error(table.place(key), what, help));
    let gfn = match address {
        Address::Gfn(gfn) => Some(gfn),
        Address::Gva(gva) => memory.large_page(gva),
    };
    let Some(gfn) = gfn.filter(|gfn| memory.huge.contains(gfn)) else {
        return error(
            format!("{address} is no huge page of the host"),
            match memory.arch {
                Arch::X86 => {
                    "a large SPTE maps one, by its first frame, or by the first virtual \
                              page of a large page of the guest: [host] huge = [\"gfn0\"]"
                }
                Arch::Arm64 => "a block maps one, by its first frame: [host] huge = [\"gfn0\"]",
            }
            .into(),
        );
    };
    let slots = memory.slots.iter();
    let Some(slot) = slots.into_iter().find(|s| large_frames(gfn).all(|gfn| contains(s, gfn)))
    else {
        return error(
            format!("the large page of gfn{} is in two slots", gfn.0),
            format!("a {noun} maps frames of one slot"),
        );
    };
    if writable && slot.log {
        return error(
            format!("the large page of gfn{} is writable, and its slot is logged", gfn.0),
            format!("a log takes W from a {noun}: write {read_only}"),
        );
    }
    Ok(())
}

fn address(key: &Text<'_>, memory: &Memory, uses: Uses) -> Result<Address, LoadError> {
    if !key.value.starts_with("gva") {
        if !key.value.starts_with("gfn") {
            return Err(key.error(
                format!("{} is not an address", quoted(key.value)),
                "map a guest frame (\"gfn0\") or, with shadow paging, a virtual page (\"gva0\")",
            ));
        }
        let gfn = frame(key, memory)?;
        return if uses.direct {
            Ok(Address::Gfn(gfn))
        } else {
            Err(key.error(
                format!("no vCPU reaches {} by a direct mapping", key.value),
                "map virtual pages (\"gva0\"), or give a vCPU paging = \"direct\"",
            ))
        };
    }
    if !uses.shadow {
        return Err(key.error(
            format!("no vCPU uses the guest page tables that {} needs", quoted(key.value)),
            "map guest frames (\"gfn0\"), or give a vCPU paging = \"shadow\"",
        ));
    }
    match numbered(key.value, "gva") {
        Some(n) if n < u64::from(GFNS) => Ok(Address::Gva(Gva(n))),
        _ => Err(key.error(
            format!("{} is not a virtual page", quoted(key.value)),
            format!("gva0 to gva{} exist: root index * 4 + leaf index", GFNS - 1),
        )),
    }
}

fn spte(
    table: &Table<'_>,
    address: Address,
    memory: &Memory,
    format: Format,
) -> Result<InitialSpte, LoadError> {
    if format == Format::Arm64 {
        return pte(table, address, memory);
    }
    table.only(&["pfn", "spte", "accessed", "dirty", "tracked", "cached", "large"])?;
    let pfn = need_page(table, memory.host_pages)?;
    let text = table.need_text("spte", "spte = \"110\"   # H, M, W")?;
    let bits: Vec<bool> = text.value.chars().map(|c| c == '1').collect();
    let [host_writable, mmu_writable, writable] = bits[..] else {
        return Err(malformed_bits(&text));
    };
    if text.value.chars().any(|c| c != '0' && c != '1') {
        return Err(malformed_bits(&text));
    }
    if writable && !(host_writable && mmu_writable) {
        return Err(text.error(
            format!("{}: writable without host-writable and MMU-writable", quoted(text.value)),
            "W = 1 needs H = 1 and M = 1: write \"111\", or take W away",
        ));
    }
    if mmu_writable && !host_writable {
        return Err(text.error(
            format!("{}: MMU-writable without host-writable", quoted(text.value)),
            "no SPTE is ever made so: M = 1 needs H = 1; write \"110\", or \"000\" for a page that \
             the host maps read-only",
        ));
    }
    let tracked = table.flag("tracked")?.unwrap_or(false);
    if tracked && format.has_ad() {
        return Err(table.source.error(
            table.place("tracked"),
            "access tracking with a format that has accessed bits",
            "remove 'tracked', or set spte = \"ept-no-ad\"",
        ));
    }
    if tracked && writable {
        return Err(table.source.error(
            table.place("tracked"),
            "an access-tracked SPTE that is writable",
            "marking for access tracking clears R, W and X: write spte = \"110\"",
        ));
    }
    if !format.has_ad()
        && let Some(key) = ["accessed", "dirty"].into_iter().find(|k| table.has(k))
    {
        return Err(table.source.error(
            table.place(key),
            format!("'{key}' with a format that has no such bit"),
            "remove it, or set spte = \"ept\" or \"npt\"",
        ));
    }
    let accessed = table.flag("accessed")?.unwrap_or(format.has_ad());
    let dirty = table.flag("dirty")?.unwrap_or(format.has_ad() && mmu_writable);
    let cached = table.flag("cached")?.unwrap_or(false);
    let large = table.flag("large")?.unwrap_or(false);
    if large {
        check_large(table, address, writable, memory)?;
    }
    if cached && (tracked || format.has_ad() && !accessed) {
        return Err(table.source.error(
            table.place("cached"),
            "a cached translation of an SPTE that was never used",
            "filling a TLB sets A: remove 'cached', or the mark that the page is not accessed",
        ));
    }
    Ok(InitialSpte {
        address,
        pfn,
        host_writable,
        mmu_writable,
        writable,
        accessed,
        dirty,
        tracked,
        cached,
        large,
    })
}

/// A descriptor of stage 2, as Linux for arm64 has them.
fn pte(table: &Table<'_>, address: Address, memory: &Memory) -> Result<InitialSpte, LoadError> {
    table.only(&["pfn", "pte", "accessed", "cached", "block"])?;
    let pfn = need_page(table, memory.host_pages)?;
    let text = table.need_text("pte", "pte = \"rw\"   # or \"r\"")?;
    let writable = text.choose("set of permissions", &[("rw", true), ("r", false)])?;
    let accessed = table.flag("accessed")?.unwrap_or(true);
    let cached = table.flag("cached")?.unwrap_or(false);
    let large = table.flag("block")?.unwrap_or(false);
    if large {
        check_large(table, address, writable, memory)?;
    }
    if cached && !accessed {
        return Err(table.source.error(
            table.place("cached"),
            "a cached translation by a descriptor that was never used",
            "a CPU that caches it sets AF: remove 'cached', or accessed = false",
        ));
    }
    // What the host lets it be: a read-only descriptor may be of a page that the host can write.
    let backing = match address {
        Address::Gfn(gfn) => memory.backing(gfn),
        Address::Gva(_) => None,
    };
    let host_writable = writable || backing.is_none_or(|backing| backing.writable);
    Ok(InitialSpte {
        address,
        pfn,
        host_writable,
        mmu_writable: host_writable,
        writable,
        accessed,
        dirty: false,
        tracked: false,
        cached,
        large,
    })
}

fn malformed_bits(text: &Text<'_>) -> LoadError {
    text.error(
        format!("{} is not three bits", quoted(text.value)),
        "write H, M and W as in \"110\": host-writable, MMU-writable, not writable now",
    )
}

/// The frame that the SPTE maps.
fn target(key: &Text<'_>, spte: &InitialSpte, memory: &Memory) -> Result<Gfn, LoadError> {
    let gva = match spte.address {
        Address::Gfn(gfn) => return Ok(gfn),
        Address::Gva(gva) => gva,
    };
    match memory.translate(gva) {
        None => Err(key.error(
            format!("the guest's page tables do not translate gva{}", gva.0),
            format!(
                "fill entry {} of the table that entry {} of the root points to, in [guest]",
                index_at(PG_LEVEL_4K, gva.0),
                index_at(ROOT_LEVEL, gva.0)
            ),
        )),
        Some((_, false)) if spte.mmu_writable => Err(key.error(
            format!("gva{} is MMU-writable here but read-only in the guest's page tables", gva.0),
            "write the guest's entries as \"gfnN w\", without 'clean', or spte = \"100\"",
        )),
        Some((gfn, _)) => Ok(gfn),
    }
}

/// Holds the SPTE against what backs its frame, or backs the frame with it.
fn back(
    table: &Table<'_>,
    spte: &InitialSpte,
    gfn: Gfn,
    memory: &mut Memory,
) -> Result<(), LoadError> {
    if let Some(backing) = memory.backing(gfn) {
        if backing.pfn != Some(spte.pfn) {
            let is = backing.pfn.map_or("is swapped out".into(), |p| format!("is pfn{}", p.0));
            return Err(table.source.error(
                table.place("pfn"),
                format!("the SPTE maps pfn{}, but gfn{} {is} in the host", spte.pfn.0, gfn.0),
                "make [host] and every entry of [map] name the same page for the frame",
            ));
        }
        if spte.host_writable && !backing.writable {
            return Err(table.source.error(
                table.place("spte"),
                format!("host-writable, but the host maps gfn{} read-only", gfn.0),
                "write spte = \"000\", or writable = true in [host]",
            ));
        }
        return Ok(());
    }
    let writable = spte.host_writable;
    let backing = Backing { gfn, pfn: Some(spte.pfn), writable, dirty: false };
    if let Some(other) = memory.clash(&backing) {
        return Err(table.source.error(
            table.place("pfn"),
            format!("pfn{} backs gfn{} already", spte.pfn.0, other.0),
            "give each frame a page of its own; only pages that the host maps read-only are shared",
        ));
    }
    memory.backing.push(backing);
    Ok(())
}

/// Refuses an SPTE that lets the guest write a page table whose shadow page exists.
fn shadowed<'s>(
    table: &Table<'_>,
    spte: &InitialSpte,
    gfn: Gfn,
    memory: &Memory,
    uses: Uses,
    mut all: impl Iterator<Item = &'s InitialSpte>,
) -> Result<(), LoadError> {
    if !spte.mmu_writable {
        return Ok(());
    }
    let root = memory.guest_root.filter(|_| uses.shadow);
    let on_path = |s: &InitialSpte| match s.address {
        Address::Gva(gva) => memory.leaf_table(gva) == Some(gfn),
        Address::Gfn(_) => false,
    };
    if root != Some(gfn) && !all.any(on_path) {
        return Ok(());
    }
    Err(table.source.error(
        table.place("spte"),
        format!("MMU-writable, but gfn{} is a guest page table that is shadowed already", gfn.0),
        "write spte = \"100\", or take the virtual pages of that table out of [map]",
    ))
}

//! The same for stage 2 of arm64: each store is what the walker of the function that the thread is
//! in makes of the old descriptor, for the range, the page and the permissions that the function
//! was called with.
//!
//! The model has no XN and no device memory: XN is left out, and nothing is said of the latter.

use kvmmu_model::Pfn;
use kvmmu_model::arm64::pgtable::pte::{ADDR, AF, S2AP_R, S2AP_W};
use kvmmu_model::arm64::pgtable::{KvmPgtableProt, KvmPte, Version};

use super::broken;
use crate::functions;
use crate::judge::{Now, Stored};
use crate::rules::{Findings, Rule};
use crate::step::Step;
use crate::threads::Call;

/// `KVM_PTE_LEAF_ATTR_HI_S2_XN`, which the model has not.
const XN: u64 = 1 << 54;

/// `enum kvm_pgtable_prot`.
mod prot {
    pub(super) const W: u64 = 1 << 1;
    pub(super) const R: u64 = 1 << 2;
    pub(super) const DEVICE: u64 = 1 << 3;
}

/// A store.
pub(super) fn see(now: &Now<'_>, stored: &Stored, version: Version, findings: &mut Findings) {
    if stored.step == Step::Same {
        return;
    }
    let walks = |call: &&Call| functions::name(call.function).starts_with("kvm_pgtable_stage2_");
    let Some(call) = now.thread.calls().iter().rev().find(walks) else {
        return broken(now, stored, "no function", None, findings);
    };
    let function = functions::name(call.function);
    let made = |old| made(function, call.arguments, stored, KvmPte(old & !XN), version);
    let is = |wanted: &Wanted| match wanted {
        Wanted::Nothing => false,
        Wanted::Unsaid => true,
        Wanted::Pte(pte) => pte.0 == stored.new & !XN,
        Wanted::Table => KvmPte(stored.new & !ADDR).0 == TABLE,
    };
    // Hardware may have set AF since the value was last seen.
    let wanted = made(stored.old);
    if is(&wanted) || is(&made(stored.old | AF)) {
        if wanted != Wanted::Unsaid {
            findings.holds(Rule::Model);
        }
        return;
    }
    let word = match wanted {
        Wanted::Pte(pte) => Some(pte.0),
        Wanted::Table => Some(TABLE),
        Wanted::Nothing | Wanted::Unsaid => None,
    };
    broken(now, stored, function, word, findings);
}

/// What leads to a table, without its address: which page that is, no store can show.
const TABLE: u64 = KvmPte::table(kvmmu_model::SpId(0)).0 & !ADDR;

/// What a function makes of a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    /// It leaves it as it is.
    Nothing,
    /// It makes it this.
    Pte(KvmPte),
    /// It makes it lead to a table.
    Table,
    /// The model does not know: device memory.
    Unsaid,
}

fn made(
    function: &str,
    arguments: [u64; 5],
    stored: &Stored,
    old: KvmPte,
    version: Version,
) -> Wanted {
    let [_, addr, size, ..] = arguments;
    let ranged = ["kvm_pgtable_stage2_unmap", "kvm_pgtable_stage2_wrprotect"];
    let bytes = if ranged.contains(&function) { size } else { 1 };
    if function != "kvm_pgtable_stage2_map" && !translates(stored, addr, bytes) {
        return Wanted::Nothing;
    }
    let valid = |pte: Wanted| if old.is_valid() { pte } else { Wanted::Nothing };
    let level = u8::try_from(stored.spot.level).unwrap_or(0);
    match function {
        "kvm_pgtable_stage2_map" => map(arguments, stored, old, level, version),
        "kvm_pgtable_stage2_unmap" => valid(Wanted::Pte(old.cleared(version))),
        "kvm_pgtable_stage2_wrprotect" if old.is_leaf(level) => Wanted::Pte(old.without(S2AP_W)),
        "kvm_pgtable_stage2_relax_perms" if old.is_leaf(level) => {
            let [_, _, wanted, ..] = arguments;
            let bit = |asked: u64, bit: u64| if wanted & asked != 0 { bit } else { 0 };
            Wanted::Pte(old.with(bit(prot::R, S2AP_R) | bit(prot::W, S2AP_W)))
        }
        "kvm_pgtable_stage2_mkold" if old.is_leaf(level) => Wanted::Pte(old.without(AF)),
        "kvm_pgtable_stage2_mkyoung" if old.is_leaf(level) => Wanted::Pte(old.with(AF)),
        _ => Wanted::Nothing,
    }
}

/// `kvm_pgtable_stage2_map`: a leaf where one may be, else a table; what is in the way is made
/// invalid first. A page that is mapped already is left as it is.
fn map(arguments: [u64; 5], stored: &Stored, old: KvmPte, level: u8, version: Version) -> Wanted {
    let [_, addr, size, phys, asked] = arguments;
    if asked & prot::DEVICE != 0 {
        return Wanted::Unsaid;
    }
    let (ipa, bytes) = (stored.spot.gfn << 12, stored.spot.frames << 12);
    if !translates(stored, addr, size) {
        return Wanted::Nothing;
    }
    // kvm_block_mapping_supported.
    let page = phys.wrapping_add(ipa.wrapping_sub(addr));
    let fits = ipa >= addr && ipa + bytes <= addr + size && page.is_multiple_of(bytes);
    let writable = KvmPgtableProt { write: asked & prot::W != 0 };
    let leaf = fits.then(|| KvmPte::leaf(Pfn(page >> 12), writable, level));
    if old.is_valid() {
        let stays = leaf.is_some_and(|leaf| match version {
            Version::V5_10 => old == leaf,
            Version::V6_1 | Version::V6_12 => old.is_leaf(level) && !old.needs_update(leaf),
        });
        let descends = leaf.is_none() && old.is_table(level);
        return if stays || descends { Wanted::Nothing } else { Wanted::Pte(old.cleared(version)) };
    }
    leaf.map_or(Wanted::Table, Wanted::Pte)
}

/// The descriptor translates some of these bytes.
fn translates(stored: &Stored, addr: u64, bytes: u64) -> bool {
    let (ipa, end) = (stored.spot.gfn << 12, (stored.spot.gfn + stored.spot.frames) << 12);
    ipa < addr.saturating_add(bytes) && addr < end
}

//! How descriptors of stage 2 read in reports, as Linux for arm64 has them.

use kvmmu_model::arm64::pgtable::{KvmPte, LAST_LEVEL, PTRS_PER_PTE, START_LEVEL};
use kvmmu_model::spte::SHADOW_PAGES_BASE;
use kvmmu_scenarios::scenario::InitialSpte;

/// What a descriptor says: `pfn1 rw AF`, `block pfn0..pfn3 r- AF`, `table1`; `invalid (table1)`
/// where bit 0 was cleared and the rest stays; `LOCKED` between break and make.
pub(super) fn text(value: u64) -> String {
    let pte = KvmPte(value);
    match (value, pte.is_valid()) {
        (0, _) => "0".to_owned(),
        _ if pte == KvmPte::LOCKED => "LOCKED".to_owned(),
        (_, true) => valid(pte),
        (_, false) => format!("invalid ({})", valid(KvmPte(value | 1))),
    }
}

fn valid(pte: KvmPte) -> String {
    if pte.pfn().0 >= SHADOW_PAGES_BASE {
        return format!("table{}", pte.follow().0);
    }
    let page = pte.pfn().0;
    // Bit 1 tells a page of the last level from a block: at any other level it would be a table.
    let pages = match pte.is_table(START_LEVEL) {
        true => format!("pfn{page}"),
        false => format!("block pfn{page}..pfn{}", page + PTRS_PER_PTE as u64 - 1),
    };
    leaf(&pages, pte.is_writable(), pte.is_young())
}

fn leaf(pages: &str, writable: bool, young: bool) -> String {
    let (access, used) = (if writable { "rw" } else { "r-" }, if young { "AF" } else { "--" });
    format!("{pages} {access} {used}")
}

/// One of the initial state: `pte[gfn0] = pfn0 rw AF`.
pub(super) fn initial(entry: &InitialSpte, gfn: u64) -> String {
    let page = entry.pfn.0;
    let many = PTRS_PER_PTE as u64;
    let (name, pages) = match entry.large {
        true => {
            (format!("pgd[{}]", gfn / many), format!("block pfn{page}..pfn{}", page + many - 1))
        }
        false => (format!("pte[gfn{gfn}]"), format!("pfn{page}")),
    };
    format!("{name} = {}", leaf(&pages, entry.writable, entry.accessed))
}

const _: () = assert!(START_LEVEL + 1 == LAST_LEVEL, "a block has as many pages as a table");

#[cfg(test)]
mod tests {
    use super::*;
    use kvmmu_model::arm64::pgtable::KvmPgtableProt;
    use kvmmu_model::{Pfn, SpId};

    #[test]
    fn descriptors_read_by_what_they_lead_to() {
        let leaf = |write, level| KvmPte::leaf(Pfn(4), KvmPgtableProt { write }, level);
        assert_eq!(text(0), "0");
        assert_eq!(text(KvmPte::LOCKED.0), "LOCKED");
        assert_eq!(text(leaf(true, LAST_LEVEL).0), "pfn4 rw AF");
        assert_eq!(text(leaf(false, START_LEVEL).0), "block pfn4..pfn7 r- AF");
        assert_eq!(text(leaf(false, START_LEVEL).invalid().0), "invalid (block pfn4..pfn7 r- AF)");
        assert_eq!(text(KvmPte::table(SpId(2)).0), "table2");
        assert_eq!(text(KvmPte::table(SpId(2)).invalid().0), "invalid (table2)");
    }
}

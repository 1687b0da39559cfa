//! The tables as hardware walks them and observers see them. Not KVM.

use super::pte::{KVM_PTE, KvmPgtableProt, KvmPte};
use super::{
    Held, LAST_LEVEL, OtherVm, PT_PAGES, PTRS_PER_PGD, PTRS_PER_PTE, START_LEVEL, Stage2Mmu,
    granule, index_at,
};
use crate::host::Host;
use crate::platform::Platform;
use crate::spte::{Spte, SpteFormat};
use crate::tables::{Leaf, Tables};
use crate::types::{CpuId, Gfn, GfnRange, SpId, SpteLoc};
use crate::vm::Vm;
use crate::x86::mmu::Header;
use crate::x86::mmu::walk::GuestWalk;

/// A level as observers count it: 1 maps pages.
const fn from_pages(level: u8) -> u8 {
    LAST_LEVEL - level + 1
}

impl<P: Platform> Stage2Mmu<P> {
    /// The entries of the root that translate something.
    pub fn pgd_entries() -> impl Iterator<Item = SpteLoc> {
        (0..PTRS_PER_PGD as u8).map(|index| SpteLoc { sp: Self::PGD, index })
    }

    /// The level of a table's entries: above the last for a root.
    pub fn level_of(&self, table: SpId) -> u8 {
        let other = self.vmids.as_ref().is_some_and(|vmids| vmids.config().other_vm != 0);
        let is_root = table == Self::PGD || other && table == OtherVm::PGD;
        if is_root { START_LEVEL } else { LAST_LEVEL }
    }

    /// The first frame that the entries of a table translate, if the root leads to it.
    fn base(&self, table: SpId, peek: impl Fn(&P::Word) -> u64) -> Option<Gfn> {
        let leads = |at: &SpteLoc| {
            let pte = KvmPte(peek(self.ptep(*at)));
            pte.is_table(START_LEVEL) && pte.follow() == table
        };
        let at = Self::pgd_entries().find(leads)?;
        Some(Gfn(u64::from(at.index) * granule(START_LEVEL)))
    }
}

impl<P: Platform> Tables<P> for Stage2Mmu<P> {
    type State = ();

    fn format(&self) -> &SpteFormat {
        &KVM_PTE
    }

    fn root(&self, cpu: CpuId) -> SpId {
        let vm = self.vmids.as_ref().map_or(0, |vmids| vmids.config().vm_of(cpu));
        if vm == 0 { Self::PGD } else { OtherVm::PGD }
    }

    fn sptep(&self, loc: SpteLoc) -> &P::Word {
        self.ptep(loc)
    }

    fn header(&self, table: SpId, peek: impl Fn(&P::Word) -> u64) -> Header {
        if table == Self::PGD {
            return Header::new(Gfn(0), from_pages(START_LEVEL), true);
        }
        let base = self.base(table, peek);
        base.map_or(Header(0), |gfn| Header::new(gfn, from_pages(LAST_LEVEL), true))
    }

    fn is_in_use(&self, _l: &(), loc: SpteLoc, peek: impl Fn(&P::Word) -> u64) -> bool {
        peek(&self.page_count[usize::from(loc.sp.0)]) != 0
    }

    fn setup_leaf<H: Host>(
        vm: &Vm<P, H, Self>,
        _cpu: CpuId,
        page: u64,
        _guest: Option<&GuestWalk>,
        spte: Spte,
    ) -> SpteLoc {
        let l = vm.kvm.mmu_lock.lock();
        let level =
            if KVM_PTE.is_last(spte, from_pages(START_LEVEL)) { START_LEVEL } else { LAST_LEVEL };
        let (pte, gfn) = (KvmPte(spte.0), Gfn(page));
        let prot = KvmPgtableProt { write: pte.is_writable() };
        let range = GfnRange::new(gfn, granule(level));
        let mapped =
            vm.kvm_pgtable_stage2_map(Held::alone(&l), range, pte.pfn(), prot, Some(CpuId(0)));
        mapped.expect("there is memory, and nothing is mapped");
        let root = SpteLoc { sp: Self::PGD, index: index_at(START_LEVEL, gfn) };
        let loc = match level {
            LAST_LEVEL => {
                SpteLoc { sp: vm.read_pte(root).follow(), index: index_at(LAST_LEVEL, gfn) }
            }
            _ => root,
        };
        // AF may be clear.
        vm.set_valid_pte(loc, pte);
        loc
    }

    fn miscounted(&self, _l: &(), peek: impl Fn(&P::Word) -> u64) -> Option<(SpId, u8, u8)> {
        let count = |table: &SpId| peek(&self.page_count[usize::from(table.0)]) as u8;
        let is_valid = |loc| KvmPte(peek(self.ptep(loc))).is_valid();
        let valid = |sp: SpId| {
            (0..PTRS_PER_PTE as u8).filter(|index| is_valid(SpteLoc { sp, index: *index })).count()
        };
        let used = (0..PT_PAGES as u8).map(SpId).filter(|table| count(table) != 0);
        let counts = used.map(|table| (table, count(&table), valid(table) as u8));
        counts.into_iter().find(|(_, count, valid)| *count != 1 + valid)
    }

    fn for_each_leaf(&self, _l: &(), peek: impl Fn(&P::Word) -> u64, mut each: impl FnMut(Leaf)) {
        let pte = |loc| KvmPte(peek(self.ptep(loc)));
        for table in (0..PT_PAGES as u8).map(SpId) {
            let root = table == Self::PGD;
            let level = if root { START_LEVEL } else { LAST_LEVEL };
            let base = if root { Some(Gfn(0)) } else { self.base(table, &peek) };
            let Some(base) = base else { continue };
            let many = if root { PTRS_PER_PGD } else { PTRS_PER_PTE };
            for index in 0..many as u8 {
                let loc = SpteLoc { sp: table, index };
                let first = Gfn(base.0 + u64::from(index) * granule(level));
                let maps = pte(loc).is_leaf(level);
                let frames = maps.then(|| GfnRange::new(first, granule(level)));
                each(Leaf { loc, spte: Spte(pte(loc).0), frames });
            }
        }
    }
}

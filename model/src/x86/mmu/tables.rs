//! The tables of this MMU, as hardware walks them and observers see them. Not KVM.

use super::paging::{
    KVM_MAX_HUGEPAGE_LEVEL, PG_LEVEL_4K, all_spte_locs, direct_base, frame_at, frames_of,
};
use super::walk::{GuestWalk, ShadowWalk};
use super::{Header, Role, ShadowMmu, ShadowPage, ShadowPages};
use crate::host::Host;
use crate::platform::{Local, Platform};
use crate::spte::{Spte, SpteFormat};
use crate::tables::{Leaf, Tables};
use crate::types::{CpuId, Gfn, GfnRange, SpId, SpteLoc};
use crate::virt::GFNS;
use crate::vm::Vm;

const _: () = assert!(GFNS <= u64::BITS as usize, "in_rmaps has a bit for each frame");

impl<P: Platform> Tables<P> for ShadowMmu<P> {
    type State = ShadowPages;

    #[inline]
    fn format(&self) -> &SpteFormat {
        &self.format
    }

    #[inline]
    fn root(&self, cpu: CpuId) -> SpId {
        SpId(self.roots[usize::from(cpu.0)].get() as u8)
    }

    #[inline]
    fn guest_root(&self, cpu: CpuId) -> Option<Gfn> {
        (self.roots[usize::from(cpu.0)].get() >> 8).checked_sub(1).map(Gfn)
    }

    #[inline]
    fn sptep(&self, loc: SpteLoc) -> &P::Word {
        &self.tables[usize::from(loc.sp.0)].spt[usize::from(loc.index)]
    }

    #[inline]
    fn header(&self, sp: SpId, peek: impl Fn(&P::Word) -> u64) -> Header {
        Header(peek(&self.tables[usize::from(sp.0)].header))
    }

    fn is_in_use(&self, l: &ShadowPages, loc: SpteLoc, _peek: impl Fn(&P::Word) -> u64) -> bool {
        l.page(loc.sp).in_use
    }

    fn setup_leaf<H: Host>(
        vm: &Vm<P, H, Self>,
        cpu: CpuId,
        page: u64,
        guest: Option<&GuestWalk>,
        spte: Spte,
    ) -> SpteLoc {
        let mut l = vm.kvm.mmu_lock.lock();
        let mut at = ShadowWalk::new(vm.mmu.root(cpu), page);
        while at.level > PG_LEVEL_4K && !vm.mmu.format.is_last(spte, at.level) {
            at = at.next(vm.child_at(&mut l, None, at, |level| match guest {
                Some(walk) if level >= walk.level => {
                    (walk.table(level), Role::indirect(level, walk.access_above(level)))
                }
                Some(walk) => {
                    let role =
                        Role::below_large(level, walk.allows_writes() && walk.leaf().is_dirty());
                    (direct_base(level, walk.gfn.0), role)
                }
                None => (direct_base(level, page), Role::direct(level)),
            }));
        }
        vm.mmu_spte_set(&l, at.loc, spte);
        vm.rmap_add(&mut l, at.loc, guest.map_or(Gfn(page), |walk| walk.gfn));
        at.loc
    }

    fn shadowed_table(l: &ShadowPages, is: impl Fn(Gfn) -> bool) -> Option<Gfn> {
        let linked = |sp: &&ShadowPage| {
            let linked = sp.root_count > 0 || !sp.parent_ptes.is_empty();
            sp.is_valid() && !sp.role.direct && linked && !sp.unsync
        };
        l.pages.iter().filter(linked).map(|sp| sp.gfn).find(|gfn| is(*gfn))
    }

    fn in_rmaps(l: &ShadowPages, loc: SpteLoc) -> Option<u64> {
        // All frames of a large page, whichever slot they are in.
        let levels = [PG_LEVEL_4K, KVM_MAX_HUGEPAGE_LEVEL];
        let has = |gfn: u64| levels.iter().any(|level| l.rmap(Gfn(gfn), *level).contains(loc));
        Some((0..GFNS as u64).filter(|gfn| has(*gfn)).fold(0, |frames, gfn| frames | 1 << gfn))
    }

    fn for_each_leaf(
        &self,
        l: &ShadowPages,
        peek: impl Fn(&P::Word) -> u64,
        mut each: impl FnMut(Leaf),
    ) {
        for loc in all_spte_locs() {
            let sp = l.page(loc.sp);
            let level = sp.role.level;
            if !sp.in_use || level > self.max_huge_page_level {
                continue;
            }
            let spte = Spte(peek(self.sptep(loc)));
            let maps = self.format.is_shadow_present(spte) && self.format.is_last(spte, level);
            let first = || match sp.role.direct {
                true => frame_at(level, sp.gfn, loc.index),
                false => Gfn(peek(self.gfns(loc))),
            };
            let frames = maps.then(|| GfnRange::new(first(), frames_of(level - 1) as u64));
            each(Leaf { loc, spte, frames });
        }
    }
}

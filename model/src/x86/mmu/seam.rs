//! What generic KVM and vCPUs ask of this MMU.

use super::{ShadowMmu, ShadowPages};
use crate::guard::Guard;
use crate::host::Host;
use crate::platform::Platform;
use crate::tables::Tables;
use crate::types::{Access, CpuId, FaultStatus, Gfn, GfnRange, Gva, Pfn};
use crate::virt::{Memslot, MmuGuard, MmuState};
use crate::vm::{Mmu, RetPf, Vm};

impl<P: Platform> Mmu<P> for ShadowMmu<P> {
    fn kvm_unmap_hva_range<'a, H: Host>(
        vm: &'a Vm<P, H, Self>,
        mut l: MmuGuard<'a, P, ShadowPages>,
        frames: GfnRange,
    ) -> (MmuGuard<'a, P, ShadowPages>, bool) {
        let flush = frames.iter().fold(false, |flush, gfn| flush | vm.kvm_zap_rmapp(&mut l, gfn));
        (l, flush)
    }

    fn kvm_set_spte_hva<H: Host>(
        vm: &Vm<P, H, Self>,
        l: &mut MmuState<ShadowPages>,
        gfn: Gfn,
        pfn: Pfn,
    ) -> bool {
        vm.kvm_set_pte_rmapp(l, gfn, pfn)
    }

    fn kvm_age_hva<H: Host>(vm: &Vm<P, H, Self>, l: &mut MmuState<ShadowPages>, gfn: Gfn) -> bool {
        vm.kvm_age_rmapp(l, gfn)
    }

    fn kvm_arch_mmu_enable_log_dirty_pt_masked<H: Host>(
        vm: &Vm<P, H, Self>,
        l: &mut MmuState<ShadowPages>,
        slot: &Memslot<P>,
        mask: u64,
    ) -> bool {
        match vm.mmu.pml {
            Some(_) => vm.kvm_mmu_clear_dirty_pt_masked(l, slot, mask),
            None => vm.kvm_mmu_write_protect_pt_masked(l, slot, mask),
        }
    }

    fn kvm_mmu_slot_remove_write_access<H: Host>(
        vm: &Vm<P, H, Self>,
        l: &mut MmuState<ShadowPages>,
        slot: &Memslot<P>,
        initially_set: bool,
    ) -> bool {
        let by_4k = if initially_set { 0 } else { !0 };
        let flush = Self::kvm_arch_mmu_enable_log_dirty_pt_masked(vm, l, slot, by_4k);
        let large = || vm.kvm_mmu_slot_largepage_remove_write_access(l, slot);
        flush | vm.p.guarded(Guard::LogProtectsLarge, large)
    }

    fn kvm_mmu_zap_collapsible_sptes<H: Host>(vm: &Vm<P, H, Self>, slot: &Memslot<P>) {
        vm.kvm_mmu_zap_collapsible_sptes(slot);
    }

    fn kvm_arch_sync_dirty_log<H: Host>(vm: &Vm<P, H, Self>) {
        if vm.mmu.pml.is_some() {
            vm.kvm_flush_pml_buffers();
        }
    }

    fn vmx_flush_pml_buffer<H: Host>(vm: &Vm<P, H, Self>, cpu: CpuId) {
        if vm.mmu.pml.is_some() {
            vm.vmx_flush_pml_buffer(cpu);
        }
    }

    fn kvm_arch_flush_shadow_memslot<H: Host>(vm: &Vm<P, H, Self>, slot: &Memslot<P>) {
        vm.kvm_mmu_invalidate_zap_pages_in_memslot(slot);
    }

    fn kvm_mmu_load<H: Host>(vm: &Vm<P, H, Self>, cpu: CpuId, guest: Option<Gfn>) {
        let hpa = vm.mmu_alloc_root(&mut vm.kvm.mmu_lock.lock(), guest);
        vm.mmu.set_root(cpu, hpa, guest);
    }

    fn kvm_mmu_zap_all_fast<H: Host>(vm: &Vm<P, H, Self>) {
        vm.zap_all_but_roots();
    }

    fn mmu_shrink_scan<H: Host>(vm: &Vm<P, H, Self>) {
        vm.zap_oldest();
    }

    fn kvm_arch_async_page_ready<H: Host>(vm: &Vm<P, H, Self>, cpu: CpuId, gfn: Gfn) {
        vm.kvm_arch_async_page_ready(cpu, gfn);
    }

    fn gva_to_gpa<H: Host>(
        vm: &Vm<P, H, Self>,
        cpu: CpuId,
        page: u64,
        access: Access,
    ) -> Option<Gfn> {
        match vm.mmu.guest_root(cpu) {
            None => Some(Gfn(page)),
            Some(root) => vm.walk_addr(root, Gva(page), access).map(|walk| walk.gfn),
        }
    }

    fn kvm_mmu_pte_write<H: Host>(vm: &Vm<P, H, Self>, cpu: CpuId, gfn: Gfn, byte: u8) {
        vm.kvm_mmu_pte_write(cpu, gfn, byte);
    }

    fn kvm_mmu_sync_roots<H: Host>(vm: &Vm<P, H, Self>, cpu: CpuId) {
        vm.kvm_mmu_sync_roots(cpu);
    }

    fn kvm_mmu_invlpg<H: Host>(vm: &Vm<P, H, Self>, cpu: CpuId, gva: Gva, flush: impl FnOnce()) {
        vm.kvm_mmu_invlpg(cpu, gva, flush);
    }

    fn handle_mmio_page_fault<H: Host>(vm: &Vm<P, H, Self>, cpu: CpuId, page: u64) -> RetPf {
        vm.handle_mmio_page_fault(cpu, page)
    }

    fn kvm_mmu_do_page_fault<H: Host>(
        vm: &Vm<P, H, Self>,
        cpu: CpuId,
        page: u64,
        access: Access,
        FaultStatus { present, .. }: FaultStatus,
    ) -> RetPf {
        match vm.mmu.guest_root(cpu) {
            None => vm.kvm_tdp_page_fault(cpu, Gfn(page), access, present),
            Some(root) => vm.shadow_page_fault(cpu, root, Gva(page), access, present),
        }
    }
}

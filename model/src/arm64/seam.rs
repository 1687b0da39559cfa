//! What generic KVM and vCPUs ask of this MMU. Linux `arch/arm64/kvm/mmu.c`, `arm.c`.

use super::mmu::chunks;
use super::pgtable::{Held, KvmPgtableProt, Locked, Stage2Mmu, Version};
use crate::host::Host;
use crate::platform::Platform;
use crate::types::{Access, CpuId, FaultStatus, Gfn, GfnRange, Pfn};
use crate::virt::{Memslot, MmuGuard, SrcuSection};
use crate::vm::{Mmu, RetPf, Vm};

impl<P: Platform> Mmu<P> for Stage2Mmu<P> {
    /// The handler of an abort is, by itself.
    const RUN_HOLDS_SRCU: bool = false;

    fn lock_has_readers(&self) -> bool {
        self.version >= Version::V6_1
    }

    fn rcu(&self) -> Option<&P::Rcu> {
        self.rcu.as_ref()
    }

    fn rcu_callback<H: Host>(vm: &Vm<P, H, Self>, callback: u64) {
        vm.stage2_free_unlinked_table_rcu_cb(callback);
    }

    /// `kvm_unmap_hva_handler`. It has flushed: nothing is owed.
    fn kvm_unmap_hva_range<'a, H: Host>(
        vm: &'a Vm<P, H, Self>,
        l: MmuGuard<'a, P, ()>,
        frames: GfnRange,
    ) -> (MmuGuard<'a, P, ()>, bool) {
        (vm.unmap_stage2_range(l, frames), false)
    }

    /// `kvm_free_stage2_pgd`.
    fn kvm_arch_flush_shadow_all<H: Host>(vm: &Vm<P, H, Self>) {
        vm.kvm_free_stage2_pgd();
    }

    /// `kvm_set_spte_handler`: maps the page, whether or not something was mapped, unless a table
    /// is missing. 6.12 has no such callback (since 6.10, commit f3b65bbaed7c): the page was
    /// unmapped, and a fault maps the other one.
    fn kvm_set_spte_hva<H: Host>(vm: &Vm<P, H, Self>, l: &mut Locked, gfn: Gfn, pfn: Pfn) -> bool {
        if vm.mmu.version < Version::V6_12 && vm.mmu.has_pgt(&vm.p, l) {
            let prot = KvmPgtableProt { write: false };
            let (l, frames) = (Held::alone(l), GfnRange::one(gfn));
            let _mapped = vm.kvm_pgtable_stage2_map(l, frames, pfn, prot, None);
        }
        false
    }

    /// `kvm_age_hva_handler`.
    fn kvm_age_hva<H: Host>(vm: &Vm<P, H, Self>, l: &mut Locked, gfn: Gfn) -> bool {
        vm.mmu.has_pgt(&vm.p, l) && vm.kvm_pgtable_stage2_mkold(Held::alone(l), gfn)
    }

    /// `kvm_mmu_write_protect_pt_masked`: from the first bit to the last, those between them, too.
    fn kvm_arch_mmu_enable_log_dirty_pt_masked<H: Host>(
        vm: &Vm<P, H, Self>,
        l: &mut Locked,
        slot: &Memslot<P>,
        mask: u64,
    ) -> bool {
        if mask == 0 {
            return false;
        }
        let frame = |bit: u32| Gfn(slot.base_gfn.0 + u64::from(bit));
        let start = frame(mask.trailing_zeros());
        stage2_wp_range(
            vm,
            Held::alone(l),
            GfnRange { start, end: frame(u64::BITS - mask.leading_zeros()) },
        )
    }

    /// `kvm_mmu_wp_memory_region`; nothing where the log begins with all bits set.
    fn kvm_mmu_slot_remove_write_access<H: Host>(
        vm: &Vm<P, H, Self>,
        l: &mut Locked,
        slot: &Memslot<P>,
        initially_set: bool,
    ) -> bool {
        !initially_set && stage2_wp_range(vm, Held::alone(l), slot.frames())
    }

    fn kvm_arch_flush_shadow_memslot<H: Host>(vm: &Vm<P, H, Self>, slot: &Memslot<P>) {
        drop(vm.unmap_stage2_range(vm.kvm.mmu_lock.lock(), slot.frames()));
    }

    /// The root is there since the VM is.
    fn kvm_mmu_load<H: Host>(_vm: &Vm<P, H, Self>, _cpu: CpuId, _guest_root: Option<Gfn>) {}

    /// Nothing here is of a generation.
    fn kvm_mmu_zap_all_fast<H: Host>(_vm: &Vm<P, H, Self>) {}

    fn kvm_mmu_do_page_fault<H: Host>(
        vm: &Vm<P, H, Self>,
        cpu: CpuId,
        page: u64,
        access: Access,
        status: FaultStatus,
    ) -> RetPf {
        vm.kvm_handle_guest_abort(cpu, Gfn(page), access, status)
    }

    /// `kvm_pgtable_stage2_relax_perms` has flushed.
    fn owes_local_flush<H: Host>(_vm: &Vm<P, H, Self>, _status: FaultStatus, _ret: RetPf) -> bool {
        false
    }

    /// arm64 has no asynchronous page faults.
    fn kvm_arch_async_page_ready<H: Host>(_vm: &Vm<P, H, Self>, _cpu: CpuId, _gfn: Gfn) {}

    /// `kvm_flush_remote_tlbs` of arm64: the caller invalidates, and waits.
    fn kvm_arch_flush_remote_tlb<H: Host>(vm: &Vm<P, H, Self>) -> bool {
        vm.__kvm_tlb_flush_vmid();
        true
    }

    fn vcpu_enter_guest<'a, H: Host>(
        vm: &'a Vm<P, H, Self>,
        cpu: CpuId,
        _srcu: &mut Option<SrcuSection<'a, P>>,
        _flush: impl FnMut(),
    ) -> bool {
        // cond_resched
        vm.p.might_sleep();
        vm.mmu.vmids.as_ref().is_none_or(|vmids| vm.kvm_arch_vcpu_ioctl_run(vmids, cpu))
    }

    fn vcpu_leave_guest<'a, H: Host>(
        vm: &'a Vm<P, H, Self>,
        cpu: CpuId,
        _srcu: &mut Option<SrcuSection<'a, P>>,
    ) {
        if let Some(vmids) = &vm.mmu.vmids {
            vm.handle_guest_exit(vmids, cpu);
        }
    }

    fn vcpu_load<H: Host>(vm: &Vm<P, H, Self>, vcpu: CpuId, cpu: CpuId) {
        if let Some(vmids) = &vm.mmu.vmids {
            vm.kvm_arch_vcpu_load(vmids, vcpu, cpu);
        }
    }

    fn vcpu_put<H: Host>(vm: &Vm<P, H, Self>, vcpu: CpuId) {
        if let Some(vmids) = &vm.mmu.vmids {
            vm.kvm_arch_vcpu_put(vmids, vcpu);
        }
    }

    fn cpu_of(&self, vcpu: CpuId) -> CpuId {
        self.vmids.as_ref().map_or(vcpu, |vmids| vmids.cpu_of(vcpu))
    }

    fn replace_vm<H: Host>(vm: &Vm<P, H, Self>, vcpu: CpuId) {
        vm.replace_vm(vcpu);
    }
}

/// `stage2_wp_range`: true if something could be written.
///
/// Locks: `mmu_lock`.
fn stage2_wp_range<P: Platform, H: Host>(
    vm: &Vm<P, H, Stage2Mmu<P>>,
    l: Held<'_>,
    frames: GfnRange,
) -> bool {
    let mut changed = false;
    for chunk in chunks(frames) {
        changed |= vm.kvm_pgtable_stage2_wrprotect(l, chunk);
    }
    changed
}

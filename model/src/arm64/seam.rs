//! What generic KVM and vCPUs ask of this MMU. Linux `arch/arm64/kvm/mmu.c`, `arm.c`.

use super::mmu::stage2_apply_range;
use super::pgtable::{Held, KvmPgtableProt, Locked, Stage2Mmu, Version};
use crate::host::Host;
use crate::platform::Platform;
use crate::types::{Access, CpuId, FaultStatus, Gfn, GfnRange, Pfn};
use crate::virt::{Memslot, SrcuSection};
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

    /// `unmap_stage2_range`. It has flushed: nothing is owed.
    fn kvm_unmap_hva_range<H: Host>(vm: &Vm<P, H, Self>, l: &mut Locked, frames: GfnRange) -> bool {
        unmap_stage2_range(vm, Held::alone(l), frames);
        false
    }

    /// `kvm_set_spte_handler`: maps the page, whether or not something was mapped, unless a table
    /// is missing. 6.12 has no such callback (since 6.10, commit f3b65bbaed7c): the page was
    /// unmapped, and a fault maps the other one.
    fn kvm_set_spte_hva<H: Host>(vm: &Vm<P, H, Self>, l: &mut Locked, gfn: Gfn, pfn: Pfn) -> bool {
        if vm.mmu.version < Version::V6_12 {
            let prot = KvmPgtableProt { write: false };
            let (l, frames) = (Held::alone(l), GfnRange::one(gfn));
            let _mapped = vm.kvm_pgtable_stage2_map(l, frames, pfn, prot, None);
        }
        false
    }

    /// `kvm_age_hva_handler`.
    fn kvm_age_hva<H: Host>(vm: &Vm<P, H, Self>, l: &mut Locked, gfn: Gfn) -> bool {
        vm.kvm_pgtable_stage2_mkold(Held::alone(l), gfn)
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
        unmap_stage2_range(vm, Held::alone(&vm.kvm.mmu_lock.lock()), slot.frames());
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

    /// `kvm_arch_vcpu_ioctl_run`, of what is before the guest: no step. No flush is asked for by a
    /// request, and nobody looks at `vcpu->mode`.
    fn vcpu_enter_guest<'a, H: Host>(
        vm: &'a Vm<P, H, Self>,
        _cpu: CpuId,
        _srcu: &mut Option<SrcuSection<'a, P>>,
        _flush: impl FnMut(),
    ) -> bool {
        // cond_resched
        vm.p.might_sleep();
        true
    }

    fn vcpu_leave_guest<'a, H: Host>(
        _vm: &'a Vm<P, H, Self>,
        _cpu: CpuId,
        _srcu: &mut Option<SrcuSection<'a, P>>,
    ) {
    }
}

/// `unmap_stage2_range`.
///
/// Locks: `mmu_lock`.
fn unmap_stage2_range<P: Platform, H: Host>(
    vm: &Vm<P, H, Stage2Mmu<P>>,
    l: Held<'_>,
    frames: GfnRange,
) {
    stage2_apply_range(l, frames, |l, chunk| vm.kvm_pgtable_stage2_unmap(l, chunk));
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
    stage2_apply_range(l, frames, |l, chunk| {
        changed |= vm.kvm_pgtable_stage2_wrprotect(l, chunk);
    });
    changed
}

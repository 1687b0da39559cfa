//! A VM: generic KVM, the MMU that it has, and the host around both, side by side.
//!
//! Functions of KVM are methods of [`Vm`], in the folder where the kernel has them: `virt/`
//! (`virt/kvm`, the same for every architecture and MMU), `x86/`, `x86/mmu/` (the MMU of shadow
//! pages), `arm64/`. What the first asks of the last is [`Mmu`].

use crate::host::Host;
use crate::platform::Platform;
use crate::tables::Tables;
use crate::types::{Access, CpuId, FaultStatus, Gfn, GfnRange, Gva, Pfn};
use crate::virt::{Kvm, Memslot, MmuGuard, MmuState, SrcuSection, VmConfig};

/// A VM with its MMU, in its host.
#[derive(Debug)]
pub struct Vm<P: Platform, H: Host, M: Mmu<P>> {
    /// What it stands on.
    pub p: P,
    /// The host kernel around it.
    pub host: H,
    /// `struct kvm`: memslots, notifiers, the dirty log, requests, vCPUs, locks.
    pub kvm: Kvm<P, M::State>,
    /// The MMU.
    pub mmu: M,
}

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// A VM that has not run yet.
    ///
    /// # Panics
    /// If there are more slots or vCPUs than the model has room for.
    pub fn new(p: &P, host: H, config: &VmConfig<'_>, mmu: M) -> Self {
        Vm { kvm: Kvm::new(p, config, mmu.lock_has_readers()), p: p.clone(), host, mmu }
    }
}

/// An MMU of a VM: what generic KVM asks of it, and what a vCPU does by it. What hardware sees of
/// it is in [`Tables`].
///
/// Its functions get the VM, because they flush, mark pages dirty and look memslots up; and what
/// only the owner of `mmu_lock` can have.
pub trait Mmu<P: Platform>: Tables<P> {
    /// KVM_RUN is in a read section of `kvm->srcu` wherever the guest does not run.
    const RUN_HOLDS_SRCU: bool = true;

    /// True if `mmu_lock` is a read-write lock, false if it is a spinlock.
    fn lock_has_readers(&self) -> bool {
        false
    }

    /// RCU, where memory of this MMU is freed after a grace period of it.
    fn rcu(&self) -> Option<&P::Rcu> {
        None
    }

    /// Runs a callback that was handed to [`Mmu::rcu`].
    ///
    /// Locks: none.
    fn rcu_callback<H: Host>(_vm: &Vm<P, H, Self>, _callback: u64) {}

    /// `kvm_arch_flush_remote_tlb`: flushes the TLBs of all CPUs without requests. False: it has
    /// not.
    ///
    /// Locks: any or none.
    fn kvm_arch_flush_remote_tlb<H: Host>(_vm: &Vm<P, H, Self>) -> bool {
        false
    }

    /// Of an architecture's KVM_RUN, what comes before the guest. True: it may run. False: try
    /// again. `flush` is the hardware's own TLB flush.
    ///
    /// Locks: `vcpu->mutex`.
    fn vcpu_enter_guest<'a, H: Host>(
        vm: &'a Vm<P, H, Self>,
        cpu: CpuId,
        srcu: &mut Option<SrcuSection<'a, P>>,
        flush: impl FnMut(),
    ) -> bool {
        vm.vcpu_enter_guest(cpu, srcu, flush)
    }

    /// What comes right after the guest.
    ///
    /// Locks: `vcpu->mutex`.
    fn vcpu_leave_guest<'a, H: Host>(
        vm: &'a Vm<P, H, Self>,
        cpu: CpuId,
        srcu: &mut Option<SrcuSection<'a, P>>,
    ) {
        vm.vcpu_leave_guest(cpu, srcu);
    }

    /// `vcpu_load`: the vCPU is on this CPU from now on.
    ///
    /// Locks: `vcpu->mutex`.
    fn vcpu_load<H: Host>(_vm: &Vm<P, H, Self>, _vcpu: CpuId, _cpu: CpuId) {}

    /// `vcpu_put`: the vCPU leaves its CPU.
    ///
    /// Locks: `vcpu->mutex`.
    fn vcpu_put<H: Host>(_vm: &Vm<P, H, Self>, _vcpu: CpuId) {}

    /// `vcpu->cpu`. A vCPU that is never moved has that of its number.
    fn cpu_of(&self, vcpu: CpuId) -> CpuId {
        vcpu
    }

    /// The VM of this vCPU, another than this one, is destroyed, and one like it begins.
    ///
    /// Locks: `vcpu->mutex`. The vCPU is on no CPU.
    fn replace_vm<H: Host>(_vm: &Vm<P, H, Self>, _vcpu: CpuId) {}

    /// `kvm_unmap_hva_range`, of the pages of these frames: nothing maps them any more. True if a
    /// flush is owed.
    ///
    /// Locks: `mmu_lock`, which it may give back and take again.
    fn kvm_unmap_hva_range<'a, H: Host>(
        vm: &'a Vm<P, H, Self>,
        l: MmuGuard<'a, P, Self::State>,
        frames: GfnRange,
    ) -> (MmuGuard<'a, P, Self::State>, bool);

    /// `kvm_arch_flush_shadow_all`: the VM ends, and nothing is mapped any more. No vCPU runs. On
    /// x86 no VM ends.
    ///
    /// Locks: a read section of `kvm->srcu`; takes `mmu_lock`.
    fn kvm_arch_flush_shadow_all<H: Host>(_vm: &Vm<P, H, Self>) {}

    /// `kvm_set_spte_hva`: what maps the frame maps this page from now on, read-only. True if a
    /// flush is owed.
    ///
    /// Locks: `mmu_lock`.
    fn kvm_set_spte_hva<H: Host>(
        vm: &Vm<P, H, Self>,
        l: &mut MmuState<Self::State>,
        gfn: Gfn,
        pfn: Pfn,
    ) -> bool;

    /// `kvm_age_hva`: true if the frame was used since it was last asked; it counts as unused from
    /// now on.
    ///
    /// Locks: `mmu_lock`.
    fn kvm_age_hva<H: Host>(vm: &Vm<P, H, Self>, l: &mut MmuState<Self::State>, gfn: Gfn) -> bool;

    /// `kvm_arch_mmu_enable_log_dirty_pt_masked`: the frames of the slot whose bits are set are
    /// written to by a fault again. The caller owes the flush, whatever is returned: true if an
    /// SPTE had W set, which matters only where guard `harvest-flushes-always` is removed.
    ///
    /// Locks: `mmu_lock`.
    fn kvm_arch_mmu_enable_log_dirty_pt_masked<H: Host>(
        vm: &Vm<P, H, Self>,
        l: &mut MmuState<Self::State>,
        slot: &Memslot<P>,
        mask: u64,
    ) -> bool;

    /// `kvm_arch_sync_dirty_log`: what hardware has logged so far comes into the bitmap soon.
    ///
    /// Locks: `slots_lock`.
    fn kvm_arch_sync_dirty_log<H: Host>(_vm: &Vm<P, H, Self>) {}

    /// `handle_exit`, the first of it: what hardware has logged of this vCPU's stores comes into
    /// the bitmap now (`vmx_flush_pml_buffer`).
    ///
    /// Locks: the vCPU thread holds `kvm->srcu`.
    fn vmx_flush_pml_buffer<H: Host>(_vm: &Vm<P, H, Self>, _cpu: CpuId) {}

    /// `kvm_mmu_slot_remove_write_access`: every frame of the slot is written to by a fault again;
    /// with PML `vmx_slot_enable_log_dirty`, which clears D instead. `initially_set`: only what is
    /// mapped by large pages. True if a flush is owed for what was changed.
    ///
    /// Locks: `mmu_lock`.
    fn kvm_mmu_slot_remove_write_access<H: Host>(
        vm: &Vm<P, H, Self>,
        l: &mut MmuState<Self::State>,
        slot: &Memslot<P>,
        initially_set: bool,
    ) -> bool;

    /// `kvm_mmu_zap_collapsible_sptes`: what could be mapped by a large page may be from now on.
    ///
    /// Locks: `slots_lock`; takes `mmu_lock`.
    fn kvm_mmu_zap_collapsible_sptes<H: Host>(_vm: &Vm<P, H, Self>, _slot: &Memslot<P>) {}

    /// `kvm_arch_flush_shadow_memslot`: nothing maps a frame of the slot when it returns.
    ///
    /// Locks: takes `mmu_lock`.
    fn kvm_arch_flush_shadow_memslot<H: Host>(vm: &Vm<P, H, Self>, slot: &Memslot<P>);

    /// `kvm_mmu_load`: gives a vCPU its root, above the guest's own tables if it has any.
    ///
    /// Locks: `vcpu->mutex`; takes `mmu_lock`.
    fn kvm_mmu_load<H: Host>(vm: &Vm<P, H, Self>, cpu: CpuId, guest_root: Option<Gfn>);

    /// `kvm_mmu_zap_all_fast`: nothing is mapped when it returns, but roots stay.
    ///
    /// Locks: `slots_lock`; takes `mmu_lock`.
    fn kvm_mmu_zap_all_fast<H: Host>(vm: &Vm<P, H, Self>);

    /// `mmu_shrink_scan`, of this VM: the host is short of memory.
    ///
    /// Locks: `kvm_lock` and a read section of `kvm->srcu`; takes `mmu_lock`.
    fn mmu_shrink_scan<H: Host>(_vm: &Vm<P, H, Self>) {}

    /// `kvm_mmu_do_page_fault`: an access of the guest faulted. `page` is a guest frame, or a
    /// guest-virtual page number where the guest has tables of its own.
    ///
    /// Locks: takes `mmu_lock`; the vCPU thread holds `kvm->srcu`.
    fn kvm_mmu_do_page_fault<H: Host>(
        vm: &Vm<P, H, Self>,
        cpu: CpuId,
        page: u64,
        access: Access,
        status: FaultStatus,
    ) -> RetPf;

    /// `handle_mmio_page_fault`: an access met an entry that marks MMIO (`PFERR_RSVD_MASK`, an EPT
    /// misconfiguration). [`RetPf::Invalid`]: [`Mmu::kvm_mmu_do_page_fault`] is to handle it.
    ///
    /// Locks: none; the vCPU thread holds `kvm->srcu`.
    fn handle_mmio_page_fault<H: Host>(_vm: &Vm<P, H, Self>, _cpu: CpuId, _page: u64) -> RetPf {
        RetPf::Invalid
    }

    /// True if the CPU of a vCPU has to drop what its own TLB has of a page after a fault: see
    /// [`Vm::relax_perms_owes_local_flush`].
    fn owes_local_flush<H: Host>(vm: &Vm<P, H, Self>, status: FaultStatus, ret: RetPf) -> bool {
        vm.relax_perms_owes_local_flush(status.present, ret)
    }

    /// `kvm_arch_async_page_ready`: the page that a vCPU waited for has come.
    ///
    /// Locks: as [`Mmu::kvm_mmu_do_page_fault`].
    fn kvm_arch_async_page_ready<H: Host>(vm: &Vm<P, H, Self>, cpu: CpuId, gfn: Gfn);

    /// `gva_to_gpa`: the frame that the guest's own tables give, if they allow the access. With no
    /// tables of its own, the page is the frame.
    fn gva_to_gpa<H: Host>(
        _vm: &Vm<P, H, Self>,
        _cpu: CpuId,
        page: u64,
        _access: Access,
    ) -> Option<Gfn> {
        Some(Gfn(page))
    }

    /// `kvm_mmu_pte_write`: KVM has stored a byte of this frame for the guest.
    ///
    /// Locks: may take `mmu_lock`.
    fn kvm_mmu_pte_write<H: Host>(_vm: &Vm<P, H, Self>, _cpu: CpuId, _gfn: Gfn, _byte: u8) {}

    /// `kvm_mmu_invlpg`: the guest invalidates a translation. `flush` drops it from this CPU's TLB.
    ///
    /// Locks: may take `mmu_lock`.
    fn kvm_mmu_invlpg<H: Host>(_vm: &Vm<P, H, Self>, _cpu: CpuId, _gva: Gva, flush: impl FnOnce()) {
        flush();
    }

    /// `kvm_mmu_sync_roots`: what the vCPU translates by is what its guest's own tables say.
    ///
    /// Locks: may take `mmu_lock`.
    fn kvm_mmu_sync_roots<H: Host>(_vm: &Vm<P, H, Self>, _cpu: CpuId) {}
}

/// What becomes of a fault (`RET_PF_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RetPf {
    /// `RET_PF_RETRY`: let the guest fault again; what was in the way is over.
    Retry,
    /// `RET_PF_RETRY` for an invalidation: the guest faults again and again until
    /// `mmu_notifier_seq` differs from this. See [`Vm::wait_for_invalidation`].
    RetryAfter(u64),
    /// `RET_PF_EMULATE`: emulate the instruction.
    Emulate,
    /// `RET_PF_INVALID`: the fast path passes it on.
    Invalid,
    /// `RET_PF_FIXED`: repaired.
    Fixed,
    /// `RET_PF_SPURIOUS`: there was nothing to repair (any more).
    Spurious,
    /// The guest's own tables do not allow it: a guest page fault is injected.
    GuestFault,
    /// `RET_PF_RETRY` for a memslot that is being deleted: the guest faults again and again until
    /// other memslots are installed. See [`Vm::wait_for_memslots`].
    RetryAfterMemslots(crate::virt::memslots::MemslotSet),
    /// `KVM_PFN_NOSLOT`: the access is emulated as MMIO. `ram`: it should not be, a memslot has the
    /// frame.
    Mmio {
        /// A memslot has the frame, an invalid one.
        ram: bool,
    },
    /// The host must break a shared page first, then the guest faults again.
    BreakCow(Gfn),
}

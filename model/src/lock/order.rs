//! Which lock is taken inside which: what the document says, and what else the code does.
//!
//! Documented orders are enforced ([`super::rules`]). The others are those of the real code that
//! the document is silent about; together with the documented ones they must have no cycle.

use super::LockClass::{
    self, BlockedVcpuOnCpuLock, CpuHotplugLock, HvLock, IrqLock, IrqSrcu, KvmCountLock, KvmLock,
    KvmMutex, KvmSrcu, MmapLock, MmuLock, MmuNotifierSrcu, PageTableLock, PvclockGtodSyncLock,
    SlotsLock, TscWriteLock, VcpuMutex, VmidLock, XenLock,
};
use super::{Hold, Mode};

/// One order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Order {
    /// What is held.
    pub outer: Hold,
    /// What is taken inside.
    pub inner: Hold,
    /// Who says so.
    pub authority: Authority,
    /// Where the real code nests them.
    pub nested_by: &'static str,
}

/// Who says so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Authority {
    /// The document, in section 1.
    Document,
    /// The code; the document does not mention it.
    Code,
}

/// The document's orders.
pub fn documented() -> impl Iterator<Item = &'static Order> + Clone {
    ORDERS.iter().filter(|o| o.authority == Authority::Document)
}

/// The entry of this order, if there is one.
pub fn of(outer: Hold, inner: Hold) -> Option<&'static Order> {
    ORDERS.iter().find(|o| o.outer == outer && o.inner == inner)
}

const fn document(outer: LockClass, inner: LockClass, nested_by: &'static str) -> Order {
    let (outer, inner) = (exclusive(outer), exclusive(inner));
    Order { outer, inner, authority: Authority::Document, nested_by }
}

const fn code(outer: Hold, inner: Hold, nested_by: &'static str) -> Order {
    Order { outer, inner, authority: Authority::Code, nested_by }
}

const fn exclusive(class: LockClass) -> Hold {
    Hold::new(class, Mode::Exclusive)
}
const fn read(class: LockClass) -> Hold {
    Hold::new(class, Mode::Read)
}
const fn grace_period(class: LockClass) -> Hold {
    Hold::new(class, Mode::Synchronize)
}

/// Every order, the document's first and in its order.
pub const ORDERS: &[Order] = &[
    document(
        KvmMutex,
        VcpuMutex,
        "kvm_s390_cpus_to_pv(); on x86 sev_launch_update_vmsa(), from 5.15 on",
    ),
    document(KvmMutex, SlotsLock, "kvm_arch_vm_ioctl(), KVM_CREATE_IRQCHIP: kvm_pic_init()"),
    document(KvmMutex, IrqLock, "kvm_arch_vm_ioctl(), KVM_CREATE_IRQCHIP: kvm_set_irq_routing()"),
    document(SlotsLock, IrqLock, "no path of v5.10; the document reserves the order"),
    document(VcpuMutex, HvLock, "kvm_hv_set_msr_common()"),
    code(exclusive(VcpuMutex), read(KvmSrcu), "vcpu_run()"),
    code(exclusive(VcpuMutex), exclusive(SlotsLock), "svm_toggle_avic_for_irq_window()"),
    code(exclusive(VcpuMutex), exclusive(TscWriteLock), "kvm_arch_vcpu_postcreate()"),
    code(exclusive(VcpuMutex), exclusive(PvclockGtodSyncLock), "kvm_arch_vcpu_postcreate()"),
    code(read(KvmSrcu), exclusive(TscWriteLock), "kvm_set_msr_common(), MSR_IA32_TSC"),
    code(read(KvmSrcu), exclusive(PvclockGtodSyncLock), "kvm_set_msr_common(), MSR_IA32_TSC"),
    code(exclusive(SlotsLock), grace_period(KvmSrcu), "install_new_memslots()"),
    code(exclusive(SlotsLock), exclusive(MmuLock), "kvm_get_dirty_log_protect()"),
    code(exclusive(SlotsLock), exclusive(MmapLock), "__x86_set_memory_region(): vm_mmap()"),
    code(exclusive(KvmMutex), grace_period(IrqSrcu), "kvm_set_irq_routing()"),
    code(exclusive(SlotsLock), read(MmapLock), "kvm_get_dirty_log_protect(): copy_to_user()"),
    code(read(KvmSrcu), exclusive(MmuLock), "direct_page_fault(), notifiers"),
    code(read(KvmSrcu), exclusive(HvLock), "kvm_hv_set_msr_common()"),
    code(read(KvmSrcu), exclusive(XenLock), "kvm_xen_set_evtchn(), from 6.2 on"),
    code(read(KvmSrcu), exclusive(BlockedVcpuOnCpuLock), "vcpu_block(): pi_pre_block()"),
    code(read(KvmSrcu), read(MmapLock), "gfn_to_pfn()"),
    code(read(KvmSrcu), read(CpuHotplugLock), "kvm_lapic_set_base(): static_key_slow_inc()"),
    code(exclusive(HvLock), read(MmapLock), "kvm_hv_set_msr_pw(): __copy_to_user()"),
    code(exclusive(KvmLock), exclusive(SlotsLock), "set_nx_huge_pages()"),
    code(exclusive(KvmLock), read(KvmSrcu), "mmu_shrink_scan()"),
    code(exclusive(CpuHotplugLock), exclusive(KvmCountLock), "kvm_starting_cpu(), kvm_dying_cpu()"),
    code(read(MmapLock), read(MmuNotifierSrcu), "mmu_notifier_invalidate_range_start()"),
    code(read(MmapLock), exclusive(PageTableLock), "gfn_to_pfn(): handle_mm_fault()"),
    code(exclusive(PageTableLock), read(MmuNotifierSrcu), "set_pte_at_notify()"),
    code(read(MmuNotifierSrcu), read(KvmSrcu), "kvm_mmu_notifier_invalidate_range_start()"),
    code(exclusive(VcpuMutex), exclusive(BlockedVcpuOnCpuLock), "pi_pre_block()"),
    code(exclusive(VcpuMutex), exclusive(VmidLock), "kvm_arch_vcpu_ioctl_run(), on arm64"),
];

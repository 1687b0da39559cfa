//! The data cache, made coherent with a page that a stage-2 fault maps.

use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Platform;
use crate::vm::{Mmu, Vm};

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `coherent_cache_guest_page`, inside `user_mem_abort`: by the kernel's own address of the
    /// page. Linux v4.0 `arch/arm/kvm/mmu.c`; to 3.19 by that of user space, which may fault
    /// (commit 0d3e4d4fade6).
    ///
    /// Locks: takes `mmu_lock`; the vCPU thread holds `vcpu->mutex`.
    #[kernel]
    pub fn coherent_cache_guest_page(&self) {
        let _l = self.kvm.mmu_lock.lock();
        let by_user_address = || self.host.access_user_memory();
        self.p.without(Guard::CleanByKernelAddress, by_user_address);
        self.p.mark(Mark::CacheCleaned);
    }
}

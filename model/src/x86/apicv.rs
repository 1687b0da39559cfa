//! AVIC that is switched off for a moment, from inside KVM_RUN.
//!
//! The APIC access page is a memslot of its own, which comes and goes with AVIC: a change of
//! memslots, with a grace period of `kvm->srcu`, by a thread that is usually inside a read section
//! of it. Guarantee: it is not inside one then. Linux v5.10 `arch/x86/kvm/svm/avic.c`,
//! `arch/x86/kvm/x86.c`. Not modelled: reasons other than the interrupt window, the request to
//! other vCPUs.

use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Ordering::AcqRel;
use crate::platform::{Lock, Platform, Word};
use crate::virt::SrcuSection;
use crate::virt::memslots::{APIC_ACCESS_PAGE_PRIVATE_MEMSLOT, KvmMrChange};
use crate::vm::{Mmu, Vm};

/// `APICV_INHIBIT_REASON_IRQWIN`: the top bit here, which adding it flips.
const APICV_INHIBIT_REASON_IRQWIN: u64 = 1 << 63;

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `svm_toggle_avic_for_irq_window`: AVIC goes off, or on again.
    ///
    /// Locks: `vcpu->mutex`. The read section of `kvm->srcu` ends before `kvm_request_apicv_update`
    /// and begins again after it: whatever was read from the memslots must be read again.
    #[kernel]
    pub fn svm_toggle_avic_for_irq_window<'a>(&'a self, srcu: &mut Option<SrcuSection<'a, P>>) {
        self.p.guarded(Guard::ApicvUpdateDropsSrcu, || *srcu = None);
        self.kvm_request_apicv_update();
        self.p.guarded(Guard::ApicvUpdateDropsSrcu, || *srcu = self.vcpu_srcu_read_lock());
        self.p.mark(Mark::AvicToggled);
    }

    /// `kvm_request_apicv_update`, for the one reason that there is: toggled each time.
    ///
    /// Locks: none may be held that are held over a grace period of `kvm->srcu`, and no read
    /// section of it.
    fn kvm_request_apicv_update(&self) {
        let Some(reasons) = &self.kvm.apicv_inhibit_reasons else { return };
        self.p.call("kvm_request_apicv_update", || {
            // ORDERING: acq-rel: the kernel's cmpxchg.
            let inhibited = reasons.fetch_add(APICV_INHIBIT_REASON_IRQWIN, AcqRel) != 0;
            self.avic_update_access_page(inhibited);
        });
    }

    /// `avic_update_access_page`, with `__x86_set_memory_region`.
    ///
    /// Locks: takes `slots_lock`, and `mmap_lock` for writing in it.
    #[kernel]
    fn avic_update_access_page(&self, activate: bool) {
        let _slots_lock = self.kvm.slots_lock.lock();
        let change = if activate {
            self.p.call("vm_mmap", || self.host.vm_mmap());
            KvmMrChange::Create
        } else {
            KvmMrChange::Delete
        };
        self.kvm_set_memslot(APIC_ACCESS_PAGE_PRIVATE_MEMSLOT, change);
        if !activate {
            self.p.call("vm_munmap", || self.host.vm_mmap());
        }
    }
}

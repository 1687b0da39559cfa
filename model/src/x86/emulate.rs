//! Stores that KVM carries out for the guest.
//!
//! Guarantee: what KVM stores is in the dirty log, and a shadow follows the guest's table that it
//! changes. Linux v5.10 `arch/x86/kvm/x86.c`, `emulate.c`. Not modelled: instructions, atomics,
//! stores that cross a page.

use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::mark::Mark;
use crate::platform::Platform;
use crate::types::{CpuId, Gfn};
use crate::virt::memslots::MemslotFound;
use crate::vm::{Mmu, Vm};

/// What came of a store that KVM carries out for the guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Emulated {
    /// Guest memory has it, and the shadow follows it.
    Done,
    /// The host has to break a shared page first, which runs this VM's notifiers. Tried again.
    BreakCow,
    /// It goes to a device, as [`crate::vm::RetPf::Mmio`].
    Mmio {
        /// It should not: a memslot has the frame.
        ram: bool,
    },
}

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `emulator_write_phys`: the store to guest memory, the dirty log, then the shadow. The mark
    /// comes after the store: a harvest in between does not name the page, and the next one does.
    /// Where no memslot has the frame, or one that is on its way out, the store becomes MMIO
    /// (`emulator_read_write_onepage`).
    ///
    /// Locks: takes `mmu_lock`; the vCPU thread holds `kvm->srcu`.
    #[kernel]
    pub fn emulator_write_phys(&self, cpu: CpuId, gfn: Gfn, byte: u8, value: u8) -> Emulated {
        match self.find_memslot(gfn) {
            MemslotFound::Valid => {}
            MemslotFound::Invalid(_) => return Emulated::Mmio { ram: true },
            MemslotFound::None => return Emulated::Mmio { ram: false },
        }
        let pte_write = || M::kvm_mmu_pte_write(self, cpu, gfn, byte);
        self.p.without(Guard::EmulatorStoresFirst, pte_write);
        if !self.host.copy_to_user(gfn, byte, value) {
            return Emulated::BreakCow;
        }
        self.p.guarded(Guard::EmulatorMarksDirty, || self.mark_page_dirty(gfn));
        self.p.guarded(Guard::EmulatorStoresFirst, pte_write);
        self.p.mark(Mark::Emulated);
        Emulated::Done
    }
}

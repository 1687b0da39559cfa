//! Interrupt routing: from a GSI to the interrupt controllers.
//!
//! Guarantee: a table of routes is alive while an interrupt is routed by it. Mechanism: routing
//! runs in a read section of `kvm->irq_srcu`; an old table is freed after a grace period, for which
//! nobody waits with `irq_lock` held. Linux v5.10 `virt/kvm/irqchip.c`. Not modelled: what is in a
//! table, irqfds and their caches of routes, ack notifiers.

use super::published::Published;
use crate::guard::Guard;
use crate::host::Host;
use crate::mark::Mark;
use crate::platform::Ordering::{AcqRel, Relaxed};
use crate::platform::{Lock, Platform, Srcu, Word};
use crate::tag::{Object, Tag};
use crate::vm::{Mmu, Vm};

/// Memory for so many tables: one in use, and three that wait for their grace periods.
const TABLES: usize = 4;

/// `kvm->irq_routing`. The pointer is protected by: `irq_lock` for updates, `kvm->irq_srcu` for
/// readers.
#[derive(Debug)]
pub struct IrqRouting<P: Platform> {
    table: Published<P, TABLES>,
    /// Which tables are allocated.
    slab: P::Word,
}

impl<P: Platform> IrqRouting<P> {
    /// NULL, as before the first KVM_SET_GSI_ROUTING.
    pub(crate) fn new(p: &P) -> Self {
        IrqRouting {
            table: Published::new(p, Object::IrqRouting, Object::IrqRoutingTable, None),
            slab: p.word(Tag::one(Object::Slab), 0),
        }
    }
}

impl<P: Platform, H: Host, M: Mmu<P>> Vm<P, H, M> {
    /// `kvm_set_irq_routing`. The kernel allocates and fills the new table before it takes the
    /// lock; here that is done inside.
    ///
    /// Locks: takes `irq_lock`; waits for a grace period of `kvm->irq_srcu` after it is released.
    pub fn kvm_set_irq_routing(&self) {
        let Some(IrqRouting { table, slab }) = &self.kvm.irq_routing else { return };
        self.p.call("kvm_set_irq_routing", || {
            let old = {
                let _irq_lock = self.kvm.irq_lock.lock();
                // ORDERING: relaxed: allocations are made under irq_lock, and a table that is freed
                // meanwhile is just not used again yet.
                let new = (!slab.load(Relaxed)).trailing_zeros() as usize;
                if new >= TABLES {
                    return; // -ENOMEM
                }
                // ORDERING: acq-rel: the memory is ours after it was freed.
                slab.or(1 << new, AcqRel);
                table.kmalloc(&self.p, new);
                table.write(new, 1);
                let old = table.dereference();
                table.assign(Some(new));
                self.p.mark(Mark::IrqRoutingReplaced);
                old
            };
            // synchronize_srcu_expedited
            self.p.guarded(Guard::IrqRoutingGracePeriod, || self.kvm.irq_srcu.synchronize());
            if let Some(old) = old {
                table.kfree(&self.p, old);
                self.p.mark(Mark::IrqRoutingFreed);
                // ORDERING: acq-rel: nobody uses the memory any more.
                slab.and(!(1 << old), AcqRel);
            }
        });
    }

    /// `kvm_set_irq`, KVM_IRQ_LINE: routes an interrupt. The kernel copies the route and delivers
    /// it after the read section.
    ///
    /// Locks: a read section of `kvm->irq_srcu`.
    pub fn kvm_set_irq(&self) {
        let Some(IrqRouting { table, .. }) = &self.kvm.irq_routing else { return };
        self.p.call("kvm_set_irq", || {
            let _irq_srcu = self.kvm.irq_srcu.read_lock();
            if let Some(array) = table.dereference() {
                table.read(array);
                self.p.mark(Mark::IrqRouted);
            }
        });
    }
}

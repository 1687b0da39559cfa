//! Locks themselves: programs that take them and give them back, one by one.
//!
//! Guards live across operations, in a row on the thread's stack that only programs with locks
//! have.

use core::mem;

use kvmmu_model::virt::{MmuGuard, MmuLock};
use kvmmu_model::{Lock, LockClass, Mode, Rcu, RwLock, Srcu};

use crate::machine::Machine;
use crate::mmu::StateOf;
use crate::ops::{LockOp, LockRef, Op};
use crate::own_lock::OwnLock;
use crate::program::{Runs, Steps};
use crate::world::World;

/// How many locks a program may hold at once: it has no more operations.
pub(crate) const HELD: usize = 16;

/// The locks that a program holds.
pub(super) type Holds<'a, M> = [Option<(LockRef, Mode, Held<'a, M>)>];

/// A lock that is held.
pub(super) enum Held<'a, M: Machine> {
    Unit(<M::Lock<()> as Lock<()>>::Guard<'a>),
    Number(<M::Lock<u64> as Lock<u64>>::Guard<'a>),
    Mmu(MmuGuard<'a, M, StateOf<M>>),
    Reader(<M::RwLock<()> as RwLock<()>>::Read<'a>),
    Writer(<M::RwLock<()> as RwLock<()>>::Write<'a>),
    Section(<M::Srcu as Srcu>::Section<'a>),
    RcuSection(<M::Rcu as Rcu>::Section<'a>),
}

/// A lock of the world.
enum Place<'a, M: Machine> {
    Unit(&'a M::Lock<()>),
    Number(&'a M::Lock<u64>),
    Mmu(&'a MmuLock<M, StateOf<M>>),
    Rw(&'a M::RwLock<()>),
    Srcu(&'a M::Srcu),
    Rcu(&'a M::Rcu),
}

/// Locks of the table that no world has, or no operation takes by itself: programs cannot name
/// them.
#[cfg(feature = "loader")]
pub(crate) const ABSENT: &[LockClass] = &[
    LockClass::VarLock,
    LockClass::VarSpinlock,
    LockClass::VarRwLock,
    LockClass::VarSrcu,
    LockClass::VarRcu,
    LockClass::Rcu,
    LockClass::VmidLock,
];

impl<M: Machine> World<M> {
    /// The lock of this name. The one place that knows where each is.
    fn place(&self, lock: LockRef) -> Place<'_, M> {
        let (kvm, host) = (&self.vm.kvm, &self.vm.host);
        match lock.class {
            LockClass::KvmMutex => Place::Unit(&kvm.lock),
            LockClass::SlotsLock => Place::Unit(&kvm.slots_lock),
            LockClass::VcpuMutex => Place::Unit(&kvm.vcpu_mutex[usize::from(lock.index)]),
            LockClass::KvmSrcu => Place::Srcu(&kvm.srcu),
            LockClass::MmuLock => Place::Mmu(&self.vm.kvm.mmu_lock),
            LockClass::MmapLock => Place::Rw(&host.mmap_lock),
            LockClass::MmuNotifierSrcu => Place::Srcu(&host.mmu_notifier_srcu),
            LockClass::PageTableLock => Place::Unit(host.page_table_lock()),
            LockClass::IrqLock => Place::Unit(&kvm.irq_lock),
            LockClass::IrqSrcu => Place::Srcu(&kvm.irq_srcu),
            LockClass::KvmLock => Place::Number(&kvm.system().kvm_lock),
            LockClass::KvmCountLock => Place::Number(&kvm.system().kvm_count_lock),
            LockClass::TscWriteLock => Place::Number(&kvm.system().tsc_write_lock),
            LockClass::HvLock => Place::Number(&kvm.system().hv_lock),
            LockClass::XenLock => Place::Number(&kvm.system().xen_lock),
            LockClass::PvclockGtodSyncLock => Place::Number(&kvm.system().pvclock_gtod_sync_lock),
            LockClass::CpuHotplugLock => Place::Rw(&kvm.system().cpu_hotplug_lock),
            LockClass::BlockedVcpuOnCpuLock => {
                let lists = &kvm.system().blocked_vcpu_on_cpu_lock;
                Place::Number(&lists[usize::from(lock.index)])
            }
            LockClass::Own(_) => match &self.own_locks[usize::from(lock.index)] {
                OwnLock::Alone(l) => Place::Unit(l),
                OwnLock::Shared(l) => Place::Rw(l),
                OwnLock::Srcu(l) => Place::Srcu(l),
                OwnLock::Rcu(l) => Place::Rcu(l),
            },
            LockClass::VarLock
            | LockClass::VarSpinlock
            | LockClass::VarRwLock
            | LockClass::VarSrcu
            | LockClass::VarRcu
            | LockClass::Rcu
            | LockClass::VmidLock => unreachable!("the loader refuses what is in ABSENT"),
        }
    }

    /// Runs a program that may hold locks from one operation to the next. What it holds at its end
    /// it holds for ever.
    pub(super) fn holding<'a, T: Runs>(
        &'a self,
        steps: &Steps<T>,
        program: impl FnOnce(&mut Holds<'a, M>),
    ) {
        let takes = |op| matches!(op, Op::Lock(LockOp::Lock(_) | LockOp::ReadLock(_)));
        if steps.ops().any(|(_, op)| takes(op)) {
            self.holding_some(program);
        } else {
            program(&mut []);
        }
    }

    /// The row of locks is in the frame of this function: other programs do without, and so do the
    /// images of their stacks.
    #[inline(never)]
    fn holding_some<'a>(&'a self, program: impl FnOnce(&mut Holds<'a, M>)) {
        let mut held: [_; HELD] = [const { None }; HELD];
        program(&mut held);
        mem::forget(held);
    }

    /// An operation on a lock, by any thread: `held` has what its program holds.
    pub(super) fn run_lock_op<'a>(&'a self, op: LockOp, held: &mut Holds<'a, M>) {
        let (lock, mode) = op.lock();
        match op {
            LockOp::Lock(_) | LockOp::ReadLock(_) => self.take_lock(lock, mode, held),
            LockOp::Unlock(_) | LockOp::ReadUnlock(_) => self.give_back(lock, mode, held),
            LockOp::Synchronize(_) => self.synchronize(lock),
        }
    }

    /// `lock` and `read-lock`.
    #[inline(never)]
    fn take_lock<'a>(&'a self, lock: LockRef, mode: Mode, held: &mut Holds<'a, M>) {
        let Some(free) = held.iter_mut().find(|slot| slot.is_none()) else {
            unreachable!("the loader refuses programs of more than {HELD} operations");
        };
        self.m.call(if mode == Mode::Read { "read-lock" } else { "lock" }, || {
            let guard = match (self.place(lock), mode) {
                (Place::Unit(l), _) => Held::Unit(l.lock()),
                (Place::Number(l), _) => Held::Number(l.lock()),
                (Place::Mmu(l), _) => Held::Mmu(l.lock()),
                (Place::Rw(l), Mode::Read) => Held::Reader(l.read()),
                (Place::Rw(l), _) => Held::Writer(l.write()),
                (Place::Srcu(l), _) => Held::Section(l.read_lock()),
                (Place::Rcu(l), _) => Held::RcuSection(l.read_lock()),
            };
            *free = Some((lock, mode, guard));
        });
    }

    /// `unlock` and `read-unlock`.
    #[inline(never)]
    fn give_back(&self, lock: LockRef, mode: Mode, held: &mut Holds<'_, M>) {
        self.m.call(if mode == Mode::Read { "read-unlock" } else { "unlock" }, || {
            let is_it = |(l, m, _): &(LockRef, Mode, Held<'_, M>)| *l == lock && *m == mode;
            match held.iter_mut().find(|slot| slot.as_ref().is_some_and(is_it)) {
                Some(slot) => *slot = None,
                None => unreachable!("the loader refuses to unlock what is not held"),
            }
        });
    }

    /// `synchronize`.
    #[inline(never)]
    fn synchronize(&self, lock: LockRef) {
        self.m.call("synchronize", || match self.place(lock) {
            Place::Srcu(srcu) => srcu.synchronize(),
            Place::Rcu(rcu) => rcu.synchronize(),
            Place::Unit(_) | Place::Number(_) | Place::Mmu(_) | Place::Rw(_) => {
                unreachable!("the loader refuses grace periods of other locks")
            }
        });
    }
}

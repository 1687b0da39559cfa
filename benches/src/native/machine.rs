//! The machine itself: [`Platform`] and [`Machine`] on real threads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, fence};

use crossbeam_utils::CachePadded;
use kvmmu_model::Word as _;
use kvmmu_model::arm64::{Dsb, TlbiScope};
use kvmmu_model::platform::Ordering::{self, Acquire, Relaxed, Release};
use kvmmu_model::virt::VCPUS;
use kvmmu_model::{
    CpuId, CpuMask, Guard, Guarded, LockId, Mark, Platform, ShadowMmu, Spte, SpteLoc, Tag,
};
use kvmmu_scenarios::machine::{AccessResult, Cell, GuestAccess, Machine};
use kvmmu_scenarios::software_tlb::{self, SoftwareTlb};
use kvmmu_scenarios::{Property, Scenario, World};
use parking_lot::Mutex;

use super::kind::Kind;
use super::lock::{NativeLock, NativeRwLock, NativeSrcu};
use super::rcu::NativeRcu;
use super::reclaim::Freed;
use super::section::{self, Domain};

/// How many violations are kept: the first is what matters.
const VIOLATIONS_MAX: usize = 16;

/// A machine with `VCPUS` CPUs, each of which is a thread while it runs.
pub struct Native<K: Kind>(Arc<Shared<K>>);

struct Shared<K: Kind> {
    kind: K,
    /// Sections with interrupts off.
    irqs: Domain,
    /// An IPI waits for this CPU.
    kicked: [CachePadded<AtomicBool>; VCPUS],
    freed: Freed,
    violations: Mutex<Vec<Violation>>,
}

/// A property that was violated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which one.
    pub property: Property,
    /// How.
    pub detail: String,
}

impl<K: Kind> Native<K> {
    /// A machine of a kind.
    pub fn new(kind: K) -> Self {
        Native(Arc::new(Shared {
            kind,
            irqs: Domain::new(),
            kicked: std::array::from_fn(|_| CachePadded::new(AtomicBool::new(false))),
            freed: Freed::default(),
            violations: Mutex::default(),
        }))
    }

    /// What kind it is, and what that has seen.
    pub fn kind(&self) -> &K {
        &self.0.kind
    }

    /// What has been violated so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.0.violations.lock().clone()
    }

    /// Reports something that is no property of a scenario, such as a panic.
    pub fn report(&self, property: Property, detail: String) {
        let mut violations = self.0.violations.lock();
        if violations.len() < VIOLATIONS_MAX {
            violations.push(Violation { property, detail });
        }
    }
}

impl<K: Kind> Shared<K> {
    fn kick(&self, cpus: impl Iterator<Item = usize>) {
        for cpu in cpus {
            // ORDERING: release pairs with the acquire in local_irq_enable: who handles the IPI
            // sees what was done before it.
            self.kicked[cpu].store(true, Release);
        }
    }
}

impl<K: Kind> Clone for Native<K> {
    fn clone(&self) -> Self {
        Native(Arc::clone(&self.0))
    }
}

impl<K: Kind> fmt::Debug for Native<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "native machine, {:?}", self.0.kind)
    }
}

impl<K: Kind> Platform for Native<K> {
    type Word = K::Word;
    type Lock<T: Guarded> = NativeLock<T>;
    type Local = AtomicU64;
    type RwLock<T: Guarded> = NativeRwLock<T>;
    type Srcu = NativeSrcu;
    type Rcu = NativeRcu;

    fn word(&self, tag: Tag, init: u64) -> K::Word {
        self.0.kind.word(tag, init)
    }
    fn lock<T: Guarded>(&self, id: LockId, init: T) -> NativeLock<T> {
        NativeLock::new(id, init)
    }
    fn local(&self, init: u64) -> AtomicU64 {
        AtomicU64::new(init)
    }
    fn rw_lock<T: Guarded>(&self, _id: LockId, init: T) -> NativeRwLock<T> {
        NativeRwLock::new(init)
    }
    fn srcu(&self, id: LockId) -> NativeSrcu {
        NativeSrcu::new(id)
    }
    fn rcu(&self, id: LockId) -> NativeRcu {
        NativeRcu::new(id)
    }
    #[inline(always)]
    fn fence(&self, order: Ordering) {
        fence(order);
    }

    /// A call, wherever it is made: what is compared stands on the same.
    #[inline(never)]
    fn local_irq_disable(&self, _cpu: CpuId) {
        self.0.irqs.local_irq_disable();
    }
    #[inline(never)]
    fn local_irq_enable(&self, cpu: CpuId) {
        section::local_irq_enable();
        let kicked = &self.0.kicked[usize::from(cpu.0)];
        // ORDERING: relaxed: a hint; a kick that comes later makes the guest leave once in vain.
        if kicked.load(Relaxed) {
            // ORDERING: acquire pairs with the kick.
            kicked.swap(false, Acquire);
        }
    }
    fn smp_call_function_many(&self, me: Option<CpuId>, targets: CpuMask, wait: bool) {
        let others = targets.iter().filter(|cpu| Some(*cpu) != me);
        self.0.kick(others.map(|cpu| usize::from(cpu.0)));
        if wait {
            // Everybody who has interrupts off is waited for, so everybody is kicked.
            let mine = me.map_or(VCPUS, |cpu| usize::from(cpu.0));
            self.0.irqs.synchronize(|| self.0.kick((0..VCPUS).filter(|cpu| *cpu != mine)));
        }
    }

    /// Nothing: what runs here is x86's protocol, whose vCPUs flush their own TLBs when they are
    /// asked to.
    #[inline(always)]
    fn tlbi(&self, _scope: TlbiScope) {}
    #[inline(always)]
    fn dsb(&self, _dsb: Dsb) {
        // ORDERING: seq-cst: every kind publishes what was stored.
        fence(Ordering::SeqCst);
    }

    #[inline(always)]
    fn guard(&self, guard: Guard) -> bool {
        self.0.kind.guard(guard)
    }
    #[inline(always)]
    fn mark(&self, mark: Mark) {
        self.0.kind.mark(mark);
    }
    #[inline(always)]
    fn might_sleep(&self) {
        self.0.kind.might_sleep();
    }
    fn freed(&self, words: &[K::Word]) {
        for word in words {
            self.0.kind.bury(word);
        }
        self.0.freed.free(words, &self.0.irqs);
    }
    fn allocated(&self, words: &[K::Word]) {
        if self.0.freed.take(words, &self.0.irqs, || self.0.kick(0..VCPUS)) {
            for word in words {
                self.0.kind.raise(word);
            }
        }
    }
}

impl<K: Kind> Machine for Native<K> {
    type Cell<T: Guarded> = NativeCell<T>;
    type Mmu = ShadowMmu<Self>;
    type Hardware = SoftwareTlb<Self>;

    fn cell<T: Guarded>(&self, init: T) -> NativeCell<T> {
        NativeCell(Mutex::new(init))
    }
    fn violate(&self, property: Property, detail: fmt::Arguments<'_>) {
        self.report(property, detail.to_string());
    }
    #[inline]
    fn irq_pending(&self, cpu: CpuId) -> bool {
        // ORDERING: relaxed: the guest looks again at its next instruction.
        self.0.kicked[usize::from(cpu.0)].load(Relaxed)
    }

    fn peek(&self, word: &Self::Word) -> u64 {
        // ORDERING: relaxed: an observer's look.
        word.load(Relaxed)
    }
    fn hardware(&self, _scenario: &Scenario) -> SoftwareTlb<Self> {
        SoftwareTlb::new(self)
    }
    fn guest_access(world: &World<Self>, cpu: CpuId, access: GuestAccess) -> AccessResult {
        software_tlb::access(world, cpu, access)
    }
    fn flush_tlb(world: &World<Self>, cpu: CpuId) {
        software_tlb::flush(world, cpu);
    }
    fn preload_tlb(world: &World<Self>, cpu: CpuId, page: u64, _loc: SpteLoc, spte: Spte) {
        software_tlb::preload(world, cpu, page, spte);
    }
}

/// Data for observers, and what the host's memory manager knows.
#[derive(Debug)]
pub struct NativeCell<T>(Mutex<T>);

impl<T: Guarded> Cell<T> for NativeCell<T> {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.lock())
    }
}

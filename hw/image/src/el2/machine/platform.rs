//! The machine as the model's [`Platform`]: words that are real descriptors and real memory, spin
//! locks, sections with interrupts off, and IPIs that are broadcast TLB maintenance.
//!
//! # What stands for an IPI
//!
//! KVM on x86 kicks a CPU out of the guest so that it flushes its own TLB, and waits for it. Here
//! [`Platform::smp_call_function_many`] with `wait` flushes every TLB by broadcast, which completes
//! when no CPU uses the old translations any more, and then waits for CPUs that are in a section
//! with interrupts off *outside* the guest: those read tables as software. A CPU in the guest is
//! asked to leave it, and not waited for. Without `wait` it is only asked: it flushes when it
//! enters again. That is x86's protocol on arm64's instructions; a protocol of arm64 uses these by
//! [`Platform::tlbi`] and [`Platform::dsb`].

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering as Order, fence};

use kvmmu_model::arm64::{Dsb, TlbiScope};
use kvmmu_model::virt::VCPUS;
use kvmmu_model::{
    CpuId, CpuMask, Guard, GuardSet, Guarded, LockId, Mark, Object, Ordering, Platform, Tag, Until,
    Word,
};

use kvmmu_scenarios::Property;

use super::lock::{SpinLock, SpinRwLock, SpinSrcu};
use super::mmu::{RealMmu, Shadow};
use super::rcu::SpinRcu;
use super::watch;
use crate::el2::cpu::{sysreg, tlbi, wait};
use crate::el2::memory::frames::{self, Descriptor};
use crate::el2::memory::stage2;
use crate::el2::record::recorder;
use crate::el2::record::story::{self, Effect, Held};

/// The machine: one, made of statics, so that nothing has to be carried along. Its VM has this MMU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct El2<A = Shadow>(PhantomData<A>);

impl<A> El2<A> {
    /// The machine.
    pub(crate) const NEW: Self = El2(PhantomData);
}

/// The guards that are removed, a bit each.
static TAKEN_AWAY: [AtomicU64; Guard::ALL.len().div_ceil(64)] =
    [const { AtomicU64::new(0) }; Guard::ALL.len().div_ceil(64)];

/// Takes these guards away, and gives the others back. Returns those that were away.
pub(crate) fn set_without(guards: GuardSet) -> GuardSet {
    let before = Guard::ALL.iter().copied().filter(|guard| is_taken_away(*guard)).collect();
    for (i, word) in TAKEN_AWAY.iter().enumerate() {
        let here = guards.iter().map(|guard| guard as usize).filter(|guard| guard / 64 == i);
        // ORDERING: relaxed: set while no other CPU runs the model.
        word.store(here.fold(0, |bits, guard| bits | 1 << (guard % 64)), Order::Relaxed);
    }
    before
}

#[inline]
fn is_taken_away(guard: Guard) -> bool {
    let guard = guard as usize;
    // ORDERING: relaxed: constant while the model runs.
    TAKEN_AWAY[guard / 64].load(Order::Relaxed) >> (guard % 64) & 1 == 1
}

/// Interrupts of a CPU, as far as the protocol knows them.
#[derive(Debug)]
struct Irq {
    /// Odd while they are off: counts how often they were turned off and on.
    section: AtomicU64,
    /// Somebody wants this CPU out of the guest.
    pending: AtomicBool,
    /// It runs guest code.
    in_guest: AtomicBool,
}

static IRQS: [Irq; VCPUS] = [const {
    Irq {
        section: AtomicU64::new(0),
        pending: AtomicBool::new(false),
        in_guest: AtomicBool::new(false),
    }
}; VCPUS];

fn irq(cpu: CpuId) -> &'static Irq {
    &IRQS[usize::from(cpu.0)]
}

/// Interrupts are on everywhere, and none is pending.
pub(crate) fn reset() {
    for irq in &IRQS {
        // ORDERING: relaxed: nobody else runs.
        irq.section.store(0, Order::Relaxed);
        // ORDERING: relaxed: as above.
        irq.pending.store(false, Order::Relaxed);
        // ORDERING: relaxed: as above.
        irq.in_guest.store(false, Order::Relaxed);
    }
}

/// The CPU runs guest code from now on, or has stopped to.
pub(crate) fn set_in_guest(cpu: CpuId, in_guest: bool) {
    // ORDERING: release: who sees that it runs the guest sees that it walks no tables.
    irq(cpu).in_guest.store(in_guest, Order::Release);
}

/// True if another CPU wants this one out of the guest.
pub(crate) fn irq_pending(cpu: CpuId) -> bool {
    // ORDERING: acquire: what was done before the interrupt is seen by who takes it.
    irq(cpu).pending.load(Order::Acquire)
}

impl Irq {
    /// Waits until the CPU has left the section with interrupts off that it may be in, or runs the
    /// guest.
    fn wait_for(&self) {
        // ORDERING: acquire pairs with local_irq_disable: the sender has seen the CPU's mode, which
        // was set after, so it sees the section.
        let section = self.section.load(Order::Acquire);
        if section.is_multiple_of(2) {
            return;
        }
        wait::until("a CPU to turn its interrupts on", || {
            // ORDERING: acquire: what the section read was read before.
            self.section.load(Order::Acquire) != section || self.in_guest.load(Order::Acquire)
        });
    }
}

/// Does the same to the word wherever it lives.
macro_rules! at_place {
    ($self:ident, $word:ident => $what:expr) => {
        match &$self.place {
            Place::Here($word) => $what,
            Place::Page($word) => $what,
            Place::Descriptor($word) => $what,
        }
    };
}

impl<A: RealMmu> Platform for El2<A> {
    type Word = El2Word;
    type Lock<T: Guarded> = SpinLock<T>;
    type Local = AtomicU64;
    type RwLock<T: Guarded> = SpinRwLock<T>;
    type Srcu = SpinSrcu;
    type Rcu = SpinRcu;

    fn word(&self, tag: Tag, init: u64) -> El2Word {
        let [i, j] = tag.index.map(usize::from);
        let place = match tag.object {
            Object::Spte => Place::Descriptor(Descriptor::at(i, j)),
            Object::Page => Place::Page(frames::page_word(i, 0)),
            _ => Place::Here(AtomicU64::new(0)),
        };
        let word = El2Word { place, tag, freed: AtomicBool::new(false) };
        // ORDERING: relaxed: nobody else knows the word yet.
        word.store(init, Ordering::Relaxed);
        word
    }
    fn lock<T: Guarded>(&self, id: LockId, init: T) -> SpinLock<T> {
        SpinLock::new(id, init)
    }
    fn local(&self, init: u64) -> AtomicU64 {
        AtomicU64::new(init)
    }
    fn rw_lock<T: Guarded>(&self, id: LockId, init: T) -> SpinRwLock<T> {
        SpinRwLock::new(id, init)
    }
    fn srcu(&self, id: LockId) -> SpinSrcu {
        SpinSrcu::new(id)
    }
    fn rcu(&self, id: LockId) -> SpinRcu {
        SpinRcu::new(id)
    }
    #[inline]
    fn fence(&self, order: Ordering) {
        fence(order);
    }

    fn local_irq_disable(&self, cpu: CpuId) {
        // ORDERING: relaxed: the mode, which is set next by a stronger store, publishes it.
        irq(cpu).section.fetch_add(1, Order::Relaxed);
        story::begin_holding(Held::Section);
    }
    fn local_irq_enable(&self, cpu: CpuId) {
        // ORDERING: acq-rel: what the section did is seen by who waited for it.
        irq(cpu).section.fetch_add(1, Order::AcqRel);
        // The interrupt is taken here: the request that came with it is served at the next entry.
        // ORDERING: relaxed: the request itself is ordered by the model.
        irq(cpu).pending.store(false, Order::Relaxed);
        story::end_holding(Held::Section);
    }
    fn smp_call_function_many(&self, me: Option<CpuId>, targets: CpuMask, wait: bool) {
        let others = || targets.iter().filter(move |cpu| Some(*cpu) != me);
        // ORDERING: release: what was done before the interrupt is seen by who takes it.
        others().for_each(|cpu| irq(cpu).pending.store(true, Order::Release));
        if wait {
            tlbi::flush(stage2::all_pages());
            others().for_each(|cpu| irq(cpu).wait_for());
        }
    }

    #[inline]
    fn tlbi(&self, scope: TlbiScope) {
        story::before(Effect::Store);
        tlbi::tlbi(scope);
    }
    #[inline]
    fn dsb(&self, dsb: Dsb) {
        tlbi::dsb(dsb);
    }
    #[inline]
    fn isb(&self) {
        sysreg::isb();
    }

    #[inline]
    fn guard(&self, guard: Guard) -> bool {
        !is_taken_away(guard)
    }
    #[inline]
    fn mark(&self, mark: Mark) {
        recorder::mark(mark);
    }
    fn freed(&self, words: &[El2Word]) {
        // ORDERING: release: who touches a word after this has come too late.
        words.iter().for_each(|word| word.freed.store(true, Order::Release));
    }
    fn allocated(&self, words: &[El2Word]) {
        // ORDERING: release: as above.
        words.iter().for_each(|word| word.freed.store(false, Order::Release));
    }
    fn zeroed(&self, words: &[El2Word]) {
        for word in words {
            // ORDERING: relaxed: published by the release of what leads to them.
            at_place!(word, word => word.store(0, Ordering::Relaxed));
        }
    }
}

/// Where a word lives.
#[derive(Debug)]
enum Place {
    /// In the word.
    Here(AtomicU64),
    /// In a table: it is a live descriptor.
    Descriptor(Descriptor),
    /// In a host page: the first eight bytes, which stand for all.
    Page(&'static AtomicU64),
}

/// A shared word.
pub(crate) struct El2Word {
    place: Place,
    tag: Tag,
    /// Its memory was freed: nobody may touch it.
    freed: AtomicBool,
}

impl fmt::Debug for El2Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.tag.object.name(), self.tag.index)
    }
}

impl El2Word {
    /// Something is about to be done to it.
    #[inline]
    fn touch(&self) {
        if recorder::is_recorded() {
            // ORDERING: acquire pairs with `freed`.
            if self.freed.load(Order::Acquire) {
                recorder::violate(
                    Property::UseAfterFree,
                    format_args!("{self:?} is touched, and was freed"),
                );
            }
        }
    }
    /// Something is about to be written.
    #[inline]
    fn before_write(&self) {
        self.touch();
        if matches!(self.place, Place::Descriptor(_)) {
            story::before(Effect::Store);
        }
    }
    /// An SPTE was written.
    #[inline]
    fn written(&self, new: u64) {
        if matches!(self.place, Place::Descriptor(_)) {
            watch::observe(|observer| observer.spte_written(self.tag, new));
        }
    }
}

impl Word for El2Word {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.touch();
        at_place!(self, word => word.load(order))
    }
    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        self.before_write();
        at_place!(self, word => word.store(value, order));
        self.written(value);
    }
    #[inline]
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.before_write();
        let old = at_place!(self, word => word.swap(value, order));
        self.written(value);
        old
    }
    #[inline]
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.before_write();
        let result = at_place!(self, word => word.compare_exchange(current, new, success, failure));
        if result.is_ok() {
            self.written(new);
        }
        result
    }
    #[inline]
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.touch();
        at_place!(self, word => word.fetch_or(bits, order))
    }
    #[inline]
    fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        self.touch();
        at_place!(self, word => word.fetch_and(bits, order))
    }
    #[inline]
    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        match &self.place {
            Place::Here(word) => word.fetch_add(value, order),
            Place::Page(word) => word.fetch_add(value, order),
            Place::Descriptor(_) => unreachable!("nothing counts in an SPTE"),
        }
    }
    fn wait_until(&self, until: Until) -> u64 {
        let mut value = 0;
        wait::until(self.tag.object.name(), || {
            // ORDERING: acquire: a waiter sees what was done before the value was written.
            value = self.load(Ordering::Acquire);
            until.is_met_by(value)
        });
        value
    }
}

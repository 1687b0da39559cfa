//! The simulated machine as the model and the scenarios see it.

use core::fmt;
use core::hash::Hash;
use core::marker::PhantomData;
use core::panic::Location;

use kvmmu_model::arm64::{Dsb, Tlbi, TlbiOn, TlbiScope};
use kvmmu_model::{
    CpuId, CpuMask, Guard, GuardSet, Guarded, LockId, Mark, Object, Ordering, Platform, Tag,
};

use super::cell::SimCell;
use super::instance::Instance;
use super::irq;
use super::lock::SimLock;
use super::lockdep::LOCKLESS;
use super::pending::{Kind, Pending};
use super::rcu::SimRcu;
use super::rw_lock::SimRwLock;
use super::srcu::SimSrcu;
use super::state::{Machine, Mode};
use super::word::SimWord;
use super::{MemoryModel, THREADS_MAX};
use crate::record::event::{What, Write};
use crate::record::rule::Rule;

/// A handle to a simulated machine.
///
/// A thread yields before each shared access: an operation of a word, the acquisition of a lock, a
/// wait, an interrupt operation, [`Sim::access`]. Everything else belongs to the step that the
/// access began. What a thread reads by these operations is part of what it has *seen*, and two
/// states are one if shared state and everything seen agree. Peeks and cells are not seen: a thread
/// whose future depends on one says so by [`Sim::observe`], or returns it from a
/// [`Platform::call`].
///
/// `A` says what its page-table walkers walk: see [`Shadow`] and [`Stage2`].
pub struct Sim<A = Shadow> {
    pub(crate) machine: &'static Machine,
    walkers: PhantomData<fn() -> A>,
}

/// Walkers of shadow pages, in whatever layout, and TLBs that hold what an entry has held, by its
/// place.
#[derive(Debug)]
pub enum Shadow {}

/// Walkers of the stage-2 tables of arm64, and TLBs that hold what a frame may be translated by.
#[derive(Debug)]
pub enum Stage2 {}

impl<A> Clone for Sim<A> {
    fn clone(&self) -> Sim<A> {
        *self
    }
}
impl<A> Copy for Sim<A> {}

impl Sim {
    /// A handle to this machine.
    pub(crate) fn new(machine: &'static Machine) -> Sim {
        Sim { machine, walkers: PhantomData }
    }
    /// The same machine with these walkers.
    pub(crate) fn walking<A>(self) -> Sim<A> {
        Sim { machine: self.machine, walkers: PhantomData }
    }
}

impl<A> Sim<A> {
    /// What [`Sim::thread`] is in the stop phase.
    pub const STOP: usize = THREADS_MAX;

    /// Makes an oracle cell: no step, part of the state.
    pub fn cell<T: Guarded>(&self, init: T) -> SimCell<T> {
        let tag = Tag::nth(Object::User, self.machine.locations());
        SimCell::new(self.machine, tag, init)
    }

    /// The thread that runs.
    pub fn thread(&self) -> usize {
        self.machine.running.get() as usize
    }

    /// A guest access: one step, with as many outcomes as [`super::instance::Instance::choices`]
    /// says. Returns which one the scheduler chose. The access itself is made by peeks and
    /// [`Sim::hardware_write`]s after it; its result must be observed.
    #[track_caller]
    pub fn access(&self, request: u64) -> u8 {
        let (m, site) = (self.machine, Location::caller());
        m.choice.set(0);
        m.pause(Pending { kind: Kind::Access, loc: Pending::NOWHERE, cell: 0, arg: request, site });
        let choice = m.choice.get();
        m.thread().note(choice as u64);
        choice
    }

    /// The running thread depends on this value from now on.
    #[inline]
    pub fn observe<T: Hash>(&self, value: &T) {
        let thread = self.machine.thread();
        thread.seen.set(thread.seen.get().then_hash(value));
    }

    /// The words of this object are part of the state whatever is said. Before they are made.
    pub(crate) fn keep(&self, object: Object) {
        self.machine.keep(object);
    }

    /// The next swap of the word reads it for the last time.
    pub(crate) fn forget_after_swap(&self, word: &SimWord) {
        self.machine.forget_after_swap(word.loc);
    }

    /// The guards that are removed.
    pub(crate) fn without(&self) -> GuardSet {
        self.machine.without.get()
    }

    /// Writes a word as hardware does: no step, reported as [`Write::Hardware`].
    #[track_caller]
    pub fn hardware_write(&self, word: &SimWord, new: u64) {
        word.write(new, Write::Hardware, Location::caller());
    }

    /// A rule is violated: ends the execution. Called by a thread or in the stop phase, it does
    /// not return.
    #[cold]
    #[track_caller]
    pub fn violate(&self, rule: impl Into<Rule>, detail: impl FnOnce() -> String) {
        self.machine.violate(rule.into(), detail, Location::caller());
    }

    /// Adds a remark to the trace; `text` runs only if there is one.
    #[inline]
    #[track_caller]
    pub fn note(&self, text: impl FnOnce() -> String) {
        self.trace(Location::caller(), || What::Note(text()));
    }

    /// True while a trace is taken.
    #[inline]
    pub fn tracing(&self) -> bool {
        self.machine.tracer.on()
    }

    /// True if an IPI waits for `cpu` to turn interrupts on. One step.
    #[track_caller]
    pub fn irq_pending(&self, cpu: CpuId) -> bool {
        irq::pending(self.machine, cpu, Location::caller())
    }

    /// An attempt begins that may have to be repeated: at the head of a retry loop, next to the
    /// checkpoint there. The machine logs what the attempt touches until [`Sim::wait_for_change`].
    pub fn attempt_begin(&self) {
        self.machine.thread().attempt.restart(true);
    }

    /// The attempt succeeded: its log is dropped, so that it does not make states differ.
    pub fn attempt_end(&self) {
        self.machine.thread().attempt.restart(false);
    }

    /// Before a repetition. If the attempt made no net change and nothing that it touched has
    /// changed since, waits until something does; a value that is back is no change. One step.
    #[track_caller]
    pub fn wait_for_change(&self) {
        let (m, site) = (self.machine, Location::caller());
        let (kind, loc) = (Kind::WaitChange, Pending::NOWHERE);
        m.pause(Pending { kind, loc, cell: 0, arg: 0, site });
        m.did_read_attempt();
        m.thread().note(1);
        m.thread().attempt.restart(false);
    }

    #[inline(always)]
    fn trace(&self, site: &'static Location<'static>, what: impl FnOnce() -> What) {
        let m = self.machine;
        if m.tracer.on() {
            m.tracer.record(m.running.get(), site, what());
        }
    }

    /// A step of TLB maintenance. The instance has the TLBs.
    #[track_caller]
    fn tlb_step(&self, arg: u64, what: impl fmt::Display, does: impl FnOnce(&dyn Instance)) {
        let (m, site) = (self.machine, Location::caller());
        m.pause(Pending { kind: Kind::Tlb, loc: Pending::NOWHERE, cell: 0, arg, site });
        m.thread().note(1);
        self.trace(site, || What::Note(what.to_string()));
        m.switch.with_instance(does);
    }

    /// True while the program is being built.
    pub fn building(&self) -> bool {
        self.machine.mode.get() == Mode::Build
    }
}

/// An invalidation as a number: threads that are about to make different ones differ.
fn code_of(TlbiScope { what, on, vmid }: TlbiScope) -> u64 {
    let on = match on {
        TlbiOn::InnerShareable => 0,
        TlbiOn::Local(cpu) => 1 + u64::from(cpu.0),
    };
    let (what, ipa) = match what {
        Tlbi::Vmalls12e1 => (1, 0),
        Tlbi::Ipas2e1 { ipa, level } => (2 + level.map_or(0, |level| 1 + u64::from(level)), ipa.0),
        Tlbi::Vmalle1 => (0, 0),
        Tlbi::Alle1 => (10, 0),
    };
    let vmid = vmid.map_or(0, |vmid| 1 + u64::from(vmid.0));
    1 << 48 | vmid << 40 | on << 32 | what << 24 | ipa & 0xff_ffff
}

impl<A: 'static> Platform for Sim<A> {
    type Word = SimWord;
    type Lock<T: Guarded> = SimLock<T>;
    type Local = SimWord;
    type RwLock<T: Guarded> = SimRwLock<T>;
    type Srcu = SimSrcu;
    type Rcu = SimRcu;

    fn word(&self, tag: Tag, init: u64) -> SimWord {
        SimWord::new(self.machine, tag, init)
    }

    fn lock<T: Guarded>(&self, id: LockId, init: T) -> SimLock<T> {
        SimLock::new(self.machine, id, init)
    }

    fn local(&self, init: u64) -> SimWord {
        SimWord::new(self.machine, Tag::nth(Object::Local, self.machine.locations()), init)
    }

    fn rw_lock<T: Guarded>(&self, id: LockId, init: T) -> SimRwLock<T> {
        SimRwLock::new(self.machine, id, init)
    }

    fn srcu(&self, id: LockId) -> SimSrcu {
        SimSrcu::new(self.machine, id)
    }

    fn rcu(&self, id: LockId) -> SimRcu {
        SimRcu::new(self.machine, id)
    }

    /// Under sequential consistency a fence is no step: each store was visible at once, so that
    /// no explorer can see whether it was there. That is the one arm of the match. A machine with
    /// store buffers waits here, in an arm of its own, until the running thread's own buffer is
    /// empty: it pauses (one step, with a footprint) before the event, and only for an order that
    /// drains, `SeqCst`. Where stores go into the buffer is `Word::store`, by the same match.
    #[inline]
    #[track_caller]
    fn fence(&self, _order: Ordering) {
        match self.machine.model.get() {
            MemoryModel::Sc => {}
        }
        self.trace(Location::caller(), || What::Fence);
    }

    #[track_caller]
    fn local_irq_disable(&self, cpu: CpuId) {
        irq::disable(self.machine, cpu, Location::caller());
    }

    #[track_caller]
    fn local_irq_enable(&self, cpu: CpuId) {
        irq::enable(self.machine, cpu, Location::caller());
    }

    #[track_caller]
    fn smp_call_function_many(&self, me: Option<CpuId>, targets: CpuMask, wait: bool) {
        irq::call_many(self.machine, me, targets, wait, Location::caller());
    }

    #[track_caller]
    fn tlbi(&self, scope: TlbiScope) {
        self.tlb_step(code_of(scope), scope, |instance| instance.tlbi(scope));
    }

    /// Every `DSB` publishes stores as a fence does, and there is nothing to publish under
    /// sequential consistency; one that completes invalidations is a step in addition.
    #[track_caller]
    fn dsb(&self, dsb: Dsb) {
        // ORDERING: seq-cst: it waits for all stores of the thread.
        self.fence(Ordering::SeqCst);
        if matches!(dsb, Dsb::Ish | Dsb::Nsh) {
            self.tlb_step(dsb as u64, dsb, |instance| instance.dsb(dsb));
        }
    }

    #[inline]
    fn guard(&self, guard: Guard) -> bool {
        self.machine.seen_asked.set(self.machine.seen_asked.get().with(guard));
        !self.machine.without.get().contains(guard)
    }

    #[inline]
    #[track_caller]
    fn call<R: Hash>(&self, name: &'static str, body: impl FnOnce() -> R) -> R {
        let site = Location::caller();
        let thread = self.machine.thread();
        let frame = thread.frame.get();
        let here = thread.seen.get().then_site(site);
        thread.seen.set(here);
        thread.frame.set(here);
        self.trace(site, || What::Call(name));
        let result = apart(body);
        thread.frame.set(frame);
        thread.seen.set(here.then_hash(&result));
        self.trace(site, || What::Return(name));
        result
    }

    #[inline]
    #[track_caller]
    fn checkpoint<T: Hash>(&self, live: T) {
        let site = Location::caller();
        if self.machine.ignores_checkpoint(site) {
            return;
        }
        let thread = self.machine.thread();
        thread.seen.set(thread.frame.get().then_site(site).then_hash(&live));
    }

    fn forget(&self, word: &SimWord) {
        word.forget();
    }

    #[inline]
    #[track_caller]
    fn mark(&self, mark: Mark) {
        self.machine.mark(mark, Location::caller());
    }

    #[track_caller]
    fn might_sleep(&self) {
        self.machine.check_sleep(Location::caller());
    }

    #[track_caller]
    fn reads(&self, object: Object) {
        self.machine.check_protected(object, false, Location::caller());
    }

    fn lockless<R>(&self, body: impl FnOnce() -> R) -> R {
        self.machine.hold(LOCKLESS);
        let result = body();
        self.machine.unhold(LOCKLESS);
        result
    }

    fn freed(&self, words: &[SimWord]) {
        words.iter().for_each(|word| self.machine.poison(word.loc, true));
    }

    fn out_of_bounds(&self, object: Object) {
        self.violate(kvmmu_scenarios::Property::SlotBounds, || {
            format!("an array of {object:?} is read outside of its bounds")
        });
    }
    fn zeroed(&self, words: &[SimWord]) {
        let site = Location::caller();
        let stale = words.iter().filter(|word| word.peek() != 0);
        stale.for_each(|word| word.write(0, Write::Hardware, site));
    }
    fn owned(&self, word: &SimWord) -> u64 {
        let value = word.peek();
        word.note(value);
        value
    }
    fn count(&self, counter: &SimWord, value: u64) {
        counter.count(value);
    }
    fn allocated(&self, words: &[SimWord]) {
        words.iter().for_each(|word| self.machine.poison(word.loc, false));
    }
}

impl<A> fmt::Debug for Sim<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sim")
    }
}

/// Runs a function in a stack frame of its own. A frame that it shared with its caller would have
/// room for all that the caller calls, and each image of a stack would copy it.
#[inline(never)]
fn apart<R>(body: impl FnOnce() -> R) -> R {
    body()
}

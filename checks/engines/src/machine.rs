//! The machine of both tools, written once.
//!
//! Waiting is native: a thread that waits for a word, or to repeat an attempt, blocks on one
//! condition variable, which a thread that changes something notifies only if some thread waits.
//! Nothing is synchronised by it otherwise.
//!
//! A machine for the *core only* (loom) has no `vcpu->mode`, no requests and no IPIs: each CPU has
//! one mutex, which a guest access holds from its walk to its load or store, and which a flush that
//! waits takes and releases for every other CPU. That is what a flush gives to the core: a guest
//! access is over, or finds the SPTEs as they are after it. TLBs are empty at each access, memory
//! barriers of the protocol (`smp_mb`) do nothing, and a lockless walk delays no thread.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use kvmmu_model::arm64::{Dsb, TlbiOn, TlbiScope};
use kvmmu_model::virt::{GFNS, MmuLock, VCPUS};
use kvmmu_model::x86::mmu::walk::hardware_walk;
use kvmmu_model::{
    Access, CpuId, CpuMask, Guard, Guarded, LockId, Mark, Object, Ordering, Pfn, Platform,
    ShadowMmu, Spte, SpteLoc, Tables, Tag, Until, Word,
};
use kvmmu_scenarios::machine::{AccessResult, Cell, GuestAccess, Machine, cacheable, with_byte};
use kvmmu_scenarios::oracle;
use kvmmu_scenarios::software_tlb::{self, SoftwareTlb};
use kvmmu_scenarios::{Observer, Property, Scenario, World};

use crate::lock::EngineLock;
use crate::lockdep::{IRQS_OFF, LOCKLESS, Locks};
use crate::primitives::Primitives;
use crate::rcu::EngineRcu;
use crate::rw_lock::{EngineRwLock, EngineSrcu};
use crate::search::{Search, hold};
use crate::word::EngineWord;

/// Interrupts of a CPU are off; the other bits are senders that wait, as in `kvmmu-sim`'s `irq`.
const OFF: u64 = 1 << 63;

const SETUP: u8 = 0;
const RUNNING: u8 = 1;
const STOPPED: u8 = 2;

/// A machine.
pub struct EngineMachine<X: Primitives>(Arc<Run<X>>);

/// One execution.
pub struct Run<X: Primitives> {
    pub(crate) search: Arc<Search>,
    phase: AtomicU8,
    pub(crate) locks: Locks,
    words: AtomicU32,
    /// Words that were made, until the program begins.
    made: Mutex<Vec<EngineWord<X>>>,
    world: OnceLock<Weak<World<EngineMachine<X>>>>,
    /// What threads sleep on.
    gate: X::Mutex<()>,
    opened: X::Condvar,
    /// Interrupts, by CPU.
    irqs: OnceLock<[EngineWord<X>; VCPUS]>,
    /// CPUs that run guest code, a bit each.
    in_guest: AtomicU64,
    /// CPUs whose TLBs were invalidated by instruction, a bit each: before its next access such a
    /// CPU empties its TLB.
    invalidated: AtomicU64,
    /// CPUs in the middle of a guest access.
    in_access: AtomicU64,
    /// Threads that wait for the end of such accesses.
    access_waiters: AtomicU64,
    /// Core only: held over a guest access.
    cpus: [X::Mutex<()>; VCPUS],
}

/// What a thread runs.
pub type Body = Box<dyn FnOnce() + Send>;

/// Runs one execution of a scenario: builds the world, runs the threads and the stop phase, and
/// checks the end.
pub(crate) fn execute<X: Primitives>(search: &Arc<Search>)
where
    World<EngineMachine<X>>: Send + Sync,
    Run<X>: Send + Sync,
{
    let scenario = &search.scenario;
    perform::<X, _>(search, scenario.threads.len(), |machine| {
        let world = World::new(machine, scenario).attach();
        let body = |thread| -> Body {
            let (world, search) = (Arc::clone(&world), Arc::clone(search));
            Box::new(move || world.run_thread(&search.scenario, thread))
        };
        let bodies = (0..scenario.threads.len()).map(body).collect();
        (bodies, move || world.run_stop(scenario))
    });
}

/// Runs one execution of anything: `build` makes what is shared, says what each thread runs, and
/// what is run alone at the end.
pub fn perform<X: Primitives, S: FnOnce()>(
    search: &Arc<Search>,
    threads: usize,
    build: impl FnOnce(&EngineMachine<X>) -> (Vec<Body>, S),
) where
    Run<X>: Send + Sync,
{
    let machine = EngineMachine::<X>(Arc::new(Run {
        search: Arc::clone(search),
        phase: AtomicU8::new(SETUP),
        locks: Locks::new(threads),
        words: AtomicU32::new(0),
        made: Mutex::default(),
        world: OnceLock::new(),
        gate: X::mutex(()),
        opened: X::condvar(),
        irqs: OnceLock::new(),
        in_guest: AtomicU64::new(0),
        invalidated: AtomicU64::new(0),
        in_access: AtomicU64::new(0),
        access_waiters: AtomicU64::new(0),
        cpus: std::array::from_fn(|_| X::mutex(())),
    }));
    let run = Arc::clone(&machine.0);
    let (bodies, stop) = build(&machine);
    run.irqs.get_or_init(|| std::array::from_fn(|cpu| machine.word(Tag::nth(Object::Irq, cpu), 0)));
    for word in hold(&run.made).drain(..) {
        word.start(search);
    }
    run.phase.store(RUNNING, Relaxed);
    let threads: Vec<X::JoinHandle> = bodies
        .into_iter()
        .map(|body| {
            let run = Arc::clone(&run);
            X::spawn(move || {
                body();
                run.check_end();
            })
        })
        .collect();
    threads.into_iter().for_each(X::join);
    run.phase.store(STOPPED, Relaxed);
    stop();
    search.end();
}

impl<X: Primitives> Run<X> {
    /// True while the threads run.
    pub(crate) fn is_running(&self) -> bool {
        self.phase.load(Relaxed) == RUNNING
    }

    /// True while the world is being built.
    pub(crate) fn is_setup(&self) -> bool {
        self.phase.load(Relaxed) == SETUP
    }

    /// How many threads there are.
    pub(crate) fn threads(&self) -> usize {
        self.locks.threads()
    }

    /// The running thread, as scenarios count; the stop phase comes after the last.
    pub(crate) fn thread(&self) -> usize {
        if self.is_running() { X::thread() - 1 } else { self.threads() }
    }

    /// A word changed in the step that runs.
    pub(crate) fn changed(&self) {
        if self.search.waiters.load(Relaxed) > 0 {
            let _gate = X::lock(&self.gate);
            X::notify_all(&self.opened);
        }
    }

    /// Sleeps while `closed`, which depends on words alone.
    pub(crate) fn wait_while(&self, closed: impl Fn() -> bool) {
        // Before the gate is taken, so that no change from here on goes without a notification.
        self.search.waiters.fetch_add(1, Relaxed);
        let mut gate = X::lock(&self.gate);
        while closed() {
            gate = X::wait(&self.opened, gate);
        }
        drop(gate);
        self.search.waiters.fetch_sub(1, Relaxed);
    }

    /// Runs a guest access; who waits for its end is told.
    fn accessing<R>(&self, cpu: CpuId, access: impl FnOnce() -> R) -> R {
        self.in_access.fetch_or(1 << cpu.0, Relaxed);
        let result = access();
        self.in_access.fetch_and(!(1 << cpu.0), Relaxed);
        if self.access_waiters.load(Relaxed) > 0 {
            self.changed();
        }
        result
    }

    /// Something happened in the step that runs.
    pub(crate) fn observe(&self, say: impl FnOnce(&dyn Observer)) {
        if self.is_running()
            && let Some(world) = self.world.get().and_then(Weak::upgrade)
        {
            say(&*world);
        }
    }

    fn irq(&self, cpu: CpuId) -> &EngineWord<X> {
        &self.irqs.get().expect("a program that runs")[usize::from(cpu.0)]
    }

    /// Sends an IPI to each target, and then waits for each that did not handle it at once.
    #[track_caller]
    fn call_many(&self, targets: impl Iterator<Item = CpuId>, wait: bool) {
        // ORDERING: acq-rel and acquire: an IPI orders what was done before it.
        use Ordering::{AcqRel, Acquire};
        let slot = 1 << self.thread();
        let mut owed = CpuMask::default();
        for cpu in targets {
            let irq = self.irq(cpu);
            let mut old = irq.load(Acquire);
            while old & OFF != 0 {
                match irq.compare_exchange(old, old | slot, AcqRel, Acquire) {
                    Ok(_) => {
                        owed.insert(cpu);
                        break;
                    }
                    Err(now) => old = now,
                }
            }
        }
        for cpu in owed.iter().filter(|_| wait) {
            self.irq(cpu).wait_until(Until::NotAll(OFF | slot));
        }
    }
}

impl<X: Primitives> Platform for EngineMachine<X> {
    type Word = EngineWord<X>;
    type Lock<T: Guarded> = EngineLock<X, T>;
    type Local = AtomicU64;
    type RwLock<T: Guarded> = EngineRwLock<X, T>;
    type Srcu = EngineSrcu<X>;
    type Rcu = EngineRcu<X>;

    fn word(&self, tag: Tag, init: u64) -> EngineWord<X> {
        let number = self.0.words.fetch_add(1, Relaxed);
        let word = EngineWord::new(&self.0, number, tag, init);
        hold(&self.0.made).push(EngineWord(Arc::clone(&word.0)));
        word
    }
    fn lock<T: Guarded>(&self, id: LockId, init: T) -> EngineLock<X, T> {
        EngineLock::new(&self.0, id, init)
    }
    fn local(&self, init: u64) -> AtomicU64 {
        AtomicU64::new(init)
    }
    fn rw_lock<T: Guarded>(&self, id: LockId, init: T) -> EngineRwLock<X, T> {
        EngineRwLock::new(&self.0, id, self.word(Tag::lock(id), 0), init)
    }
    fn srcu(&self, id: LockId) -> EngineSrcu<X> {
        EngineSrcu::new(&self.0, id, self.word(Tag::lock(id), 0))
    }
    fn rcu(&self, id: LockId) -> EngineRcu<X> {
        let word = || self.word(Tag::lock(id), 0);
        EngineRcu::new(&self.0, id, word(), word())
    }
    #[track_caller]
    fn fence(&self, order: Ordering) {
        if !X::CORE_ONLY && self.0.is_running() {
            X::fence(order);
        }
    }

    #[track_caller]
    fn local_irq_disable(&self, cpu: CpuId) {
        if !X::CORE_ONLY {
            // ORDERING: acq-rel, as a swap: nothing moves out of the section.
            self.0.irq(cpu).swap(OFF, Ordering::AcqRel);
        }
        self.0.hold(IRQS_OFF);
    }
    #[track_caller]
    fn local_irq_enable(&self, cpu: CpuId) {
        if !X::CORE_ONLY {
            // ORDERING: as in local_irq_disable.
            self.0.irq(cpu).swap(0, Ordering::AcqRel);
        }
        self.0.unhold(IRQS_OFF);
    }
    #[track_caller]
    fn smp_call_function_many(&self, me: Option<CpuId>, targets: CpuMask, wait: bool) {
        let targets = targets.iter().filter(|cpu| Some(*cpu) != me);
        if !X::CORE_ONLY {
            self.0.call_many(targets, wait);
        } else if wait {
            for cpu in targets {
                drop(X::lock(&self.0.cpus[usize::from(cpu.0)]));
            }
        }
    }

    /// A CPU drops all that it has cached, whatever the scope, at its next access.
    fn tlbi(&self, scope: TlbiScope) {
        let reached = (0..VCPUS as u8).map(CpuId).filter(|cpu| scope.reaches(*cpu));
        let reached = reached.fold(0, |cpus, cpu| cpus | 1 << cpu.0);
        self.0.invalidated.fetch_or(reached, Relaxed);
    }
    /// Waits for accesses that began before a `tlbi` and so may use what they had cached.
    #[track_caller]
    fn dsb(&self, dsb: Dsb) {
        // ORDERING: seq-cst: every kind publishes what was stored.
        self.fence(Ordering::SeqCst);
        if !dsb.completes(TlbiOn::InnerShareable) {
            return;
        }
        if X::CORE_ONLY {
            self.0.cpus.iter().for_each(|cpu| drop(X::lock(cpu)));
            return;
        }
        let run = &self.0;
        run.access_waiters.fetch_add(1, Relaxed);
        run.wait_while(|| run.in_access.load(Relaxed) & run.invalidated.load(Relaxed) != 0);
        run.access_waiters.fetch_sub(1, Relaxed);
    }

    fn guard(&self, guard: Guard) -> bool {
        !self.0.search.without.contains(guard)
    }
    fn mark(&self, mark: Mark) {
        if !self.0.is_setup() {
            self.0.search.mark(mark, self.0.thread() as u8);
        }
    }
    fn might_sleep(&self) {
        self.0.check_sleep();
    }
    fn reads(&self, object: Object) {
        self.0.check_protected(object, false);
    }
    fn lockless<R>(&self, body: impl FnOnce() -> R) -> R {
        self.0.hold(LOCKLESS);
        let result = body();
        self.0.unhold(LOCKLESS);
        result
    }
    #[track_caller]
    fn freed(&self, words: &[EngineWord<X>]) {
        for word in words {
            word.poison(true);
        }
    }
    #[track_caller]
    fn allocated(&self, words: &[EngineWord<X>]) {
        for word in words {
            word.poison(false);
        }
    }
    #[track_caller]
    fn out_of_bounds(&self, object: Object) {
        let what = format_args!("an array of {object:?} is read outside of its bounds");
        Machine::violate(self, Property::SlotBounds, what);
    }
}

impl<X: Primitives> Machine for EngineMachine<X> {
    const KVM_RUN: bool = !X::CORE_ONLY;
    type Cell<T: Guarded> = EngineCell<T>;
    type Mmu = ShadowMmu<Self>;
    type Hardware = SoftwareTlb<Self>;

    fn cell<T: Guarded>(&self, init: T) -> EngineCell<T> {
        EngineCell(Mutex::new(init))
    }
    fn attach(&self, world: &Arc<World<Self>>) {
        self.0.world.get_or_init(|| Arc::downgrade(world));
    }
    fn violate(&self, property: Property, detail: fmt::Arguments<'_>) {
        if !self.0.is_setup() {
            self.0.search.violate(property, detail.to_string());
        }
    }
    #[track_caller]
    fn irq_pending(&self, cpu: CpuId) -> bool {
        // ORDERING: acquire: as the IPI.
        !X::CORE_ONLY && self.0.irq(cpu).load(Ordering::Acquire) & !OFF != 0
    }
    #[track_caller]
    fn store_byte(&self, page: &EngineWord<X>, byte: u8, value: u8) {
        // The first guess is what was written last, so that this is one step if nobody is in the
        // way.
        let mut old = page.peek();
        // ORDERING: relaxed: guest memory.
        while let Err(now) =
            page.compare_exchange(old, with_byte(old, byte, value), Relaxed, Relaxed)
        {
            old = now;
        }
    }

    fn peek(&self, word: &EngineWord<X>) -> u64 {
        word.peek()
    }
    fn hardware(&self, _scenario: &Scenario) -> SoftwareTlb<Self> {
        SoftwareTlb::new(self)
    }
    #[track_caller]
    fn guest_access(w: &World<Self>, cpu: CpuId, access: GuestAccess) -> AccessResult {
        if !X::CORE_ONLY {
            return w.m.0.accessing(cpu, || {
                if w.m.0.invalidated.fetch_and(!(1 << cpu.0), Relaxed) >> cpu.0 & 1 == 1 {
                    software_tlb::flush(w, cpu);
                }
                software_tlb::access(w, cpu, access)
            });
        }
        let _in_guest = X::lock(&w.m.0.cpus[usize::from(cpu.0)]);
        software_tlb::flush(w, cpu);
        software_tlb::access(w, cpu, access)
    }
    fn guest_translated(
        w: &World<Self>,
        cpu: CpuId,
        access: GuestAccess,
        pfn: Pfn,
        from_tlb: bool,
    ) {
        if from_tlb && walk_gives(w, cpu, access) != Some(pfn) {
            w.m.mark(Mark::StaleTranslation);
        }
        if access.access == Access::Write
            && w.watches(Property::ShadowedPtReadonly)
            // On x86 it is a spinlock.
            && let MmuLock::Spin(mmu_lock) = &w.vm.kvm.mmu_lock
            // Its owner may just have taken the page out of sync.
            && !(w.vm.mmu.unsync_children.is_some() && mmu_lock.is_held())
            && let Some(table) = oracle::shadowed_table(w, &mmu_lock.peek(), pfn)
        {
            w.m.violate(
                Property::ShadowedPtReadonly,
                format_args!("the guest writes gfn{}, a shadowed guest table", table.0),
            );
        }
    }
    fn guest_entered(w: &World<Self>, cpu: CpuId) {
        w.m.0.in_guest.fetch_or(1 << cpu.0, Relaxed);
    }
    fn guest_left(w: &World<Self>, cpu: CpuId) {
        w.m.0.in_guest.fetch_and(!(1 << cpu.0), Relaxed);
    }
    fn flush_tlb(w: &World<Self>, cpu: CpuId) {
        software_tlb::flush(w, cpu);
    }
    fn preload_tlb(w: &World<Self>, cpu: CpuId, page: u64, _: SpteLoc, spte: Spte) {
        software_tlb::preload(w, cpu, page, spte);
    }
    fn for_each_writable_in_tlb(w: &World<Self>, cpu: CpuId, each: impl FnMut(Pfn)) {
        if CpuMask(w.m.0.in_guest.load(Relaxed)).contains(cpu) {
            let entries = (0..GFNS as u64).map(|page| Spte(w.hardware.entry(cpu, page).peek()));
            let format = w.vm.mmu.format();
            let writable = entries.filter(|spte| cacheable(format, *spte, Access::Write));
            writable.map(|spte| format.pfn(spte)).for_each(each);
        }
    }
}

/// The page that the tables give for this access as they are, without a change of A or D.
fn walk_gives<X: Primitives>(
    w: &World<EngineMachine<X>>,
    cpu: CpuId,
    access: GuestAccess,
) -> Option<Pfn> {
    let format = w.vm.mmu.format();
    let read = |loc| Spte(w.vm.mmu.sptep(loc).peek());
    let (at, spte) = hardware_walk(format, w.vm.mmu.root(cpu), access.page, read);
    cacheable(format, spte, access.access).then(|| at.pfn(format, spte))
}

impl<X: Primitives> Clone for EngineMachine<X> {
    fn clone(&self) -> Self {
        EngineMachine(Arc::clone(&self.0))
    }
}

impl<X: Primitives> fmt::Debug for EngineMachine<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineMachine")
    }
}

impl<X: Primitives> fmt::Debug for Run<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Run")
    }
}

/// An oracle cell: not tracked, and it synchronises nothing in the checker.
#[derive(Debug)]
pub struct EngineCell<T>(Mutex<T>);

impl<T: Guarded> Cell<T> for EngineCell<T> {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut hold(&self.0))
    }
}

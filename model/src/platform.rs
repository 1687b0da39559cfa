//! What KVM's MMU code needs from the machine that runs it.
//!
//! The model is written once against [`Platform`]. A simulator, loom, shuttle, real threads or real
//! page tables supply it. Everything here is either a shared access (a step that another CPU can
//! see) or a note for an observer; an observer that does not care implements neither
//! [`Platform::call`], [`Platform::checkpoint`], [`Platform::forget`] nor [`Platform::mark`], and
//! the compiler removes them.
//!
//! *Shared data* is one of two kinds. [`Word`]s are 64-bit atomics: anything that a lockless
//! reader, a hardware walker or a variant with a guard removed may touch. [`Lock`]ed data is
//! touched by the owner of the lock only, so its accesses are not steps: acquiring the lock is.

use core::fmt::Debug;
use core::hash::Hash;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::AtomicU64;

pub use core::sync::atomic::Ordering;

use crate::arm64::{Dsb, TlbiScope};
use crate::guard::Guard;
use crate::lock::LockId;
use crate::mark::Mark;
use crate::tag::{Object, Tag};
use crate::types::{CpuId, CpuMask};

/// A shared 64-bit word.
///
/// Each method is one atomic step and carries its caller's place in the source into traces.
pub trait Word {
    /// Reads the word (`READ_ONCE`, `smp_load_acquire`).
    #[track_caller]
    fn load(&self, order: Ordering) -> u64;
    /// Writes the word (`WRITE_ONCE`, `smp_store_release`).
    #[track_caller]
    fn store(&self, value: u64, order: Ordering);
    /// Writes the word and returns what it held (`xchg`).
    #[track_caller]
    fn swap(&self, value: u64, order: Ordering) -> u64;
    /// Writes `new` if the word holds `current` (`cmpxchg`).
    ///
    /// # Errors
    /// What the word held, if that was not `current`. Never fails spuriously.
    #[track_caller]
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64>;
    /// Sets bits and returns what the word held.
    #[track_caller]
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64;
    /// Keeps only `bits` and returns what the word held.
    #[track_caller]
    fn fetch_and(&self, bits: u64, order: Ordering) -> u64;
    /// Adds, wrapping, and returns what the word held.
    #[track_caller]
    fn fetch_add(&self, value: u64, order: Ordering) -> u64;
    /// Sets bits. The thread does not learn what the word held, so that states in which it held
    /// something else may be one to a simulator.
    #[inline]
    #[track_caller]
    fn or(&self, bits: u64, order: Ordering) {
        self.fetch_or(bits, order);
    }
    /// Keeps only `bits`, as [`Word::or`] does.
    #[inline]
    #[track_caller]
    fn and(&self, bits: u64, order: Ordering) {
        self.fetch_and(bits, order);
    }
    /// Adds, wrapping, as [`Word::or`] does; the order of several makes no difference.
    #[inline]
    #[track_caller]
    fn add(&self, value: u64, order: Ordering) {
        self.fetch_add(value, order);
    }
    /// Blocks until the word satisfies `until` and returns the value that did. The only way to
    /// wait: a simulator sees whether the thread is enabled, loom blocks natively, nothing ever
    /// spins.
    #[track_caller]
    fn wait_until(&self, until: Until) -> u64;
}

/// What a thread waits for. Plain data, so that a simulator can ask without running the thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Until {
    /// The word equals this value.
    Is(u64),
    /// The word differs from this value.
    Not(u64),
    /// At least one of these bits is clear.
    NotAll(u64),
    /// All of these bits are clear.
    Clear(u64),
}

impl Until {
    /// True if `value` ends the wait.
    #[inline]
    pub fn is_met_by(self, value: u64) -> bool {
        match self {
            Until::Is(v) => value == v,
            Until::Not(v) => value != v,
            Until::NotAll(bits) => value & bits != bits,
            Until::Clear(bits) => value & bits == 0,
        }
    }
}

/// What a lock may guard: plain data without pointers, which can be copied, compared and hashed.
pub trait Guarded: Copy + Hash + PartialEq + Debug + 'static {}
impl<T: Copy + Hash + PartialEq + Debug + 'static> Guarded for T {}

/// A lock and the data that only its owner touches.
pub trait Lock<T: Guarded> {
    /// Ownership of the lock; dropping it releases.
    type Guard<'a>: DerefMut<Target = T>
    where
        Self: 'a;
    /// Waits for the lock and takes it. One step; it observes the data.
    #[track_caller]
    fn lock(&self) -> Self::Guard<'_>;
    /// Gives others a chance in the middle of long work, as `cond_resched_lock()` does. Whatever
    /// was read from the data before must be read again after.
    #[track_caller]
    fn relax<'a>(&'a self, guard: Self::Guard<'a>) -> Self::Guard<'a> {
        drop(guard);
        self.lock()
    }
}

/// A word that one thread writes and reads alone, and hardware that acts for it: a vCPU's own. No
/// access is a step.
pub trait Local {
    /// Reads it.
    fn get(&self) -> u64;
    /// Writes it. Only its thread does, or who sets it up.
    fn set(&self, value: u64);
}

/// For real threads.
impl Local for AtomicU64 {
    #[inline]
    fn get(&self) -> u64 {
        // ORDERING: relaxed: one thread writes it and reads it.
        self.load(Ordering::Relaxed)
    }
    #[inline]
    fn set(&self, value: u64) {
        // ORDERING: relaxed: as above.
        self.store(value, Ordering::Relaxed);
    }
}

/// A read-write lock and the data that readers see and only a writer changes; `()` where all that
/// it protects are words, tagged with it. Whether it sleeps or spins is in the table of
/// [`crate::lock`]. Readers wait behind a writer that waits, as those of `rw_semaphore`,
/// `percpu_rw_semaphore` and the queued `rwlock_t` do.
///
/// A writer changes the data, and a reader cannot:
///
/// ```
/// use kvmmu_model::{Platform, RwLock};
/// fn change<P: Platform>(lock: &P::RwLock<u64>) {
///     let next = *lock.read() + 1;
///     *lock.write() = next;
/// }
/// ```
///
/// ```compile_fail,E0594
/// use kvmmu_model::{Platform, RwLock};
/// fn change<P: Platform>(lock: &P::RwLock<u64>) {
///     *lock.read() = 1;
/// }
/// ```
pub trait RwLock<T: Guarded> {
    /// Shared ownership; dropping it releases.
    type Read<'a>: Deref<Target = T>
    where
        Self: 'a;
    /// Ownership alone; dropping it releases.
    type Write<'a>: DerefMut<Target = T>
    where
        Self: 'a;
    /// Waits until nobody has the lock alone or waits for that, and shares it. One step; it
    /// observes the data.
    #[track_caller]
    fn read(&self) -> Self::Read<'_>;
    /// Waits until nobody else has the lock, and takes it. One step, or two: to get in line, and to
    /// get the lock. The last observes the data.
    #[track_caller]
    fn write(&self) -> Self::Write<'_>;
}

/// Sleepable RCU: read sections that never wait, and grace periods that wait for them.
pub trait Srcu {
    /// A read section; dropping it ends the section (`srcu_read_unlock`).
    type Section<'a>
    where
        Self: 'a;
    /// `srcu_read_lock`: begins a read section. One step. Sections nest.
    #[track_caller]
    fn read_lock(&self) -> Self::Section<'_>;
    /// `synchronize_srcu`: waits until every read section has ended that had begun before the call.
    /// Sections that begin later do not hold it up. One step, or two: to look who reads, and to
    /// have waited for them.
    #[track_caller]
    fn synchronize(&self);
}

/// How many callbacks may wait in an RCU domain at once. One more is a bug of the program or a
/// reason to raise this: machines assert it.
pub const RCU_CALLBACKS_MAX: usize = 8;

/// RCU: read sections that never wait and in which nothing sleeps, grace periods that wait for
/// them, and callbacks that run after one.
///
/// `call_rcu` is a *deferred free that is a step*. In the kernel its callback runs in softirq
/// context or in a thread (`rcu_core`, `rcuc`, `rcuo`), any time after the grace period. Here it is
/// run by a thread of the program, which asks for it by [`Rcu::wait_ripe`]. So whatever schedules
/// threads schedules frees, too: every interleaving of a free with everything else is explored,
/// schedules and traces need no second kind of actor, and a machine of real threads needs nothing
/// else. A program without such a thread frees nothing: its grace periods last for ever.
///
/// A callback is a number that names what is to be freed, as an `rcu_head` is found in the object
/// that it frees, and no closure: states are copied and hashed. What it does is up to the thread
/// that takes it.
///
/// *Order.* A thread stands for the CPU that it runs on: callbacks of one thread run in the order
/// of its calls, those of different threads that are ripe together in any. A machine that does not
/// explore this takes the oldest, which is one of these orders.
pub trait Rcu {
    /// A read section; dropping it ends the section (`rcu_read_unlock`).
    type Section<'a>
    where
        Self: 'a;
    /// `rcu_read_lock`: begins a read section. One step. Sections nest. Nothing may sleep inside.
    #[track_caller]
    fn read_lock(&self) -> Self::Section<'_>;
    /// `synchronize_rcu`: waits, asleep, until every read section has ended that had begun before
    /// the call. Sections that begin later do not hold it up. One step, or two: to look who reads,
    /// and to have waited for them.
    #[track_caller]
    fn synchronize(&self);
    /// `call_rcu`: hands a callback over, which is ripe when every read section has ended that had
    /// begun before, those of the caller too. One step; it neither sleeps nor waits.
    ///
    /// # Panics
    /// If [`RCU_CALLBACKS_MAX`] callbacks wait already, and after [`Rcu::close`].
    #[track_caller]
    fn call(&self, callback: u64);
    /// Waits, asleep, until a callback is ripe, and takes it: the caller runs it. One step. `None`:
    /// the domain is closed and every callback was taken.
    #[track_caller]
    fn wait_ripe(&self) -> Option<u64>;
    /// Nothing is called from now on: threads that run callbacks end when they have run all. One
    /// step. (In the kernel they never end.)
    #[track_caller]
    fn close(&self);
}

/// What the MMU stands on. A cheap handle: the MMU, the host and the hardware each hold a copy.
pub trait Platform: Clone + Debug {
    /// A shared atomic word.
    type Word: Word + Debug;
    /// A lock around data.
    type Lock<T: Guarded>: Lock<T> + Debug;
    /// A word of one thread.
    type Local: Local + Debug;
    /// A read-write lock around data.
    type RwLock<T: Guarded>: RwLock<T> + Debug;
    /// A domain of read sections and grace periods.
    type Srcu: Srcu + Debug;
    /// The same without sleep, and with callbacks.
    type Rcu: Rcu + Debug;

    /// Makes a word. `tag` names it in reports and says which lock should protect it.
    fn word(&self, tag: Tag, init: u64) -> Self::Word;
    /// Makes a mutex or a spinlock: which one is in the table of [`crate::lock`].
    fn lock<T: Guarded>(&self, id: LockId, init: T) -> Self::Lock<T>;
    /// Makes a word of one thread.
    fn local(&self, init: u64) -> Self::Local;
    /// Makes a read-write lock: of which type is in the same table.
    fn rw_lock<T: Guarded>(&self, id: LockId, init: T) -> Self::RwLock<T>;
    /// Makes an SRCU domain.
    fn srcu(&self, id: LockId) -> Self::Srcu;
    /// Makes an RCU domain.
    fn rcu(&self, id: LockId) -> Self::Rcu;
    /// A memory barrier (`smp_mb()` is `SeqCst`, `smp_rmb()` `Acquire`, `smp_wmb()` `Release`).
    #[track_caller]
    fn fence(&self, order: Ordering);

    /// Turns interrupts off on `cpu`: an IPI sent to it from now on is handled at
    /// [`Platform::local_irq_enable`] and not before.
    #[track_caller]
    fn local_irq_disable(&self, cpu: CpuId);
    /// Turns interrupts on; every IPI that arrived meanwhile is handled here.
    #[track_caller]
    fn local_irq_enable(&self, cpu: CpuId);
    /// Interrupts every CPU of `targets` except `me`, all at once. With `wait` it returns only
    /// after each target has handled its interrupt, that is, had interrupts on or left the guest.
    #[track_caller]
    fn smp_call_function_many(&self, me: Option<CpuId>, targets: CpuMask, wait: bool);

    /// A TLB invalidation of arm64: one step, which begins it. CPUs in its scope may go on using
    /// what it drops until a [`Platform::dsb`] of the same thread completes it. What they cache
    /// after this step is not dropped.
    #[track_caller]
    fn tlbi(&self, scope: TlbiScope);
    /// A data synchronisation barrier of arm64. It publishes this thread's stores, as
    /// [`Platform::fence`] does; one that completes invalidations ([`Dsb::completes`]) is a step,
    /// after which no CPU uses what the thread's earlier [`Platform::tlbi`] drop.
    #[track_caller]
    fn dsb(&self, dsb: Dsb);
    /// An instruction synchronisation barrier of arm64: it concerns what the issuing CPU has
    /// fetched, and is nothing to machines that do not fetch.
    #[inline(always)]
    fn isb(&self) {}

    /// False if this protective step is removed in this run. Constant `true` outside simulators.
    /// The model asks by [`Platform::guarded`] and [`Platform::without`] alone.
    #[inline(always)]
    fn guard(&self, _guard: Guard) -> bool {
        true
    }
    /// A protective step. Where it is removed nothing is done, and the answer is that of
    /// nothing: `false`, `None`, 0.
    #[inline(always)]
    fn guarded<R: Default>(&self, guard: Guard, step: impl FnOnce() -> R) -> R {
        if self.guard(guard) { step() } else { R::default() }
    }
    /// What takes the place of a protective step that is removed. Not KVM: skip it as you read.
    #[inline(always)]
    fn without<R>(&self, guard: Guard, instead: impl FnOnce() -> R) -> Option<R> {
        if self.guard(guard) { None } else { Some(instead()) }
    }
    /// Runs `body` as the kernel function `name`. Reports name it. All that the caller keeps of the
    /// call is what it returns; what the body saw besides is forgotten.
    #[inline(always)]
    #[track_caller]
    fn call<R: Hash>(&self, _name: &'static str, body: impl FnOnce() -> R) -> R {
        body()
    }
    /// Forgets what the running call has observed except `live`, which must be everything that the
    /// rest of this call still depends on. Never forgets what a caller holds.
    #[inline(always)]
    #[track_caller]
    fn checkpoint<T: Hash>(&self, _live: T) {}
    /// Nobody reads the word any more, unless somebody stores to it before. What is done to it
    /// otherwise nobody sees.
    #[inline(always)]
    fn forget(&self, _word: &Self::Word) {}
    /// Something worth a name happened in the step that is running. Stories and witnesses are made
    /// of these.
    #[inline(always)]
    #[track_caller]
    fn mark(&self, _mark: Mark) {}
    /// `might_sleep`: what follows may sleep, whether or not it does in this run.
    #[inline(always)]
    #[track_caller]
    fn might_sleep(&self) {}
    /// Data that is no word is read here: who reads it must hold what protects the object.
    #[inline(always)]
    #[track_caller]
    fn reads(&self, _object: Object) {}
    /// Runs `body`, which may write words without the lock that protects them: a step that the
    /// protocol means to be lockless.
    #[inline(always)]
    fn lockless<R>(&self, body: impl FnOnce() -> R) -> R {
        body()
    }
    /// The memory of these words was freed: touching one before [`Platform::allocated`] is a use
    /// after free.
    #[inline(always)]
    #[track_caller]
    fn freed(&self, _words: &[Self::Word]) {}
    /// What follows would read or write an array of this object outside of its bounds.
    #[inline(always)]
    #[track_caller]
    fn out_of_bounds(&self, _object: Object) {}
    /// Zeroes words that nobody else can reach yet: no step.
    #[inline]
    fn zeroed(&self, words: &[Self::Word]) {
        for word in words {
            // ORDERING: relaxed: published by the release of what leads to them.
            word.store(0, Ordering::Relaxed);
        }
    }
    /// What a word holds that nobody else writes now: no step.
    #[inline]
    fn owned(&self, word: &Self::Word) -> u64 {
        // ORDERING: relaxed: what keeps others from writing it orders this, too.
        word.load(Ordering::Relaxed)
    }
    /// Adds, wrapping, to a counter of which others ask at most whether it is 0 while this may
    /// happen, and see the same before and after; else it is read by [`Platform::owned`]. No step,
    /// and the order of several makes no difference.
    #[inline]
    fn count(&self, counter: &Self::Word, value: u64) {
        // ORDERING: relaxed: who reads it has excluded those who add.
        counter.add(value, Ordering::Relaxed);
    }
    /// The memory of these words is in use (again).
    #[inline(always)]
    fn allocated(&self, _words: &[Self::Word]) {}
}

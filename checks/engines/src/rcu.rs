//! RCU over a machine's words: the read sections and grace periods of SRCU, and a queue.
//!
//! A thread that takes a callback waits for a grace period that begins when it takes it. Callbacks
//! of one thread are taken in the order of its calls, before those of later threads. `kvmmu-sim`
//! has more executions, all of which RCU allows: there each callback has a grace period of its own
//! that begins with the call, and callbacks of different threads run in any order.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use kvmmu_model::{LockId, LockKind, Ordering, RCU_CALLBACKS_MAX, Rcu, Srcu, Until, Word};

use crate::machine::Run;
use crate::primitives::Primitives;
use crate::rw_lock::{COLUMNS, EngineSrcu, Section};
use crate::search::hold;
use crate::word::EngineWord;

/// No callback comes any more.
const CLOSED: u64 = 1 << 63;
/// The other bits of the word count the callbacks of each thread that wait, so many bits each.
const BITS: usize = 7;

/// How many callbacks of a thread wait.
fn count(waiting: u64, thread: usize) -> u64 {
    (waiting >> (BITS * thread)) & ((1 << BITS) - 1)
}

/// An RCU domain.
pub struct EngineRcu<X: Primitives> {
    run: Arc<Run<X>>,
    readers: EngineSrcu<X>,
    /// How many callbacks wait, and [`CLOSED`].
    waiting: EngineWord<X>,
    /// What they are, by caller. A callback is put here before it is counted, so that the thread
    /// that counts it down finds it.
    queues: [Mutex<VecDeque<u64>>; COLUMNS],
    /// False where no thread waits for readers.
    contended: bool,
}

impl<X: Primitives> EngineRcu<X> {
    pub(crate) fn new(
        run: &Arc<Run<X>>,
        id: LockId,
        readers: EngineWord<X>,
        waiting: EngineWord<X>,
    ) -> Self {
        assert!(id.class.info().kind == LockKind::Rcu, "{:?} is no RCU", id.class);
        EngineRcu {
            run: Arc::clone(run),
            readers: EngineSrcu::new(run, id, readers),
            waiting,
            queues: Default::default(),
            contended: id.contended,
        }
    }

    fn check(&self) {
        assert!(self.contended, "callbacks of an RCU for which none was announced");
    }
}

impl<X: Primitives> Rcu for EngineRcu<X> {
    type Section<'a> = Section<'a, X>;

    #[track_caller]
    fn read_lock(&self) -> Section<'_, X> {
        self.readers.read_lock()
    }

    #[track_caller]
    fn synchronize(&self) {
        self.readers.synchronize();
    }

    #[track_caller]
    fn call(&self, callback: u64) {
        self.check();
        let me = self.readers.me();
        hold(&self.queues[me]).push_back(callback);
        // ORDERING: acq-rel: the thread that runs the callback sees what was done before the call.
        let old = self.waiting.fetch_add(1 << (BITS * me), Ordering::AcqRel);
        assert!(old & CLOSED == 0, "call_rcu() after the domain was closed");
        let waiting: u64 = (0..COLUMNS).map(|thread| count(old, thread)).sum();
        assert!(
            waiting < RCU_CALLBACKS_MAX as u64,
            "call_rcu(): {waiting} callbacks wait already; does a thread run them? If so, raise \
             RCU_CALLBACKS_MAX of model/src/platform.rs"
        );
    }

    #[track_caller]
    fn wait_ripe(&self) -> Option<u64> {
        self.check();
        self.run.check_sleep();
        let caller = loop {
            let old = self.waiting.wait_until(Until::Not(0));
            // Else only CLOSED is set.
            let caller = (0..COLUMNS).find(|thread| count(old, *thread) > 0)?;
            let new = old - (1 << (BITS * caller));
            // ORDERING: acq-rel and acquire: pairs with the call.
            let taken =
                self.waiting.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire);
            if taken.is_ok() {
                break caller;
            }
        };
        let callback = hold(&self.queues[caller]).pop_front();
        self.readers.grace_period();
        callback
    }

    #[track_caller]
    fn close(&self) {
        self.check();
        // ORDERING: acq-rel: as a call.
        self.waiting.fetch_or(CLOSED, Ordering::AcqRel);
    }
}

impl<X: Primitives> fmt::Debug for EngineRcu<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.readers, f)
    }
}

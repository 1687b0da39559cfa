//! RCU: the read sections and grace periods of SRCU, and callbacks that wait for sections to end.
//!
//! Each callback has a note of the threads that it waits for: those that read when it was called,
//! and just these. A thread that ends its section removes itself from every note, as it does from
//! those of grace periods. A callback with an empty note is ripe. So no time passes and nothing
//! runs by itself: a free is a step of the thread that takes the callback.

use core::fmt;
use core::panic::Location;

use kvmmu_model::{LockId, LockKind, RCU_CALLBACKS_MAX, Rcu, Srcu, Tag};

use super::cell::SimCell;
use super::pending::Kind;
use super::srcu::{self, SimSrcu};
use super::state::Machine;
use super::word::SimWord;
use crate::record::event::What;

/// A bit of [`Deferred::ready`] that is no callback: none is left, and none comes.
const OVER: u64 = 1 << 63;

/// An RCU domain of the simulated machine.
#[derive(Clone, Copy)]
pub struct SimRcu {
    machine: &'static Machine,
    readers: SimSrcu,
    /// None where nothing is ever freed: where no thread waits for readers.
    deferred: Option<Deferred>,
}

/// The callbacks of a domain.
#[derive(Clone, Copy)]
struct Deferred {
    queue: SimCell<Queue>,
    /// The callbacks that may run now, a bit for each place in the queue. It follows from the
    /// queue: threads wait for a word.
    ready: SimWord,
}

/// A callback that was not taken yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Callback {
    what: u64,
    /// The thread that called.
    caller: u8,
    /// The threads that read then and still do, a bit each.
    waits_for: u8,
}

/// The callbacks by caller, those of one caller as they were called: which of two threads called
/// first makes no difference, and so it makes no state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Queue {
    callbacks: [Callback; RCU_CALLBACKS_MAX],
    len: u8,
    closed: bool,
}

impl Queue {
    fn waiting(&self) -> &[Callback] {
        &self.callbacks[..usize::from(self.len)]
    }

    fn insert(&mut self, callback: Callback) {
        let len = usize::from(self.len);
        assert!(!self.closed, "call_rcu() after the domain was closed");
        assert!(
            len < RCU_CALLBACKS_MAX,
            "call_rcu(): {len} callbacks wait already; does a thread run them? If so, raise \
             RCU_CALLBACKS_MAX of model/src/platform.rs"
        );
        let at = self.waiting().partition_point(|other| other.caller <= callback.caller);
        self.callbacks.copy_within(at..len, at + 1);
        self.callbacks[at] = callback;
        self.len += 1;
    }

    fn remove(&mut self, at: usize) -> u64 {
        let what = self.callbacks[at].what;
        self.len -= 1;
        let len = usize::from(self.len);
        self.callbacks.copy_within(at + 1..len + 1, at);
        self.callbacks[len] = Callback::default();
        what
    }

    /// What [`Deferred::ready`] has to be: the first callback of each caller, if it is ripe.
    fn ready(&self) -> u64 {
        let waiting = self.waiting();
        if self.closed && waiting.is_empty() {
            return OVER;
        }
        let is_first = |i: usize| i == 0 || waiting[i - 1].caller != waiting[i].caller;
        let may_run = |i: &usize| is_first(*i) && waiting[*i].waits_for == 0;
        (0..waiting.len()).filter(may_run).fold(0, |ready, i| ready | 1 << i)
    }
}

impl Deferred {
    fn change<R>(&self, change: impl FnOnce(&mut Queue) -> R) -> R {
        let mut queue = self.queue.get();
        let result = change(&mut queue);
        self.queue.set(queue);
        let ready = queue.ready();
        if self.ready.peek() != ready {
            self.ready.poke(ready);
        }
        result
    }

    /// This thread, a bit, has ended its section.
    fn section_ended(&self, thread: u8) {
        if self.queue.get().waiting().iter().any(|c| c.waits_for & thread != 0) {
            self.change(|queue| {
                queue.callbacks.iter_mut().for_each(|c| c.waits_for &= !thread);
            });
        }
    }
}

impl SimRcu {
    pub(crate) fn new(machine: &'static Machine, id: LockId) -> SimRcu {
        assert!(id.class.info().kind == LockKind::Rcu, "{:?} is no RCU", id.class);
        let deferred = || Deferred {
            queue: SimCell::new(machine, Tag::lock(id), Queue::default()),
            ready: SimWord::new(machine, Tag::lock(id), 0),
        };
        let deferred = id.contended.then(deferred);
        SimRcu { machine, readers: SimSrcu::new(machine, id), deferred }
    }

    fn deferred(&self) -> Deferred {
        self.deferred.expect("callbacks of an RCU for which none was announced")
    }

    fn trace(&self, site: &'static Location<'static>, what: impl FnOnce(Tag) -> What) {
        self.readers.trace(site, what);
    }
}

impl Rcu for SimRcu {
    type Section<'a> = Section<'a>;

    #[track_caller]
    fn read_lock(&self) -> Section<'_> {
        Section { rcu: self, section: Some(self.readers.read_lock()) }
    }

    #[track_caller]
    fn synchronize(&self) {
        self.readers.synchronize();
    }

    #[track_caller]
    fn call(&self, callback: u64) {
        let (site, deferred) = (Location::caller(), self.deferred());
        deferred.ready.pause(Kind::Store, 0, site);
        let waits_for = self.readers.who(site);
        let caller = self.readers.me() as u8;
        deferred.change(|queue| queue.insert(Callback { what: callback, caller, waits_for }));
        deferred.ready.note(1);
        self.trace(site, |object| What::CallRcu { object, callback });
    }

    #[track_caller]
    fn wait_ripe(&self) -> Option<u64> {
        let (m, site, deferred) = (self.machine, Location::caller(), self.deferred());
        m.check_sleep(site);
        m.choice.set(0);
        deferred.ready.pause(Kind::WaitAny, 0, site);
        let choice = usize::from(m.choice.get());
        let ready = deferred.ready.value(site);
        let place = (0..RCU_CALLBACKS_MAX).filter(|i| ready >> i & 1 == 1).nth(choice);
        let callback = place.map(|at| deferred.change(|queue| queue.remove(at)));
        deferred.ready.note(u64::from(callback.is_some()));
        deferred.ready.note(callback.unwrap_or(0));
        self.trace(site, |object| What::Callback { object, callback });
        callback
    }

    #[track_caller]
    fn close(&self) {
        let (site, deferred) = (Location::caller(), self.deferred());
        deferred.ready.pause(Kind::Store, 0, site);
        deferred.change(|queue| queue.closed = true);
        deferred.ready.note(1);
    }
}

/// A read section of a [`SimRcu`].
#[derive(Debug)]
pub struct Section<'a> {
    rcu: &'a SimRcu,
    /// There until it is dropped.
    section: Option<srcu::Section<'a>>,
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        self.section = None;
        let SimRcu { readers, deferred, .. } = self.rcu;
        if let Some(deferred) = deferred
            && readers.depth() == 0
        {
            deferred.section_ended(1 << readers.me());
        }
    }
}

impl fmt::Debug for SimRcu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.readers, f)
    }
}

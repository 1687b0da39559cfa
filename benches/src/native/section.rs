//! Read sections and grace periods, by epochs: interrupts off, lockless walks, SRCU.
//!
//! Guarantee: [`Domain::synchronize`] returns when every section has ended that had begun before
//! the call; a section that begins later sees what was written before it. Mechanism: a section is a
//! pinned epoch of `crossbeam-epoch`; a deferred function runs when everybody who was pinned has
//! unpinned. In the kernel, `walk_shadow_page_lockless_begin()` turns interrupts off for the same
//! end: an IPI that waits is a grace period for those who have them off.
//!
//! A grace period waits for more than the IPI does, for sections of CPUs too that it was not sent
//! to. Such a section is short, or it is a guest, which a waiter kicks until it leaves.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_epoch::{Collector, Guard, LocalHandle};
use crossbeam_utils::Backoff;

/// How many domains a thread stays registered with.
const HANDLES_MAX: usize = 8;

/// A set of sections that grace periods wait for.
#[derive(Debug)]
pub struct Domain {
    id: u64,
    collector: Collector,
}

/// What a thread keeps.
struct Thread {
    /// Its registrations, by domain.
    handles: Vec<(u64, LocalHandle)>,
    /// Interrupts are off.
    irqs_off: Option<Guard>,
}

thread_local! {
    static THREAD: RefCell<Thread> =
        const { RefCell::new(Thread { handles: Vec::new(), irqs_off: None }) };
}

impl Thread {
    #[inline]
    fn pin(&mut self, domain: &Domain) -> Guard {
        match self.handles.iter().find(|(id, _)| *id == domain.id) {
            Some((_, handle)) => handle.pin(),
            None => self.register(domain),
        }
    }

    #[cold]
    fn register(&mut self, domain: &Domain) -> Guard {
        if self.handles.len() == HANDLES_MAX {
            // A section that was begun by it keeps what it needs of it.
            self.handles.remove(0);
        }
        let handle = domain.collector.register();
        let guard = handle.pin();
        self.handles.push((domain.id, handle));
        guard
    }
}

impl Domain {
    /// A domain without sections.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // ORDERING: relaxed: only that numbers differ matters.
        Domain { id: NEXT.fetch_add(1, Ordering::Relaxed), collector: Collector::new() }
    }

    /// Begins a section; dropping it ends it. Sections nest. Has a full barrier.
    pub fn enter(&self) -> Guard {
        THREAD.with_borrow_mut(|thread| thread.pin(self))
    }

    /// Turns this thread's interrupts off: a section that lasts until [`local_irq_enable`].
    pub fn local_irq_disable(&self) {
        THREAD.with_borrow_mut(|thread| {
            debug_assert!(thread.irqs_off.is_none(), "interrupts are off already");
            thread.irqs_off = Some(thread.pin(self));
        });
    }

    /// Runs `f` when every section that has begun by now has ended, some time.
    pub fn defer(&self, f: impl FnOnce() + Send + 'static) {
        let guard = self.enter();
        guard.defer(f);
        guard.flush();
    }

    /// Waits until every section has ended that has begun by now. `kick` is called over and over
    /// meanwhile.
    ///
    /// The calling thread is in no section.
    pub fn synchronize(&self, mut kick: impl FnMut()) {
        let over = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&over);
        // ORDERING: release pairs with the acquire below: what sections did is seen after them.
        self.defer(move || set.store(true, Ordering::Release));
        let backoff = Backoff::new();
        // ORDERING: as above.
        while !over.load(Ordering::Acquire) {
            kick();
            self.help();
            backoff.snooze();
        }
    }

    /// Moves the epoch on, if nobody holds it up.
    pub fn help(&self) {
        self.enter().flush();
    }
}

impl Default for Domain {
    fn default() -> Self {
        Domain::new()
    }
}

/// Turns this thread's interrupts on.
pub fn local_irq_enable() {
    THREAD.with_borrow_mut(|thread| thread.irqs_off = None);
}

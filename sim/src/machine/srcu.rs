//! SRCU: who reads, and whose grace period still waits for whom. RCU stands on it, too.
//!
//! A grace period waits for just the read sections that had begun when it did: it notes who reads,
//! and a thread that ends a section removes itself from every such note.

use core::fmt;
use core::panic::Location;

use kvmmu_model::{LockId, Mode, Srcu, Tag};

use super::pending::{Kind, Pending};
use super::state::Machine;
use super::word::SimWord;
use crate::record::event::What;

/// How many threads there may be, the stop phase included: a note is a row of this many bits.
const THREADS: u32 = 8;
/// The first column of all rows.
const COLUMN: u64 = 0x0101_0101_0101_0101;

/// The operand of the step that begins a grace period. That of a read section has none.
const SYNCHRONIZE: u64 = 1;

/// What the thread wants that waits like this for an SRCU.
pub(crate) fn mode_of(pending: &Pending) -> Mode {
    match (pending.kind, pending.arg) {
        (Kind::Rmw, 0) => Mode::Read,
        _ => Mode::Synchronize,
    }
}

/// An SRCU domain of the simulated machine.
#[derive(Clone, Copy)]
pub struct SimSrcu {
    machine: &'static Machine,
    /// Who reads, a bit for each thread.
    readers: SimWord,
    /// Row t: the readers that thread t waits for.
    owed: SimWord,
    /// How many sections each thread is in, a byte each. It follows from what the thread has done,
    /// so it is not part of the key of a state.
    depths: u16,
    bit: u8,
    contended: bool,
}

impl SimSrcu {
    pub(crate) fn new(machine: &'static Machine, id: LockId) -> SimSrcu {
        assert!(id.class.info().kind.has_sections(), "{:?} is no SRCU", id.class);
        let readers = SimWord::new(machine, Tag::lock(id), 0);
        SimSrcu {
            machine,
            readers,
            // Where nobody waits for readers there is nothing to note.
            owed: if id.contended { SimWord::new(machine, Tag::lock(id), 0) } else { readers },
            depths: machine.arena.take(1),
            bit: machine.new_bit(id, Mode::Read),
            contended: id.contended,
        }
    }

    /// The row and column of the running thread; the stop phase has the last.
    pub(super) fn me(&self) -> u32 {
        let thread = u32::from(self.machine.running.get());
        let stop = thread == super::THREADS_MAX as u32;
        assert!(stop || thread < THREADS - 1, "SRCU is for {} threads", THREADS - 1);
        thread.min(THREADS - 1)
    }

    /// Who reads, a bit for each thread. The step depends on it.
    pub(super) fn who(&self, site: &'static Location<'static>) -> u8 {
        // Each thread has one of as many columns.
        self.readers.value(site) as u8
    }

    /// In how many sections the running thread is.
    pub(super) fn depth(&self) -> u64 {
        self.machine.arena.get(self.depths) >> (self.me() * THREADS) & 0xff
    }

    /// The running thread enters a section, or leaves one.
    fn set_depth(&self, depth: u64) {
        let shift = self.me() * THREADS;
        let others = self.machine.arena.get(self.depths) & !(0xff << shift);
        self.machine.arena.set(self.depths, others | depth << shift);
    }

    pub(super) fn trace(&self, site: &'static Location<'static>, what: impl FnOnce(Tag) -> What) {
        let m = self.machine;
        if m.tracer.on() {
            m.tracer.record(m.running.get(), site, what(self.readers.tag()));
        }
    }
}

impl Srcu for SimSrcu {
    type Section<'a> = Section<'a>;

    #[track_caller]
    fn read_lock(&self) -> Section<'_> {
        let (m, site) = (self.machine, Location::caller());
        let depth = self.depth();
        m.ask(self.bit, site);
        if self.contended && depth == 0 {
            self.readers.pause(Kind::Rmw, 0, site);
            let readers = self.readers.value(site);
            self.readers.note(1);
            self.readers.poke(readers | 1 << self.me());
        }
        self.set_depth(depth + 1);
        m.hold(1 << self.bit);
        self.trace(site, |object| What::Acquire { object, mode: Mode::Read });
        Section { srcu: self, site }
    }

    #[track_caller]
    fn synchronize(&self) {
        let site = Location::caller();
        assert!(self.contended, "a grace period of an SRCU for which none was announced");
        self.machine.ask_to_synchronize(self.bit, site);
        self.readers.pause(Kind::Rmw, SYNCHRONIZE, site);
        let row = self.me() * THREADS;
        let readers = self.readers.value(site);
        self.readers.note(u64::from(readers != 0));
        self.trace(site, |object| What::GracePeriod { object, over: readers == 0 });
        if readers != 0 {
            self.owed.poke(self.owed.peek() | readers << row);
            self.owed.pause(Kind::WaitClear, 0xff << row, site);
            self.owed.value(site);
            self.owed.note(1);
            self.trace(site, |object| What::GracePeriod { object, over: true });
        }
    }
}

/// A read section of a [`SimSrcu`].
#[derive(Debug)]
pub struct Section<'a> {
    srcu: &'a SimSrcu,
    site: &'static Location<'static>,
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let SimSrcu { machine: m, readers, owed, bit, contended, .. } = *self.srcu;
        if !m.holds_any(1 << bit) {
            m.foreign_release(readers.tag(), self.site);
        }
        // Sections need not end in the order in which they began: the last one ends them all.
        let depth = self.srcu.depth().saturating_sub(1);
        self.srcu.set_depth(depth);
        if depth == 0 {
            m.unhold(1 << bit);
            if contended {
                let me = self.srcu.me();
                readers.poke(readers.peek() & !(1 << me));
                owed.poke(owed.peek() & !(COLUMN << me));
            }
        }
        self.srcu.trace(self.site, |object| What::Release { object });
    }
}

impl fmt::Debug for SimSrcu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.readers, f)
    }
}

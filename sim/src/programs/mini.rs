//! Small programs with known numbers of traces: what the explorers are tested and measured with.
//!
//! Each is written once against [`Platform`], so that other machines can run them too.

use kvmmu_model::{Lock, LockClass, Object, Ordering::SeqCst, Platform, Tag, Word};

use crate::machine::platform::Sim;
use crate::record::rule::Rule;
use crate::run::program::{Instance, Program};

/// A small program, not yet on a machine.
pub trait Mini: Sync {
    /// The program on a machine.
    type On<P: Platform>: OnMachine;
    /// The names of its threads.
    fn threads(&self) -> Vec<String>;
    /// Puts it on a machine.
    fn on<P: Platform>(&self, platform: &P) -> Self::On<P>;
}

/// A small program on a machine.
pub trait OnMachine {
    /// The body of a thread.
    fn run(&self, thread: usize);
    /// What is wrong when every thread has ended, if anything is.
    fn wrong(&self) -> Option<(&'static str, &'static str)> {
        None
    }
}

/// Makes a [`Program`] of a small program.
#[derive(Clone, Copy, Debug)]
pub struct Simulated<M>(pub M);

struct Running<O> {
    on: O,
    sim: Sim,
}

impl<M: Mini> Program for Simulated<M>
where
    M::On<Sim>: 'static,
{
    fn threads(&self) -> Vec<String> {
        self.0.threads()
    }
    fn build(&self, platform: &Sim) -> Box<dyn Instance> {
        Box::new(Running { on: self.0.on(platform), sim: *platform })
    }
}

impl<O: OnMachine> Instance for Running<O> {
    fn run(&self, thread: usize) {
        self.on.run(thread);
    }
    fn stop(&self) {
        if let Some((property, detail)) = self.on.wrong() {
            self.sim.violate(Rule::Own(property), || detail.to_string());
        }
    }
}

fn names(prefix: &str, n: usize) -> impl Iterator<Item = String> {
    (0..n).map(move |i| format!("{prefix}{i}"))
}

fn var(i: usize) -> Tag {
    Tag::nth(Object::Var, i)
}

/// N writers and a scanner (Abdulla et al., POPL 2014): (N + 3) * 2^(N - 2) traces.
#[derive(Clone, Copy, Debug)]
pub struct LastZero(pub usize);

/// [`LastZero`] on a machine.
#[derive(Debug)]
pub struct LastZeroOn<P: Platform>(Vec<P::Word>);

impl Mini for LastZero {
    type On<P: Platform> = LastZeroOn<P>;
    fn threads(&self) -> Vec<String> {
        core::iter::once("scanner".to_string()).chain(names("writer", self.0)).collect()
    }
    fn on<P: Platform>(&self, platform: &P) -> LastZeroOn<P> {
        LastZeroOn((0..=self.0).map(|i| platform.word(var(i), 0)).collect())
    }
}

impl<P: Platform> OnMachine for LastZeroOn<P> {
    fn run(&self, thread: usize) {
        match thread {
            0 => {
                let mut i = self.0.len() - 1;
                while self.0[i].load(SeqCst) != 0 {
                    i -= 1;
                }
            }
            j => self.0[j].store(self.0[j - 1].load(SeqCst) + 1, SeqCst),
        }
    }
}

/// One writer and N readers of one word: 2^N traces.
#[derive(Clone, Copy, Debug)]
pub struct Readers(pub usize);

/// [`Readers`] on a machine.
#[derive(Debug)]
pub struct ReadersOn<P: Platform>(P::Word);

impl Mini for Readers {
    type On<P: Platform> = ReadersOn<P>;
    fn threads(&self) -> Vec<String> {
        core::iter::once("writer".to_string()).chain(names("reader", self.0)).collect()
    }
    fn on<P: Platform>(&self, platform: &P) -> ReadersOn<P> {
        ReadersOn(platform.word(var(0), 0))
    }
}

impl<P: Platform> OnMachine for ReadersOn<P> {
    fn run(&self, thread: usize) {
        match thread {
            0 => self.0.store(42, SeqCst),
            _ => drop(self.0.load(SeqCst)),
        }
    }
}

/// Store buffering: each of N threads writes its word and reads its neighbour's. All of them read 0
/// under TSO only.
#[derive(Clone, Copy, Debug)]
pub struct StoreBuffering(pub usize);

/// [`StoreBuffering`] on a machine.
#[derive(Debug)]
pub struct StoreBufferingOn<P: Platform>(Vec<P::Word>);

impl Mini for StoreBuffering {
    type On<P: Platform> = StoreBufferingOn<P>;
    fn threads(&self) -> Vec<String> {
        names("thread", self.0).collect()
    }
    fn on<P: Platform>(&self, platform: &P) -> StoreBufferingOn<P> {
        StoreBufferingOn((0..self.0).map(|i| platform.word(var(i), 0)).collect())
    }
}

impl<P: Platform> OnMachine for StoreBufferingOn<P> {
    fn run(&self, thread: usize) {
        self.0[thread].store(1, SeqCst);
        self.0[(thread + 1) % self.0.len()].load(SeqCst);
    }
}

/// The fast page fault in miniature, as `peers/fpf.c`: one SPTE, vCPUs that write through it, a
/// zapper and a harvester under a lock. A guest write that retired must be reported dirty
/// somewhere.
#[derive(Clone, Copy, Debug)]
pub struct FastFault {
    /// How many vCPUs.
    pub vcpus: usize,
    /// How many writes each.
    pub writes: usize,
    /// With a zapper.
    pub zap: bool,
    /// With a harvester.
    pub harvest: bool,
    /// The zapper uses a plain store where it thinks that nothing can change (VARIANT=2).
    pub plain_store: bool,
}

impl FastFault {
    /// The correct program (VARIANT=3).
    pub const fn new(vcpus: usize, writes: usize) -> FastFault {
        FastFault { vcpus, writes, zap: true, harvest: true, plain_store: false }
    }
}

/// [`FastFault`] on a machine.
#[derive(Debug)]
pub struct FastFaultOn<P: Platform> {
    platform: P,
    program: FastFault,
    spte: P::Word,
    wrote: P::Word,
    dirty_zap: P::Word,
    dirty_log: P::Word,
    mmu_lock: P::Lock<()>,
}

const P: u64 = 1;
const W: u64 = 2;
const A: u64 = 4;
const D: u64 = 8;
const MW: u64 = 16;
const HW: u64 = 32;

impl Mini for FastFault {
    type On<X: Platform> = FastFaultOn<X>;
    fn threads(&self) -> Vec<String> {
        let zapper = self.zap.then(|| "zapper".to_string());
        let harvester = self.harvest.then(|| "harvester".to_string());
        names("vcpu", self.vcpus).chain(zapper).chain(harvester).collect()
    }
    fn on<X: Platform>(&self, platform: &X) -> FastFaultOn<X> {
        FastFaultOn {
            platform: platform.clone(),
            program: *self,
            spte: platform.word(Tag::one(Object::Spte), P | A | MW | HW),
            wrote: platform.word(var(0), 0),
            dirty_zap: platform.word(var(1), 0),
            dirty_log: platform.word(var(2), 0),
            mmu_lock: platform.lock(LockClass::MmuLock.one(), ()),
        }
    }
}

impl<X: Platform> OnMachine for FastFaultOn<X> {
    fn run(&self, thread: usize) {
        match thread - self.program.vcpus.min(thread) {
            _ if thread < self.program.vcpus => self.vcpu(),
            0 if self.program.zap => self.zapper(),
            _ => self.harvester(),
        }
    }

    fn wrong(&self) -> Option<(&'static str, &'static str)> {
        let dirty = self.dirty_zap.load(SeqCst) != 0
            || self.spte.load(SeqCst) & D != 0
            || self.dirty_log.load(SeqCst) != 0;
        (self.wrote.load(SeqCst) != 0 && !dirty).then_some(("lost-dirty", "a write is not logged"))
    }
}

impl<X: Platform> FastFaultOn<X> {
    /// The hardware's page walk for a write: sets A and D if P and W, or faults.
    fn hw_write(&self) -> bool {
        self.platform.call("hw_write", || {
            let mut v = self.spte.load(SeqCst);
            loop {
                if v & P == 0 || v & W == 0 {
                    return false;
                }
                let set = || self.spte.compare_exchange(v, v | A | D, SeqCst, SeqCst);
                match self.platform.lockless(set) {
                    Ok(_) => return true,
                    Err(found) => v = found,
                }
                self.platform.checkpoint(v);
            }
        })
    }

    fn fast_page_fault(&self) {
        self.platform.call("fast_page_fault", || {
            let old = self.spte.load(SeqCst);
            if old & (P | W | MW | HW) == P | MW | HW {
                let fix = || self.spte.compare_exchange(old, old | W, SeqCst, SeqCst);
                let _ = self.platform.lockless(fix);
            }
        });
    }

    fn vcpu(&self) {
        for write in 0..self.program.writes {
            self.platform.checkpoint(write);
            self.platform.lockless(|| self.guest_write());
        }
    }

    fn guest_write(&self) {
        if self.hw_write() {
            self.wrote.add(1, SeqCst);
            return;
        }
        self.fast_page_fault();
        if self.hw_write() {
            self.wrote.add(1, SeqCst);
        }
    }

    fn zapper(&self) {
        let _guard = self.mmu_lock.lock();
        let old = if self.program.plain_store {
            let old = self.spte.load(SeqCst);
            if old & A != 0 && old & W == 0 {
                self.spte.store(0, SeqCst);
                old
            } else {
                self.spte.swap(0, SeqCst)
            }
        } else {
            self.spte.swap(0, SeqCst)
        };
        self.platform.checkpoint(old & D);
        if old & D != 0 {
            self.dirty_zap.store(1, SeqCst);
        }
    }

    fn harvester(&self) {
        let _guard = self.mmu_lock.lock();
        let mut v = self.spte.load(SeqCst);
        while v & P != 0 && v & (W | D) != 0 {
            match self.spte.compare_exchange(v, v & !(W | D), SeqCst, SeqCst) {
                Ok(_) => {
                    if v & D != 0 {
                        self.dirty_log.store(1, SeqCst);
                    }
                    break;
                }
                Err(found) => v = found,
            }
            self.platform.checkpoint(v);
        }
    }
}

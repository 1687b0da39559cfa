//! Stateright: its users write the machine by hand, as here the fast page fault in miniature.

use std::time::Instant;

use kvmmu_sim::mini::FastFault;
use stateright::{Checker, Model, Property};

use crate::peer::States;

const P: u8 = 1;
const W: u8 = 2;
const A: u8 = 4;
const D: u8 = 8;
const MW: u8 = 16;
const HW: u8 = 32;

/// Searches all states of the program, depth first, by one thread.
///
/// # Panics
/// If it finds a lost write, or no machine was written for the program.
pub fn run(program: FastFault) -> States {
    let whole = program.zap && program.harvest && !program.plain_store;
    assert!(whole && program.vcpus + 2 <= THREADS, "no machine was written for it");
    let started = Instant::now();
    let checker = Machine(program).checker().spawn_dfs().join();
    let seconds = started.elapsed().as_secs_f64();
    checker.assert_properties();
    States { unique: checker.unique_state_count() as u64, seconds }
}

/// Three vCPUs, the zapper and the harvester.
const THREADS: usize = 5;

struct Machine(FastFault);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    spte: u8,
    wrote: u8,
    dirty_zap: bool,
    dirty_log: bool,
    locked: bool,
    threads: [Thread; THREADS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Thread {
    at: At,
    /// The SPTE that it has read.
    seen: u8,
    /// Writes that are over.
    writes: u8,
    /// The fault of this write is over.
    faulted: bool,
}

/// Where a thread is: the next access of memory or of the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Walk,
    SetDirty,
    Fault,
    Fix,
    Write,
    ZapLock,
    Zap,
    ZapLog,
    HarvestLock,
    Harvest,
    Protect,
    HarvestLog,
    Unlock,
    End,
}

impl Thread {
    const fn at(at: At) -> Thread {
        Thread { at, seen: 0, writes: 0, faulted: false }
    }

    /// The hardware's walk has seen an SPTE.
    fn walked(&mut self, spte: u8, program: &FastFault) {
        self.seen = spte;
        if spte & (P | W) == P | W {
            self.at = At::SetDirty;
        } else if self.faulted {
            self.written(program);
        } else {
            self.at = At::Fault;
        }
    }

    /// A write of the guest is over.
    fn written(&mut self, program: &FastFault) {
        let writes = self.writes + 1;
        let at = if usize::from(writes) < program.writes { At::Walk } else { At::End };
        *self = Thread { writes, ..Thread::at(at) };
    }

    /// The harvester has seen an SPTE.
    fn harvests(&mut self, spte: u8) {
        self.seen = spte;
        let dirty = spte & P != 0 && spte & (W | D) != 0;
        self.at = if dirty { At::Protect } else { At::Unlock };
    }
}

impl Model for Machine {
    type State = State;
    type Action = usize;

    fn init_states(&self) -> Vec<State> {
        let mut threads = [Thread::at(At::End); THREADS];
        threads[0] = Thread::at(At::ZapLock);
        threads[1] = Thread::at(At::HarvestLock);
        threads[2..2 + self.0.vcpus].fill(Thread::at(At::Walk));
        let (dirty_zap, dirty_log, locked) = (false, false, false);
        vec![State { spte: P | A | MW | HW, wrote: 0, dirty_zap, dirty_log, locked, threads }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<usize>) {
        let ended = |at| at == At::End;
        actions.extend((0..THREADS).filter(|&thread| !ended(state.threads[thread].at)));
    }

    fn next_state(&self, state: &State, index: usize) -> Option<State> {
        let mut next = state.clone();
        let mut thread = state.threads[index];
        let spte = state.spte;
        match thread.at {
            At::Walk => thread.walked(spte, &self.0),
            At::SetDirty if spte != thread.seen => thread.walked(spte, &self.0),
            At::SetDirty => {
                next.spte |= A | D;
                thread.at = At::Write;
            }
            At::Fault => {
                thread.seen = spte;
                thread.faulted = true;
                let fix = spte & (P | W | MW | HW) == P | MW | HW;
                thread.at = if fix { At::Fix } else { At::Walk };
            }
            At::Fix => {
                if spte == thread.seen {
                    next.spte |= W;
                }
                thread.at = At::Walk;
            }
            At::Write => {
                next.wrote += 1;
                thread.written(&self.0);
            }
            At::ZapLock | At::HarvestLock if state.locked => return None,
            At::ZapLock => {
                next.locked = true;
                thread.at = At::Zap;
            }
            At::Zap => {
                next.spte = 0;
                thread.at = if spte & D != 0 { At::ZapLog } else { At::Unlock };
            }
            At::ZapLog => {
                next.dirty_zap = true;
                thread.at = At::Unlock;
            }
            At::HarvestLock => {
                next.locked = true;
                thread.at = At::Harvest;
            }
            At::Harvest => thread.harvests(spte),
            At::Protect if spte != thread.seen => thread.harvests(spte),
            At::Protect => {
                next.spte &= !(W | D);
                thread.at = if spte & D != 0 { At::HarvestLog } else { At::Unlock };
            }
            At::HarvestLog => {
                next.dirty_log = true;
                thread.at = At::Unlock;
            }
            At::Unlock => {
                next.locked = false;
                thread = Thread::at(At::End);
            }
            At::End => return None,
        }
        next.threads[index] = thread;
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("no write is lost", |_, state: &State| {
            let over = state.threads.iter().all(|thread| thread.at == At::End);
            let logged = state.dirty_zap || state.dirty_log || state.spte & D != 0;
            !over || state.wrote == 0 || logged
        })]
    }
}

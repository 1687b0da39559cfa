//! What each thread is in: functions, and `mmu_lock`.

use std::collections::BTreeMap;

use crate::event::{Event, What, Word};
use crate::functions;

/// A call that has not returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// Which of [`functions::NAMES`].
    pub function: u8,
    /// Its arguments.
    pub arguments: [u64; 5],
    /// The number of the event.
    pub number: u64,
}

/// How a thread holds `mmu_lock`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// Alone.
    Writer,
    /// Perhaps with others.
    Reader,
}

/// A step of a thread that the rules ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passed {
    /// It has taken the lock.
    Locked,
    /// It has given it back.
    Unlocked,
    /// It returns from this call.
    Returned(Call),
}

/// A thread.
#[derive(Clone, Debug, Default)]
pub struct Thread {
    calls: Vec<Call>,
    /// Locks that it holds, by address, and since when.
    locks: Vec<(u64, Held, u64)>,
}

/// All threads.
#[derive(Clone, Debug, Default)]
pub struct Threads(BTreeMap<u32, Thread>);

/// Functions that a thread is in before it is in any other of those that are recorded.
pub const OUTERMOST: &[&str] = &["kvm_vm_ioctl", "kvm_handle_guest_abort", "kvm_mmu_page_fault"];

/// `_QW_LOCKED`, or the locked byte of a queued spinlock: the lowest byte of either.
const LOCKED: u64 = 0xff;
/// One reader of a queued rwlock (`_QR_BIAS`).
const READER: u64 = 0x200;

impl Thread {
    /// The innermost call of a function that has not returned.
    pub fn inside(&self, name: &str) -> Option<&Call> {
        self.calls.iter().rev().find(|call| functions::name(call.function) == name)
    }

    /// The calls that have not returned, the innermost last.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// How it holds `mmu_lock` of some VM, and since which event.
    pub fn lock(&self) -> Option<(Held, u64)> {
        self.locks.last().map(|(_, held, since)| (*held, *since))
    }
}

impl Threads {
    /// A thread.
    pub fn get(&self, thread: u32) -> Option<&Thread> {
        self.0.get(&thread)
    }

    /// An event happens.
    pub fn see(&mut self, number: u64, event: &Event) -> Option<Passed> {
        let thread = self.0.entry(event.thread).or_default();
        match event.what {
            What::Call { function, arguments } => {
                if OUTERMOST.contains(&functions::name(function)) {
                    // One that ended in another function's code has not said that it returned.
                    thread.calls.clear();
                }
                thread.calls.push(Call { function, arguments, number });
                None
            }
            What::Return { function, .. } => {
                let at = thread.calls.iter().rposition(|call| call.function == function)?;
                let call = thread.calls[at];
                thread.calls.truncate(at);
                Some(Passed::Returned(call))
            }
            What::Word { word: Word::MmuLock, address, old, new } => {
                let held = |word: u64| word & LOCKED == LOCKED || word & LOCKED == 1;
                let readers = |word: u64| (word & 0xffff_ffff) / READER;
                if !held(old) && held(new) {
                    thread.locks.push((address, Held::Writer, number));
                    return Some(Passed::Locked);
                }
                if held(old) && !held(new) {
                    return thread.release(address, Held::Writer);
                }
                // A spinlock has its queue where a rwlock has its readers: only the lowest byte of
                // the latter is ever 0xff.
                match readers(new).cmp(&readers(old)) {
                    core::cmp::Ordering::Greater if readers(new) == readers(old) + 1 => {
                        thread.locks.push((address, Held::Reader, number));
                        Some(Passed::Locked)
                    }
                    core::cmp::Ordering::Less if readers(new) + 1 == readers(old) => {
                        thread.release(address, Held::Reader)
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

impl Thread {
    fn release(&mut self, address: u64, held: Held) -> Option<Passed> {
        let at = self.locks.iter().rposition(|lock| (lock.0, lock.1) == (address, held))?;
        self.locks.remove(at);
        Some(Passed::Unlocked)
    }
}

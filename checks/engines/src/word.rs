//! Shared words over a tool's atomics.
//!
//! Tracked is what some execution writes or frees: any other word cannot distinguish two
//! interleavings; its accesses are neither steps nor seen by the tool. Which words those are is
//! found by running: see `Search::track`. Never tracked are the TLBs, which only their own CPU
//! touches, and, in a machine for the core only, `vcpu->mode` (always in-guest there) and
//! `vcpu->requests`.
//!
//! Next to its atomic each word keeps the value that was written last, for observers.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use kvmmu_model::virt::IN_GUEST_MODE;
use kvmmu_model::{Object, Ordering, Tag, Until, Word};
use kvmmu_scenarios::{Property, lockdep};

use crate::machine::Run;
use crate::primitives::Primitives;
use crate::search::Search;

/// A shared word.
pub struct EngineWord<X: Primitives>(pub(crate) Arc<Inner<X>>);

/// What a word is made of.
pub(crate) struct Inner<X: Primitives> {
    tag: Tag,
    number: u32,
    kind: Kind,
    /// Something protects it from being read, or written.
    protected: (bool, bool),
    run: Arc<Run<X>>,
    /// What was written last.
    value: AtomicU64,
    freed: AtomicBool,
    atomic: OnceLock<X::Atomic>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Tracked if it is written.
    Shared,
    /// Never tracked.
    Private,
    /// Never tracked and always [`IN_GUEST_MODE`], so that every flush waits for every other CPU.
    Mode,
}

impl<X: Primitives> EngineWord<X> {
    pub(crate) fn new(run: &Arc<Run<X>>, number: u32, tag: Tag, init: u64) -> Self {
        let kind = match tag.object {
            Object::TlbView => Kind::Private,
            Object::VcpuRequests if X::CORE_ONLY => Kind::Private,
            Object::VcpuMode if X::CORE_ONLY => Kind::Mode,
            _ => Kind::Shared,
        };
        let needs = |write| lockdep::protectors(tag.object, write).next().is_some();
        EngineWord(Arc::new(Inner {
            tag,
            number,
            kind,
            protected: (needs(false), needs(true)),
            run: Arc::clone(run),
            value: AtomicU64::new(init),
            freed: AtomicBool::new(false),
            atomic: OnceLock::new(),
        }))
    }

    /// The value that was written last, without a step.
    pub fn peek(&self) -> u64 {
        self.0.value.load(Relaxed)
    }

    /// The program begins: from now on accesses are steps.
    pub(crate) fn start(&self, search: &Search) {
        if self.0.kind == Kind::Shared && search.is_tracked(self.0.number) {
            self.0.atomic.get_or_init(|| X::atomic(self.peek()));
        }
    }

    /// The memory of the word is freed, or used again. Another thread may touch the word before or
    /// after: where none writes it, this is the step that distinguishes the two.
    #[track_caller]
    pub(crate) fn poison(&self, freed: bool) {
        let word = &self.0;
        if word.run.is_running() && word.kind == Kind::Shared {
            match word.atomic.get() {
                None => word.run.search.track_freed(word.number),
                Some(a) if !word.run.search.is_written(word.number) => {
                    // ORDERING: relaxed: freeing orders nothing.
                    X::fetch_or(a, 0, Relaxed);
                }
                Some(_) => {}
            }
        }
        word.freed.store(freed, Relaxed);
    }

    /// The tool's atomic, if accesses are steps now.
    fn tracked(&self) -> Option<&X::Atomic> {
        if self.0.run.is_running() { self.0.atomic.get() } else { None }
    }

    /// The word was touched, in the step that runs.
    fn touched(&self) {
        let word = &self.0;
        if word.freed.load(Relaxed) && word.run.is_running() {
            let Tag { object, index } = word.tag;
            let detail = format!("{}[{}][{}] was freed", object.name(), index[0], index[1]);
            word.run.search.violate(Property::UseAfterFree, detail);
        }
    }

    /// The word was written, in the step that runs.
    fn wrote(&self, old: u64, new: u64) {
        let word = &self.0;
        word.value.store(new, Relaxed);
        self.touched();
        if !word.run.is_running() {
            return;
        }
        if word.kind == Kind::Shared && word.atomic.get().is_none() {
            word.run.search.track(word.number);
        }
        if old != new && word.kind == Kind::Shared {
            word.run.changed();
            if word.tag.object == Object::Spte {
                word.run.observe(|observer| observer.spte_written(word.tag, new));
            }
        }
    }

    /// The running thread reads the word.
    fn may_read(&self) {
        if self.0.protected.0 {
            self.0.run.check_protected(self.0.tag.object, false);
        }
    }

    /// The running thread writes the word.
    fn may_write(&self) {
        if self.0.protected.1 {
            self.0.run.check_protected(self.0.tag.object, true);
        }
    }

    /// A read-modify-write.
    #[track_caller]
    fn write(&self, tracked: impl FnOnce(&X::Atomic) -> u64, new: impl FnOnce(u64) -> u64) -> u64 {
        let old = self.update(tracked, new);
        self.may_write();
        old
    }

    /// The same by who may wait for the word without what protects it.
    #[track_caller]
    fn update(&self, tracked: impl FnOnce(&X::Atomic) -> u64, new: impl FnOnce(u64) -> u64) -> u64 {
        let old = self.tracked().map_or_else(|| self.peek(), tracked);
        self.wrote(old, new(old));
        old
    }
}

impl<X: Primitives> Word for EngineWord<X> {
    #[track_caller]
    fn load(&self, order: Ordering) -> u64 {
        if self.0.kind == Kind::Mode {
            return IN_GUEST_MODE;
        }
        let value = self.tracked().map_or_else(|| self.peek(), |a| X::load(a, order));
        self.touched();
        self.may_read();
        value
    }
    #[track_caller]
    fn store(&self, value: u64, order: Ordering) {
        if let Some(a) = self.tracked() {
            X::store(a, value, order);
        }
        self.wrote(self.peek(), value);
        self.may_write();
    }
    #[track_caller]
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.write(|a| X::swap(a, value, order), |_| value)
    }
    #[track_caller]
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        if self.0.kind == Kind::Mode {
            return Ok(IN_GUEST_MODE);
        }
        let result = match self.tracked() {
            Some(a) => X::compare_exchange(a, (current, new), (success, failure)),
            None if self.peek() == current => Ok(current),
            None => Err(self.peek()),
        };
        match result {
            Ok(old) => self.wrote(old, new),
            Err(_) => self.touched(),
        }
        self.may_write();
        result
    }
    #[track_caller]
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.write(|a| X::fetch_or(a, bits, order), |old| old | bits)
    }
    #[track_caller]
    fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        self.write(|a| X::fetch_and(a, bits, order), |old| old & bits)
    }
    #[track_caller]
    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.write(|a| X::fetch_add(a, value, order), |old| old.wrapping_add(value))
    }
    #[track_caller]
    fn wait_until(&self, until: Until) -> u64 {
        let search = &self.0.run.search;
        let retries = u32::from(self.0.tag.object == Object::NotifierSeq);
        loop {
            // A read-modify-write, because a load may return an old value again and again.
            // ORDERING: acq-rel: a waiter sees what was done before the value was written.
            let value = self.update(|a| X::fetch_or(a, 0, Ordering::AcqRel), |old| old);
            if until.is_met_by(value) {
                return value;
            }
            search.retrying.fetch_add(retries, Relaxed);
            self.0.run.wait_while(|| !until.is_met_by(self.peek()));
            search.retrying.fetch_sub(retries, Relaxed);
        }
    }
}

impl<X: Primitives> fmt::Debug for EngineWord<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?} = {:#x}", self.0.tag.object.name(), self.0.tag.index, self.peek())
    }
}

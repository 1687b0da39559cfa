//! What a fault maps was looked up while nothing was being invalidated.
//!
//! A fault reads the sequence of invalidations, looks the page up without a lock, takes `mmu_lock`,
//! and tries again if an invalidation is under way or has ended meanwhile (`mmu_notifier_retry`).

use std::collections::BTreeMap;

use super::{Findings, Rule};
use crate::event::{What, Word};
use crate::functions::MAKE_VM;
use crate::judge::Now;
use crate::step::Step;

/// Functions that a fault is in from its beginning to its end.
const FAULTS: &[&str] = &["kvm_mmu_page_fault", "kvm_handle_guest_abort"];

/// What a fault may be in as well, when the look-up of its page changes the host's tables: what is
/// mapped then is the host's doing.
const CHANGE_PTE: &[&str] =
    &["kvm_mmu_notifier_change_pte", "kvm_set_spte_gfn", "kvm_set_spte_hva"];

/// What is known of invalidations, and what faults have read of them.
#[derive(Debug, Default)]
pub(super) struct Retry {
    /// How many are under way.
    count: u64,
    /// How many have ended.
    sequence: u64,
    /// By thread: the sequence that its fault read without the lock, and the event.
    read: BTreeMap<u32, (u64, u64)>,
    /// The first such event of this VM: what faults read before is not known.
    since: Option<u64>,
    /// Of any VM.
    pub(super) reads: u64,
}

impl Retry {
    pub(super) fn see(&mut self, now: &Now<'_>, findings: &mut Findings) {
        let thread = now.event.thread;
        if let Some((name, _)) = now.call() {
            if MAKE_VM.contains(&name) {
                *self = Retry { reads: self.reads, ..Retry::default() };
            }
            if FAULTS.contains(&name) {
                self.read.remove(&thread);
            }
        }
        match now.event.what {
            What::Word { word: Word::InvalidateCount, new, .. } => self.count = new,
            What::Word { word: Word::InvalidateSeq, new, .. } => self.sequence = new,
            What::Read { word: Word::InvalidateSeq, value, .. } if now.thread.lock().is_none() => {
                self.reads += 1;
                self.since.get_or_insert(now.number);
                self.read.insert(thread, (value, now.number));
            }
            _ => {}
        }
        let fault = FAULTS.iter().find_map(|name| now.thread.inside(name));
        let changes = CHANGE_PTE.iter().any(|name| now.thread.inside(name).is_some());
        let mapped = now.stored.filter(|stored| stored.step == Step::Map && !changes);
        if let (Some(stored), Some(fault), Some(since)) = (mapped, fault, self.since)
            && fault.number > since
        {
            self.mapped(now, stored.spot.gfn, findings);
        }
    }

    /// A fault sees, under the lock, that what it has looked up may have been invalidated.
    pub(super) fn was_invalidated(&self, now: &Now<'_>) -> bool {
        let What::Read { word, value, .. } = now.event.what else { return false };
        let read = self.read.get(&now.event.thread);
        now.thread.lock().is_some()
            && match word {
                Word::InvalidateSeq => read.is_some_and(|(sequence, _)| *sequence != value),
                Word::InvalidateCount => value > 0 && now.kernel.waits_for_all,
                Word::MmuLock | Word::DirtyBitmap => false,
            }
    }

    fn mapped(&self, now: &Now<'_>, gfn: u64, findings: &mut Findings) {
        let wanted = "the fault tries again: mmu_notifier_retry, under mmu_lock".to_owned();
        let why = match self.read.get(&now.event.thread) {
            None => "without a look at the sequence of invalidations first".to_owned(),
            Some((sequence, _)) if *sequence != self.sequence => format!(
                "looked up at sequence {sequence:#x}, and an invalidation has ended since ({:#x})",
                self.sequence
            ),
            // Where a fault waits for those of its own range only, this says nothing of it.
            Some(_) if self.count > 0 && now.kernel.waits_for_all => {
                "while an invalidation is under way".to_owned()
            }
            Some(_) => return findings.holds(Rule::FaultRetries),
        };
        let read = self.read.get(&now.event.thread).map(|(_, number)| *number);
        let about: Vec<u64> = read.into_iter().collect();
        let what = format!("gfn {gfn:#x} is mapped, {why}");
        findings.broken(Rule::FaultRetries, &about, now.number, (what, wanted));
    }
}

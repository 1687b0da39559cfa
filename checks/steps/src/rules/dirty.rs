//! A page that guests may write is in the dirty log before the lock is given back, or, where there
//! was none, before the guest goes on.

use super::{Findings, Rule};
use crate::event::What;
use crate::judge::Now;
use crate::layout::Entry;
use crate::step::Step;
use crate::threads::Passed;

/// Pages that guests were allowed to write, by threads that hold the lock.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Thread, first frame, number of frames, event.
    allowed: Vec<(u32, u64, u64, u64)>,
    /// Thread and frame: marked since the thread has the lock.
    marked: Vec<(u32, u64)>,
    marks: u64,
}

impl Dirty {
    /// True if some page was marked.
    pub(super) fn has_marks(&self) -> bool {
        self.marks > 0
    }

    pub(super) fn see(&mut self, now: &Now<'_>, findings: &mut Findings) {
        let thread = now.event.thread;
        if let Some(gfn) = marked(now) {
            self.marks += 1;
            self.marked.push((thread, gfn));
        }
        if let Some(stored) = now.stored.filter(|stored| !stored.spot.detached)
            && matches!(stored.step, Step::Map | Step::Relax)
            && now.slots.logs(stored.spot.gfn)
        {
            let writable = |word| {
                let entry = now.trees.layout.entry(word, stored.spot.level);
                matches!(entry, Entry::Leaf(leaf) if leaf.writable)
            };
            if writable(stored.new) && !writable(stored.old) {
                self.allowed.push((thread, stored.spot.gfn, stored.spot.frames, now.number));
            }
        }
        match now.passed {
            Some(Passed::Locked) => {
                // What was done without the lock is over by then.
                self.over(now, Rule::DirtyBeforeEntry, findings);
                self.marked.retain(|(of, _)| *of != thread);
            }
            Some(Passed::Unlocked) => self.over(now, Rule::DirtyBeforeUnlock, findings),
            _ => {}
        }
        if let What::Enter { .. } = now.event.what {
            self.over(now, Rule::DirtyBeforeEntry, findings);
            self.marked.retain(|(of, _)| *of != thread);
        }
    }

    /// What a thread has let guests write must be marked by now.
    fn over(&mut self, now: &Now<'_>, rule: Rule, findings: &mut Findings) {
        let thread = now.event.thread;
        for (_, gfn, frames, event) in self.allowed.extract_if(.., |(of, ..)| *of == thread) {
            let marked = |(of, at): &(u32, u64)| *of == thread && (gfn..gfn + frames).contains(at);
            if self.marked.iter().any(marked) {
                findings.holds(rule);
                continue;
            }
            let what = format!("gfn {gfn:#x} is writable and not marked dirty");
            let wanted = match rule {
                Rule::DirtyBeforeEntry => "mark_page_dirty, before the guest is entered",
                _ => "mark_page_dirty, before mmu_lock is given back",
            };
            findings.broken(rule, &[event], now.number, (what, wanted.to_owned()));
        }
    }
}

/// The frame that an event marks dirty.
pub(super) fn marked(now: &Now<'_>) -> Option<u64> {
    let (name, arguments) = now.call()?;
    marks(now, name, arguments)
}

/// The frame that a call of this function marks dirty.
pub(super) fn marks(now: &Now<'_>, name: &str, arguments: [u64; 5]) -> Option<u64> {
    match name {
        "mark_page_dirty_in_slot" => Some(arguments[now.kernel.marked_frame]),
        "mark_page_dirty" | "kvm_vcpu_mark_page_dirty" => Some(arguments[1]),
        _ => None,
    }
}

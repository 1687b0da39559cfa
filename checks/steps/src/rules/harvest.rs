//! What a harvest of the dirty log takes.

use std::collections::BTreeMap;

use super::{Findings, Rule};
use crate::functions::MAKE_VM;
use crate::judge::Now;
use crate::rules::dirty::{marked, marks};
use crate::step::Step;
use crate::threads::Passed;

/// KVM_GET_DIRTY_LOG: `_IOW(KVMIO, 0x42, struct kvm_dirty_log)`.
const KVM_GET_DIRTY_LOG: u64 = 0x4010_ae42;
/// What takes write permission from the pages of a word of the bitmap.
const PROTECT: &str = "kvm_arch_mmu_enable_log_dirty_pt_masked";

/// Frames that are marked dirty, and by which event.
#[derive(Debug, Default)]
pub(super) struct Harvest {
    marked: BTreeMap<u64, u64>,
    /// A harvest that has the lock: its thread, and what was marked when it got it.
    taking: Option<(u32, BTreeMap<u64, u64>)>,
    /// Frames that guests may write again without the lock, and by which event.
    relaxed: BTreeMap<u64, u64>,
}

impl Harvest {
    pub(super) fn see(&mut self, now: &Now<'_>, findings: &mut Findings) {
        if now.call().is_some_and(|(name, _)| MAKE_VM.contains(&name)) {
            *self = Harvest::default();
        }
        if let Some(gfn) = in_the_log(now).filter(|gfn| now.slots.logs(*gfn)) {
            self.marked.insert(gfn, now.number);
        }
        if let Some(stored) = now.stored
            && stored.step == Step::Relax
            && now.thread.lock().is_none()
        {
            self.relaxed.insert(stored.spot.gfn, now.number);
        }
        let get = now
            .thread
            .inside("kvm_vm_ioctl")
            .filter(|ioctl| ioctl.arguments[1] & 0xffff_ffff == KVM_GET_DIRTY_LOG);
        let Some(base) = now.slots.logged_base() else {
            self.taking = None;
            self.marked.clear();
            return;
        };
        let thread = now.event.thread;
        // What it copies to user space may be away: a notifier has the lock then, and no harvest.
        let innermost = now.thread.calls().last();
        match (now.passed, get) {
            (Some(Passed::Locked), Some(get))
                if self.taking.is_none() && innermost == Some(get) =>
            {
                self.taking = Some((thread, self.marked.clone()));
            }
            _ => {}
        }
        if let Some((PROTECT, [_, _, offset, mask, _])) = now.call() {
            for gfn in frames(base, offset, mask) {
                self.marked.remove(&gfn);
                if let Some((_, taken)) = self.taking.as_mut().filter(|(of, _)| *of == thread) {
                    taken.remove(&gfn);
                }
            }
        }
        match now.returned() {
            Some((PROTECT, [_, _, offset, mask, _], call)) => {
                for gfn in frames(base, offset, mask) {
                    // A fast fault may have come in between: then it marks the page again.
                    if self.relaxed.get(&gfn).is_none_or(|relaxed| *relaxed < call) {
                        protects(now, gfn, call, findings);
                    }
                }
            }
            Some(("kvm_vm_ioctl", [_, KVM_GET_DIRTY_LOG, ..], call)) => {
                let taking = self.taking.take_if(|(of, _)| *of == thread);
                let Some((_, missed)) = taking else { return };
                if missed.is_empty() {
                    findings.holds(Rule::HarvestTakesAll);
                }
                for (gfn, mark) in missed {
                    let what =
                        format!("gfn {gfn:#x} was marked dirty, and this harvest has not it");
                    let wanted = "its bit in the mask, and no W in its descriptor".to_owned();
                    let about = [mark, call];
                    findings.broken(Rule::HarvestTakesAll, &about, now.number, (what, wanted));
                }
            }
            _ => {}
        }
    }
}

/// The frame that is in the dirty log from now on. Under the lock it is as good as there when it is
/// about to be marked; without, a harvest may come first.
fn in_the_log(now: &Now<'_>) -> Option<u64> {
    if now.thread.lock().is_some() {
        return marked(now);
    }
    let (name, arguments, _) = now.returned()?;
    marks(now, name, arguments)
}

/// The frames of a mask.
fn frames(base: u64, offset: u64, mask: u64) -> impl Iterator<Item = u64> {
    (0..64).filter(move |bit| mask >> bit & 1 == 1).map(move |bit| base + offset + bit)
}

/// No descriptor lets guests write the frame.
fn protects(now: &Now<'_>, gfn: u64, call: u64, findings: &mut Findings) {
    match now.trees.leaves(gfn).find(|(_, leaf)| leaf.writable) {
        None => findings.holds(Rule::HarvestProtects),
        Some((_, leaf)) => {
            let what = format!("gfn {gfn:#x} was taken, and is pa {} {}", leaf.page, leaf.rights());
            let wanted = "no W".to_owned();
            findings.broken(Rule::HarvestProtects, &[call], now.number, (what, wanted));
        }
    }
}

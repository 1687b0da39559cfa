//! What stores are done under.

use super::{Findings, Rule};
use crate::judge::Now;
use crate::kernel::Relaxes;
use crate::step::Step;
use crate::threads::Held;

/// An event happens.
pub(super) fn see(now: &Now<'_>, findings: &mut Findings) {
    let Some(stored) = now.stored.filter(|stored| !stored.spot.detached) else { return };
    let held = now.thread.lock().map(|(held, _)| held);
    let gives = matches!(stored.step, Step::Relax | Step::MakeYoung | Step::Same);
    match (held, now.kernel.relaxes) {
        (Some(Held::Writer), _) => findings.holds(Rule::Lock),
        (Some(Held::Reader), Relaxes::AsReader) if gives => findings.holds(Rule::Lock),
        (None, Relaxes::Lockless | Relaxes::LocklessAndReaders) if gives => {
            findings.holds(Rule::Lock);
        }
        (Some(Held::Reader), Relaxes::LocklessAndReaders) => findings.holds(Rule::Lock),
        _ => {
            let how = match held {
                Some(_) => "as a reader of mmu_lock",
                None => "without mmu_lock",
            };
            let what = format!("{} of gfn {:#x} {how}", stored.step, stored.spot.gfn);
            let wanted = "mmu_lock, alone".to_owned();
            findings.broken(Rule::Lock, &[], now.number, (what, wanted));
        }
    }
}

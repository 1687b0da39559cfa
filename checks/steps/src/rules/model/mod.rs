//! What the model makes of the same descriptor: each store is recomputed from the old value and
//! from what the thread is in. SPTEs by the model's transitions; stage 2 in `stage2.rs`.
//!
//! What no store can show is taken from the new value: the page, and whether the host maps it
//! writable (H).

use kvmmu_model::transition::hardware_update;
use kvmmu_model::{Access, FastFault, Guard, NewLeaf, Pfn, Spte, SpteFormat, Transitions};

mod stage2;

use super::{Findings, Rule};
use crate::judge::{Now, Stored};
use crate::kernel::Model;
use crate::layout::Entry;
use crate::step::Step;

/// Bits of the error code of a fault.
const WRITE: u64 = 1 << 1;
const FETCH: u64 = 1 << 4;

/// An event happens.
pub(super) fn see(now: &Now<'_>, findings: &mut Findings) {
    let Some(stored) = now.stored.filter(|stored| !stored.spot.detached) else { return };
    let (algorithm, format) = match &now.kernel.model {
        Some(Model::Spte(algorithm, format)) => (algorithm, format),
        Some(Model::Stage2(version)) => return stage2::see(now, &stored, *version, findings),
        None => return,
    };
    let steps = Transitions { format, algorithm: *algorithm, guard: |_: Guard| true };
    let Some((function, wanted)) = expected(&steps, now, &stored) else { return };
    // Hardware may have set A and D since the value was last seen.
    let by_hardware = || {
        [Access::Read, Access::Write].into_iter().any(|access| {
            let old = hardware_update(format, Spte(stored.old), access).map_or(0, |spte| spte.0);
            let made = old != 0 && old != stored.old;
            made && expected(&steps, now, &Stored { old, ..stored })
                .is_some_and(|(_, wanted)| wanted.contains(&Spte(stored.new)))
        })
    };
    if wanted.contains(&Spte(stored.new)) || by_hardware() {
        findings.holds(Rule::Model);
        return;
    }
    broken(now, &stored, function, wanted.first().map(|spte| spte.0), findings);
}

/// A store is not what a function of the model makes of the old value: that is this, or the
/// function leaves it as it is.
fn broken(
    now: &Now<'_>,
    stored: &Stored,
    function: &str,
    wanted: Option<u64>,
    findings: &mut Findings,
) {
    let level = stored.spot.level;
    let describe = |word| format!("{word:#x} ({})", now.trees.layout.describe(word, level));
    let what = format!("{} becomes {}", describe(stored.old), describe(stored.new));
    let wanted = match wanted {
        Some(word) => format!("{function} of the model makes {} of it", describe(word)),
        None => format!("{function} of the model leaves it as it is"),
    };
    findings.broken(Rule::Model, &[], now.number, (what, wanted));
}

/// The function of the model, and what it may make of the old value; `None`: the model has no such
/// step, and nothing is said.
fn expected<G: Fn(Guard) -> bool>(
    steps: &Transitions<'_, G>,
    now: &Now<'_>,
    stored: &Stored,
) -> Option<(&'static str, Vec<Spte>)> {
    let old = Spte(stored.old);
    let format = steps.format;
    Some(match stored.step {
        // What a compare-and-exchange stores that fails, too.
        Step::Same | Step::Annotate => return None,
        Step::Unmap | Step::Unlink => ("mmu_spte_clear_track_bits", vec![Spte::ZERO]),
        Step::Link => ("link_shadow_page", vec![link(format, stored, now)?]),
        Step::WriteProtect => {
            let made = [false, true].map(|pt| steps.write_protect(old, pt));
            ("spte_write_protect", made.into_iter().flatten().collect())
        }
        Step::MakeOld => ("mmu_spte_age", vec![steps.mark_for_access_track(old)]),
        _ if now.thread.lock().is_none() => {
            let access = fault(now).map_or(Access::Write, |(_, access)| access);
            let logged = now.slots.logs(stored.spot.gfn);
            let level = u8::try_from(stored.spot.level).unwrap_or(1);
            let made = match steps.fast_page_fault(old, level, access, logged) {
                FastFault::Fix(new) => vec![new],
                FastFault::Spurious | FastFault::Refuse => Vec::new(),
            };
            ("fast_page_fault", made)
        }
        Step::Map
        | Step::Relax
        | Step::MakeYoung
        | Step::MakeClean
        | Step::Replace
        | Step::Other => ("make_spte", vec![leaf(steps, now, stored)]),
    })
}

/// `link_shadow_page` to the page that the new value names.
fn link(format: &SpteFormat, stored: &Stored, now: &Now<'_>) -> Option<Spte> {
    let child = now.trees.layout.child(stored.new, stored.spot.level)?;
    Some(format.with_pfn(format.nonleaf(kvmmu_model::SpId(0)), Pfn(child.0)))
}

/// `make_spte` for the page that the new value names.
fn leaf<G: Fn(Guard) -> bool>(steps: &Transitions<'_, G>, now: &Now<'_>, stored: &Stored) -> Spte {
    let (format, new) = (steps.format, Spte(stored.new));
    let frames = stored.spot.gfn..stored.spot.gfn + stored.spot.frames;
    let asked_for = fault(now).is_some_and(|(gfn, _)| frames.contains(&gfn));
    let page = match now.trees.layout.entry(stored.new, stored.spot.level) {
        Entry::Leaf(leaf) => leaf.page,
        _ => crate::event::Frame(0),
    };
    steps.make_spte(NewLeaf {
        pfn: Pfn(page.0),
        level: u8::try_from(stored.spot.level).unwrap_or(1),
        host_writable: format.is_host_writable(new),
        guest_writable: true,
        write_protected_pt: false,
        speculative: !asked_for,
        can_unsync: true,
        old: Spte(stored.old),
    })
}

/// The fault that a thread handles: the frame, and what was tried.
fn fault(now: &Now<'_>) -> Option<(u64, Access)> {
    let [_, address, error, ..] = now.thread.inside("kvm_mmu_page_fault")?.arguments;
    let access = match (error & WRITE != 0, error & FETCH != 0) {
        (true, _) => Access::Write,
        (false, true) => Access::Fetch,
        (false, false) => Access::Read,
    };
    Some((address >> 12, access))
}

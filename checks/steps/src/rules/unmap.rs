//! When an unmap is over, nothing of its range is mapped.

use super::{Findings, Rule};
use crate::event::Arch;
use crate::judge::Now;
use crate::layout::Leaf;

/// No unmap is of more frames: a VM has fewer.
const FRAMES_MAX: u64 = 1 << 20;

/// An event happens.
pub(super) fn see(now: &Now<'_>, findings: &mut Findings) {
    let (pgtable, address, size, call) = match now.returned() {
        Some(("kvm_pgtable_stage2_unmap", [pgtable, address, size, ..], call)) => {
            (pgtable, address, size, call)
        }
        // arm64 has a function of the same name, which the other one is in.
        Some(("kvm_unmap_hva_range", [_, start, end, ..], call))
            if now.kernel.arch == Arch::X86 =>
        {
            return unmapped(now, (start, end), call, findings);
        }
        _ => return,
    };
    let range = address >> 12..(address >> 12) + (size >> 12).min(FRAMES_MAX);
    let Some(root) = now.trees.named(pgtable) else { return };
    match now.trees.first_leaf(root, range) {
        None => findings.holds(Rule::UnmapComplete),
        Some((gfn, leaf)) => still(now, gfn, leaf, call, findings),
    }
}

fn still(now: &Now<'_>, gfn: u64, leaf: Leaf, call: u64, findings: &mut Findings) {
    let what = format!("gfn {gfn:#x} is still pa {} {}", leaf.page, leaf.rights());
    let wanted = "the descriptor cleared".to_owned();
    findings.broken(Rule::UnmapComplete, &[call], now.number, (what, wanted));
}

/// After an unmap of addresses of user space.
fn unmapped(now: &Now<'_>, (start, end): (u64, u64), call: u64, findings: &mut Findings) {
    let frames = now.slots.frames(start..end).take(FRAMES_MAX as usize);
    for gfn in frames {
        match now.trees.leaves(gfn).next() {
            None => findings.holds(Rule::UnmapComplete),
            Some((_, leaf)) => still(now, gfn, leaf, call, findings),
        }
    }
}

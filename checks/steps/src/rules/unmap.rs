//! When an unmap is over, nothing of its range is mapped.

use super::{Findings, Rule};
use crate::judge::Now;

/// No unmap is of more frames: a VM has fewer.
const FRAMES_MAX: u64 = 1 << 20;

/// An event happens.
pub(super) fn see(now: &Now<'_>, findings: &mut Findings) {
    let Some(("kvm_pgtable_stage2_unmap", [pgtable, address, size, ..], call)) = now.returned()
    else {
        return;
    };
    let range = address >> 12..(address >> 12) + (size >> 12).min(FRAMES_MAX);
    let Some(root) = now.trees.named(pgtable) else { return };
    match now.trees.first_leaf(root, range) {
        None => findings.holds(Rule::UnmapComplete),
        Some((gfn, leaf)) => {
            let what = format!("gfn {gfn:#x} is still pa {} {}", leaf.page, leaf.rights());
            let wanted = "the descriptor cleared".to_owned();
            findings.broken(Rule::UnmapComplete, &[call], now.number, (what, wanted));
        }
    }
}

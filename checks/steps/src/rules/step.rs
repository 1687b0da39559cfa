//! Every store is a step of the protocol.

use super::{Findings, Rule};
use crate::event::Arch;
use crate::judge::Now;
use crate::layout::Entry;
use crate::step::Step;

/// An event happens.
pub(super) fn see(now: &Now<'_>, findings: &mut Findings) {
    let Some(stored) = now.stored.filter(|stored| !stored.spot.detached) else { return };
    let layout = now.trees.layout;
    let describe = |word| layout.describe(word, stored.spot.level);
    let becomes = || format!("{} becomes {}", describe(stored.old), describe(stored.new));
    match stored.step {
        Step::Replace if now.kernel.arch == Arch::Arm64 => {
            let wanted = "first an invalid descriptor, then a flush, then the new one".to_owned();
            findings.broken(Rule::BreakBeforeMake, &[], now.number, (becomes(), wanted));
        }
        Step::Replace | Step::Other => {
            let wanted = "permissions that are only given or only taken".to_owned();
            findings.broken(Rule::Step, &[], now.number, (becomes(), wanted));
        }
        _ => findings.holds(Rule::Step),
    }
    if let (Arch::Arm64, Step::Map, Entry::Leaf(leaf)) =
        (now.kernel.arch, stored.step, layout.entry(stored.new, stored.spot.level))
    {
        if leaf.readable && leaf.accessed {
            findings.holds(Rule::Leaf);
        } else {
            let wanted = "R and A set".to_owned();
            let what = format!("the new leaf is {}", describe(stored.new));
            findings.broken(Rule::Leaf, &[], now.number, (what, wanted));
        }
    }
}

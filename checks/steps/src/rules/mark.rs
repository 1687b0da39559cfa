//! A mark reaches the dirty bitmap, or a dirty ring.

use std::collections::BTreeMap;

use super::{Findings, Rule};
use crate::event::{What, Word};
use crate::functions::MARK;
use crate::judge::Now;

/// By thread: it is in a function that marks, and has stored a bit.
#[derive(Debug, Default)]
pub(super) struct Marks(BTreeMap<u32, bool>);

impl Marks {
    pub(super) fn see(&mut self, now: &Now<'_>, findings: &mut Findings) {
        let thread = now.event.thread;
        match (now.call(), &now.event.what) {
            (Some((name, _)), _) if MARK.contains(&name) => {
                self.0.entry(thread).or_insert(false);
            }
            (Some(("kvm_dirty_ring_push", _)), _)
            | (_, What::Word { word: Word::DirtyBitmap, .. }) => {
                self.0.insert(thread, true);
            }
            _ => {}
        }
        let Some((name, arguments, call)) = now.returned() else { return };
        let outer = now.thread.calls().iter().any(|call| {
            let name = crate::functions::name(call.function);
            MARK.contains(&name)
        });
        if !MARK.contains(&name) || outer {
            return;
        }
        let Some(stored) = self.0.remove(&thread) else { return };
        let gfn = super::dirty::marks(now, name, arguments);
        let Some(gfn) = gfn.filter(|gfn| now.slots.logs(*gfn)) else { return };
        if stored {
            return findings.holds(Rule::MarkStores);
        }
        let what = format!("{name} of gfn {gfn:#x} returns, and no bit was stored");
        let wanted = "set_bit in the dirty bitmap of the slot, or a dirty ring".to_owned();
        findings.broken(Rule::MarkStores, &[call], now.number, (what, wanted));
    }
}

//! What the TLBs of x86 may have, by CPU and ASID.
//!
//! KVM asks each vCPU for a flush by a request, waits until it has left the guest, and the next
//! entry drops what is kept under its ASID, or gives it another ASID. So what a TLB may have is as
//! old as the last entry that began with nothing.

use std::collections::BTreeMap;

use crate::event::{EntryFlush, Frame};

/// TLBs.
#[derive(Debug, Default)]
pub(super) struct Tlbs {
    /// By CPU and ASID.
    tags: BTreeMap<(u8, u32), Tag>,
    /// CPUs in a guest, and its ASID.
    inside: BTreeMap<u8, u32>,
    /// The last thing that was taken away from a tree by an operation that is over.
    due: BTreeMap<Frame, u64>,
    /// By vCPU: the tree that it was in last, and the event of that entry.
    last: BTreeMap<u64, (Frame, u64)>,
}

/// What is kept under an ASID of a CPU.
#[derive(Clone, Debug)]
struct Tag {
    /// The event of the entry before which there was nothing.
    since: u64,
    /// The trees that were walked since.
    roots: Vec<Frame>,
}

impl Tlbs {
    /// A vCPU enters: true if something was taken away since its last entry, by an operation that
    /// is over, from the tree that it was in then or from this one.
    pub(super) fn is_due(&mut self, number: u64, vcpu: u64, root: Frame) -> bool {
        let Some((before, since)) = self.last.insert(vcpu, (root, number)) else { return false };
        let due = [before, root].map(|root| self.due.get(&root).copied().unwrap_or(0));
        due.into_iter().any(|taken| taken > since)
    }

    /// A CPU enters a guest. What it may still have of something that an operation has taken away
    /// that is over: the event of that.
    pub(super) fn enter(
        &mut self,
        number: u64,
        (cpu, asid): (u8, u32),
        root: Frame,
        flush: Option<EntryFlush>,
    ) -> Option<u64> {
        match flush {
            Some(EntryFlush::All) => self.tags.retain(|(of, _), _| *of != cpu),
            Some(EntryFlush::Own) => drop(self.tags.remove(&(cpu, asid))),
            None => {}
        }
        self.inside.insert(cpu, asid);
        let new = || Tag { since: number, roots: Vec::new() };
        let tag = self.tags.entry((cpu, asid)).or_insert_with(new);
        if !tag.roots.contains(&root) {
            tag.roots.push(root);
        }
        let due = tag.roots.iter().filter_map(|root| self.due.get(root).copied());
        due.filter(|taken| *taken > tag.since).max()
    }

    /// A CPU has left its guest.
    pub(super) fn exit(&mut self, cpu: u8) {
        self.inside.remove(&cpu);
    }

    /// The first CPU that is in a guest and may use what this event has taken away from trees.
    pub(super) fn inside(&self, taken: u64, roots: &[Frame]) -> Option<u8> {
        let may = |(cpu, asid): &(&u8, &u32)| {
            let tag = self.tags.get(&(**cpu, **asid));
            let walked = |tag: &Tag| tag.roots.iter().any(|root| roots.contains(root));
            tag.is_some_and(|tag| tag.since < taken && walked(tag))
        };
        self.inside.iter().find(may).map(|(cpu, _)| *cpu)
    }

    /// An operation that has taken something away from trees is over.
    pub(super) fn due(&mut self, taken: u64, roots: &[Frame]) {
        for root in roots {
            let due = self.due.entry(*root).or_default();
            *due = taken.max(*due);
        }
    }

    /// The page of a root is used for something else.
    pub(super) fn forget(&mut self, root: Frame) {
        self.due.remove(&root);
        self.tags.values_mut().for_each(|tag| tag.roots.retain(|of| *of != root));
    }

    /// A CPU is in a guest that walks this tree.
    pub(super) fn walks(&self, root: Frame) -> Option<u8> {
        let walks = |(cpu, asid): &(&u8, &u32)| {
            self.tags.get(&(**cpu, **asid)).is_some_and(|tag| tag.roots.contains(&root))
        };
        self.inside.iter().find(walks).map(|(cpu, _)| *cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Frame = Frame(7);

    #[test]
    fn an_entry_with_the_same_asid_keeps_what_was_there() {
        let mut tlbs = Tlbs::default();
        assert_eq!(tlbs.enter(1, (0, 2), ROOT, None), None);
        assert_eq!(tlbs.inside(5, &[ROOT]), Some(0));
        tlbs.exit(0);
        assert_eq!(tlbs.inside(5, &[ROOT]), None);
        tlbs.due(5, &[ROOT]);
        assert_eq!(tlbs.enter(9, (0, 2), ROOT, None), Some(5));
        tlbs.exit(0);
        assert_eq!(tlbs.enter(10, (0, 2), ROOT, Some(EntryFlush::Own)), None);
    }

    #[test]
    fn another_asid_another_cpu_and_another_tree_have_nothing() {
        let mut tlbs = Tlbs::default();
        tlbs.enter(1, (0, 2), ROOT, None);
        tlbs.exit(0);
        tlbs.due(5, &[ROOT]);
        assert_eq!(tlbs.enter(9, (0, 3), ROOT, None), None);
        assert_eq!(tlbs.enter(10, (1, 2), ROOT, None), None);
        assert_eq!(tlbs.enter(11, (0, 2), Frame(8), Some(EntryFlush::All)), None);
        assert_eq!(tlbs.inside(12, &[ROOT]), Some(1), "the other CPU is still there");
    }

    #[test]
    fn a_flush_is_due_once_after_something_was_taken_away() {
        let mut tlbs = Tlbs::default();
        assert!(!tlbs.is_due(1, 9, ROOT), "it was never in");
        assert!(!tlbs.is_due(2, 9, ROOT));
        tlbs.due(5, &[ROOT]);
        assert!(tlbs.is_due(6, 9, Frame(8)), "from the tree that it was in");
        assert!(!tlbs.is_due(7, 9, ROOT));
    }

    #[test]
    fn another_tree_under_the_same_asid_needs_a_flush() {
        let mut tlbs = Tlbs::default();
        tlbs.enter(1, (0, 2), ROOT, None);
        tlbs.due(5, &[ROOT]);
        assert_eq!(tlbs.enter(9, (0, 2), Frame(8), None), Some(5));
    }
}

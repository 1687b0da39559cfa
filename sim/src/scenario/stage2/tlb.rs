//! What a CPU may have cached of stage 2, by the address that it translates.
//!
//! Three kinds of entries, as the Arm ARM lets a CPU cache them (D8.17): what stage 2 gives for an
//! address; the same combined with stage 1, for the guest's virtual address; and the descriptor of
//! a table. An invalidation by the address of stage 2 need not reach what is combined, and one of
//! stage 1 not what is of stage 2 alone.

use core::hash::{Hash, Hasher};

use kvmmu_model::arm64::pgtable::{PT_PAGES, PTRS_PER_PGD, START_LEVEL, granule};
use kvmmu_model::arm64::{Tlbi, TlbiOn};
use kvmmu_model::virt::GFNS;
use kvmmu_model::{Gfn, SpId};

use super::super::few::Few;
use super::super::posted::Posted;

const _: () = assert!(PT_PAGES <= u8::BITS as usize, "Few has a bit for each table");
const _: () = assert!(GFNS <= 8 && 3 * PTRS_PER_PGD <= 8, "a word has eight sets");

/// What may translate a frame, or the frames of a block: pages of the host, of a block the first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Leaves {
    /// Those that may be read.
    pub(super) read: Few,
    /// Those that may be written.
    pub(super) write: Few,
    /// Those that may only be read: they may deny a store.
    pub(super) denies: Few,
}

/// Eight sets, each a byte: views are joined, compared and hashed all the time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Sets(u64);

impl Sets {
    fn get(self, at: usize) -> Few {
        Few((self.0 >> (8 * at)) as u8)
    }
    fn set(&mut self, at: usize, few: Few) {
        self.0 = self.0 & !(0xff << (8 * at)) | u64::from(few.0) << (8 * at);
    }
}

/// Entries of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Class {
    /// Of pages, by frame: [`Leaves::read`], [`Leaves::write`], [`Leaves::denies`].
    pages: [Sets; 3],
    /// Of blocks: the three of each entry of the root.
    blocks: Sets,
}

/// What a CPU may have cached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct View {
    /// Of stage 2 alone.
    pub(super) stage2: Class,
    /// Combined with stage 1.
    pub(super) combined: Class,
    /// Tables that it may walk to, by entry of the root.
    walk: Sets,
}

/// An invalidation that is not complete, and what it drops: nothing, and there is none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Leaving {
    by: Posted,
    what: Option<Tlbi>,
    view: View,
    /// What of it had no other invalidation to wait for: it was cached after those before it.
    fresh: View,
    /// What was dropped before, and is late no more when this is complete.
    late: Late,
}

/// By what pages a store may be done although that was dropped: a store that is translated, and not
/// done yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Late {
    /// Of stage 2 alone, by frame.
    stage2: Sets,
    /// Combined, by frame.
    combined: Sets,
    /// Of blocks, by entry of the root: those of stage 2 alone, and then the combined ones.
    blocks: Sets,
}

impl Late {
    fn of(view: &View) -> Late {
        let writable = |class: &Class| class.pages[1];
        let mut blocks = Sets::default();
        for root in 0..PTRS_PER_PGD {
            blocks.set(root, view.stage2.block(root).write);
            blocks.set(PTRS_PER_PGD + root, view.combined.block(root).write);
        }
        Late { stage2: writable(&view.stage2), combined: writable(&view.combined), blocks }
    }

    fn each(&mut self, other: &Late, f: impl Fn(u64, u64) -> u64) {
        self.stage2.0 = f(self.stage2.0, other.stage2.0);
        self.combined.0 = f(self.combined.0, other.combined.0);
        self.blocks.0 = f(self.blocks.0, other.blocks.0);
    }

    /// What an invalidation waits for.
    fn in_scope(&self, what: Tlbi) -> Late {
        let mut scope = Late::default();
        match what {
            Tlbi::Vmalls12e1 | Tlbi::Alle1 => return *self,
            Tlbi::Vmalle1 => {
                scope.combined = self.combined;
                for root in PTRS_PER_PGD..2 * PTRS_PER_PGD {
                    scope.blocks.set(root, self.blocks.get(root));
                }
            }
            Tlbi::Ipas2e1 { ipa, .. } => {
                let (page, root) = (ipa.0 as usize, root_index(ipa));
                scope.stage2.set(page, self.stage2.get(page));
                scope.blocks.set(root, self.blocks.get(root));
            }
        }
        scope
    }

    /// The pages that a store to this frame may reach.
    fn pages(&self, gfn: Gfn) -> Few {
        let (page, root) = (gfn.0 as usize, root_index(gfn));
        let offset = gfn.0 % granule(START_LEVEL);
        let blocks = self.blocks.get(root).with(self.blocks.get(PTRS_PER_PGD + root));
        let of_blocks = blocks.iter().map(|first| Few::one(first + offset));
        of_blocks.fold(self.stage2.get(page).with(self.combined.get(page)), Few::with)
    }
}

/// So many invalidations may be incomplete at once. One more is taken together with the last: who
/// of the two completes first completes both.
const LEAVING: usize = 4;

/// The TLB of a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tlb {
    /// It runs guest code now, and so may cache what it can reach: from this root.
    pub(super) running: Option<SpId>,
    now: View,
    /// In the order in which they have begun.
    leaving: [Leaving; LEAVING],
    /// What was dropped, and may have translated a store that is not done yet.
    late: Late,
}

/// The entry of the root that translates a frame.
pub(super) fn root_index(gfn: Gfn) -> usize {
    (gfn.0 / granule(START_LEVEL)) as usize
}

/// The frames that an entry of the root translates.
pub(super) fn frames_of(root_index: usize) -> core::ops::Range<usize> {
    let size = granule(START_LEVEL) as usize;
    root_index * size..(root_index + 1) * size
}

impl Leaves {
    /// A leaf with this page.
    pub(super) fn one(pfn: u64, writable: bool) -> Leaves {
        let one = Few::one(pfn);
        let only = |is: bool| if is { one } else { Few::NONE };
        Leaves { read: one, write: only(writable), denies: only(!writable) }
    }
    /// True if there is one with another page than this.
    pub(super) fn differs(self, pfn: u64) -> bool {
        self.read.without(Few::one(pfn)) != Few::NONE
    }
    /// True if there is none.
    pub(super) fn is_empty(self) -> bool {
        self.read == Few::NONE
    }
    /// Those of both.
    pub(super) fn with(self, other: Leaves) -> Leaves {
        Leaves {
            read: self.read.with(other.read),
            write: self.write.with(other.write),
            denies: self.denies.with(other.denies),
        }
    }
}

impl Class {
    fn each(&mut self, other: &Class, f: impl Fn(u64, u64) -> u64 + Copy) {
        for (mine, other) in self.pages.iter_mut().zip(other.pages) {
            mine.0 = f(mine.0, other.0);
        }
        self.blocks.0 = f(self.blocks.0, other.blocks.0);
    }
    /// Those of another class, too.
    pub(super) fn add(&mut self, other: &Class) {
        self.each(other, with);
    }
    /// What translates a frame by a page.
    fn page(&self, frame: usize) -> Leaves {
        let [read, write, denies] = self.pages.map(|sets| sets.get(frame));
        Leaves { read, write, denies }
    }
    /// What translates a frame by a page from now on.
    pub(super) fn set_page(&mut self, frame: usize, leaves: Leaves) {
        for (sets, few) in self.pages.iter_mut().zip([leaves.read, leaves.write, leaves.denies]) {
            sets.set(frame, few);
        }
    }
    /// This leaf may translate a frame, too.
    pub(super) fn add_page(&mut self, frame: usize, leaves: Leaves) {
        self.set_page(frame, self.page(frame).with(leaves));
    }
    /// What translates the frames of an entry of the root by a block.
    fn block(&self, root: usize) -> Leaves {
        let [read, write, denies] = [0, 1, 2].map(|i| self.blocks.get(3 * root + i));
        Leaves { read, write, denies }
    }
    /// What translates them by a block from now on.
    pub(super) fn set_block(&mut self, root: usize, leaves: Leaves) {
        for (i, few) in [leaves.read, leaves.write, leaves.denies].into_iter().enumerate() {
            self.blocks.set(3 * root + i, few);
        }
    }
}

fn with(mine: u64, other: u64) -> u64 {
    mine | other
}

fn without(mine: u64, other: u64) -> u64 {
    mine & !other
}

impl View {
    fn each(&mut self, other: &View, f: impl Fn(u64, u64) -> u64 + Copy) {
        self.stage2.each(&other.stage2, f);
        self.combined.each(&other.combined, f);
        self.walk.0 = f(self.walk.0, other.walk.0);
    }

    /// The tables that it may walk to by an entry of the root.
    pub(super) fn walk(&self, root: usize) -> Few {
        self.walk.get(root)
    }
    /// The tables that it may walk to by an entry of the root from now on.
    pub(super) fn set_walk(&mut self, root: usize, tables: Few) {
        self.walk.set(root, tables);
    }

    /// What an invalidation drops of it. Level hints are ignored, as by a CPU without FEAT_TTL.
    fn in_scope(&self, what: Tlbi) -> View {
        match what {
            Tlbi::Vmalls12e1 | Tlbi::Alle1 => *self,
            Tlbi::Vmalle1 => View { combined: self.combined, ..View::default() },
            Tlbi::Ipas2e1 { ipa, .. } => {
                let mut dropped = View::default();
                let (page, root) = (ipa.0 as usize, root_index(ipa));
                dropped.stage2.set_page(page, self.stage2.page(page));
                dropped.stage2.set_block(root, self.stage2.block(root));
                dropped.walk.set(root, self.walk.get(root));
                dropped
            }
        }
    }

    /// What may translate a frame, of stage 2 alone or combined: by pages, and by blocks.
    pub(super) fn leaves(&self, gfn: Gfn) -> (Leaves, Leaves) {
        let (page, root) = (gfn.0 as usize, root_index(gfn));
        let (one, other) = (&self.stage2, &self.combined);
        (one.page(page).with(other.page(page)), one.block(root).with(other.block(root)))
    }
}

impl Tlb {
    /// What it may use: what it has, and what is invalidated and may be used still.
    pub(super) fn usable(&self) -> View {
        let mut view = self.now;
        self.leaving.iter().for_each(|leaving| view.each(&leaving.view, with));
        view
    }

    /// What it may cache from now on in addition, as `made` says of what it has: of tables it walks
    /// to, their pages; of what stage 2 gives, the same combined. What it makes of something that
    /// is on its way out goes with that, as far as the invalidation is about it.
    pub(super) fn derive(&mut self, made: impl Fn(&View) -> View) {
        for i in 0..LEAVING {
            let Leaving { what: Some(what), view, .. } = self.leaving[i] else { continue };
            let mut new = made(&view);
            let goes = new.in_scope(what);
            self.leaving[i].view.each(&goes, with);
            self.leaving[i].fresh.each(&goes, with);
            new.each(&goes, without);
            self.add(&new);
        }
        let new = made(&self.now);
        self.add(&new);
    }

    /// It may cache these from now on, too.
    pub(super) fn add(&mut self, view: &View) {
        self.now.each(view, with);
    }

    /// Everything is dropped.
    pub(super) fn flush(&mut self) {
        *self = Tlb { running: self.running, ..Tlb::default() };
    }

    /// What a store to this frame may be done by, although it was dropped.
    pub(super) fn late(&self, gfn: Gfn) -> Few {
        self.late.pages(gfn)
    }

    /// Nothing is left to be done by what was dropped.
    pub(super) fn forget_late(&mut self) {
        self.late = Late::default();
        self.leaving.iter_mut().for_each(|leaving| leaving.late = Late::default());
    }

    /// The guest does not run any more.
    pub(super) fn leave(&mut self) {
        self.running = None;
        self.forget_late();
    }

    /// An invalidation begins.
    pub(super) fn post(&mut self, what: Tlbi, thread: usize, on: TlbiOn) {
        let by = Posted::by(thread, on);
        let view = self.usable().in_scope(what);
        let late = self.late.in_scope(what);
        if view == View::default() && late == Late::default() {
            return;
        }
        let fresh = self.now.in_scope(what);
        self.now.each(&fresh, without);
        let mut new = Leaving { by, what: Some(what), view, fresh, late };
        let same = |l: &Leaving| l.by == by && l.what == Some(what);
        // It begins anew, with what it had.
        if let Some(mine) = self.leaving.iter().position(same) {
            let before = core::mem::take(&mut self.leaving[mine]);
            new.view.each(&before.view, with);
            new.fresh.each(&before.fresh, with);
            self.leaving[mine..].rotate_left(1);
        }
        match self.leaving.iter_mut().find(|leaving| leaving.what.is_none()) {
            Some(free) => *free = new,
            None => {
                let last = &mut self.leaving[LEAVING - 1];
                last.by = last.by.with(by);
                last.view.each(&new.view, with);
                last.fresh.each(&new.fresh, with);
                last.late.each(&new.late, with);
            }
        }
    }

    /// The invalidations that these have begun are complete: what they drop is gone, also where
    /// another drops it, unless it was cached in between.
    pub(super) fn complete(&mut self, by: Posted, early: bool) {
        for i in 0..LEAVING {
            if !self.leaving[i].by.has_any(by) {
                continue;
            }
            let Leaving { view: gone, late, .. } = core::mem::take(&mut self.leaving[i]);
            self.late.each(&late, without);
            if early && self.running.is_some() {
                self.late.each(&Late::of(&gone), with);
            }
            for (j, other) in self.leaving.iter_mut().enumerate() {
                let mut dropped = gone;
                if j > i {
                    dropped.each(&other.fresh, without);
                }
                other.view.each(&dropped, without);
                other.fresh.each(&dropped, without);
            }
        }
        let empty = |of: &&mut Leaving| of.view == View::default() && of.late == Late::default();
        let ended = self.leaving.iter_mut().filter(empty);
        ended.for_each(|leaving| *leaving = Leaving::default());
        // Stable: the order of the others stays.
        self.leaving.sort_by_key(|leaving| leaving.what.is_none());
    }
}

/// What is not there is not hashed.
impl Hash for Tlb {
    fn hash<S: Hasher>(&self, state: &mut S) {
        self.running.is_some().hash(state);
        if let Some(SpId(pgd @ 1..)) = self.running {
            pgd.hash(state);
        }
        self.now.hash(state);
        for leaving in self.leaving.iter().filter(|leaving| leaving.what.is_some()) {
            leaving.hash(state);
        }
        if self.late != Late::default() {
            self.late.hash(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvmmu_model::arm64::Dsb;

    const IPA: Tlbi = Tlbi::Ipas2e1 { ipa: Gfn(1), level: None };

    /// A CPU that has one page of stage 2 cached.
    fn has_page() -> View {
        let mut view = View::default();
        view.stage2.set_page(1, Leaves::one(2, true));
        view
    }

    fn begin(tlb: &mut Tlb, what: Tlbi, thread: usize) {
        tlb.post(what, thread, TlbiOn::InnerShareable);
    }

    fn end(tlb: &mut Tlb, thread: usize) {
        tlb.complete(Posted::completed(thread, Dsb::Ish), false);
    }

    fn is_empty(tlb: &Tlb) -> bool {
        tlb.usable() == View::default()
    }

    #[test]
    fn what_is_dropped_may_be_used_until_the_barrier_of_its_thread() {
        let mut tlb = Tlb::default();
        tlb.add(&has_page());
        begin(&mut tlb, IPA, 0);
        end(&mut tlb, 1);
        assert_eq!(tlb.usable(), has_page());
        end(&mut tlb, 0);
        assert!(is_empty(&tlb));
    }

    #[test]
    fn what_two_drop_is_gone_when_the_first_is_complete() {
        for first in [0, 1] {
            let mut tlb = Tlb::default();
            tlb.add(&has_page());
            begin(&mut tlb, Tlbi::Vmalls12e1, 0);
            begin(&mut tlb, IPA, 1);
            end(&mut tlb, first);
            assert!(is_empty(&tlb), "{first}");
        }
    }

    #[test]
    fn what_is_cached_in_between_goes_with_the_second_alone() {
        let mut tlb = Tlb::default();
        tlb.add(&has_page());
        begin(&mut tlb, Tlbi::Vmalls12e1, 0);
        tlb.add(&has_page());
        begin(&mut tlb, IPA, 1);
        end(&mut tlb, 0);
        assert_eq!(tlb.usable(), has_page());
        end(&mut tlb, 1);
        assert!(is_empty(&tlb));
    }

    /// Goal: with the erratum a store may be done after the first invalidation, until the second is
    /// complete, once, and not after the guest was left.
    #[test]
    fn a_store_is_late_until_a_second_invalidation_is_complete() {
        let once = |tlb: &mut Tlb| {
            begin(tlb, IPA, 0);
            tlb.complete(Posted::completed(0, Dsb::Ish), true);
        };
        let dropped = || {
            let mut tlb = Tlb { running: Some(SpId(0)), ..Tlb::default() };
            tlb.add(&has_page());
            once(&mut tlb);
            assert!(is_empty(&tlb));
            assert_eq!(tlb.late(Gfn(1)), Few::one(2));
            tlb
        };
        let mut twice = dropped();
        begin(&mut twice, IPA, 0);
        assert_eq!(twice.late(Gfn(1)), Few::one(2));
        twice.complete(Posted::completed(0, Dsb::Ish), true);
        assert_eq!(twice.late(Gfn(1)), Few::NONE);
        let mut left = dropped();
        left.leave();
        assert_eq!(left.late(Gfn(1)), Few::NONE);
        let mut other = dropped();
        begin(&mut other, Tlbi::Vmalle1, 0);
        other.complete(Posted::completed(0, Dsb::Ish), true);
        assert_eq!(other.late(Gfn(1)), Few::one(2));
    }

    #[test]
    fn what_is_combined_outlives_the_entry_of_stage_2_that_it_is_made_of() {
        let combine = |view: &View| View { combined: view.stage2, ..View::default() };
        for (what, stays) in [(IPA, true), (Tlbi::Vmalls12e1, false)] {
            let mut tlb = Tlb::default();
            tlb.add(&has_page());
            begin(&mut tlb, what, 0);
            tlb.derive(combine);
            end(&mut tlb, 0);
            assert_eq!(!is_empty(&tlb), stays, "{what:?}");
        }
    }
}

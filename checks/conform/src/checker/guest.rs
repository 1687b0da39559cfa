//! Where KVM shadows the guest's own tables: each SPTE, and each shadow page, against the walk of
//! them that the fault made first.

use std::collections::{BTreeSet, HashMap, HashSet};

use kvmmu_model::Spte;

use super::{Asked, Checker, op_of};
use crate::event::{Event, Page, SetSpte, What};
use crate::history::Op;
use crate::pages::Walked;
use crate::rules::Mapped;
use crate::walk::Walk;

/// Bits of SPTEs that the model does not have: it knows no user code and no fetches.
pub(crate) const USER: u64 = 1 << 2;
/// See [`USER`].
pub(crate) const NO_EXECUTE: u64 = 1 << 63;

/// All vCPUs use one table of the guest as their root: a table that is linked is so for all.
pub(super) fn one_root(events: &[Event]) -> bool {
    let pages = || {
        events.iter().filter_map(|e| match e.what {
            What::GetPage { page, .. } => Some(page),
            _ => None,
        })
    };
    let top = pages().map(|page| page.level()).max();
    let roots: BTreeSet<u64> =
        pages().filter(|page| Some(page.level()) == top).map(|page| page.gfn).collect();
    roots.len() == 1
}

/// Where the guest stores to its tables first: a write fault hits the frame of one that KVM
/// shadows, or one goes out of sync.
pub(crate) fn first_store(events: &[Event]) -> Option<usize> {
    let mut tables: HashSet<u64> = HashSet::new();
    let mut writes: HashMap<u32, Option<Walk>> = HashMap::new();
    events.iter().position(|event| {
        match &event.what {
            What::Unsync(_) => return true,
            What::GetPage { page, .. } if !page.is_direct() => {
                tables.insert(page.gfn);
            }
            What::Fault { error, .. } if error.write() => {
                writes.insert(event.thread, None);
            }
            What::Fault { .. } => {
                writes.remove(&event.thread);
            }
            What::Walk { address } => {
                if let Some(walk) = writes.get_mut(&event.thread) {
                    *walk = Some(Walk::of(*address));
                }
            }
            What::Element(element) => {
                if let Some(Some(walk)) = writes.get_mut(&event.thread) {
                    let read = walk.read(*element);
                    return read.is_ok() && walk.gfn().is_some_and(|gfn| tables.contains(&gfn));
                }
            }
            _ => {}
        }
        false
    })
}

impl Checker<'_> {
    /// What is known of the shadow page in which a thread sets an SPTE.
    pub(super) fn walked(&self, thread: u32, level: u8) -> Walked {
        if !self.rules.guest_tables() {
            return Walked::Direct;
        }
        match self.walk(thread).and_then(|walk| walk.shadow(level)) {
            Some(shadow) if !self.guest_stores => Walked::Shadow(shadow),
            _ => Walked::Unknown,
        }
    }

    /// Its W and M are clear: the guest's tables did not let it write.
    pub(super) fn is_read_only_to_guest(&self, spte: Spte) -> bool {
        let format = self.rules.format();
        let may = format.is_writable(spte) || format.is_mmu_writable(spte);
        self.rules.guest_tables() && !may
    }

    /// Who maps something has walked the guest's tables, if the trace tells of such walks.
    pub(super) fn has_walked(&self, thread: u32) -> Result<(), String> {
        if self.has_walks && !self.guest_stores && self.walk(thread).is_none() {
            return Err("no walk of the guest's tables found what it maps".to_owned());
        }
        Ok(())
    }

    /// A table of the guest that is in sync stays read-only.
    pub(super) fn keeps_tables(&self, set: &SetSpte) -> Result<(), String> {
        if self.rules.format().is_writable(set.spte) && self.pages.needs_write_protection(set.gfn) {
            return Err("the frame is a table of the guest, and in sync, but W is set".to_owned());
        }
        Ok(())
    }

    /// The frame is the one that the guest's own tables map, and they have A, and D for a write; U
    /// and NX are theirs.
    pub(super) fn as_walked(&self, thread: u32, set: &SetSpte, write: bool) -> Result<(), String> {
        let Some(walk) = self.walk(thread) else { return Ok(()) };
        let (user, no_execute) = (set.raw & USER != 0, set.raw & NO_EXECUTE != 0);
        if user != walk.allows_user() {
            return Err("U is not what the guest's tables say".to_owned());
        }
        // Large pages may be without X for the sake of the processor (nx_huge_pages).
        if no_execute == walk.allows_fetch() && !(no_execute && set.level > 1) {
            return Err("NX is not what the guest's tables say".to_owned());
        }
        // A large page of the host begins where it does.
        let inside = (1u64 << (9 * u32::from(set.level - 1))) - 1;
        let maps = walk.gfn().map(|gfn| gfn & !inside);
        let gfn = set.gfn & !inside;
        match (maps, walk.unmarked(write)) {
            (None, _) => Err("the guest's tables map nothing there".to_owned()),
            (Some(maps), _) if maps != gfn => {
                Err(format!("the guest's tables map frame {maps:#x} there, not {gfn:#x}"))
            }
            (_, Some((level, bit))) => {
                Err(format!("nobody has set {bit} in the guest's entry of level {level}"))
            }
            (_, None) => Ok(()),
        }
    }

    /// Hardware found nothing for the fault that sets this SPTE. The guest's tables may have led it
    /// elsewhere only if its way was not there, or not the one way.
    pub(super) fn missed(&self, thread: u32, asked: Asked) -> Option<Op> {
        let fault = self.faults.get(&thread)?;
        let own = matches!(asked, Asked::Own { .. }) && self.rules.guest_tables();
        let linked = self.one_root && !fault.links && fault.event < self.unlinked;
        let linked = linked && !self.guest_stores;
        let misses = own && linked && fault.error.misses();
        misses.then(|| op_of(self.threads, fault.event, thread))
    }

    /// What the guest's own tables said to the fault of a thread.
    pub(super) fn walk(&self, thread: u32) -> Option<&Walk> {
        let page = self.faults.get(&thread)?.page;
        self.walks.get(&thread).filter(|walk| walk.page() == page)
    }

    /// A shadow page is the one that the walk leads to.
    pub(super) fn asked_for(&self, thread: u32, page: Page) -> Result<(), String> {
        let Walked::Shadow(shadow) = self.walked(thread, page.level()) else { return Ok(()) };
        if (shadow.gfn, shadow.direct) == (page.gfn, page.is_direct()) {
            return Ok(());
        }
        let kind = if shadow.direct { "splits the page of frame" } else { "shadows frame" };
        Err(format!("the walk asks for a page of this level that {kind} {:#x}", shadow.gfn))
    }

    /// W only where the guest's own tables allow it; of a neighbour's entry no event tells.
    pub(super) fn as_the_guest_allows(
        &self,
        sets: Vec<Mapped>,
        thread: u32,
        asked: Asked,
    ) -> Vec<Mapped> {
        if !self.rules.guest_tables() {
            return sets;
        }
        let write = match asked {
            Asked::Own { write } => Some(write),
            Asked::Neighbour | Asked::Unknown => None,
        };
        let allowed = write.zip(self.walk(thread)).map(|(write, walk)| walk.allows_write(write));
        let either = sets
            .into_iter()
            .flat_map(|set| [true, false].map(|guest_writable| Mapped { guest_writable, ..set }));
        either.filter(|set| allowed.is_none_or(|allowed| set.guest_writable == allowed)).collect()
    }
}

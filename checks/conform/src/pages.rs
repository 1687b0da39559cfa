//! The shadow pages of a trace: which there are, which table each has, and when one is zapped.
//!
//! Guarantee: a page is made only if none of its frame and role is there, found and zapped only if
//! it is there; an SPTE belongs to the frame that its place in a direct table says; the page that
//! shadows a guest's table is the one that the guest's own tables lead to; a table is never another
//! page's before its page was zapped. All of these events come under `mmu_lock`, so
//! their order in the trace is the order in which they happened.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::event::{Event, FastFault, Page, Pos, SetSpte, What};
use crate::place::{Place, index, table};
use crate::walk::Shadow;

/// A table in use.
#[derive(Clone, Copy, Debug)]
struct Table {
    level: u8,
    /// The first frame that it maps. The shadow of a guest's table has none: its own frame is here.
    base: u64,
    direct: bool,
}

/// What a table was until it was zapped.
#[derive(Clone, Copy, Debug)]
struct Was {
    level: u8,
    base: u64,
    until: Pos,
}

/// What is known of the shadow page in which an SPTE is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Walked {
    /// All are direct.
    Direct,
    /// The fault's walk of the guest's tables asks for this one.
    Shadow(Shadow),
    /// Nothing: no walk is traced, or none need have led there.
    Unknown,
}

/// The shadow pages at one point of the trace.
#[derive(Clone, Default, Debug)]
pub struct Pages {
    /// The trace has `kvm_mmu_get_page` at all.
    traced: bool,
    /// Pages in use, with their tables where those are known.
    live: HashMap<Page, Option<u64>>,
    tables: HashMap<u64, Table>,
    was: HashMap<u64, Was>,
    /// What each thread got last.
    got: HashMap<u32, Page>,
    /// The generation that each thread zaps.
    zaps: HashMap<u32, u8>,
    /// The generation that was zapped last: its pages are obsolete.
    obsolete: Option<u8>,
    /// Pages whose tables the guest may store to.
    unsync: HashSet<Page>,
    /// Tables that shadow some of the guest's.
    pub shadows: BTreeSet<u64>,
    /// Tables that were zapped, with the event.
    pub zapped: Vec<(u64, usize)>,
}

impl Pages {
    /// Before the first event.
    pub fn new(events: &[Event]) -> Pages {
        let traced = events.iter().any(|e| matches!(e.what, What::GetPage { .. }));
        Pages { traced, ..Pages::default() }
    }

    /// `kvm_mmu_get_page`; `Err` says what is wrong.
    pub fn get(&mut self, thread: u32, page: Page, created: bool) -> Result<(), String> {
        self.got.insert(thread, page);
        let known = self.live.contains_key(&page);
        self.live.entry(page).or_insert(None);
        match (known, created) {
            (true, true) => Err(format!(
                "it was made, but a page of frame {:#x} with this role was there already: whoever \
                 zapped that one is missing",
                page.gfn
            )),
            (false, false) => Err(format!(
                "it was found, but nothing made a page of frame {:#x} with this role",
                page.gfn
            )),
            _ => Ok(()),
        }
    }

    /// `kvm_mmu_prepare_zap_page` by event `i`; `Err` says what is wrong.
    pub fn zap(&mut self, page: Page, i: usize) -> Result<(), String> {
        if page.is_invalid() {
            // A root that was kept until its last user left: its entries are clear already.
            return Ok(());
        }
        let until = i as Pos + 1;
        self.unsync.remove(&page.valid());
        match self.live.remove(&page.valid()) {
            Some(Some(at)) => self.unbind(at, until, i),
            Some(None) => {}
            None if self.traced => {
                return Err(format!(
                    "it was zapped, but no page of frame {:#x} with this role is there",
                    page.gfn
                ));
            }
            None => {
                let same = |t: &Table| t.level == page.level() && t.base == page.gfn;
                let found: Vec<u64> =
                    self.tables.iter().filter(|(_, t)| same(t)).map(|(at, _)| *at).collect();
                for at in found {
                    self.unbind(at, until, i);
                }
            }
        }
        Ok(())
    }

    /// `kvm_mmu_zap_all_fast` of a thread.
    pub fn zap_all(&mut self, thread: u32, generation: u8) {
        self.zaps.insert(thread, generation);
        self.obsolete = Some(generation);
    }

    /// A system call of a thread ends: if it zapped a generation, no page of that is left. `Err`
    /// says what is.
    pub fn call_ends(&mut self, thread: u32) -> Result<(), String> {
        let Some(generation) = self.zaps.remove(&thread) else { return Ok(()) };
        let left = self.live.keys().filter(|page| page.generation == generation);
        match left.map(|page| page.gfn).min() {
            None => Ok(()),
            Some(gfn) => Err(format!(
                "it zapped all pages of generation {generation}, but that of frame {gfn:#x} is \
                 still there: its kvm_mmu_prepare_zap_page is missing"
            )),
        }
    }

    fn unbind(&mut self, at: u64, until: Pos, i: usize) {
        if let Some(Table { level, base, .. }) = self.tables.remove(&at) {
            self.was.insert(at, Was { level, base, until });
        }
        self.zapped.push((at, i));
    }

    /// `kvm_mmu_unsync_page` and `kvm_mmu_sync_page`; `Err` says what is wrong.
    pub fn set_unsync(&mut self, page: Page, unsync: bool) -> Result<(), String> {
        if !self.live.contains_key(&page) {
            return Err(format!("no page of frame {:#x} with this role is there", page.gfn));
        }
        if page.is_direct() || page.level() > 1 {
            return Err("only the shadow of a guest's last-level table goes out of sync".to_owned());
        }
        match (unsync, self.unsync.contains(&page)) {
            (true, true) => return Err("it is out of sync already".to_owned()),
            (false, false) => return Err("it is not out of sync".to_owned()),
            (true, false) => self.unsync.insert(page),
            (false, true) => self.unsync.remove(&page),
        };
        Ok(())
    }

    /// `mmu_need_write_protect` of 5.10 for a frame, or what came of it: it is a guest's table that
    /// is in sync.
    pub fn needs_write_protection(&self, gfn: u64) -> bool {
        let shadows = |page: &&Page| {
            page.gfn == gfn && !page.is_direct() && self.obsolete != Some(page.generation)
        };
        let in_sync = |page: &Page| !self.unsync.contains(page);
        self.live.keys().filter(shadows).any(in_sync)
    }

    /// `kvm_mmu_set_spte`; `Err` says what is wrong.
    pub fn set(&mut self, thread: u32, set: &SetSpte, walked: Walked) -> Result<(), String> {
        let at = table(set.sptep);
        let shadow = match walked {
            Walked::Direct => None,
            Walked::Shadow(shadow) => Some(shadow),
            // What the thread got last is as good a guess as there is.
            Walked::Unknown if !self.tables.contains_key(&at) => {
                let unbound = |page: &&Page| self.live.get(page).is_some_and(Option::is_none);
                let got = self.got.get(&thread).filter(unbound);
                match got.filter(|page| page.level() == set.level) {
                    Some(page) => Some(Shadow { gfn: page.gfn, direct: page.is_direct() }),
                    None => return Ok(()),
                }
            }
            Walked::Unknown => None,
        };
        let known = self.tables.get(&at).map(|known| known.direct);
        if !known.unwrap_or_else(|| shadow.is_none_or(|shadow| shadow.direct)) {
            return self.set_in_shadow(thread, at, set.level, shadow);
        }
        let place = Place::of(set.level, set.gfn);
        if place.index != index(set.sptep) {
            return Err(format!(
                "entry {} of its table does not map frame {:#x}",
                index(set.sptep),
                set.gfn
            ));
        }
        if let Some(known) = self.tables.get(&at) {
            if (known.level, known.base) == (place.level, place.base) {
                return Ok(());
            }
            let message = format!(
                "its table maps frames from {:#x} at level {}, not from {:#x} at level {}: whoever \
                 zapped it is missing",
                known.base, known.level, place.base, place.level
            );
            return Err(message);
        }
        let page = self.page_for(thread, place.level, Shadow { gfn: place.base, direct: true });
        self.tables.insert(at, Table { level: place.level, base: place.base, direct: true });
        match page {
            Some(page) => {
                self.live.insert(page, Some(at));
                Ok(())
            }
            None if self.traced => Err(format!(
                "no shadow page maps frames from {:#x} at level {}: kvm_mmu_get_page is missing",
                place.base, place.level
            )),
            None => Ok(()),
        }
    }

    /// The page that a table without one belongs to: what this thread got last, if it fits.
    fn page_for(&self, thread: u32, level: u8, shadow: Shadow) -> Option<Page> {
        let fits = |page: &Page| {
            page.level() == level
                && (page.gfn, page.is_direct()) == (shadow.gfn, shadow.direct)
                && self.live.get(page).is_some_and(Option::is_none)
        };
        let last = self.got.get(&thread).copied().filter(fits);
        last.or_else(|| self.live.keys().copied().filter(fits).min_by_key(|p| p.role))
    }

    /// The table at `at` shadows one of the guest's.
    fn set_in_shadow(
        &mut self,
        thread: u32,
        at: u64,
        level: u8,
        shadow: Option<Shadow>,
    ) -> Result<(), String> {
        if let Some(known) = self.tables.get(&at) {
            let gfn = shadow.map_or(known.base, |shadow| shadow.gfn);
            if known.level == level && known.base == gfn {
                return Ok(());
            }
            return Err(format!(
                "its table shadows the guest's table {:#x} at level {}, not {gfn:#x} at level \
                 {level}",
                known.base, known.level
            ));
        }
        let Some(Shadow { gfn, .. }) = shadow else { return Ok(()) };
        self.tables.insert(at, Table { level, base: gfn, direct: false });
        self.shadows.insert(at);
        match self.page_for(thread, level, Shadow { gfn, direct: false }) {
            Some(page) => {
                self.live.insert(page, Some(at));
                Ok(())
            }
            None if self.traced => Err(format!(
                "no shadow page of the guest's table {gfn:#x} at level {level} is there: \
                 kvm_mmu_get_page is missing"
            )),
            None => Ok(()),
        }
    }

    /// The level of the table that a fast fault ended in, if it is known. The fault may have read
    /// it since `since`. `Err` says what is wrong.
    pub fn fast_fault(
        &self,
        sptep: u64,
        fault: &FastFault,
        since: Pos,
    ) -> Result<Option<u8>, String> {
        let at = table(sptep);
        let now = self.tables.get(&at).map(|t| (t.level, t.base));
        let was = self.was.get(&at).filter(|w| w.until > since).map(|w| (w.level, w.base));
        let gfn = fault.address >> 12;
        let fits = |(level, base): (u8, u64)| {
            let place = Place::of(level, gfn);
            (place.base, place.index) == (base, index(sptep))
        };
        match (now, was) {
            (None, None) => Ok(None),
            (Some(known), _) | (_, Some(known)) if fits(known) => Ok(Some(known.0)),
            (_, Some(known)) if fits(known) => Ok(Some(known.0)),
            (Some((level, base)), _) | (_, Some((level, base))) => Err(format!(
                "a walk for frame {gfn:#x} does not end at entry {} of a level {level} table that \
                 maps frames from {base:#x}",
                index(sptep)
            )),
        }
    }
}

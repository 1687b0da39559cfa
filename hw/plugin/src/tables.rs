//! Which pages have descriptors, and what these were.

use std::collections::{BTreeMap, HashMap};

use kvmmu_steps::event::{Arch, Frame, Place, What};
use kvmmu_steps::layout::{Entry, Layout};

use crate::ram::Ram;
use crate::watch;

/// Descriptors of a page.
pub(crate) const ENTRIES: usize = 512;

/// A page of descriptors.
#[derive(Debug)]
struct Table {
    level: i8,
    /// The first guest frame that it translates.
    first: u64,
    root: Frame,
    /// How many descriptors lead to it: on x86 a page may be in several trees.
    parents: u32,
    /// Nothing that is reachable leads to it.
    detached: bool,
    /// What it contains, as far as is known.
    words: Box<[u64; ENTRIES]>,
    /// The number of the last event at which that was so.
    seen: u64,
}

/// All pages of descriptors.
#[derive(Debug)]
pub(crate) struct Tables {
    layout: Layout,
    pages: BTreeMap<Frame, Table>,
    roots: Vec<Frame>,
    /// Pages of memory: how many descriptors map each, and how many of them let guests write.
    mapped: HashMap<Frame, (u32, u32)>,
}

/// Who is told of an event; returns its number.
pub(crate) type Tell<'t> = &'t mut dyn FnMut(What) -> u64;

impl Tables {
    /// None so far.
    pub(crate) fn new(arch: Arch) -> Tables {
        Tables {
            layout: Layout::of(arch),
            pages: BTreeMap::new(),
            roots: Vec::new(),
            mapped: HashMap::new(),
        }
    }

    /// True if no root was seen so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// True if the page has descriptors, or had some and was not given to somebody else.
    pub(crate) fn has(&self, page: Frame) -> bool {
        self.pages.contains_key(&page)
    }

    /// This is a root of so many pages from now on, if it is not one already.
    pub(crate) fn root(
        &mut self,
        root: Frame,
        (level, pages): (i8, u64),
        ram: &Ram,
        tell: Tell<'_>,
    ) {
        let known = |table: &Table| !table.detached && table.root == root && table.level == level;
        if self.pages.get(&root).is_some_and(known) {
            return;
        }
        for i in 0..pages {
            let first = (i * ENTRIES as u64) << self.layout.shift(level);
            self.insert(Frame(root.0 + i), level, first, root, ram, tell);
        }
        if !self.roots.contains(&root) {
            self.roots.push(root);
        }
    }

    /// A descriptor leads to a page from now on.
    fn link(&mut self, page: Frame, level: i8, first: u64, root: Frame, ram: &Ram, tell: Tell<'_>) {
        let known = |table: &&mut Table| {
            !table.detached && table.parents > 0 && (table.level, table.first) == (level, first)
        };
        match self.pages.get_mut(&page).filter(known) {
            Some(table) => table.parents += 1,
            None => self.insert(page, level, first, root, ram, tell),
        }
    }

    /// A page has descriptors from now on, and so has what it leads to.
    fn insert(
        &mut self,
        page: Frame,
        level: i8,
        first: u64,
        root: Frame,
        ram: &Ram,
        tell: Tell<'_>,
    ) {
        let Some(words) = ram.page(page) else { return };
        let filled: Vec<(u16, u64)> =
            (0..).zip(words.iter().copied()).filter(|(_, word)| *word != 0).collect();
        let entries = filled.clone();
        let seen = tell(What::Table { page, level, first, root, entries });
        let parents = u32::from(page != root);
        let table = Table { level, first, root, parents, detached: false, words, seen };
        self.pages.insert(page, table);
        watch::page(page, true);
        for (index, word) in filled {
            self.count(word, level, true);
            if let Some(child) = self.layout.child(word, level) {
                let first = first + (u64::from(index) << self.layout.shift(level));
                self.link(child, level + self.layout.down(), first, root, ram, tell);
            }
        }
    }

    /// A descriptor does not lead to a page any more. If none does, none leads to what it leads to.
    fn unlink(&mut self, page: Frame, tell: Tell<'_>) {
        let Some(table) = self.pages.get_mut(&page).filter(|table| !table.detached) else { return };
        table.parents = table.parents.saturating_sub(1);
        if table.parents > 0 {
            return;
        }
        table.detached = true;
        let (level, words) = (table.level, table.words.clone());
        tell(What::Detach { page });
        for word in words.iter() {
            self.count(*word, level, false);
            if let Some(child) = self.layout.child(*word, level) {
                self.unlink(child, tell);
            }
        }
    }

    /// A page that had descriptors is written by others: it was freed, and got by them.
    pub(crate) fn reuse(&mut self, page: Frame, tell: Tell<'_>) {
        if let Some(table) = self.pages.remove(&page) {
            if !table.detached {
                table.words.iter().for_each(|word| self.count(*word, table.level, false));
            }
            tell(What::Reuse { page });
            self.roots.retain(|root| *root != page);
            watch::page(page, false);
        }
    }

    /// A descriptor was stored.
    pub(crate) fn store(&mut self, place: Place, new: u64, ram: &Ram, tell: Tell<'_>) {
        let Some(old) = self.replace(place, new) else { return };
        let seen = tell(What::Store { place, old, new });
        self.changed(place, (old, new), seen, ram, tell);
    }

    fn replace(&mut self, place: Place, new: u64) -> Option<u64> {
        let table = self.pages.get_mut(&place.table)?;
        let word = table.words.get_mut(usize::from(place.index))?;
        Some(std::mem::replace(word, new))
    }

    /// A descriptor has changed: what it led to, and what it leads to.
    fn changed(
        &mut self,
        place: Place,
        (old, new): (u64, u64),
        seen: u64,
        ram: &Ram,
        tell: Tell<'_>,
    ) {
        let Some(table) = self.pages.get_mut(&place.table) else { return };
        table.seen = seen;
        let Table { level, first, root, detached, .. } = *table;
        if detached {
            return;
        }
        self.count(old, level, false);
        self.count(new, level, true);
        let (was, is) = (self.layout.child(old, level), self.layout.child(new, level));
        if was == is {
            return;
        }
        if let Some(child) = was {
            self.unlink(child, tell);
        }
        if let Some(child) = is {
            let first = first + (u64::from(place.index) << self.layout.shift(level));
            self.link(child, level + self.layout.down(), first, root, ram, tell);
        }
    }

    /// Whether some descriptor maps the page, and whether one of them lets guests write.
    pub(crate) fn maps(&self, page: Frame) -> (bool, bool) {
        let (mapped, writable) = self.mapped.get(&page).copied().unwrap_or_default();
        (mapped != 0, writable != 0)
    }

    /// A descriptor that is reachable maps what it says, or does not any more.
    fn count(&mut self, word: u64, level: i8, on: bool) {
        let Entry::Leaf(leaf) = self.layout.entry(word, level) else { return };
        for page in leaf.page.0..leaf.page.0 + (1 << self.layout.shift(level).min(18)) {
            let (mapped, writable) = self.mapped.entry(Frame(page)).or_default();
            let one = |count: u32| if on { count + 1 } else { count.saturating_sub(1) };
            *mapped = one(*mapped);
            if leaf.writable {
                *writable = one(*writable);
            }
        }
    }

    /// Looks for descriptors that changed without a store: the table walker did it.
    pub(crate) fn audit(&mut self, ram: &Ram, now: u64, tell: Tell<'_>) {
        let mut changed = Vec::new();
        for (page, table) in self.pages.iter_mut().filter(|(_, table)| !table.detached) {
            ram.each(*page, |index, word| {
                if table.words[index] != word {
                    changed.push((Place { table: *page, index: index as u16 }, word, table.seen));
                }
            });
            table.seen = now;
        }
        for (place, new, since) in changed {
            if let Some(old) = self.replace(place, new) {
                let seen = tell(What::Hardware { place, old, new, since });
                self.changed(place, (old, new), seen, ram, tell);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOTS: [Frame; 2] = [Frame(1), Frame(2)];
    const CHILD: Frame = Frame(3);
    const GEOMETRY: (i8, u64) = (4, 1);
    const LINK: u64 = 3 << 12 | 0x27;

    fn place(table: Frame) -> Place {
        Place { table, index: 0 }
    }

    /// Two roots of x86 that lead to the same page.
    fn shared(name: &str) -> (Tables, Ram, Vec<What>) {
        let path = std::env::temp_dir().join(format!("kvmmu-{name}-{}", std::process::id()));
        std::fs::write(&path, vec![0; 16 << 12]).unwrap();
        let ram = Ram::map(&path, Arch::X86).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (mut tables, mut told) = (Tables::new(Arch::X86), Vec::new());
        let mut tell = |what| {
            told.push(what);
            told.len() as u64
        };
        for root in ROOTS {
            tables.root(root, GEOMETRY, &ram, &mut tell);
            tables.store(place(root), LINK, &ram, &mut tell);
        }
        (tables, ram, told)
    }

    #[test]
    fn a_page_that_two_trees_share_stays_until_both_have_let_go() {
        let (mut tables, ram, told) = shared("shared");
        let pages = told.iter().filter(|what| matches!(what, What::Table { .. })).count();
        assert_eq!(pages, 3, "each page is told of once: {told:?}");
        let mut told = Vec::new();
        let mut tell = |what| {
            told.push(what);
            told.len() as u64
        };
        tables.store(place(ROOTS[0]), 0, &ram, &mut tell);
        tables.store(place(ROOTS[1]), 0, &ram, &mut tell);
        let gone = |what: &What| *what == What::Detach { page: CHILD };
        assert_eq!(told.iter().position(gone), Some(2), "{told:?}");
    }

    #[test]
    fn pages_that_guests_reach_are_counted_once_for_each_descriptor() {
        let (mut tables, ram, _) = shared("counted");
        let mut tell = |_| 0;
        let (low, leaf) = (Frame(5), 9 << 12 | 0x67);
        tables.store(place(CHILD), 4 << 12 | 0x27, &ram, &mut tell);
        tables.store(place(Frame(4)), 5 << 12 | 0x27, &ram, &mut tell);
        tables.store(place(low), leaf, &ram, &mut tell);
        assert_eq!(tables.maps(Frame(9)), (true, true));
        tables.store(place(low), leaf & !2, &ram, &mut tell);
        assert_eq!(tables.maps(Frame(9)), (true, false));
        tables.store(place(ROOTS[0]), 0, &ram, &mut tell);
        assert_eq!(tables.maps(Frame(9)), (true, false), "the other tree has it");
        tables.store(place(ROOTS[1]), 0, &ram, &mut tell);
        assert_eq!(tables.maps(Frame(9)), (false, false));
    }
}

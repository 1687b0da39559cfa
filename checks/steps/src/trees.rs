//! The page tables of guests, as the events of a recording make them.

use std::collections::BTreeMap;

use crate::event::{Frame, Place, What};
use crate::layout::{Entry, Layout, Leaf};

/// A page of descriptors.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its level.
    pub level: i8,
    /// The first guest frame that it translates.
    pub first: u64,
    /// The first page of the tree that it belongs to.
    pub root: Frame,
    /// Nothing leads to it any more.
    pub detached: bool,
    words: BTreeMap<u16, u64>,
    /// The pages whose descriptors lead to it, as often as they do.
    parents: Vec<Frame>,
}

/// All pages of descriptors.
#[derive(Clone, Debug)]
pub struct Trees {
    /// What bits mean.
    pub layout: Layout,
    tables: BTreeMap<Frame, Table>,
    /// Roots by what the kernel calls the tree: the address of its `struct kvm_pgtable`.
    named: BTreeMap<u64, Frame>,
}

/// No tree has more levels.
const LEVELS_MAX: usize = 6;

/// Where a descriptor stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spot {
    /// The level of its page.
    pub level: i8,
    /// The first guest frame that it translates.
    pub gfn: u64,
    /// How many it translates.
    pub frames: u64,
    /// The tree.
    pub root: Frame,
    /// Nothing leads to it any more.
    pub detached: bool,
}

impl Trees {
    /// None so far.
    pub fn new(layout: Layout) -> Trees {
        Trees { layout, tables: BTreeMap::new(), named: BTreeMap::new() }
    }

    /// A page, if it has descriptors.
    pub fn table(&self, page: Frame) -> Option<&Table> {
        self.tables.get(&page)
    }

    /// Where a descriptor stands.
    pub fn spot(&self, place: Place) -> Option<Spot> {
        let table = self.tables.get(&place.table)?;
        let shift = self.layout.shift(table.level);
        Some(Spot {
            level: table.level,
            gfn: table.first + (u64::from(place.index) << shift),
            frames: 1 << shift,
            root: table.root,
            detached: table.detached,
        })
    }

    /// A descriptor.
    pub fn word(&self, place: Place) -> u64 {
        let table = self.tables.get(&place.table);
        table.and_then(|table| table.words.get(&place.index)).copied().unwrap_or(0)
    }

    /// The trees that a page is in: on x86 it may be in several.
    pub fn roots(&self, page: Frame) -> Vec<Frame> {
        let (mut roots, mut pages) = (Vec::new(), vec![page]);
        // No tree is deeper; what is edited may go in circles.
        for _ in 0..LEVELS_MAX {
            let above = |page: &Frame| {
                let table = self.tables.get(page).filter(|table| !table.detached);
                table.map_or(&[][..], |table| &table.parents)
            };
            roots.extend(pages.iter().filter(|page| above(page).is_empty()));
            pages = pages.iter().flat_map(above).copied().collect();
            pages.sort_unstable();
            pages.dedup();
        }
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    /// The kernel calls this tree so.
    pub fn name(&mut self, pgtable: u64, root: Frame) {
        self.named.insert(pgtable, root);
    }

    /// The tree that the kernel calls so, if something was mapped in it.
    pub fn named(&self, pgtable: u64) -> Option<Frame> {
        self.named.get(&pgtable).copied()
    }

    /// A tree is taken apart: no CPU walks it any more.
    pub fn destroy(&mut self, pgtable: u64) {
        let Some(root) = self.named.remove(&pgtable) else { return };
        for table in self.tables.values_mut().filter(|table| table.root == root) {
            table.detached = true;
        }
    }

    /// The descriptors that map a guest frame, in all trees.
    pub fn leaves(&self, gfn: u64) -> impl Iterator<Item = (Place, Leaf)> {
        self.tables.iter().filter(|(_, table)| !table.detached).filter_map(move |(page, table)| {
            let index = gfn.checked_sub(table.first)? >> self.layout.shift(table.level);
            let index = u16::try_from(index).ok().filter(|index| *index < 512)?;
            let word = *table.words.get(&index)?;
            match self.layout.entry(word, table.level) {
                Entry::Leaf(leaf) => Some((Place { table: *page, index }, leaf)),
                _ => None,
            }
        })
    }

    /// The first frame of a range that some descriptor of a tree maps.
    pub fn first_leaf(&self, root: Frame, range: core::ops::Range<u64>) -> Option<(u64, Leaf)> {
        let tables = self.tables.values().filter(|table| !table.detached && table.root == root);
        let leaves = tables.flat_map(|table| {
            table.words.iter().filter_map(|(index, word)| {
                let shift = self.layout.shift(table.level);
                let gfn = table.first + (u64::from(*index) << shift);
                match self.layout.entry(*word, table.level) {
                    Entry::Leaf(leaf) if gfn < range.end && gfn + (1 << shift) > range.start => {
                        Some((gfn, leaf))
                    }
                    _ => None,
                }
            })
        });
        leaves.min_by_key(|(gfn, _)| *gfn)
    }

    /// An event happens.
    pub fn see(&mut self, what: &What) {
        match what {
            What::Table { page, level, first, root, entries } => {
                // The descriptor that leads to it was stored before, or is in a page that was told
                // of before.
                let down = self.layout.down();
                let leads = |table: &Table| {
                    let of = |word: &&u64| self.layout.child(**word, table.level) == Some(*page);
                    let above = !table.detached && table.level + down == *level;
                    if above { table.words.values().filter(of).count() } else { 0 }
                };
                let parents = self
                    .tables
                    .iter()
                    .flat_map(|(above, table)| std::iter::repeat_n(*above, leads(table)))
                    .collect();
                let words = entries.iter().copied().collect();
                let (level, first, root) = (*level, *first, *root);
                let table = Table { level, first, root, detached: false, words, parents };
                self.tables.insert(*page, table);
            }
            What::Detach { page } => {
                if let Some(table) = self.tables.get_mut(page) {
                    table.detached = true;
                }
            }
            What::Reuse { page } => {
                self.tables.remove(page);
            }
            What::Store { place, new, .. } | What::Hardware { place, new, .. } => {
                let Some(table) = self.tables.get_mut(&place.table) else { return };
                let level = table.level;
                let old = match new {
                    0 => table.words.remove(&place.index),
                    new => table.words.insert(place.index, *new),
                };
                let was = old.and_then(|old| self.layout.child(old, level));
                let is = self.layout.child(*new, level);
                if was == is {
                    return;
                }
                if let Some(table) = was.and_then(|page| self.tables.get_mut(&page))
                    && let Some(at) = table.parents.iter().position(|of| *of == place.table)
                {
                    table.parents.swap_remove(at);
                }
                if let Some(table) = is.and_then(|page| self.tables.get_mut(&page))
                    && !table.detached
                {
                    table.parents.push(place.table);
                }
            }
            _ => {}
        }
    }
}

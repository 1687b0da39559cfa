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
                let words = entries.iter().copied().collect();
                let table =
                    Table { level: *level, first: *first, root: *root, detached: false, words };
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
                if let Some(table) = self.tables.get_mut(&place.table) {
                    match new {
                        0 => table.words.remove(&place.index),
                        new => table.words.insert(place.index, *new),
                    };
                }
            }
            _ => {}
        }
    }
}

//! An array that is never changed while it is in use: it is copied, and the copy takes its place.
//!
//! Guarantee: an array that was found inside a read section is there until the section ends.
//! Mechanism: the updater publishes a copy, waits for a grace period, and frees the old array.
//! `kvm->memslots`, `kvm->buses` and `kvm->irq_routing` are such arrays. Here an array is one word;
//! what its bits mean is up to its owner. The updaters are serialised by a lock of theirs.

use core::slice;

use crate::platform::Ordering::{Acquire, Relaxed, Release};
use crate::platform::{Platform, Until, Word};
use crate::tag::{Object, Tag};

/// A pointer and the memory for the arrays that it may point to.
#[derive(Debug)]
pub struct Published<P: Platform, const N: usize> {
    /// 0: NULL. Else the number of the array in use, counted from 1, in the low byte; above it
    /// what the owner has published with it, such as a generation.
    pointer: P::Word,
    arrays: [P::Word; N],
}

impl<P: Platform, const N: usize> Published<P, N> {
    /// Array 0 is in use and has this content; `None`: the pointer is NULL.
    pub(super) fn new(p: &P, pointer: Object, array: Object, init: Option<u64>) -> Self {
        let published = Published {
            pointer: p.word(Tag::one(pointer), u64::from(init.is_some())),
            arrays: core::array::from_fn(|i| p.word(Tag::nth(array, i), init.unwrap_or(0))),
        };
        p.freed(&published.arrays[usize::from(init.is_some())..]);
        published
    }

    /// `rcu_dereference`: which array is in use; `None`: the pointer is NULL.
    #[track_caller]
    pub(super) fn dereference(&self) -> Option<usize> {
        // ORDERING: acquire: the array is read after the pointer (a data dependency in the kernel).
        // Not judged under SC.
        (self.pointer.load(Acquire) as u8 as usize).checked_sub(1)
    }

    /// Waits until something is published that carries another generation.
    #[track_caller]
    pub(super) fn wait_for_another(&self, array: usize, generation: u64) {
        self.pointer.wait_until(Until::Not(pointer_to(Some(array), generation)));
    }

    /// What an array says.
    #[track_caller]
    pub(super) fn read(&self, array: usize) -> u64 {
        // ORDERING: relaxed: written before the pointer was published.
        self.arrays[array].load(Relaxed)
    }

    /// Fills an array that nobody can find yet, or any more.
    #[track_caller]
    pub(super) fn write(&self, array: usize, content: u64) {
        // ORDERING: relaxed: the publication that follows orders it.
        self.arrays[array].store(content, Relaxed);
    }

    /// `rcu_assign_pointer`: readers that come from now on find this array, or NULL.
    #[track_caller]
    pub(super) fn assign(&self, array: Option<usize>) {
        self.assign_generation(array, 0);
    }

    /// The same, with the generation of the array, so that a pointer never comes back to what it
    /// was.
    #[track_caller]
    pub(super) fn assign_generation(&self, array: Option<usize>, generation: u64) {
        // ORDERING: release: a reader that finds the array finds what was written to it. Not judged
        // under SC.
        self.pointer.store(pointer_to(array, generation), Release);
    }

    /// What the array in use says. For observers.
    pub(super) fn current(&self, peek: impl Fn(&P::Word) -> u64) -> Option<u64> {
        let array = (peek(&self.pointer) as u8 as usize).checked_sub(1)?;
        Some(peek(&self.arrays[array]))
    }

    /// `kmalloc`: the memory of this array is in use from now on.
    pub(super) fn kmalloc(&self, p: &P, array: usize) {
        p.allocated(slice::from_ref(&self.arrays[array]));
    }

    /// `kfree`.
    #[track_caller]
    pub(super) fn kfree(&self, p: &P, array: usize) {
        p.freed(slice::from_ref(&self.arrays[array]));
    }
}

/// What the pointer holds that names this array.
fn pointer_to(array: Option<usize>, generation: u64) -> u64 {
    generation << 8 | array.map_or(0, |i| i as u64 + 1)
}

impl<P: Platform> Published<P, 2> {
    /// Memory for a copy of the array in use. Two are enough where the lock of the updaters is held
    /// over the grace period.
    pub(super) fn kmalloc_other(&self, p: &P, array: usize) -> usize {
        let other = 1 - array;
        self.kmalloc(p, other);
        other
    }
}

#![expect(unsafe_code, reason = "typed values in a flat image that snapshots copy as a whole")]
//! All shared state of a run as one flat array of 64-bit cells: a snapshot is one copy.
//!
//! Words are cells. A value of another type, a *blob*, takes as many cells as it needs. Cells that
//! belong to a blob are only ever copied whole or accessed as that blob's type, never as numbers,
//! because padding may be uninitialised.

use core::cell::Cell;
use core::fmt::Debug;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};

use super::memory::bytes;

/// How many cells there are: 64 KiB, of which snapshots copy what is in use.
pub(crate) const CELLS_MAX: usize = 8192;

/// What the cell of an owner counts from while a blob is shared: more than any owner's number.
const SHARED: u64 = 1 << 32;

/// The cells.
pub(crate) struct Arena {
    cells: Box<[Cell<u64>; CELLS_MAX]>,
    used: Cell<usize>,
}

/// The place of a blob of type `T`: made by [`Arena::blob`] alone.
pub(crate) struct Slot<T> {
    at: u16,
    of: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Slot<T> {
        *self
    }
}
impl<T> Copy for Slot<T> {}

impl Arena {
    pub(crate) fn new() -> Arena {
        let cells = vec![Cell::new(0); CELLS_MAX].into_boxed_slice();
        match cells.try_into() {
            Ok(cells) => Arena { cells, used: Cell::new(0) },
            Err(_) => unreachable!("the length is CELLS_MAX"),
        }
    }

    /// Gives every cell back.
    pub(crate) fn clear(&self) {
        self.cells.iter().for_each(|c| c.set(0));
        self.used.set(0);
    }

    /// Takes `n` cells and returns the first.
    ///
    /// # Panics
    /// If there are not so many left.
    pub(crate) fn take(&self, n: usize) -> u16 {
        let at = self.used.get();
        assert!(at + n <= CELLS_MAX, "the shared state needs more than {CELLS_MAX} cells");
        self.used.set(at + n);
        at as u16
    }

    #[inline(always)]
    pub(crate) fn get(&self, cell: u16) -> u64 {
        self.cells[cell as usize].get()
    }

    #[inline(always)]
    pub(crate) fn set(&self, cell: u16, value: u64) {
        self.cells[cell as usize].set(value);
    }

    /// Makes a blob.
    pub(crate) fn blob<T: Copy + 'static>(&self, init: T) -> Slot<T> {
        assert!(align_of::<T>() <= align_of::<u64>(), "a blob is aligned to 8 bytes at most");
        let slot = Slot { at: self.take(size_of::<T>().div_ceil(8)), of: PhantomData };
        self.write(slot, init);
        slot
    }

    #[inline(always)]
    fn at<T>(&self, slot: Slot<T>) -> *mut T {
        // `take` kept the whole blob inside the cells; the cast keeps their provenance.
        self.cells[slot.at as usize..].as_ptr().cast_mut().cast()
    }

    /// A copy of a blob.
    #[inline(always)]
    pub(crate) fn read<T: Copy + 'static>(&self, slot: Slot<T>) -> T {
        // The cells are interior-mutable and belong to this OS thread. A holder of a `Claim` may be
        // suspended with a `&mut T` on its coroutine stack; it does not run during the copy.
        // SAFETY: `slot` was made by `blob`: aligned, in bounds, and holds a `T`; nobody writes it.
        unsafe { self.at(slot).read() }
    }

    /// Looks at a blob in place.
    #[inline(always)]
    pub(crate) fn with<T: Copy + 'static, R>(&self, slot: Slot<T>, f: impl FnOnce(&T) -> R) -> R {
        // SAFETY: as in `read`; `f` hashes and does not write blobs.
        f(unsafe { &*self.at(slot) })
    }

    /// Replaces a blob.
    #[inline(always)]
    pub(crate) fn write<T: Copy + 'static>(&self, slot: Slot<T>, value: T) {
        // SAFETY: as in `read`; `T: Copy` has no destructor to run. Blobs under a `Claim` are not
        // written by anyone else: `SimLock` writes at creation only.
        unsafe { self.at(slot).write(value) }
    }

    /// Takes a blob for one owner at a time. The cell `owner` says who has it; 0: nobody.
    ///
    /// # Panics
    /// If somebody has it, alone or not.
    #[inline(always)]
    pub(crate) fn claim<T>(&self, slot: Slot<T>, owner: u16, who: u64) -> Claim<'_, T> {
        assert!(who != 0 && self.get(owner) == 0, "a lock that is held was taken");
        self.set(owner, who);
        Claim { arena: self, slot, owner }
    }

    /// Shares a blob with others that share it. The cell `owner` counts them, from [`SHARED`] on.
    ///
    /// # Panics
    /// If somebody has it alone.
    #[inline(always)]
    pub(crate) fn share<T>(&self, slot: Slot<T>, owner: u16) -> Share<'_, T> {
        let count = self.get(owner).max(SHARED);
        assert!(
            self.get(owner) == 0 || self.get(owner) > SHARED,
            "a lock with a writer was shared"
        );
        self.set(owner, count + 1);
        Share { arena: self, slot, owner }
    }

    /// Appends an image of every cell in use.
    pub(crate) fn save(&self, images: &mut ArenaImages) {
        let n = self.used.get();
        images.cells.reserve(n);
        let end = images.cells.len();
        // SAFETY: `n` cells are in bounds here and reserved there; a copy of `MaybeUninit` may copy
        // uninitialised padding.
        unsafe {
            let from = self.cells.as_ptr().cast::<MaybeUninit<u64>>();
            from.copy_to_nonoverlapping(images.cells.as_mut_ptr().add(end), n);
            images.cells.set_len(end + n);
        }
    }

    /// Brings back the `index`-th image.
    ///
    /// # Panics
    /// If there is no such image.
    #[inline]
    pub(crate) fn load(&self, images: &ArenaImages, index: usize) {
        let n = self.used.get();
        let from = &images.cells[index * n..(index + 1) * n];
        // SAFETY: `n` cells are in bounds on both sides, which do not overlap; the image was copied
        // from these cells, so blobs get valid values of their types back.
        unsafe {
            let to = self.cells.as_ptr().cast_mut().cast::<MaybeUninit<u64>>();
            from.as_ptr().copy_to_nonoverlapping(to, n);
        }
    }
}

/// Images of an arena, all of one size.
#[derive(Default)]
pub(crate) struct ArenaImages {
    cells: Vec<MaybeUninit<u64>>,
}

impl ArenaImages {
    /// Keeps the first `n` images.
    pub(crate) fn truncate(&mut self, n: usize, arena: &Arena) {
        self.cells.truncate(n * arena.used.get());
    }

    /// How much memory they take.
    pub(crate) fn bytes(&self) -> usize {
        bytes(&self.cells)
    }
}

/// Ownership of a blob until [`Claim::release`].
///
/// Restoring a snapshot brings back the owner's cell and the owner's stack together, so that there
/// is one live claim for each cell that is not 0.
pub(crate) struct Claim<'a, T> {
    arena: &'a Arena,
    slot: Slot<T>,
    owner: u16,
}

impl<T> Claim<'_, T> {
    /// Gives the blob back. The claim must not be used again.
    #[inline(always)]
    pub(crate) fn release(&mut self) {
        self.arena.set(self.owner, 0);
    }
}

impl<T> Deref for Claim<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: aligned, in bounds and a `T` as in `read`; nobody else writes while this claim
        // lives, because `claim` refuses a second one.
        unsafe { &*self.arena.at(self.slot) }
    }
}

impl<T> DerefMut for Claim<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `&mut self` makes this the only reference made by the claim.
        unsafe { &mut *self.arena.at(self.slot) }
    }
}

/// A part in a blob that is not changed, until [`Share::release`]. As with a [`Claim`], restoring a
/// snapshot brings back the count together with the stacks of those who are counted.
pub(crate) struct Share<'a, T> {
    arena: &'a Arena,
    slot: Slot<T>,
    owner: u16,
}

impl<T> Share<'_, T> {
    /// Gives the part back. It must not be used again.
    #[inline(always)]
    pub(crate) fn release(&mut self) {
        let count = self.arena.get(self.owner) - 1;
        self.arena.set(self.owner, if count == SHARED { 0 } else { count });
    }
}

impl<T> Deref for Share<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: aligned, in bounds and a `T` as in `read`; nobody writes while this part lives,
        // because `claim` refuses a blob that is shared.
        unsafe { &*self.arena.at(self.slot) }
    }
}

impl Debug for Arena {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Arena").field("used", &self.used.get()).finish_non_exhaustive()
    }
}

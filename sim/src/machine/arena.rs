#![expect(unsafe_code, reason = "typed values in a flat image that snapshots copy as a whole")]
//! All shared state of a run as one flat array of 64-bit cells, in blocks: a snapshot copies those
//! that have changed since the one below it.
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
/// How many cells a block has. A step writes a few words and a blob or two; a smaller block copies
/// less for a word, a larger one makes snapshots look at fewer.
const BLOCK: usize = 32;
/// The version of a block that has changed since it was saved.
const CHANGED: u64 = 0;
/// No saved block.
const NOWHERE: u32 = u32::MAX;

/// What the cell of an owner counts from while a blob is shared: more than any owner's number.
const SHARED: u64 = 1 << 32;

/// The cells.
pub(crate) struct Arena {
    cells: Box<[Cell<u64>; CELLS_MAX]>,
    used: Cell<usize>,
    /// Equal versions of a block are equal blocks.
    versions: Box<[Cell<u64>; CELLS_MAX / BLOCK]>,
    next_version: Cell<u64>,
}

/// The place of a blob of type `T`: made by [`Arena::blob`] alone.
pub(crate) struct Slot<T> {
    at: u16,
    of: PhantomData<fn(T) -> T>,
}

/// The cells of a blob of whatever type.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    at: u16,
    cells: u16,
}

impl<T> Slot<T> {
    /// Its cells.
    #[inline(always)]
    pub(crate) fn extent(self) -> Extent {
        Extent { at: self.at, cells: size_of::<T>().div_ceil(8) as u16 }
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Slot<T> {
        *self
    }
}
impl<T> Copy for Slot<T> {}

impl Arena {
    pub(crate) fn new() -> Arena {
        Arena {
            cells: zeros(),
            used: Cell::new(0),
            versions: zeros(),
            next_version: Cell::new(CHANGED + 1),
        }
    }

    /// Gives every cell back.
    pub(crate) fn clear(&self) {
        self.cells.iter().for_each(|c| c.set(0));
        self.versions.iter().for_each(|v| v.set(CHANGED));
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
        self.versions[cell as usize / BLOCK].set(CHANGED);
    }

    /// A blob may have changed. Whoever writes one through a [`Claim`] says so before the next
    /// snapshot.
    #[inline(always)]
    pub(crate) fn touch(&self, Extent { at, cells }: Extent) {
        let blocks = at as usize / BLOCK..(at + cells).div_ceil(BLOCK as u16) as usize;
        self.versions[blocks].iter().for_each(|v| v.set(CHANGED));
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
        self.touch(slot.extent());
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

    /// Appends an image. Blocks that are those of the image before are shared with it.
    pub(crate) fn save(&self, images: &mut ArenaImages) {
        let blocks = self.blocks();
        let start = images.index.len();
        images.images.push(images.versions.len());
        match start.checked_sub(blocks) {
            Some(below) => images.index.extend_from_within(below..),
            None => images.index.resize(blocks, NOWHERE),
        }
        let versions = &self.versions[..blocks];
        for (block, (version, place)) in versions.iter().zip(&mut images.index[start..]).enumerate()
        {
            if images.versions.get(*place as usize) == Some(&version.get()) {
                continue;
            }
            if version.get() == CHANGED {
                version.set(self.next_version.get());
                self.next_version.set(version.get() + 1);
            }
            *place = images.versions.len() as u32;
            images.versions.push(version.get());
            let end = images.cells.len();
            images.cells.reserve(BLOCK);
            // SAFETY: a block is in bounds here (`blocks` rounds up to what `cells` has) and
            // reserved there; a copy of `MaybeUninit` may copy uninitialised padding.
            unsafe {
                let from = self.cells[block * BLOCK..].as_ptr().cast::<MaybeUninit<u64>>();
                from.copy_to_nonoverlapping(images.cells.as_mut_ptr().add(end), BLOCK);
                images.cells.set_len(end + BLOCK);
            }
        }
    }

    /// Brings back the `index`-th image, which must be one of this arena.
    ///
    /// # Panics
    /// If there is no such image.
    #[inline]
    pub(crate) fn load(&self, images: &ArenaImages, index: usize) {
        let blocks = self.blocks();
        let saved = &images.index[index * blocks..(index + 1) * blocks];
        for (block, saved) in saved.iter().enumerate() {
            let (version, saved) = (&self.versions[block], *saved as usize);
            if version.get() == images.versions[saved] {
                continue;
            }
            version.set(images.versions[saved]);
            let from = &images.cells[saved * BLOCK..(saved + 1) * BLOCK];
            // SAFETY: a block is in bounds on both sides, which do not overlap; the image was
            // copied from these cells, so blobs get valid values of their types back: all blocks
            // of a blob are those of one image, as equal versions are equal blocks.
            unsafe {
                let to = self.cells[block * BLOCK..].as_ptr().cast_mut();
                from.as_ptr().copy_to_nonoverlapping(to.cast::<MaybeUninit<u64>>(), BLOCK);
            }
        }
    }

    /// How many blocks are in use.
    #[inline(always)]
    fn blocks(&self) -> usize {
        self.used.get().div_ceil(BLOCK)
    }
}

fn zeros<const N: usize>() -> Box<[Cell<u64>; N]> {
    match vec![Cell::new(0); N].into_boxed_slice().try_into() {
        Ok(cells) => cells,
        Err(_) => unreachable!("the length is N"),
    }
}

/// Images of an arena: a stack of them.
#[derive(Default)]
pub(crate) struct ArenaImages {
    /// Saved blocks, one after the other, and the version of each.
    cells: Vec<MaybeUninit<u64>>,
    versions: Vec<u64>,
    /// For each image and block, the saved block.
    index: Vec<u32>,
    /// How many saved blocks there were before each image.
    images: Vec<usize>,
}

impl ArenaImages {
    /// Keeps the first `n` images.
    pub(crate) fn truncate(&mut self, n: usize, arena: &Arena) {
        if let Some(saved) = self.images.get(n) {
            self.cells.truncate(saved * BLOCK);
            self.versions.truncate(*saved);
            self.index.truncate(n * arena.blocks());
            self.images.truncate(n);
        }
    }

    /// How much memory they take.
    pub(crate) fn bytes(&self) -> usize {
        bytes(&self.cells) + bytes(&self.versions) + bytes(&self.index) + bytes(&self.images)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Against whole copies: random writes, saves, restores and truncations of a stack of images.
    #[test]
    fn images_bring_back_every_cell() {
        let arena = Arena::new();
        let words = arena.take(100);
        let blob: Slot<[u64; 50]> = arena.blob([0; 50]);
        let all = || -> Vec<u64> { (0..arena.used.get() as u16).map(|c| arena.get(c)).collect() };
        let (mut images, mut copies) = (ArenaImages::default(), Vec::new());
        let mut random = 1_u64;
        let mut below = |n: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % n
        };
        let mut deepest = 0;
        for round in 0..20_000 {
            deepest = deepest.max(copies.len());
            match below(6) {
                0 => arena.set(words + below(100) as u16, round),
                1 => {
                    let mut value = arena.read(blob);
                    value[below(50)] = round;
                    arena.write(blob, value);
                }
                2 | 3 => {
                    arena.save(&mut images);
                    copies.push(all());
                }
                4 if !copies.is_empty() => {
                    let at = below(copies.len());
                    arena.load(&images, at);
                    assert_eq!(all(), copies[at], "image {at} of {}", copies.len());
                }
                _ => {
                    let n = copies.len() - below(copies.len().min(3) + 1);
                    images.truncate(n, &arena);
                    copies.truncate(n);
                }
            }
        }
        assert!(deepest > 100, "the stack grew to {deepest}");
    }
}

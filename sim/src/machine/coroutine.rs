#![expect(unsafe_code, reason = "saving and restoring the live part of a coroutine's stack")]
//! Threads as stackful coroutines whose stacks can be saved, restored and reset without unwinding.
//!
//! A suspended coroutine is its stack from the saved stack pointer up, and that stack pointer:
//! everything else is constant. `corosensei` keeps the stack pointer in a private field, as one
//! word of the coroutine object; [`calibrate`] finds out which, once per process, and asserts that
//! exactly one word of the object changes when a coroutine suspends, and that it points into the
//! stack.
//!
//! Nothing on a coroutine's stack may own heap memory while it is suspended: a restored stack would
//! free it twice, a reset one never.

use core::cell::Cell;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::num::NonZero;
use core::ptr::{self, NonNull};
use std::sync::OnceLock;

use corosensei::stack::{DefaultStack, Stack, StackPointer};
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::instance::Instance;
use super::memory::bytes;

/// Generous: a panic message is formatted on it. Untouched pages cost nothing.
const STACK_BYTES: usize = 512 * 1024;

type Body = Coroutine<(), (), (), Borrowed>;
const WORDS: usize = size_of::<Body>() / size_of::<usize>();
// No padding: two bounds, two stack pointers and a function pointer.
const _: () = assert!(size_of::<Body>() == 5 * size_of::<usize>());

/// A stack that [`Slot`] owns.
struct Borrowed {
    base: StackPointer,
    limit: StackPointer,
}

// SAFETY: the bounds are those of a `DefaultStack` with its guard page, which the slot keeps alive
// for longer than the coroutine that runs on it.
unsafe impl Stack for Borrowed {
    fn base(&self) -> StackPointer {
        self.base
    }
    fn limit(&self) -> StackPointer {
        self.limit
    }
}

/// The way back from the coroutine that runs now, and what it runs.
#[derive(Debug)]
pub(crate) struct Switch {
    yielder: Cell<*const Yielder<(), ()>>,
    instance: Cell<Option<NonNull<dyn Instance>>>,
}

impl Switch {
    pub(crate) const fn new() -> Switch {
        Switch { yielder: Cell::new(ptr::null()), instance: Cell::new(None) }
    }

    /// True if a coroutine runs.
    #[inline(always)]
    pub(crate) fn inside(&self) -> bool {
        !self.yielder.get().is_null()
    }

    /// Gives the instance that the running coroutine belongs to, if one runs.
    #[inline(always)]
    pub(crate) fn with_instance(&self, body: impl FnOnce(&dyn Instance)) {
        if let Some(instance) = self.instance.get() {
            // SAFETY: set only while `Coroutines::resume` runs; `Coroutines` owns the instance and
            // frees it after the last coroutine, and it is never borrowed mutably.
            body(unsafe { instance.as_ref() });
        }
    }

    /// Leaves the running coroutine until it is resumed.
    ///
    /// # Panics
    /// If no coroutine runs.
    #[inline(always)]
    pub(crate) fn suspend(&self) {
        let yielder = self.yielder.get();
        assert!(!yielder.is_null(), "a shared access outside of every thread");
        // SAFETY: the pointer is not null only while `Coroutines::resume` runs the coroutine whose
        // stack holds the yielder.
        unsafe { (*yielder).suspend(()) }
    }
}

struct Slot {
    body: ManuallyDrop<Body>,
    stack: DefaultStack,
    yielder: *const Yielder<(), ()>,
}

/// The coroutines of an engine.
pub(crate) struct Coroutines {
    slots: Vec<Slot>,
    instance: NonNull<dyn Instance>,
    /// Tells the images of these coroutines from those of others.
    id: NonZero<u64>,
    sp_word: usize,
}

thread_local!(static IDS: Cell<u64> = const { Cell::new(0) });

impl Coroutines {
    pub(crate) fn new(instance: Box<dyn Instance>) -> Coroutines {
        let instance = NonNull::from(Box::leak(instance));
        let id = IDS.get() + 1;
        IDS.set(id);
        let id = NonZero::new(id).unwrap_or(NonZero::<u64>::MIN);
        Coroutines { slots: Vec::new(), instance, id, sp_word: calibrate() }
    }

    /// What the coroutines run.
    pub(crate) fn instance(&self) -> &dyn Instance {
        // SAFETY: it was leaked from a box in `new` and is freed in `drop`.
        unsafe { self.instance.as_ref() }
    }

    /// Adds a coroutine; it has not started.
    ///
    /// # Panics
    /// If there is no memory for its stack.
    pub(crate) fn spawn(&mut self, switch: &'static Switch, body: impl FnOnce() + 'static) {
        let stack = DefaultStack::new(STACK_BYTES).expect("memory for a coroutine's stack");
        let borrowed = Borrowed { base: stack.base(), limit: stack.limit() };
        let body = Coroutine::with_stack(borrowed, move |yielder: &Yielder<(), ()>, ()| {
            switch.yielder.set(yielder);
            body();
        });
        let body = ManuallyDrop::new(body);
        self.slots.push(Slot { body, stack, yielder: ptr::null() });
    }

    /// Runs coroutine `index` until it suspends; true if it ended.
    #[inline(always)]
    pub(crate) fn resume(&mut self, index: usize, switch: &Switch) -> bool {
        assert!(switch.instance.get().is_none(), "a coroutine resumed another");
        let slot = &mut self.slots[index];
        switch.yielder.set(slot.yielder);
        switch.instance.set(Some(self.instance));
        let result = slot.body.resume(());
        switch.instance.set(None);
        slot.yielder = switch.yielder.replace(ptr::null());
        matches!(result, CoroutineResult::Return(()))
    }

    /// The saved stack pointer of a coroutine; 0 if it has ended.
    #[inline(always)]
    fn sp(&self, index: usize) -> usize {
        words(&self.slots[index].body)[self.sp_word]
    }

    /// Appends an image of a suspended coroutine.
    #[inline]
    pub(crate) fn save(&self, index: usize, images: &mut StackImages) {
        assert!(*images.owner.get_or_insert(self.id) == self.id, "images of another engine");
        let (sp, start) = (self.sp(index), images.words.len());
        if sp != 0 {
            let (base, limit) =
                (self.slots[index].stack.base().get(), self.slots[index].stack.limit());
            assert!(limit.get() <= sp && sp < base && sp % 8 == 0, "the saved stack pointer");
            let n = (base - sp) / 8;
            images.words.reserve(n);
            // All that is live is in `sp..base`: the coroutine is suspended, so it pushed its
            // registers and saved `sp` below everything that it uses; the switch is inline
            // assembly, across which no red zone survives.
            // SAFETY: `sp..base` lies inside the mapped stack, by the assertion, and `n` words are
            // reserved behind `start`.
            unsafe {
                let from = ptr::with_exposed_provenance::<MaybeUninit<u64>>(sp);
                from.copy_to_nonoverlapping(images.words.as_mut_ptr().add(start), n);
                images.words.set_len(start + n);
            }
        }
        images.index.push(Image { coroutine: index, sp, start });
    }

    /// Brings back an image.
    ///
    /// # Panics
    /// If the image is not one of these coroutines'.
    #[inline]
    pub(crate) fn load(&mut self, images: &StackImages, image: usize) {
        assert!(images.owner == Some(self.id), "images of another engine");
        let Image { coroutine, sp, start } = images.index[image];
        let slot = &mut self.slots[coroutine];
        if sp != 0 {
            let n = (slot.stack.base().get() - sp) / 8;
            let from = &images.words[start..start + n];
            // SAFETY: the image was copied from exactly this place of this stack (`save`), and no
            // coroutine runs now: `&mut self`.
            unsafe {
                let to = ptr::with_exposed_provenance_mut::<MaybeUninit<u64>>(sp);
                from.as_ptr().copy_to_nonoverlapping(to, n);
            }
        }
        // SAFETY: `sp_word` is the place of an `Option<StackPointer>`, for which every word is
        // valid, and 0 is `None`: ended. The word was read from here.
        unsafe { (&raw mut *slot.body).cast::<usize>().add(self.sp_word).write(sp) }
    }
}

impl Drop for Coroutines {
    fn drop(&mut self) {
        for slot in &mut self.slots {
            // SAFETY: (1) nothing on the stack of a coroutine needs to be dropped, see above. (2)
            // The body is not used again.
            unsafe {
                slot.body.force_reset();
                ManuallyDrop::drop(&mut slot.body);
            }
        }
        // SAFETY: leaked from a box in `new`; the coroutines, which alone borrowed it, are dropped.
        drop(unsafe { Box::from_raw(self.instance.as_ptr()) });
    }
}

/// The stacks of suspended coroutines, in the order in which they were saved.
#[derive(Default)]
pub(crate) struct StackImages {
    owner: Option<NonZero<u64>>,
    words: Vec<MaybeUninit<u64>>,
    index: Vec<Image>,
}

#[derive(Clone, Copy)]
struct Image {
    coroutine: usize,
    sp: usize,
    start: usize,
}

impl StackImages {
    /// How many images there are.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }
    /// Keeps the first `n` images.
    pub(crate) fn truncate(&mut self, n: usize) {
        if let Some(image) = self.index.get(n) {
            self.words.truncate(image.start);
            self.index.truncate(n);
        }
    }
    /// How much memory they take.
    pub(crate) fn bytes(&self) -> usize {
        bytes(&self.words) + bytes(&self.index)
    }
}

#[inline(always)]
fn words(body: &Body) -> &[usize; WORDS] {
    // SAFETY: a `Body` is `WORDS` words without padding, all of them initialised (see the assertion
    // beside `WORDS`), and aligned as words are.
    unsafe { &*(&raw const *body).cast() }
}

/// Finds the word of a coroutine object that holds its saved stack pointer.
fn calibrate() -> usize {
    static PLACE: OnceLock<usize> = OnceLock::new();
    *PLACE.get_or_init(|| {
        let stack = DefaultStack::new(STACK_BYTES).expect("memory for a coroutine's stack");
        let (base, limit) = (stack.base(), stack.limit());
        let mut probe: Body =
            Coroutine::with_stack(Borrowed { base, limit }, |yielder: &Yielder<(), ()>, ()| {
                (0..2).for_each(|_| yielder.suspend(()))
            });
        let fresh = *words(&probe);
        probe.resume(());
        let suspended = *words(&probe);
        let changed: Vec<usize> = (0..WORDS).filter(|&i| fresh[i] != suspended[i]).collect();
        let &[place] = changed.as_slice() else {
            panic!("corosensei's coroutine object is not what this crate was written for");
        };
        for sp in [fresh[place], suspended[place]] {
            assert!(limit.get() <= sp && sp < base.get(), "not a stack pointer");
        }
        probe.resume(());
        probe.resume(());
        assert!(probe.done() && words(&probe)[place] == 0, "an ended coroutine has none");
        place
    })
}

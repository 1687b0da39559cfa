//! The heap: what scenarios keep in vectors and strings.

use core::cell::UnsafeCell;

use linked_list_allocator::LockedHeap;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// How much there is.
const SIZE: usize = 4 << 20;

/// The heap's memory.
#[repr(C, align(4096))]
struct Memory(UnsafeCell<[u8; SIZE]>);

#[expect(unsafe_code, reason = "the heap's lock is what shares it")]
// SAFETY: nobody but the heap touches the memory, and the heap has a lock.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([0; SIZE]));

/// Gives the heap its memory. Once, before anything is allocated.
#[expect(unsafe_code, reason = "an allocator has to be given memory")]
pub(crate) fn init() {
    // SAFETY: the memory is static, it is used for nothing else, and this runs once: it is called
    // by the first CPU's entry only.
    unsafe { HEAP.lock().init(MEMORY.0.get().cast(), SIZE) };
}

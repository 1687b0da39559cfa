//! What an instruction is for the plugin.

use kvmmu_steps::event::Barrier;

/// Kinds of instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// None that matters.
    Other,
    /// kvmmu-live speaks.
    Message,
    /// A TLB invalidation of arm64, as it is encoded.
    Tlbi(u32),
    /// A barrier.
    Barrier(Barrier),
    /// Perhaps into a guest.
    Eret,
    /// Names the root of a tree, in this register.
    Root(u8),
    /// Zeroes 64 bytes at the address in this register.
    Zero(u8),
    /// A return of some function.
    Ret,
    /// The first instruction of a function that is recorded.
    Call(u8),
    /// A return of a function that is recorded.
    Return(u8),
    /// `__guest_exit`: a guest was left.
    GuestExit,
}

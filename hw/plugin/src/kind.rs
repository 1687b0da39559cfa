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
    /// One at which CPUs may be held.
    Gate,
    /// A return of some function.
    Ret,
    /// The first instruction of a function that is recorded.
    Call(u8),
    /// A return of a function that is recorded.
    Return(u8),
    /// `__guest_exit` on arm64, what comes after VMRUN on x86: a guest was left.
    GuestExit,
    /// Before a guest is entered, on x86: GS is still the host's, and says which CPU this is.
    Vmload,
    /// Into a guest, on x86; the register rax has its VMCB.
    Vmrun,
    /// A TLB invalidation of x86: one page of an ASID.
    Invlpga,
}

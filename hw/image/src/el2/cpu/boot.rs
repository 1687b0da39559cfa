//! The first instructions, exceptions, and the guests: what is in `boot.s`, by name.

#[expect(unsafe_code, reason = "no Rust can run before these instructions have")]
mod instructions {
    core::arch::global_asm!(include_str!("../../boot.s"));
}

#[expect(unsafe_code, reason = "these are in boot.s and link.ld")]
unsafe extern "C" {
    /// Where the image is.
    pub(crate) safe static image_start: u8;
    /// The table of exceptions.
    pub(crate) safe static vectors: u8;
    /// Where PSCI starts the other CPUs.
    pub(crate) safe static secondary_start: u8;
    /// Turns stage 1 of EL2 on.
    pub(crate) fn enable_mmu();
}

//! Instructions of x86-64 that matter, and the control block of a guest (VMCB).

use crate::kind::Kind;

/// Offsets in a VMCB: AMD64 Architecture Programmer's Manual, volume 2, appendix B.
pub(crate) mod vmcb {
    /// The ASID; in the word's upper half what is flushed: see [`super::flush`].
    pub(crate) const ASID: u64 = 0x58;
    /// Why the guest was left, and two words of detail.
    pub(crate) const EXIT_CODE: u64 = 0x70;
    pub(crate) const EXIT_INFO_1: u64 = 0x78;
    pub(crate) const EXIT_INFO_2: u64 = 0x80;
    /// Bit 0: nested paging.
    pub(crate) const NP_ENABLE: u64 = 0x90;
    /// The root of the nested page tables.
    pub(crate) const N_CR3: u64 = 0xb0;
    /// The guest's EFER.
    pub(crate) const EFER: u64 = 0x400 + 0xd0;
    /// The guest's own CR3: without nested paging that of the shadow page tables.
    pub(crate) const CR3: u64 = 0x400 + 0x150;
    /// The guest's instruction.
    pub(crate) const RIP: u64 = 0x400 + 0x178;
}

/// The address in CR3 and nCR3.
pub(crate) const ROOT: u64 = 0x000f_ffff_ffff_f000;
/// EFER.LMA: page tables have four levels, not three.
pub(crate) const EFER_LMA: u64 = 1 << 10;
/// CR4.LA57: page tables of the host, and so nested ones, have five levels.
pub(crate) const CR4_LA57: u64 = 1 << 12;
/// `nop dword ptr [rax + rax + 0x6b766d6d]`: no operation on any CPU; kvmmu-live speaks to the
/// plugin by it.
const MESSAGE: [u8; 8] = [0x0f, 0x1f, 0x84, 0x00, 0x6d, 0x6d, 0x76, 0x6b];

/// What an instruction is.
pub(crate) fn kind(bytes: &[u8]) -> Kind {
    match bytes {
        _ if bytes.starts_with(&MESSAGE) => Kind::Message,
        [0x0f, 0x01, 0xd8, ..] => Kind::Vmrun,
        [0x0f, 0x01, 0xda, ..] => Kind::Vmload,
        [0x0f, 0x01, 0xdf, ..] => Kind::Invlpga,
        // With and without a prefix that means nothing there.
        [0xc3, ..] | [0xf3, 0xc3, ..] => Kind::Ret,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings() {
        assert_eq!(kind(&MESSAGE), Kind::Message);
        assert_eq!(kind(&[0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0]), Kind::Other, "a NOP");
        assert_eq!(kind(&[0x0f, 0x01, 0xd8]), Kind::Vmrun);
        assert_eq!(kind(&[0x0f, 0x01, 0xdf]), Kind::Invlpga);
        assert_eq!(kind(&[0xc3]), Kind::Ret);
        assert_eq!(kind(&[]), Kind::Other);
    }
}

//! What arm64 tells by its registers.

use kvmmu_steps::event::{Frame, What};

use super::{At, Recorder, Who};
use crate::hold::Until;
use crate::{KERNEL, arm64};

/// HCR_EL2.TGE: the host is what EL0 belongs to, and TLBIs of EL1 are its own.
const HCR_TGE: u64 = 1 << 27;
/// HCR_EL2.E2H: the kernel is at EL2 (VHE).
const HCR_E2H: u64 = 1 << 34;
/// VTCR_EL2.TG0: not 0 for pages of other than 4 KiB.
const TG0: u64 = 3 << 14;
/// The address in VTTBR_EL2.
const BADDR: u64 = 0x0000_ffff_ffff_fffe;

impl Recorder {
    /// A VHE kernel has the offset of its per-CPU data in TPIDR_EL2, and the task in SP_EL0; user
    /// space and guests have their stack there.
    pub(super) fn who_arm64(&self) -> Who {
        let task = Some(self.registers.get("SP_EL0")).filter(|task| *task >= KERNEL);
        (Some(self.registers.get("TPIDR_EL2")), task)
    }

    /// Why nothing can be said of this kernel, if that is so.
    pub(super) fn refuses_arm64(&self) -> Option<String> {
        let refuses = self.registers.get("HCR_EL2") & HCR_E2H == 0;
        refuses.then(|| {
            "this kernel is not at EL2 (VHE): threads and CPUs cannot be told apart".to_owned()
        })
    }

    /// `msr vttbr_el2`: names a root.
    pub(super) fn root_arm64(&mut self, at: At, register: u8) {
        let root = self.registers.x(register) & BADDR;
        if root == 0 {
            return;
        }
        let vtcr = self.registers.get("VTCR_EL2");
        if vtcr & TG0 != 0 {
            return self.log.fail("this kernel has pages of other than 4 KiB".to_owned());
        }
        let geometry = (root_level(vtcr), root_pages(vtcr));
        self.tables(at, |tables, ram, tell| tables.root(Frame::of(root), geometry, ram, tell));
    }

    pub(super) fn tlbi_arm64(&mut self, at: At, word: u32) {
        if self.registers.get("HCR_EL2") & HCR_TGE != 0 && !arm64::is_el2(word) {
            // The host's own.
            return;
        }
        self.audit(at);
        let vttbr = self.registers.get("VTTBR_EL2");
        let (op, operand) = (arm64::tlbi(word), self.registers.x(arm64::register(word)));
        let (root, id) = (Frame::of(vttbr & BADDR), (vttbr >> 48) as u32);
        self.say(at, What::Tlbi { op, operand, root, id });
    }

    /// `eret`, perhaps into a guest.
    pub(super) fn enter_arm64(&mut self, at: At) {
        if self.registers.get("HCR_EL2") & HCR_TGE != 0 {
            return;
        }
        self.audit(at);
        let (vttbr, pc) = (self.registers.get("VTTBR_EL2"), self.registers.get("ELR_EL2"));
        let (root, id) = (Frame::of(vttbr & BADDR), (vttbr >> 48) as u32);
        self.say(at, What::Enter { root, id, vcpu: 0, flush: None, pc });
        self.others_do(at, Until::Enter);
        self.is_inside(at.cpu, Some(0));
    }

    pub(super) fn exit_arm64(&mut self, at: At) {
        self.audit(at);
        self.is_inside(at.cpu, None);
        let (reason, address) = (self.registers.get("ESR_EL2"), self.registers.get("FAR_EL2"));
        let ipa = (self.registers.get("HPFAR_EL2") & 0xfff_ffff_fff0) << 8;
        self.say(at, What::Exit { reason, address, ipa });
    }

    /// Before a DC ZVA, which QEMU does not report as a store.
    pub(super) fn zero_arm64(&mut self, at: At, register: u8) {
        let Some(linear) = self.linear else { return };
        let page = Frame::of(self.registers.x(register).wrapping_sub(linear));
        if self.tables.has(page) {
            self.tables(at, |tables, _, tell| tables.reuse(page, tell));
        }
    }
}

/// The level of a root, from VTCR_EL2.SL0 (4 KiB pages).
fn root_level(vtcr: u64) -> i8 {
    2 - (vtcr >> 6 & 3).min(2) as i8
}

/// How many pages a root has: so many are concatenated.
fn root_pages(vtcr: u64) -> u64 {
    let bits = 64 - (vtcr & 63) as u32;
    let index = bits.saturating_sub(12 + 9 * (3 - root_level(vtcr)) as u32);
    1 << index.saturating_sub(9).min(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_of_forty_bits_are_two_pages_of_level_one() {
        let vtcr = 1 << 6 | 24;
        assert_eq!((root_level(vtcr), root_pages(vtcr)), (1, 2));
        assert_eq!((root_level(0), root_pages(1 << 6 | 25)), (2, 1));
    }
}

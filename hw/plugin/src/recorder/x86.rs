//! What x86-64 tells by its registers, and by the control block of a guest.

use kvmmu_steps::event::{EntryFlush, Frame, Tlbi, What};

use super::{At, Recorder, STACK, Who};
use crate::KERNEL;
use crate::hold::Until;
use crate::x86::{CR4_LA57, EFER_LMA, ROOT, vmcb};

impl Recorder {
    /// The kernel has its per-CPU data where GS points; in user space that address is the one that
    /// SWAPGS brings back, and around VMRUN it is a guest's. Threads are told apart by their
    /// stacks.
    pub(super) fn who_x86(&self) -> Who {
        let own = ["gs_base", "k_gs_base"].map(|name| self.registers.get(name));
        let task = self.registers.get("rsp") & !(STACK - 1);
        (own.into_iter().find(|base| *base >= KERNEL), Some(task).filter(|task| *task >= KERNEL))
    }

    fn vmcb(&self, address: u64, offset: u64) -> u64 {
        self.ram.as_ref().and_then(|ram| ram.load(address + offset)).unwrap_or(0)
    }

    /// `vmrun`: names a root, and says what it flushes.
    pub(super) fn enter_x86(&mut self, at: At) {
        let vcpu = self.registers.get("rax");
        let word = |offset| self.vmcb(vcpu, offset);
        let nested = word(vmcb::NP_ENABLE) & 1 == 1;
        let root = Frame::of(word(if nested { vmcb::N_CR3 } else { vmcb::CR3 }) & ROOT);
        let (asid, pc) = (word(vmcb::ASID), word(vmcb::RIP));
        let level = match nested {
            // As many as the host's own.
            true if self.registers.get("cr4") & CR4_LA57 != 0 => 5,
            false if word(vmcb::EFER) & EFER_LMA == 0 => 3,
            _ => 4,
        };
        self.tables(at, |tables, ram, tell| tables.root(root, (level, 1), ram, tell));
        self.audit(at);
        let flush = match asid >> 32 & 0xff {
            0 => None,
            1 => Some(EntryFlush::All),
            _ => Some(EntryFlush::Own),
        };
        self.say(at, What::Enter { root, id: asid as u32, vcpu, flush, pc });
        self.others_do(at, Until::Enter);
        self.is_inside(at.cpu, Some(vcpu));
    }

    /// After `vmrun`.
    pub(super) fn exit_x86(&mut self, at: At) {
        self.audit(at);
        let vcpu = self.inside.get(usize::from(at.cpu)).copied().flatten().unwrap_or(0);
        self.is_inside(at.cpu, None);
        let word = |offset| self.vmcb(vcpu, offset);
        let reason = word(vmcb::EXIT_CODE);
        let (address, ipa) = (word(vmcb::EXIT_INFO_1), word(vmcb::EXIT_INFO_2));
        self.say(at, What::Exit { reason, address, ipa });
    }

    /// `invlpga`: the address is in rax, the ASID in rcx.
    pub(super) fn invlpga_x86(&mut self, at: At) {
        self.audit(at);
        let (operand, id) = (self.registers.get("rax"), self.registers.get("rcx") as u32);
        self.say(at, What::Tlbi { op: Tlbi::Invlpga, operand, root: Frame(0), id });
    }
}

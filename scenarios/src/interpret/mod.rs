//! Operations, interpreted: the same code on every machine.
//!
//! Each operation is a `call`, with a checkpoint before it and before each retry of an instruction.

mod host;
mod kvm;
pub(crate) mod locks;
mod system;
mod user;
mod vcpu;

use core::hash::Hash;

use kvmmu_model::CpuId;

use self::locks::Holds;
use crate::machine::Machine;
use crate::outcome::Asker;
use crate::scenario::{Op, Scenario, ThreadKind};
use crate::world::World;

impl<M: Machine> World<M> {
    /// Runs the program of a thread.
    ///
    /// # Panics
    /// If there is no such thread.
    pub fn run_thread(&self, scenario: &Scenario, thread: usize) {
        let program = &scenario.threads[thread];
        if thread == 0 {
            crate::oracle::check_start(self);
        }
        match program.kind {
            ThreadKind::Vcpu => self.run_vcpu(CpuId(thread as u8), &program.run),
            ThreadKind::Host | ThreadKind::User => {
                self.run_ops(Asker::Thread(thread as u8), &program.run);
            }
        }
    }

    /// What user space does at the end, and then the checks of the end.
    pub fn run_stop(&self, scenario: &Scenario) {
        self.run_ops(Asker::Stop, &scenario.at_stop);
        crate::oracle::check_end(self);
    }

    fn run_ops(&self, who: Asker, ops: &[Op]) {
        self.holding(ops, |held| self.run_ops_holding(who, ops, held));
    }

    fn run_ops_holding<'a>(&'a self, who: Asker, ops: &[Op], held: &mut Holds<'a, M>) {
        let mut next = 0;
        while let Some((_, op)) = self.next_op(ops, &mut next, ()) {
            match op {
                Op::SwapOut(gfn) => self.swap_out(gfn),
                Op::SwapIn(gfn) => self.swap_in(gfn),
                Op::KsmMerge(keep, drop) => self.ksm_merge(keep, drop),
                Op::CowBreak(gfn) => self.cow_break(gfn),
                Op::ChangePte(gfn, pfn) => self.change_pte(gfn, pfn),
                Op::Age(gfn) => self.notify_clear_young(gfn, true),
                Op::ClearYoung(gfn) => self.notify_clear_young(gfn, false),
                Op::Shrink => self.mmu.mmu_shrink_scan(),
                Op::GetDirtyLog(slot) => self.get_dirty_log(who, slot),
                Op::CopyHarvested => self.copy_harvested(),
                Op::DropHarvested => self.drop_harvested(),
                // Memslots, buses, interrupt routing.
                Op::DeleteMemslot(slot) => self.delete_memslot(slot),
                Op::RegisterMmio => self.mmu.kvm_assign_ioeventfd(),
                Op::UnregisterMmio(enomem) => self.mmu.kvm_deassign_ioeventfd(enomem),
                Op::SetGsiRouting => self.mmu.kvm_set_irq_routing(),
                Op::IrqLine => self.mmu.kvm_set_irq(),
                Op::CreateIrqchip => self.mmu.create_irqchip(),
                Op::CreatePit => self.mmu.create_pit(),
                Op::MadvisePageout(gfn) => self.madvise_pageout(gfn),
                // VMs, vCPUs, CPUs.
                op @ (Op::CreateVm
                | Op::DestroyVm
                | Op::CreateVcpu
                | Op::UpdateVmsa
                | Op::SetTsc(_)
                | Op::SetNxHugePages
                | Op::HvEventfd
                | Op::PiWakeup(_)
                | Op::CpuOnline
                | Op::CpuOffline) => self.run_system(op),
                // What vCPUs run.
                Op::Guest(..)
                | Op::SetGpte(..)
                | Op::EmulateGpte(..)
                | Op::Invlpg(_)
                | Op::Prefault(_)
                | Op::Mmio
                | Op::AvicIrqWindow
                | Op::HvSetMsr
                | Op::SetApicBase
                | Op::XenEvtchnSend
                | Op::PsciCpuOn
                | Op::Halt => unreachable!("the loader gives vCPU operations to vCPUs"),
                // Locks themselves.
                Op::Lock(lock, mode) => self.take_lock(lock, mode, held),
                Op::Unlock(lock, mode) => self.give_back(lock, mode, held),
                Op::Synchronize(lock) => self.synchronize(lock),
                Op::OneOf(_) => unreachable!("the loader refuses a choice inside a choice"),
            }
        }
    }

    /// The operation of a program at `next` and its index, where a choice has been made; `next`
    /// moves on. `None` at the end of the program. All that the thread still depends on is where it
    /// is in its program, and `live`.
    fn next_op(&self, ops: &[Op], next: &mut usize, live: impl Hash + Copy) -> Option<(usize, Op)> {
        let at = *next;
        self.m.checkpoint((at, live));
        let Op::OneOf(n) = *ops.get(at)? else {
            *next = at + 1;
            return Some((at, ops[at]));
        };
        let chosen = at + 1 + usize::from(self.m.choose(n));
        *next = at + 1 + usize::from(n);
        self.m.checkpoint((chosen, live));
        Some((chosen, ops[chosen]))
    }
}

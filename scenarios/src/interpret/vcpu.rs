//! vCPU threads: KVM_RUN, and the guest's instructions in it.

use kvmmu_model::kvm::SrcuSection;
use kvmmu_model::kvm::io_bus::IoAddress;
use kvmmu_model::mmu::{Emulated, RetPf};
use kvmmu_model::{Access, CpuId, Gfn, Gpte, Gva, Lock, Mark};

use super::locks::Holds;
use crate::machine::{AccessResult, GuestAccess, Machine, own_byte};
use crate::outcome::token;
use crate::scenario::{Address, Op};
use crate::world::World;

/// How far a vCPU thread is in KVM_RUN.
struct Run<'a, M: Machine> {
    /// It runs guest code.
    in_guest: bool,
    /// Its read section of `kvm->srcu`; none while the guest runs.
    srcu: Option<SrcuSection<'a, M>>,
}

/// The vCPU side: KVM_RUN.
impl<M: Machine> World<M> {
    pub(super) fn run_vcpu(&self, cpu: CpuId, ops: &[Op]) {
        self.holding(ops, |held| self.run_vcpu_holding(cpu, ops, held));
    }

    fn run_vcpu_holding<'a>(&'a self, cpu: CpuId, ops: &[Op], held: &mut Holds<'a, M>) {
        // The calls name who takes the locks. What they return is held until the program ends.
        let (mut mutex, mut srcu) = (None, None);
        let vcpu_mutex = &self.mmu.kvm.vcpu_mutex[usize::from(cpu.0)];
        self.m.call("kvm_vcpu_ioctl", || mutex = Some(vcpu_mutex.lock()));
        self.m.call("vcpu_run", || srcu = self.mmu.vcpu_srcu_read_lock());
        let mut run = Run { in_guest: false, srcu };
        let mut next = 0;
        while let Some((i, op)) = self.next_op(ops, &mut next, run.in_guest) {
            match op {
                Op::Guest(access, address) => {
                    let access = GuestAccess {
                        page: page_of(address),
                        access,
                        byte: (own_byte(cpu), token(i)),
                    };
                    self.guest_instruction(cpu, access, &mut run);
                }
                Op::SetGpte(address, index, gfn) => {
                    let access = GuestAccess {
                        page: page_of(address),
                        access: Access::Write,
                        byte: (index, Gpte::new(gfn, true).0),
                    };
                    self.guest_instruction(cpu, access, &mut run);
                    self.m.mark(Mark::GuestPtWrite);
                }
                Op::EmulateGpte(table, index, gfn) => {
                    self.leave(cpu, &mut run);
                    let (page, byte) = (table.0, (index, Gpte::new(gfn, true).0));
                    let store = GuestAccess { page, access: Access::Write, byte };
                    self.emulate_store(cpu, table, store);
                }
                Op::Invlpg(gva) => {
                    self.leave(cpu, &mut run);
                    self.mmu.kvm_mmu_invlpg(|| {
                        M::flush_tlb(self, cpu);
                        self.mmu.host.guest_invalidated(cpu, gva);
                    });
                }
                Op::Prefault(gfn) => {
                    self.leave(cpu, &mut run);
                    self.mmu.prefault(cpu, gfn);
                }
                // Memslots, buses, interrupt routing.
                Op::Mmio => {
                    self.leave(cpu, &mut run);
                    self.mmio(IoAddress::Ioeventfds, Access::Write);
                }
                Op::AvicIrqWindow => {
                    self.leave(cpu, &mut run);
                    self.mmu.svm_toggle_avic_for_irq_window(&mut run.srcu);
                }
                // VMs, vCPUs, CPUs.
                op @ (Op::HvSetMsr
                | Op::SetApicBase
                | Op::XenEvtchnSend
                | Op::PsciCpuOn
                | Op::Halt) => {
                    self.leave(cpu, &mut run);
                    self.run_vcpu_system(cpu, op, &mut run.srcu);
                }
                // Locks themselves.
                Op::Lock(lock, mode) => {
                    self.leave(cpu, &mut run);
                    self.take_lock(lock, mode, held);
                }
                Op::Unlock(lock, mode) => {
                    self.leave(cpu, &mut run);
                    self.give_back(lock, mode, held);
                }
                Op::Synchronize(lock) => {
                    self.leave(cpu, &mut run);
                    self.synchronize(lock);
                }
                _ => unreachable!("the loader gives host and user operations to their threads"),
            }
        }
        self.leave(cpu, &mut run);
        drop(run);
        drop(mutex);
    }

    /// One guest instruction: entered, carried out, its faults handled, until it has completed.
    fn guest_instruction<'a>(&'a self, cpu: CpuId, access: GuestAccess, run: &mut Run<'a, M>) {
        self.m.call(instruction_name(access.access), || {
            loop {
                self.m.checkpoint(run.in_guest);
                if run.in_guest && self.m.irq_pending(cpu) {
                    self.leave(cpu, run);
                }
                while !run.in_guest {
                    self.m.checkpoint(());
                    self.enter(cpu, run);
                }
                let present = match self.guest_access(cpu, access) {
                    AccessResult::Done => return run.in_guest,
                    AccessResult::Fault(present) => present,
                };
                self.m.checkpoint(present);
                self.leave(cpu, run);
                if self.handle_fault(cpu, access, present, run) {
                    return run.in_guest;
                }
            }
        });
    }

    /// Handles a fault. True: the instruction has completed, by emulation or by a guest fault.
    fn handle_fault<'a>(
        &'a self,
        cpu: CpuId,
        access: GuestAccess,
        present: bool,
        run: &mut Run<'a, M>,
    ) -> bool {
        let ret = match self.mmu.vcpu(cpu).guest_root {
            None => self.mmu.direct_page_fault(cpu, Gfn(access.page), access.access, present),
            Some(_) => self.mmu.shadow_page_fault(cpu, Gva(access.page), access.access, present),
        };
        if self.mmu.relax_perms_owes_local_flush(present, ret) {
            M::flush_tlb_page(self, cpu, access.page);
        }
        match ret {
            RetPf::Fixed | RetPf::Spurious | RetPf::Invalid | RetPf::Retry => false,
            RetPf::RetryAfter(seq) => {
                self.mmu.wait_for_invalidation(seq);
                false
            }
            RetPf::BreakCow(gfn) => {
                self.cow_break(gfn);
                false
            }
            RetPf::Emulate => {
                self.emulate(cpu, access);
                true
            }
            RetPf::RetryAfterMemslots(seen) => {
                // The guest runs in between, and a grace period does not wait for it.
                run.srcu = None;
                self.mmu.wait_for_memslots(seen);
                run.srcu = self.mmu.vcpu_srcu_read_lock();
                false
            }
            RetPf::Mmio { ram } => {
                self.mmio_of_frame(cpu, access, ram);
                true
            }
            RetPf::GuestFault => true,
        }
    }

    /// Emulates a store to a shadowed guest table.
    fn emulate(&self, cpu: CpuId, access: GuestAccess) {
        let gfn = match self.mmu.vcpu(cpu).guest_root {
            None => Gfn(access.page),
            Some(root) => match self.mmu.walk_addr(root, Gva(access.page), access.access) {
                Some(walk) => walk.gfn(),
                None => return,
            },
        };
        self.emulate_store(cpu, gfn, access);
    }

    fn emulate_store(&self, cpu: CpuId, gfn: Gfn, store: GuestAccess) {
        let (byte, value) = store.byte;
        loop {
            match self.mmu.emulator_write_phys(cpu, gfn, byte, value) {
                Emulated::Done => return self.mmu.host.guest_store_emulated(),
                Emulated::BreakCow => self.cow_break(gfn),
                Emulated::Mmio { ram } => return self.mmio_of_frame(cpu, store, ram),
            }
        }
    }

    fn enter<'a>(&'a self, cpu: CpuId, run: &mut Run<'a, M>) {
        let flush = || M::flush_tlb(self, cpu);
        let entered = !M::KVM_RUN || self.mmu.vcpu_enter_guest(cpu, &mut run.srcu, flush);
        if entered {
            M::guest_entered(self, cpu);
        }
        run.in_guest = entered;
    }

    fn leave<'a>(&'a self, cpu: CpuId, run: &mut Run<'a, M>) {
        if run.in_guest {
            M::guest_left(self, cpu);
            if M::KVM_RUN {
                self.mmu.vcpu_leave_guest(cpu, &mut run.srcu);
            }
            run.in_guest = false;
        }
    }
}

fn page_of(address: Address) -> u64 {
    match address {
        Address::Gfn(gfn) => gfn.0,
        Address::Gva(gva) => gva.0,
    }
}

fn instruction_name(access: Access) -> &'static str {
    match access {
        Access::Read => "guest load",
        Access::Write => "guest store",
        Access::Fetch => "guest fetch",
    }
}

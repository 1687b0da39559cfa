//! vCPU threads: KVM_RUN, and the guest's instructions in it.

use kvmmu_model::platform::Ordering::{Relaxed, Release};
use kvmmu_model::virt::SrcuSection;
use kvmmu_model::virt::io_bus::IoAddress;
use kvmmu_model::x86::Emulated;
use kvmmu_model::{
    Access, CpuId, FaultStatus, Gfn, Gpte, Lock, Mark, Mmu, Rcu, RetPf, Until, Word,
};

use super::Rest;
use super::locks::Holds;
use crate::machine::{AccessResult, GuestAccess, Machine, own_byte};
use crate::mmu::ScenarioMmu;
use crate::ops::{Address, Entry, TableEntry, VcpuOp};
use crate::outcome::token;
use crate::program::{OnVcpu, Steps};
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
    pub(super) fn run_vcpu(&self, cpu: CpuId, steps: &Steps<OnVcpu>) {
        self.holding(steps, |held| self.run_vcpu_holding(cpu, steps, held));
    }

    fn run_vcpu_holding<'a>(&'a self, cpu: CpuId, steps: &Steps<OnVcpu>, held: &mut Holds<'a, M>) {
        // The calls name who takes the locks. What they return is held until the program ends.
        let (mut mutex, mut srcu) = (None, None);
        let vcpu_mutex = &self.vm.kvm.vcpu_mutex[usize::from(cpu.0)];
        self.m.call("kvm_vcpu_ioctl", || mutex = Some(vcpu_mutex.lock()));
        self.m.call("vcpu_run", || srcu = self.vm.vcpu_srcu_read_lock());
        Mmu::vcpu_load(&self.vm, cpu, cpu);
        let mut run = Run { in_guest: false, srcu };
        let mut rest = Rest::of(steps);
        self.forget_guest(cpu, rest.ops());
        while let Some((i, op)) = self.next_op(&mut rest, run.in_guest) {
            self.stop_if_asked(cpu, &mut run);
            match op {
                OnVcpu::Vcpu(op) => self.run_vcpu_op(cpu, op, token(i), &mut run),
                OnVcpu::Lock(op) => {
                    self.leave(cpu, &mut run);
                    self.run_lock_op(op, held);
                }
            }
            self.forget_guest(cpu, rest.ops());
        }
        self.leave(cpu, &mut run);
        Mmu::vcpu_put(&self.vm, cpu);
        drop(run);
        drop(mutex);
        if let Some(left) = &self.left {
            // ORDERING: release: who comes to the CPU sees what the thread has done there.
            left[usize::from(cpu.0)].store(1, Release);
        }
        self.hands_over_no_callback();
        if let Some(pause) = &self.pause {
            pause.leave();
        }
    }

    /// This vCPU runs no more. After the last one the thread that runs callbacks of RCU ends.
    fn hands_over_no_callback(&self) {
        let Some(vcpus) = &self.rcu_callers else { return };
        // ORDERING: relaxed: a count of the scenario, not of KVM.
        if vcpus.fetch_add(1_u64.wrapping_neg(), Relaxed) == 1 {
            Mmu::rcu(&self.vm.mmu).inspect(|rcu| rcu.close());
        }
    }

    /// KVM_RUN returns to a VMM that has asked for it, and begins again when it may.
    fn stop_if_asked<'a>(&'a self, cpu: CpuId, run: &mut Run<'a, M>) {
        let Some(pause) = &self.pause else { return };
        while pause.is_asked() {
            self.leave(cpu, run);
            Mmu::vcpu_put(&self.vm, cpu);
            drop(run.srcu.take());
            pause.leave();
            pause.wait();
            Mmu::vcpu_load(&self.vm, cpu, Mmu::cpu_of(&self.vm.mmu, cpu));
            run.srcu = self.vm.vcpu_srcu_read_lock();
        }
    }

    /// An operation of a vCPU. `value` is what its stores leave in the vCPU's byte of a page.
    fn run_vcpu_op<'a>(&'a self, cpu: CpuId, op: VcpuOp, value: u8, run: &mut Run<'a, M>) {
        let own = |access, address| GuestAccess {
            page: page_of(address),
            access,
            byte: (own_byte(cpu), value),
        };
        match op {
            VcpuOp::Read(address) => self.guest_instruction(cpu, own(Access::Read, address), run),
            VcpuOp::Write(address) => self.guest_instruction(cpu, own(Access::Write, address), run),
            VcpuOp::Fetch(address) => self.guest_instruction(cpu, own(Access::Fetch, address), run),
            VcpuOp::SetGpte(entry, to) => self.set_gpte(cpu, entry, Gpte::new(to, true), run),
            VcpuOp::SetGpteReadonly(entry, to) => {
                self.set_gpte(cpu, entry, Gpte::new(to, false), run);
            }
            VcpuOp::SetGpteClean(entry, to) => {
                self.set_gpte(cpu, entry, Gpte::new(to, true).without(Gpte::D), run);
            }
            VcpuOp::EmulateGpte(TableEntry { table, index }, to) => {
                self.leave(cpu, run);
                let (page, byte) = (table.0, (index, Gpte::new(to, true).0));
                let store = GuestAccess { page, access: Access::Write, byte };
                self.emulate_store(cpu, table, store);
            }
            VcpuOp::AccessApic => self.access_apic(cpu, run),
            VcpuOp::Invlpg(gva) => {
                self.leave(cpu, run);
                self.vm.host.guest_invalidates(cpu, Some(gva));
                Mmu::kvm_mmu_invlpg(&self.vm, cpu, gva, || M::flush_tlb(self, cpu));
            }
            VcpuOp::LoadCr3 => {
                self.leave(cpu, run);
                self.vm.host.guest_invalidates(cpu, None);
                self.vm.kvm_set_cr3(cpu);
            }
            VcpuOp::Prefault(gfn) => {
                self.leave(cpu, run);
                Mmu::kvm_arch_async_page_ready(&self.vm, cpu, gfn);
            }
            VcpuOp::Mmio => {
                self.leave(cpu, run);
                self.mmio(IoAddress::Ioeventfds, Access::Write);
            }
            VcpuOp::AvicIrqWindow => {
                self.leave(cpu, run);
                self.vm.svm_toggle_avic_for_irq_window(&mut run.srcu);
            }
            VcpuOp::HvSetMsr => {
                self.leave(cpu, run);
                while !self.vm.kvm_hv_set_msr_common() {
                    self.cow_break(Gfn(0));
                }
            }
            VcpuOp::SetApicBase => {
                self.leave(cpu, run);
                self.vm.kvm_lapic_set_base();
            }
            VcpuOp::XenEvtchnSend => {
                self.leave(cpu, run);
                self.vm.kvm_xen_set_evtchn(cpu);
            }
            VcpuOp::PsciCpuOn => {
                self.leave(cpu, run);
                // KVM_RUN of arm64 handles its exits outside of read sections.
                drop(run.srcu.take());
                self.vm.kvm_psci_vcpu_on(cpu);
                run.srcu = self.vm.vcpu_srcu_read_lock();
            }
            VcpuOp::CleanCache => {
                self.leave(cpu, run);
                self.vm.coherent_cache_guest_page();
            }
            VcpuOp::MoveTo(CpuId(to)) => {
                self.leave(cpu, run);
                Mmu::vcpu_put(&self.vm, cpu);
                if let Some(left) = &self.left {
                    left[usize::from(to)].wait_until(Until::Is(1));
                }
                Mmu::vcpu_load(&self.vm, cpu, CpuId(to));
            }
            VcpuOp::NewVm => {
                self.leave(cpu, run);
                Mmu::vcpu_put(&self.vm, cpu);
                Mmu::replace_vm(&self.vm, cpu);
                Mmu::vcpu_load(&self.vm, cpu, Mmu::cpu_of(&self.vm.mmu, cpu));
            }
            VcpuOp::Halt => {
                self.leave(cpu, run);
                self.vm.vcpu_block(cpu, &mut run.srcu);
            }
        }
    }

    /// The guest stores an entry of one of its page tables.
    fn set_gpte<'a>(&'a self, cpu: CpuId, entry: Entry, gpte: Gpte, run: &mut Run<'a, M>) {
        let access = GuestAccess {
            page: page_of(entry.table),
            access: Access::Write,
            byte: (entry.index, gpte.0),
        };
        self.guest_instruction(cpu, access, run);
        self.m.mark(Mark::GuestPtWrite);
    }

    /// One guest instruction: entered, carried out, its faults handled, until it has completed.
    fn guest_instruction<'a>(&'a self, cpu: CpuId, access: GuestAccess, run: &mut Run<'a, M>) {
        self.m.call(instruction_name(access.access), || {
            loop {
                self.go_in(cpu, run);
                let fault = self.guest_access(cpu, access);
                self.faults(cpu);
                let status = match fault {
                    AccessResult::Done => return run.in_guest,
                    AccessResult::Fault(status) => status,
                    AccessResult::Mmio => FaultStatus::present(false),
                    AccessResult::PmlFull => {
                        self.m.mark(Mark::PmlFull);
                        self.leave(cpu, run);
                        continue;
                    }
                };
                self.m.checkpoint(fault);
                self.leave(cpu, run);
                let mmio = fault == AccessResult::Mmio;
                self.m.checkpoint((mmio, self.vm.mmu.status_that_matters(status)));
                if mmio {
                    match Mmu::handle_mmio_page_fault(&self.vm, cpu, access.page) {
                        RetPf::Invalid => {}
                        RetPf::Mmio { ram } => {
                            self.mmio_of_frame(cpu, access, ram);
                            return run.in_guest;
                        }
                        _ => continue,
                    }
                }
                if self.handle_fault(cpu, access, status, run) {
                    return run.in_guest;
                }
            }
        });
    }

    /// The guest runs: it was interrupted, or it was out, and enters.
    fn go_in<'a>(&'a self, cpu: CpuId, run: &mut Run<'a, M>) {
        self.m.checkpoint(run.in_guest);
        if run.in_guest && self.m.irq_pending(Mmu::cpu_of(&self.vm.mmu, cpu)) {
            self.leave(cpu, run);
        }
        while !run.in_guest {
            self.m.checkpoint(());
            self.enter(cpu, run);
        }
    }

    /// An access of the guest to its APIC.
    fn access_apic<'a>(&'a self, cpu: CpuId, run: &mut Run<'a, M>) {
        self.m.call("guest APIC access", || {
            self.go_in(cpu, run);
            self.m.guest_step();
            self.check_apic_page(cpu);
        });
    }

    /// Handles a fault. True: the instruction has completed, by emulation or by a guest fault.
    fn handle_fault<'a>(
        &'a self,
        cpu: CpuId,
        access: GuestAccess,
        status: FaultStatus,
        run: &mut Run<'a, M>,
    ) -> bool {
        let ret = Mmu::kvm_mmu_do_page_fault(&self.vm, cpu, access.page, access.access, status);
        if Mmu::owes_local_flush(&self.vm, status, ret) {
            M::flush_tlb_page(self, cpu, access.page);
        }
        match ret {
            RetPf::Fixed | RetPf::Spurious | RetPf::Invalid | RetPf::Retry => false,
            RetPf::RetryAfter(seq) => {
                self.vm.wait_for_invalidation(seq);
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
                self.vm.wait_for_memslots(seen, &mut run.srcu);
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
        if let Some(gfn) = Mmu::gva_to_gpa(&self.vm, cpu, access.page, access.access) {
            self.emulate_store(cpu, gfn, access);
        }
    }

    fn emulate_store(&self, cpu: CpuId, gfn: Gfn, store: GuestAccess) {
        let (byte, value) = store.byte;
        loop {
            match self.vm.emulator_write_phys(cpu, gfn, byte, value) {
                Emulated::Done => return self.vm.host.guest_store_emulated(),
                Emulated::BreakCow => self.cow_break(gfn),
                Emulated::Mmio { ram } => return self.mmio_of_frame(cpu, store, ram),
            }
        }
    }

    fn enter<'a>(&'a self, cpu: CpuId, run: &mut Run<'a, M>) {
        let flush = || M::flush_tlb(self, cpu);
        let entered = !M::KVM_RUN || Mmu::vcpu_enter_guest(&self.vm, cpu, &mut run.srcu, flush);
        if entered {
            M::guest_entered(self, cpu);
        }
        run.in_guest = entered;
    }

    fn leave<'a>(&'a self, cpu: CpuId, run: &mut Run<'a, M>) {
        if run.in_guest {
            M::guest_left(self, cpu);
            if M::KVM_RUN {
                Mmu::vcpu_leave_guest(&self.vm, cpu, &mut run.srcu);
            }
            Mmu::vmx_flush_pml_buffer(&self.vm, cpu);
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

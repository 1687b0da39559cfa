//! `kvm_flush_remote_tlbs`, by how many vCPUs there are and how many run guest code.
//!
//! A vCPU that runs guest code is kicked and waited for: it polls for the kick, as a core takes its
//! interrupt. A real IPI costs more than a cache line that changes hands; a real guest also enters
//! and leaves by VM entry and exit.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvmmu_model::virt::{IN_GUEST_MODE, VCPUS};
use kvmmu_model::{CpuId, SpteFormat, Until, Word};
use kvmmu_scenarios::Machine as _;

use super::cpu::Machine;
use super::vm::Vm;
use crate::native::{Dense, Native};

/// A measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flush {
    /// vCPUs of the VM.
    pub vcpus: usize,
    /// As many of them run guest code.
    pub in_guest: usize,
}

impl Flush {
    /// What there is to measure on so many CPUs: all vCPUs outside, and all in the guest where each
    /// of them, and the thread that flushes, has a CPU.
    pub fn all(cpus: usize) -> Vec<Flush> {
        let outside = (1..=VCPUS).map(|vcpus| Flush { vcpus, in_guest: 0 });
        let inside =
            (1..=VCPUS.min(cpus.saturating_sub(1))).map(|vcpus| Flush { vcpus, in_guest: vcpus });
        outside.chain(inside).collect()
    }

    /// As benches name it.
    pub fn name(&self) -> String {
        format!("{} vCPUs, {} in the guest", self.vcpus, self.in_guest)
    }

    /// The time of so many flushes.
    pub fn run(&self, machine: &Machine, flushes: u64) -> Duration {
        let native = Native::new(Dense);
        let vm = Vm::new(&native, SpteFormat::NPT, self.vcpus as u8, false);
        let (begin, stop) = (Barrier::new(self.in_guest + 1), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for vcpu in 0..self.in_guest {
                let (native, vm, begin, stop) = (&native, &vm, &begin, &stop);
                scope.spawn(move || {
                    machine.pin(vcpu + 1);
                    begin.wait();
                    run_guest(native, vm, CpuId(vcpu as u8), stop);
                });
            }
            let flusher = scope.spawn(|| {
                machine.pin(0);
                begin.wait();
                let time = (0..flushes).map(|_| self.flush(&vm)).sum();
                // ORDERING: relaxed: the kick that follows makes them look.
                stop.store(true, Ordering::Relaxed);
                vm.vm.kvm_flush_remote_tlbs(None);
                time
            });
            flusher.join().expect("the flushes end")
        })
    }

    /// Waits until every vCPU is where it shall be, and flushes.
    fn flush(&self, vm: &Vm<Dense>) -> Duration {
        for vcpu in &vm.vm.kvm.vcpus[..self.in_guest] {
            vcpu.mode.wait_until(Until::Is(IN_GUEST_MODE));
        }
        let started = Instant::now();
        vm.vm.kvm_flush_remote_tlbs(None);
        started.elapsed()
    }
}

/// A vCPU that enters the guest whenever it can, and leaves it when it is kicked.
fn run_guest(native: &Native<Dense>, vm: &Vm<Dense>, cpu: CpuId, stop: &AtomicBool) {
    let mut srcu = vm.vm.vcpu_srcu_read_lock();
    // ORDERING: relaxed: looked at after each kick.
    while !stop.load(Ordering::Relaxed) {
        if vm.vm.vcpu_enter_guest(cpu, &mut srcu, || {}) {
            // ORDERING: as above.
            while !native.irq_pending(cpu) && !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            vm.vm.vcpu_leave_guest(cpu, &mut srcu);
        }
    }
}

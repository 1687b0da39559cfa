//! VMIDs to 5.17: a new generation stops every guest. Linux v5.10 `arch/arm64/kvm/arm.c`.
//!
//! Guarantee: when a VMID is given out again nobody runs with it, and nobody enters with it.
//! Mechanism: a counter of generations, which a vCPU compares with its VM's before the guest and
//! again with interrupts off; who ends a generation interrupts every CPU and waits, so that each
//! vCPU either is out, or looks again and sees the new one.

use super::{VMS, VmidConfig};
use crate::arm64::pgtable::Stage2Mmu;
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::lock::LockClass;
use crate::mark::Mark;
use crate::platform::Ordering::{Acquire, Relaxed, Release};
use crate::platform::{Lock, Platform, Word};
use crate::tag::{Object, Tag};
use crate::types::{CpuId, CpuMask};
use crate::vm::Vm;

/// What all VMs share, and of each what `struct kvm_vmid` has.
#[derive(Debug)]
pub(in crate::arm64) struct Generations<P: Platform> {
    /// The VMIDs that there are, 0 included.
    space: u64,
    /// `kvm_vmid_gen`.
    generation: P::Word,
    /// `kvm_vmid_lock`, and `kvm_next_vmid`: 0 if none is left.
    next: P::Lock<u64>,
    vms: [KvmVmid<P>; VMS],
}

/// `struct kvm_vmid`.
#[derive(Debug)]
struct KvmVmid<P: Platform> {
    vmid_gen: P::Word,
    vmid: P::Word,
}

impl<P: Platform> Generations<P> {
    pub(super) fn new(p: &P, config: VmidConfig) -> Self {
        let vm = |vm: usize| {
            let given = u64::from(vm == 0 && config.given);
            KvmVmid {
                vmid_gen: p.word(Tag::at(Object::VmidGeneration, 1 + vm, 0), given),
                vmid: p.word(Tag::nth(Object::Vmid, vm), given),
            }
        };
        Generations {
            space: u64::from(config.space()),
            generation: p.word(Tag::one(Object::VmidGeneration), 1),
            next: p.lock(LockClass::VmidLock.one(), 0),
            vms: core::array::from_fn(vm),
        }
    }

    /// `kvm->arch.mmu.vmid.vmid`.
    pub(super) fn vmid(&self, vm: usize) -> &P::Word {
        &self.vms[vm].vmid
    }
}

impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// `need_new_vmid_gen`: what the VM has is of a generation that has ended.
    fn need_new_vmid_gen(&self, vmids: &Generations<P>, vm: usize) -> bool {
        // ORDERING: acquire (smp_rmb in the kernel, before the VMID is used) pairs with the release
        // in update_vmid. Not judged under SC.
        let current = vmids.generation.load(Acquire);
        // ORDERING: acquire: who sees the generation sees the VMID.
        vmids.vms[vm].vmid_gen.load(Acquire) != current
    }

    /// True if a vCPU that is about to enter has to get a VMID first. Interrupts are off: who ends
    /// the generation from now on waits until it is out again.
    pub(in crate::arm64) fn vmid_has_gone(&self, vmids: &Generations<P>, vm: usize) -> bool {
        self.p.guarded(Guard::VmidRecheckAtEntry, || self.need_new_vmid_gen(vmids, vm))
    }

    /// `update_vmid`: the VM has a VMID of this generation; if none is left, of the next.
    ///
    /// Locks: `vcpu->mutex`; takes `kvm_vmid_lock`. It waits, spinning, for every CPU: interrupts
    /// are on.
    #[kernel]
    pub(in crate::arm64) fn update_vmid(&self, vmids: &Generations<P>, cpu: CpuId, vm: usize) {
        if !self.need_new_vmid_gen(vmids, vm) {
            return;
        }
        let mut next = vmids.next.lock();
        // Another vCPU of the VM has got one meanwhile.
        let has_one =
            self.p.guarded(Guard::VmidRecheckUnderLock, || !self.need_new_vmid_gen(vmids, vm));
        if has_one {
            return;
        }
        if *next == 0 {
            // ORDERING: full in the kernel; needed is that it comes before the interrupts. Not
            // judged under SC.
            vmids.generation.add(1, Release);
            *next = 1;
            self.p.guarded(Guard::VmidRolloverExit, || self.force_vm_exit(cpu));
            // What the VMs of the old generation have cached.
            self.p.guarded(Guard::VmidRolloverFlush, || self.__kvm_flush_vm_context());
            self.p.mark(Mark::VmidRollover);
        }
        let (vmid, of) = (*next, &vmids.vms[vm]);
        *next = (vmid + 1) % vmids.space;
        // ORDERING: relaxed: kvm_vmid_lock is held.
        let generation = vmids.generation.load(Relaxed);
        let publish = || of.vmid_gen.store(generation, Release);
        self.p.without(Guard::VmidBeforeGen, publish);
        // ORDERING: relaxed: the release of the generation is after it.
        of.vmid.store(vmid, Relaxed);
        self.p.mark(Mark::VmidAllocated);
        // ORDERING: release (smp_wmb in the kernel): who sees the generation without the lock sees
        // the VMID.
        self.p.guarded(Guard::VmidBeforeGen, publish);
    }

    /// `force_vm_exit`: every other CPU is out of its guest, or has interrupts on, once.
    fn force_vm_exit(&self, cpu: CpuId) {
        let all = CpuMask((1 << self.kvm.nr_vcpus) - 1);
        self.p.smp_call_function_many(Some(cpu), all, true);
    }

    /// Another VM begins, which has no VMID.
    pub(super) fn forget_vmid_v5_10(&self, vmids: &Generations<P>, vm: usize) {
        let KvmVmid { vmid_gen, vmid } = &vmids.vms[vm];
        for word in [vmid_gen, vmid] {
            self.p.zeroed(core::slice::from_ref(word));
        }
    }
}

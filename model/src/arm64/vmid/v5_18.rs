//! VMIDs since 5.18: guests go on when a generation ends. Linux v6.1 `arch/arm64/kvm/vmid.c`,
//! after the allocator of ASIDs.
//!
//! Guarantee: a VMID that a CPU runs with, or may be about to, is given to no other VM. Mechanism:
//! each CPU says in a word what it runs with. Who ends a generation takes these words away, one by
//! one, and reserves what they said; a CPU that finds its word gone takes the lock. A VMID that is
//! reserved, or that nobody has taken in the new generation, stays its VM's.

use super::{VMS, VmidConfig};
use crate::arm64::pgtable::Stage2Mmu;
use crate::guard::Guard;
use crate::host::Host;
use crate::kernel;
use crate::lock::LockClass;
use crate::mark::Mark;
use crate::platform::Ordering::Relaxed;
use crate::platform::{Lock, Platform, Word};
use crate::tag::{Object, Tag};
use crate::types::CpuId;
use crate::virt::VCPUS;
use crate::vm::Vm;

/// What all VMs share, and of each what `struct kvm_vmid` has. A generation is in the bits above
/// those of a VMID.
#[derive(Debug)]
pub(in crate::arm64) struct ActiveVmids<P: Platform> {
    /// The VMIDs that there are, 0 included.
    space: u8,
    /// `vmid_generation`.
    generation: P::Word,
    /// `cpu_vmid_lock`.
    free: P::Lock<VmidMap>,
    /// `active_vmids`, by CPU: what it runs with; 0 if a generation has ended since it said so.
    active: [P::Word; VCPUS],
    /// `kvm->arch.mmu.vmid.id`.
    ids: [P::Word; VMS],
}

/// What `cpu_vmid_lock` guards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct VmidMap {
    /// `vmid_map`: those that are taken in this generation, a bit each.
    map: u8,
    /// `reserved_vmids`, by CPU: what it ran with when a generation ended, and may run with still.
    reserved: [u64; VCPUS],
    /// Where the next search begins.
    cur_idx: u8,
}

const _: () = assert!(1 << super::VMID_BITS_MAX <= u8::BITS, "the map has a bit for each VMID");

/// VMID 0 is taken, always.
const NONE_BUT_0: u8 = 1;

impl<P: Platform> ActiveVmids<P> {
    pub(super) fn new(p: &P, config: VmidConfig) -> Self {
        let first = u64::from(config.space());
        let id = |vm| {
            let given = vm == 0 && config.given;
            p.word(Tag::nth(Object::Vmid, vm), if given { first | 1 } else { 0 })
        };
        // Each CPU has run other VMs.
        let active = |cpu| p.word(Tag::nth(Object::ActiveVmid, cpu), first);
        let map = VmidMap { map: u8::MAX, reserved: [0; VCPUS], cur_idx: 1 };
        ActiveVmids {
            space: config.space(),
            generation: p.word(Tag::one(Object::VmidGeneration), first),
            free: p.lock(LockClass::VmidLock.one(), map),
            active: core::array::from_fn(active),
            ids: core::array::from_fn(id),
        }
    }

    /// `kvm->arch.mmu.vmid.id`.
    pub(super) fn id(&self, vm: usize) -> &P::Word {
        &self.ids[vm]
    }

    fn active_vmid(&self, cpu: CpuId) -> &P::Word {
        &self.active[usize::from(cpu.0)]
    }
}

impl<P: Platform, H: Host> Vm<P, H, Stage2Mmu<P>> {
    /// `kvm_arm_vmid_update`: the VM has a VMID of this generation, and this CPU says that it runs
    /// with it. True if it is another one than before.
    ///
    /// Locks: `vcpu->mutex`, and the thread stays on its CPU; takes `cpu_vmid_lock`, with
    /// interrupts off.
    #[kernel]
    pub(in crate::arm64) fn kvm_arm_vmid_update(
        &self,
        vmids: &ActiveVmids<P>,
        cpu: CpuId,
        vm: usize,
    ) -> bool {
        if self.vmid_is_active(vmids, cpu, vm) {
            return false;
        }
        let mut map = vmids.free.lock();
        // ORDERING: relaxed: written under cpu_vmid_lock, which is held.
        let mut id = vmids.id(vm).load(Relaxed);
        let updated = !self.vmid_gen_match(vmids, id);
        if updated {
            id = self.new_vmid(vmids, vm, &mut map);
        }
        // ORDERING: relaxed: who ends a generation holds the lock.
        vmids.active_vmid(cpu).store(id, Relaxed);
        updated
    }

    /// The VMID is of this generation, and this CPU has said, without the lock, that it runs with
    /// it: the word was there until then, and who ends a generation from now on finds it.
    fn vmid_is_active(&self, vmids: &ActiveVmids<P>, cpu: CpuId, vm: usize) -> bool {
        // ORDERING: relaxed: what counts is whether the word below was there all the time.
        let id = vmids.id(vm).load(Relaxed);
        let active = vmids.active_vmid(cpu);
        let plainly = self.p.without(Guard::VmidActiveCmpxchg, || {
            let is_current = self.vmid_gen_match(vmids, id);
            if is_current {
                active.store(id, Relaxed);
            }
            is_current
        });
        plainly.unwrap_or_else(|| {
            // ORDERING: relaxed: as above.
            let old = active.load(Relaxed);
            let replaced = || match active.compare_exchange(old, id, Relaxed, Relaxed) {
                Ok(before) | Err(before) => before,
            };
            old != 0 && self.vmid_gen_match(vmids, id) && replaced() != 0
        })
    }

    /// `vmid_gen_match`: it is of this generation.
    fn vmid_gen_match(&self, vmids: &ActiveVmids<P>, id: u64) -> bool {
        // ORDERING: relaxed: as in the callers.
        let generation = vmids.generation.load(Relaxed);
        (id ^ generation) / u64::from(vmids.space) == 0
    }

    /// `new_vmid`: the number that the VM had, if nobody else has got it in this generation; else
    /// the next that is free; if there is none, the first of a new generation.
    ///
    /// Locks: `cpu_vmid_lock`.
    fn new_vmid(&self, vmids: &ActiveVmids<P>, vm: usize, map: &mut VmidMap) -> u64 {
        let space = vmids.space;
        let number = |id: u64| (id % u64::from(space)) as u8;
        // ORDERING: relaxed: written under cpu_vmid_lock, which is held.
        let (old, generation) = (vmids.id(vm).load(Relaxed), vmids.generation.load(Relaxed));
        let again = generation | u64::from(number(old));
        let keeps = old != 0
            && (check_update_reserved_vmid(map, old, again) || map.map >> number(old) & 1 == 0);
        let new = if keeps {
            map.map |= 1 << number(old);
            again
        } else {
            let from = |first: u8| (first..space).find(|n| map.map >> n & 1 == 0);
            let (generation, number) = match from(map.cur_idx) {
                Some(number) => (generation, number),
                None => {
                    // ORDERING: relaxed: as above; who reads it without the lock looks at its own
                    // word after it.
                    vmids.generation.add(u64::from(space), Relaxed);
                    self.flush_context(vmids, map);
                    let first = (1..space).find(|n| map.map >> n & 1 == 0);
                    // There are more VMIDs than CPUs.
                    (generation + u64::from(space), first.unwrap_or_default())
                }
            };
            map.map |= 1 << number;
            map.cur_idx = number;
            generation | u64::from(number)
        };
        // ORDERING: relaxed: as above.
        vmids.id(vm).store(new, Relaxed);
        self.p.mark(Mark::VmidAllocated);
        new
    }

    /// `flush_context`: a generation has ended. What CPUs run with is taken, all else is free, and
    /// all TLBs are emptied.
    ///
    /// Locks: `cpu_vmid_lock`.
    #[kernel]
    fn flush_context(&self, vmids: &ActiveVmids<P>, map: &mut VmidMap) {
        map.map = NONE_BUT_0;
        for cpu in (0..self.kvm.nr_vcpus).map(CpuId) {
            // ORDERING: relaxed: a CPU that says something else meanwhile finds 0 and takes the
            // lock.
            let active = vmids.active_vmid(cpu).swap(0, Relaxed);
            let reserved = &mut map.reserved[usize::from(cpu.0)];
            // 0: it has gone on since the last time, with what is reserved already.
            let kept = self.p.guarded(Guard::VmidKeepReserved, || *reserved);
            *reserved = if active == 0 { kept } else { active };
            map.map |= 1 << (*reserved % u64::from(vmids.space));
        }
        self.p.guarded(Guard::VmidRolloverFlush, || self.__kvm_flush_vm_context());
        self.p.mark(Mark::VmidRollover);
    }

    /// `kvm_arm_vmid_clear_active`: the CPU runs with none that anybody would miss.
    pub(in crate::arm64) fn kvm_arm_vmid_clear_active(&self, vmids: &ActiveVmids<P>, cpu: CpuId) {
        // VMID_ACTIVE_INVALID: not 0, and its number is.
        // ORDERING: relaxed: the vCPU is out.
        vmids.active_vmid(cpu).store(u64::from(vmids.space), Relaxed);
    }

    /// Another VM begins, which has no VMID.
    pub(super) fn forget_vmid_v5_18(&self, vmids: &ActiveVmids<P>, vm: usize) {
        self.p.zeroed(core::slice::from_ref(vmids.id(vm)));
    }
}

/// `check_update_reserved_vmid`: CPUs that run with it run with that of the new generation, on each
/// of them. True if there is one.
fn check_update_reserved_vmid(map: &mut VmidMap, old: u64, new: u64) -> bool {
    let mut hit = false;
    for reserved in map.reserved.iter_mut().filter(|reserved| **reserved == old) {
        (*reserved, hit) = (new, true);
    }
    hit
}

//! What is around a VM: other VMs, physical CPUs; and the locks of a VM that guest memory does not
//! need. State only; the other files of this folder use it.

use super::VCPUS;
use crate::lock::LockClass;
use crate::platform::Platform;
use crate::tag::{Object, Tag};
use crate::types::CpuId;

/// The physical CPU that comes and goes. No vCPU runs on it. It is offline at first.
pub const HOTPLUG_CPU: CpuId = CpuId(VCPUS as u8);

/// The host's KVM, and what of this VM only operations on whole VMs, vCPUs and CPUs touch.
#[derive(Debug)]
pub struct System<P: Platform> {
    /// `kvm_lock`, and `vm_list`: bit i is VM i. This VM is VM 0, and lives throughout.
    pub kvm_lock: P::Lock<u64>,
    /// `kvm_count_lock`, and `kvm_usage_count`: VMs that need the hardware.
    pub kvm_count_lock: P::Lock<u64>,
    /// `cpus_hardware_enabled`, a bit for each CPU. Protected by: `kvm_count_lock`.
    pub cpus_hardware_enabled: P::Word,
    /// `cpu_hotplug_lock`.
    pub cpu_hotplug_lock: P::RwLock<()>,
    /// `cpu_online_mask`. Protected by: `cpu_hotplug_lock`; a read without it gets an answer
    /// that may be old.
    pub cpu_online_mask: P::Word,
    /// `blocked_vcpu_on_cpu_lock`, by CPU, and `blocked_vcpu_on_cpu`: the vCPUs that sleep there.
    pub blocked_vcpu_on_cpu_lock: [P::Lock<u64>; VCPUS],
    /// What a notifier of another VM needs of it: its tables (the handle of the VM, with pKVM). Of
    /// the VM that was created last.
    pub other_vm: [P::Word; 1],
    /// `kvm->created_vcpus`. Protected by: `kvm->lock`.
    pub created_vcpus: P::Word,
    /// `kvm->online_vcpus`. Protected by: `kvm->lock`; `kvm_for_each_vcpu` reads it without.
    pub online_vcpus: P::Word,
    /// `vcpu->arch`, by vCPU: its registers. Protected by: `vcpu->mutex`.
    pub vcpu_arch: [P::Word; VCPUS],
    /// `kvm->arch.hyperv.hv_lock`, and what it protects: [`System::HV_HYPERCALL_ENABLED`],
    /// [`System::HV_CONN`].
    pub hv_lock: P::Lock<u64>,
    /// `kvm->arch.tsc_write_lock`, and `cur_tsc_generation`.
    pub tsc_write_lock: P::Lock<u64>,
    /// `kvm->arch.pvclock_gtod_sync_lock`, and `nr_vcpus_matched_tsc`.
    pub pvclock_gtod_sync_lock: P::Lock<u64>,
    /// `kvm->arch.xen.xen_lock`, and the pending event channels.
    pub xen_lock: P::Lock<u64>,
    /// What wakes a vCPU, by vCPU: its posted-interrupt descriptor and its wait queue in one. No
    /// lock: atomic operations.
    pub vcpu_wakeup: [P::Word; VCPUS],
    /// `vcpu->arch.mp_state` of arm64: bit i is set while vCPU i is powered on. `mp_state_lock`
    /// guards each vCPU's in the kernel; one atomic operation does here.
    pub powered_on: P::Word,
}

impl<P: Platform> System<P> {
    /// Of the data of `hv_lock`: `hv_hypercall` has its enable bit set.
    pub const HV_HYPERCALL_ENABLED: u64 = 1 << 0;
    /// Of the data of `hv_lock`: `conn_to_evt` has an entry.
    pub const HV_CONN: u64 = 1 << 1;

    /// One VM with so many vCPUs; every CPU but [`HOTPLUG_CPU`] is online.
    pub fn new(p: &P, nr_vcpus: u8) -> Self {
        let word = |object, init| p.word(Tag::one(object), init);
        let lock = |class: LockClass, init: u64| p.lock(class.one(), init);
        let cpus = (1 << VCPUS) - 1;
        let other_vm = [word(Object::OtherVm, 0)];
        p.freed(&other_vm);
        System {
            other_vm,
            kvm_lock: lock(LockClass::KvmLock, 1),
            kvm_count_lock: lock(LockClass::KvmCountLock, 1),
            cpus_hardware_enabled: word(Object::CpusHardwareEnabled, cpus),
            cpu_hotplug_lock: p.rw_lock(LockClass::CpuHotplugLock.one(), ()),
            cpu_online_mask: word(Object::CpuOnlineMask, cpus),
            blocked_vcpu_on_cpu_lock: core::array::from_fn(|i| {
                p.lock(LockClass::BlockedVcpuOnCpuLock.nth(i), 0)
            }),
            created_vcpus: word(Object::CreatedVcpus, u64::from(nr_vcpus)),
            online_vcpus: word(Object::OnlineVcpus, u64::from(nr_vcpus)),
            vcpu_arch: core::array::from_fn(|i| p.word(Tag::nth(Object::VcpuArch, i), 0)),
            hv_lock: lock(LockClass::HvLock, 0),
            tsc_write_lock: lock(LockClass::TscWriteLock, 0),
            pvclock_gtod_sync_lock: lock(LockClass::PvclockGtodSyncLock, 0),
            xen_lock: lock(LockClass::XenLock, 0),
            vcpu_wakeup: core::array::from_fn(|i| p.word(Tag::nth(Object::VcpuWakeup, i), 0)),
            powered_on: word(Object::PoweredOn, 1),
        }
    }
}

//! A VM on `/dev/kvm`: what the kernel offers, two slots, and the ioctls of the dirty log.

use std::io;
use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
    KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MEM_LOG_DIRTY_PAGES,
    kvm_dirty_gfn, kvm_enable_cap,
};
use kvm_ioctls::{Kvm, VcpuFd};
use kvmmu_qemu::{Exit, Failure};

use crate::guest::{self, DATA, LOW_SIZE};
use crate::kernel::Kernel;
use crate::memory::{Backing, Memory, PAGE};
use crate::sys::{self, Ring, Slots};

/// The slot with code and page tables; never logged.
pub const LOW_SLOT: u32 = 0;
/// The slot with the data pages; logged.
pub const DATA_SLOT: u32 = 1;
/// A slot that comes and goes.
pub const SPARE_SLOT: u32 = 2;
/// Entries of a dirty ring. The kernel keeps some of them in reserve.
pub const RING_ENTRIES: u32 = 1024;
/// The version of the interface that has not changed since 2007.
const API_VERSION: i32 = 12;

/// How dirty pages are learnt of.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirtyLog {
    /// KVM_GET_DIRTY_LOG clears and protects.
    Get,
    /// KVM_CLEAR_DIRTY_LOG clears and protects, the whole slot at once.
    Clear,
    /// KVM_CLEAR_DIRTY_LOG, by chunks of 64 pages.
    Chunks,
    /// As chunks; every page counts as dirty at first.
    InitiallySet,
    /// A ring per vCPU.
    Ring,
}

impl DirtyLog {
    /// All of them.
    pub const ALL: &'static [DirtyLog] =
        &[DirtyLog::Get, DirtyLog::Clear, DirtyLog::Chunks, DirtyLog::InitiallySet, DirtyLog::Ring];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            DirtyLog::Get => "get",
            DirtyLog::Clear => "clear",
            DirtyLog::Chunks => "chunks",
            DirtyLog::InitiallySet => "initially-set",
            DirtyLog::Ring => "ring",
        }
    }

    /// Asks a new VM for it.
    ///
    /// # Errors
    ///
    /// [`Exit::Nothing`] when the kernel lacks it; others as they come.
    pub fn enable(self, vm: &kvm_ioctls::VmFd) -> Result<(), Failure> {
        let Some((name, number, argument)) = self.capability(vm) else { return Ok(()) };
        let offered = u64::from(vm.check_extension_raw(number.into()).unsigned_abs());
        // Manual protect offers flags, the ring a size in bytes.
        let enough = match self {
            DirtyLog::Ring => offered >= argument,
            _ => offered & argument == argument,
        };
        if !enough {
            return Err(Failure::new(
                Exit::Nothing,
                format!("this kernel has no {name} (capability {number} is {offered:#x})"),
                "leave it out, or use a later kernel",
            ));
        }
        let args = [argument, 0, 0, 0];
        let capability = kvm_enable_cap { cap: number, args, ..Default::default() };
        vm.enable_cap(&capability).map_err(|e| failed("KVM_ENABLE_CAP", e.errno()))
    }

    /// The capability that it needs, its number and its argument.
    fn capability(self, vm: &kvm_ioctls::VmFd) -> Option<(&'static str, u32, u64)> {
        let manual = u64::from(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
        let initially = manual | u64::from(KVM_DIRTY_LOG_INITIALLY_SET);
        let bytes = u64::from(RING_ENTRIES) * size_of::<kvm_dirty_gfn>() as u64;
        match self {
            DirtyLog::Get => None,
            DirtyLog::Clear | DirtyLog::Chunks => {
                Some(("manual dirty-log protect", KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual))
            }
            DirtyLog::InitiallySet => {
                Some(("initially-set dirty log", KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, initially))
            }
            DirtyLog::Ring => {
                let acquire = KVM_CAP_DIRTY_LOG_RING_ACQ_REL;
                let number = match vm.check_extension_raw(acquire.into()) {
                    0 => KVM_CAP_DIRTY_LOG_RING,
                    _ => acquire,
                };
                Some(("dirty ring", number, bytes))
            }
        }
    }
}

/// Opens `/dev/kvm`.
///
/// # Errors
///
/// [`Exit::Usage`] when it is not there or may not be opened, [`Exit::Refused`] when it is not KVM.
pub fn open() -> Result<Kvm, Failure> {
    let kvm = Kvm::new().map_err(|error| no_kvm(error.errno()))?;
    match kvm.get_api_version() {
        API_VERSION => Ok(kvm),
        other => Err(Failure::new(
            Exit::Refused,
            format!("/dev/kvm has version {other} of its interface, not {API_VERSION}"),
            "use the KVM of a Linux later than 2.6.22",
        )),
    }
}

/// `/dev/kvm` cannot be opened.
fn no_kvm(errno: i32) -> Failure {
    let error = io::Error::from_raw_os_error(errno);
    match errno {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => Failure::usage(
            "there is no /dev/kvm: this kernel runs no guests",
            "load kvm-amd or kvm-intel (or switch virtualization on in the firmware), or let \
             'cargo live-qemu' boot kernels that have it in QEMU",
        ),
        libc::EACCES | libc::EPERM => Failure::usage(
            format!("/dev/kvm may not be opened: {error}"),
            "run as root, or join the group that owns it: usermod -a -G kvm USER, and log in again",
        ),
        _ => Failure::usage(
            format!("/dev/kvm cannot be opened: {error}"),
            "see the kernel's log: dmesg | grep -i kvm",
        ),
    }
}

/// A vCPU. It keeps the memory of its VM, to which it writes.
#[derive(Debug)]
pub struct Vcpu {
    /// Its file.
    pub fd: VcpuFd,
    _slots: Arc<Slots>,
}

impl Vcpu {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// Those of KVM.
    pub fn new(slots: &Arc<Slots>, index: usize) -> Result<Vcpu, Failure> {
        let fd = slots.vm().create_vcpu(index as u64);
        let fd = fd.map_err(|error| failed("KVM_CREATE_VCPU", error.errno()))?;
        Ok(Vcpu { fd, _slots: Arc::clone(slots) })
    }
}

/// A VM with its slots and memory.
#[derive(Debug)]
pub struct Vm {
    /// For the CPUID that it supports.
    pub kvm: Kvm,
    /// The VM itself.
    pub slots: Arc<Slots>,
    /// Code and page tables.
    pub low: Memory,
    /// What the guests write to.
    pub data: Memory,
    /// How dirty pages are learnt of.
    pub log: DirtyLog,
}

impl Vm {
    /// Makes a VM with `pages` data pages.
    ///
    /// # Errors
    ///
    /// [`Exit::Nothing`] when the kernel lacks what `log` needs; others as they come.
    pub fn new(log: DirtyLog, pages: usize, backing: Backing) -> Result<Vm, Failure> {
        let kvm = open()?;
        let vm = kvm.create_vm().map_err(|error| failed("KVM_CREATE_VM", error.errno()))?;
        log.enable(&vm)?;
        let memory =
            |pages, backing| Memory::new(pages, backing).map_err(|error| no_memory(pages, &error));
        let low = memory(LOW_SIZE / PAGE, Backing::Shared)?;
        let data = memory(pages, backing)?;
        // Where the guest's tables are shadowed, there is more of them.
        guest::prepare(&low, Kernel::running().npt == Some(false));
        let vm = Vm { kvm, slots: Arc::new(Slots::new(vm)), low, data, log };
        let low = (vm.low.region(), (0, LOW_SIZE));
        vm.slots
            .set((LOW_SLOT, 0), guest::BASE, low.0, low.1)
            .map_err(|error| failed_io("KVM_SET_USER_MEMORY_REGION", &error))?;
        vm.set_logging(true)?;
        Ok(vm)
    }

    /// Makes a vCPU.
    ///
    /// # Errors
    ///
    /// Those of KVM.
    pub fn create_vcpu(&self, index: usize) -> Result<Vcpu, Failure> {
        Vcpu::new(&self.slots, index)
    }

    /// Creates the data slot, or switches its dirty logging on or off.
    ///
    /// # Errors
    ///
    /// Those of KVM.
    pub fn set_logging(&self, on: bool) -> Result<(), Failure> {
        let flags = if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        let range = (0, self.data.pages() * PAGE);
        self.slots
            .set((DATA_SLOT, flags), DATA, self.data.region(), range)
            .map_err(|error| failed_io("KVM_SET_USER_MEMORY_REGION", &error))
    }

    /// KVM_GET_DIRTY_LOG of the data slot.
    ///
    /// # Errors
    ///
    /// Those of KVM.
    pub fn get_dirty_log(&self) -> Result<Vec<u64>, Failure> {
        self.slots
            .vm()
            .get_dirty_log(DATA_SLOT, self.data.pages() * PAGE)
            .map_err(|error| failed("KVM_GET_DIRTY_LOG", error.errno()))
    }

    /// KVM_CLEAR_DIRTY_LOG of the data slot, from page `first` on.
    ///
    /// # Errors
    ///
    /// Those of KVM.
    pub fn clear_dirty_log(&self, (first, pages): (u64, u32), bits: &[u64]) -> Result<(), Failure> {
        sys::clear_dirty_log(self.slots.vm(), DATA_SLOT, (first, pages), bits)
            .map_err(|error| failed_io("KVM_CLEAR_DIRTY_LOG", &error))
    }

    /// The dirty ring of a vCPU.
    ///
    /// # Errors
    ///
    /// When it cannot be mapped.
    pub fn ring(&self, vcpu: &Vcpu) -> Result<Ring, Failure> {
        Ring::map(&vcpu.fd, RING_ENTRIES).map_err(|error| failed_io("mmap of a dirty ring", &error))
    }

    /// KVM_RESET_DIRTY_RINGS.
    ///
    /// # Errors
    ///
    /// Those of KVM.
    pub fn reset_rings(&self) -> Result<u32, Failure> {
        sys::reset_dirty_rings(self.slots.vm())
            .map_err(|error| failed_io("KVM_RESET_DIRTY_RINGS", &error))
    }
}

/// A call of KVM failed.
pub fn failed(call: &str, errno: i32) -> Failure {
    failed_io(call, &io::Error::from_raw_os_error(errno))
}

/// A call failed.
pub fn failed_io(call: &str, error: &io::Error) -> Failure {
    Failure::usage(format!("{call} failed: {error}"), "see the kernel's log: dmesg | tail")
}

fn no_memory(pages: usize, error: &io::Error) -> Failure {
    Failure::usage(
        format!("{pages} pages of guest memory cannot be mapped: {error}"),
        "take fewer: --pages",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kvm_that_cannot_be_opened_says_what_to_try() {
        for (errno, message, help) in [
            (libc::ENOENT, "there is no /dev/kvm", "cargo live-qemu"),
            (libc::EACCES, "may not be opened", "usermod -a -G kvm"),
            (libc::EMFILE, "cannot be opened", "dmesg"),
        ] {
            let failure = no_kvm(errno);
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.message.contains(message), "{failure}");
            assert!(failure.help.contains(help), "{failure}");
        }
    }
}

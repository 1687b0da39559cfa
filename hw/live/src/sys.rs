//! The system calls for which no crate has a safe function: all the unsafe code of this package.
//!
//! The guarantee: every function here is safe to call with any arguments. What a call needs to stay
//! alive is kept by a type ([`Slots`], [`Ring`]), and memory that a guest or the kernel writes
//! while we read is reached through volatile accesses only.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{kvm_dirty_gfn, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use vm_memory::MmapRegion;

use crate::steps;
use crate::trace::Phase;

/// KVM_CLEAR_DIRTY_LOG: `_IOWR(KVMIO, 0xc0, struct kvm_clear_dirty_log)`.
const KVM_CLEAR_DIRTY_LOG: u32 = 0xc018_aec0;
/// KVM_GET_STATS_FD: `_IO(KVMIO, 0xce)`.
const KVM_GET_STATS_FD: u32 = 0xaece;
/// KVM_RESET_DIRTY_RINGS: `_IO(KVMIO, 0xc7)`.
const KVM_RESET_DIRTY_RINGS: u32 = 0xaec7;
/// PERF_EVENT_IOC_SET_FILTER: `_IOW('$', 6, char *)`.
const PERF_EVENT_IOC_SET_FILTER: u32 = 0x4008_2406;
/// PERF_TYPE_TRACEPOINT.
const PERF_TYPE_TRACEPOINT: u32 = 2;
/// PERF_FLAG_FD_CLOEXEC.
const PERF_FLAG_FD_CLOEXEC: usize = 8;
/// Where a vCPU's file has its dirty ring, in pages (KVM_DIRTY_LOG_PAGE_OFFSET).
const DIRTY_RING_PAGE: u64 = 64;
/// The flag of a ring entry that the kernel has filled.
const RING_DIRTY: u32 = 1;
/// The flag of a ring entry that user space has collected.
const RING_RESET: u32 = 2;

/// The argument of KVM_CLEAR_DIRTY_LOG.
#[repr(C)]
struct ClearDirtyLog {
    slot: u32,
    num_pages: u32,
    first_page: u64,
    bitmap: *const u64,
}

/// The first, fixed version of `struct perf_event_attr` (PERF_ATTR_SIZE_VER0).
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    bp_addr: u64,
}

/// A VM and the memory of its slots, which lives as long as the VM.
#[derive(Debug)]
pub struct Slots {
    vm: VmFd,
    kept: Mutex<Vec<Arc<MmapRegion>>>,
}

impl Slots {
    /// Takes the VM in.
    pub fn new(vm: VmFd) -> Slots {
        Slots { vm, kept: Mutex::new(Vec::new()) }
    }

    /// The VM.
    pub fn vm(&self) -> &VmFd {
        &self.vm
    }

    /// KVM_SET_USER_MEMORY_REGION: `size` bytes of `memory` from `offset` on, at `base`. Size 0
    /// deletes the slot.
    ///
    /// # Errors
    ///
    /// Those of the ioctl; `EINVAL` when the range is not in `memory`.
    pub fn set(
        &self,
        (slot, flags): (u32, u32),
        base: u64,
        memory: &Arc<MmapRegion>,
        (offset, size): (usize, usize),
    ) -> io::Result<()> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: base,
            memory_size: size as u64,
            userspace_addr: within(memory, offset, size)?.addr().get() as u64,
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.iter().any(|known| Arc::ptr_eq(known, memory)) {
            kept.push(Arc::clone(memory));
        }
        let fields = [
            ("slot", u64::from(slot)),
            ("base", base >> 12),
            ("pages", size as u64 >> 12),
            ("log", u64::from(flags & 1)),
            ("host", region.userspace_addr),
        ];
        steps::mark("slot", Phase::Enter, &fields);
        #[expect(unsafe_code, reason = "a guest will write to this memory")]
        // SAFETY: the range lies in a mapping that `kept` holds for as long as the VM is there, and
        // that is only ever reached through volatile accesses: a guest may write to it.
        let result = unsafe { self.vm.set_user_memory_region(region) };
        steps::mark("slot", Phase::Exit, &fields);
        result.map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }
}

/// The address of `len` bytes of `memory` from `offset` on.
fn within(memory: &MmapRegion, offset: usize, len: usize) -> io::Result<NonNull<u8>> {
    let inside = offset.checked_add(len).is_some_and(|end| end <= memory.size());
    let start = memory.as_ptr().wrapping_add(offset);
    NonNull::new(start).filter(|_| inside).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// KVM_CLEAR_DIRTY_LOG of the pages from `first` on whose bits are set in `bitmap`, `pages` in all.
///
/// # Errors
///
/// Those of the ioctl; `EINVAL` when `bitmap` is too short.
pub fn clear_dirty_log(
    vm: &VmFd,
    slot: u32,
    (first, pages): (u64, u32),
    bitmap: &[u64],
) -> io::Result<()> {
    if bitmap.len() < (pages as usize).div_ceil(64) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let clear =
        ClearDirtyLog { slot, num_pages: pages, first_page: first, bitmap: bitmap.as_ptr() };
    ioctl(vm.as_raw_fd(), KVM_CLEAR_DIRTY_LOG, ptr::from_ref(&clear).addr()).map(drop)
}

/// KVM_RESET_DIRTY_RINGS: protects again what was collected. Returns how many entries.
///
/// # Errors
///
/// Those of the ioctl.
pub fn reset_dirty_rings(vm: &VmFd) -> io::Result<u32> {
    ioctl(vm.as_raw_fd(), KVM_RESET_DIRTY_RINGS, 0).map(|entries| entries.unsigned_abs())
}

/// KVM_GET_STATS_FD of a VM or a vCPU.
///
/// # Errors
///
/// `ENOTTY` where the kernel has no such call (before 5.14).
pub fn stats_file(of: &impl AsRawFd) -> io::Result<File> {
    let fd = ioctl(of.as_raw_fd(), KVM_GET_STATS_FD, 0)?;
    #[expect(unsafe_code, reason = "a raw file descriptor becomes an owned one")]
    // SAFETY: the ioctl succeeded, so this is a new file descriptor that nobody else owns.
    let file = unsafe { File::from_raw_fd(fd) };
    Ok(file)
}

/// An ioctl. `argument` is a number, or the address of what the request reads.
fn ioctl(fd: RawFd, request: u32, argument: usize) -> io::Result<i32> {
    #[expect(unsafe_code, reason = "a raw system call")]
    // SAFETY: all requests of this file only read what `argument` points to, and each caller has it
    // on its stack, complete, over the call. A wrong file descriptor is an error of the call.
    let result = unsafe { libc::ioctl(fd, request as _, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A counter of the tracepoint `id` on one CPU, of the events that pass `filter` (empty: all).
///
/// # Errors
///
/// Those of perf_event_open: no permission, no such tracepoint, a bad filter.
pub fn tracepoint_counter(id: u64, cpu: usize, filter: &str) -> io::Result<File> {
    let attr = PerfEventAttr {
        kind: PERF_TYPE_TRACEPOINT,
        size: u32::try_from(size_of::<PerfEventAttr>()).map_err(io::Error::other)?,
        config: id,
        ..PerfEventAttr::default()
    };
    #[expect(unsafe_code, reason = "a raw system call; no crate here has perf events")]
    // SAFETY: `attr` is complete and says its size; the kernel reads that much and writes nothing.
    let fd = unsafe {
        let any_process: isize = -1;
        let no_group: isize = -1;
        let attr = ptr::from_ref(&attr);
        libc::syscall(
            libc::SYS_perf_event_open,
            attr,
            any_process,
            cpu,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "a raw file descriptor becomes an owned one")]
    // SAFETY: the call succeeded, so this is a new file descriptor that nobody else owns.
    let file = unsafe { File::from_raw_fd(fd) };
    if !filter.is_empty() {
        let filter = std::ffi::CString::new(filter)?;
        ioctl(fd, PERF_EVENT_IOC_SET_FILTER, filter.as_ptr().addr())?;
    }
    Ok(file)
}

/// What the first register of a message has.
const MESSAGE: u64 = 0x6b76_6d6d_7531;

/// Says something to who watches this machine from outside, by an instruction that does nothing:
/// its registers have a magic number, an address and a length. On a CPU nobody hears it.
pub fn say_to_emulator(message: &[u8]) {
    #[cfg(target_arch = "aarch64")]
    #[expect(unsafe_code, reason = "an instruction with its registers")]
    // SAFETY: HINT #0x5b is not allocated and does nothing; who listens reads the message only.
    unsafe {
        core::arch::asm!(
            "hint #0x5b",
            in("x0") MESSAGE,
            in("x1") message.as_ptr(),
            in("x2") message.len(),
            options(readonly, nostack, preserves_flags)
        );
    }
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "an instruction with its registers")]
    // SAFETY: a long NOP does nothing, whatever its operand; who listens reads the message only.
    unsafe {
        core::arch::asm!(
            "nop dword ptr [rax + rax + 0x6b766d6d]",
            in("rdi") MESSAGE,
            in("rsi") message.as_ptr(),
            in("rdx") message.len(),
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// madvise of a part of guest memory.
///
/// # Errors
///
/// Those of the call; `EINVAL` when the range is not in `memory`.
pub fn advise(
    memory: &MmapRegion,
    (offset, len): (usize, usize),
    advice: Advice,
) -> io::Result<()> {
    let start = within(memory, offset, len)?;
    #[expect(unsafe_code, reason = "the contents of memory may change under Rust")]
    // SAFETY: the range lies in one mapping, which stays. Its contents may be dropped: they are
    // reached through volatile accesses only, and any bytes are valid there.
    let result = unsafe { rustix::mm::madvise(start.as_ptr().cast(), len, advice) };
    result.map_err(Into::into)
}

/// mprotect of a part of guest memory: readable, and writable or not.
///
/// # Errors
///
/// Those of the call; `EINVAL` when the range is not in `memory`.
pub fn protect(
    memory: &MmapRegion,
    (offset, len): (usize, usize),
    writable: bool,
) -> io::Result<()> {
    let start = within(memory, offset, len)?;
    let mut flags = MprotectFlags::READ;
    flags.set(MprotectFlags::WRITE, writable);
    #[expect(unsafe_code, reason = "a store of our own to read-only memory is a SIGSEGV")]
    // SAFETY: the range lies in one mapping, which stays and stays readable. A store to it while it
    // is read-only ends the process; it cannot corrupt anything.
    let result = unsafe { rustix::mm::mprotect(start.as_ptr().cast(), len, flags) };
    result.map_err(Into::into)
}

/// Maps new pages over a part of guest memory: of hugetlbfs, or small ones of the page cache.
///
/// # Errors
///
/// Those of the call; `EINVAL` when the range is not in `memory`.
pub fn map_over(memory: &MmapRegion, (offset, len): (usize, usize), huge: bool) -> io::Result<()> {
    let start = within(memory, offset, len)?;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let flags = if huge { MapFlags::PRIVATE | MapFlags::HUGETLB } else { MapFlags::SHARED };
    let flags = flags | MapFlags::FIXED;
    #[expect(unsafe_code, reason = "the contents of memory may change under Rust")]
    // SAFETY: the range lies in one mapping of ours, and is readable and writable again when this
    // returns. Its contents are dropped: they are reached through volatile accesses only.
    let result =
        unsafe { rustix::mm::mmap_anonymous(start.as_ptr().cast(), len, protection, flags) };
    result.map(|_| ()).map_err(Into::into)
}

/// Forks a child that ends at once, and reaps it: all private memory is write-protected for
/// copy-on-write meanwhile, and was shared.
///
/// # Errors
///
/// Those of fork and of waiting.
pub fn fork_and_reap(lives: std::time::Duration) -> io::Result<()> {
    let lives = libc::timespec { tv_sec: lives.as_secs() as _, tv_nsec: lives.subsec_nanos() as _ };
    #[expect(unsafe_code, reason = "std can start programs, but not fork")]
    // SAFETY: this process has threads, so the child may only make async-signal-safe calls: it
    // makes two system calls, nanosleep and _exit, with values that were computed before the fork.
    let pid = unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::nanosleep(&raw const lives, ptr::null_mut());
            libc::_exit(0);
        }
        pid
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let child = rustix::process::Pid::from_raw(pid);
    rustix::process::waitpid(child, rustix::process::WaitOptions::empty())?;
    Ok(())
}

/// The dirty ring of one vCPU, mapped from its file.
#[derive(Debug)]
pub struct Ring {
    entries: NonNull<kvm_dirty_gfn>,
    len: u32,
    next: u32,
}

#[expect(unsafe_code, reason = "the mapping may be used from any thread")]
// SAFETY: the mapping belongs to the process, not to a thread, and only this value reaches it from
// our side.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps the ring of `vcpu`, which has `len` entries.
    ///
    /// # Errors
    ///
    /// Those of mmap.
    pub fn map(vcpu: &VcpuFd, len: u32) -> io::Result<Ring> {
        let bytes = len as usize * size_of::<kvm_dirty_gfn>();
        let offset = DIRTY_RING_PAGE * rustix::param::page_size() as u64;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        #[expect(unsafe_code, reason = "a new mapping")]
        // SAFETY: the vCPU's file is open for as long as `vcpu` is borrowed. The kernel picks the
        // address, so nothing that is mapped already is touched.
        let address = unsafe {
            let file = BorrowedFd::borrow_raw(vcpu.as_raw_fd());
            rustix::mm::mmap(ptr::null_mut(), bytes, protection, MapFlags::SHARED, file, offset)
        }?;
        let entries = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Ring { entries, len, next: 0 })
    }

    /// Takes the next entry, if there is one: (slot with address space, page of the slot). It is
    /// marked as collected; [`reset_dirty_rings`] then protects the page again.
    pub fn collect(&mut self) -> Option<(u32, u64)> {
        let index = (self.next % self.len) as usize;
        #[expect(unsafe_code, reason = "the ring is shared with the kernel")]
        // SAFETY: `index` is within the `len` entries of the mapping, which this value owns. The
        // kernel writes `flags` while we read, hence an atomic; the other fields it leaves alone as
        // long as the flag says dirty and not reset, and they are read volatile.
        let (flags, slot, offset) = unsafe {
            let entry = self.entries.as_ptr().add(index);
            let flags = AtomicU32::from_ptr(&raw mut (*entry).flags);
            // ORDERING: Acquire pairs with the kernel's write barrier before it sets the flag:
            // without it slot and offset could be those of the last time round.
            if flags.load(Ordering::Acquire) & RING_DIRTY == 0 {
                return None;
            }
            let slot = (&raw const (*entry).slot).read_volatile();
            (flags, slot, (&raw const (*entry).offset).read_volatile())
        };
        // ORDERING: Release pairs with the kernel's acquire in the reset: without it the kernel
        // could reuse the entry before we have read it.
        flags.store(RING_RESET, Ordering::Release);
        self.next = self.next.wrapping_add(1);
        Some((slot, offset))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let bytes = self.len as usize * size_of::<kvm_dirty_gfn>();
        #[expect(unsafe_code, reason = "the mapping that this value owns ends with it")]
        // SAFETY: this value made the mapping, owns it alone, and hands out no reference to it.
        let _ = unsafe { rustix::mm::munmap(self.entries.as_ptr().cast(), bytes) };
    }
}

//! User space: ioctls, and the migration.

use kvmmu_model::virt::VCPUS;
use kvmmu_model::virt::memslots::DirtyLog;
use kvmmu_model::x86::mmu::paging::PT_ENTRIES;
use kvmmu_model::{Gfn, Gpte, Guard, Host, Mark};

use crate::machine::{Cell, Machine};
use crate::ops::{TableEntry, UserOp};
use crate::outcome::{Asker, Harvest};
use crate::world::World;

/// The byte of a page that the VMM's own stores change: no vCPU has it, and no guest table.
const VMM_BYTE: u8 = 6;
const _: () = assert!(VCPUS <= VMM_BYTE as usize && PT_ENTRIES <= VMM_BYTE as usize);

/// User space.
impl<M: Machine> World<M> {
    /// An operation of user space, by this thread or at the end.
    pub(super) fn run_user_op(&self, who: Asker, op: UserOp) {
        match op {
            UserOp::GetDirtyLog(slot) => self.get_dirty_log(who, slot.0),
            UserOp::CopyHarvested => self.copy_harvested(),
            UserOp::FetchDirtyLog(slot) => self.fetch_dirty_log(who, slot.0),
            UserOp::ClearDirtyLog(slot) => self.clear_dirty_log(slot.0),
            UserOp::VmmWrite(gfn) => self.vmm_write(gfn),
            UserOp::VmmSetGpte(entry, to) => self.vmm_set_gpte(entry, Gpte::new(to.0, true)),
            UserOp::VmmSetLargeGpte(entry, to) => {
                self.vmm_set_gpte(entry, Gpte::new(to, true).with(Gpte::PS));
            }
            UserOp::CopySlot(slot) => self.copy_slot(slot.0),
            UserOp::CopyFails => self.copy_fails(),
            UserOp::DropHarvested => self.drop_harvested(),
            UserOp::DeleteMemslot(slot) => self.delete_memslot(slot.0),
            UserOp::CreateMemslot(slot) => self.create_memslot(slot.0),
            UserOp::RecreateMemslot(slot) => self.recreate_memslot(slot.0),
            UserOp::StartDirtyLog(slot) => self.set_dirty_log(slot.0, DirtyLog::Empty),
            UserOp::StartDirtyLogSet(slot) => self.set_dirty_log(slot.0, DirtyLog::InitiallySet),
            UserOp::StopDirtyLog(slot) => self.set_dirty_log(slot.0, DirtyLog::Off),
            UserOp::RegisterMmio => self.vm.kvm_assign_ioeventfd(),
            UserOp::UnregisterMmio => self.vm.kvm_deassign_ioeventfd(false),
            UserOp::UnregisterMmioEnomem => self.vm.kvm_deassign_ioeventfd(true),
            UserOp::SetGsiRouting => self.vm.kvm_set_irq_routing(),
            UserOp::IrqLine => self.vm.kvm_set_irq(),
            UserOp::CreateIrqchip => self.vm.create_irqchip(),
            UserOp::CreatePit => self.vm.create_pit(),
            UserOp::MadvisePageout(gfn) => self.madvise_pageout(gfn),
            UserOp::MmapSmall(gfn) => self.mmap_small(gfn),
            UserOp::MadviseDontneed(slot) => self.madvise_dontneed(slot.0),
            UserOp::ReleaseVm => self.release_vm(),
            UserOp::CreateVm => self.vm.kvm_create_vm(),
            UserOp::DestroyVm => self.vm.kvm_destroy_vm(),
            UserOp::CloseVm => self.vm.kvm_put_kvm(),
            UserOp::Rmmod => self.m.call("delete_module", || self.vm.delete_module()),
            UserOp::CreateVcpu => self.vm.kvm_vm_ioctl_create_vcpu(),
            UserOp::UpdateVmsa => self.vm.sev_launch_update_vmsa(),
            UserOp::SetTsc(vcpu) => self.vm.kvm_set_tsc(vcpu),
            UserOp::SetNxHugePages => self.vm.set_nx_huge_pages(),
            UserOp::HvEventfd => self.vm.kvm_vm_ioctl_hv_eventfd(),
        }
    }

    fn get_dirty_log(&self, to: Asker, slot: u8) {
        let mask = self.vm.kvm_vm_ioctl_get_dirty_log(usize::from(slot));
        self.keep_harvest(to, slot, mask);
    }

    /// GET_DIRTY_LOG with manual protect.
    fn fetch_dirty_log(&self, to: Asker, slot: u8) {
        let mask = self.vm.get_dirty_log_copy(usize::from(slot));
        let fetched = self.frames_of(slot, mask);
        self.user.with(|u| u.fetched |= fetched);
        self.keep_harvest(to, slot, mask);
    }

    /// CLEAR_DIRTY_LOG.
    fn clear_dirty_log(&self, slot: u8) {
        let frames = self.frames_of(slot, !0);
        let mut fetched = 0;
        self.user.with(|u| {
            fetched = u.fetched & frames;
            u.fetched &= !frames;
        });
        self.m.checkpoint(fetched);
        let base = frames.trailing_zeros().min(63);
        self.vm.kvm_vm_ioctl_clear_dirty_log(usize::from(slot), fetched >> base);
    }

    /// The frames of a slot whose bits are set.
    fn frames_of(&self, slot: u8, mask: u64) -> u64 {
        let slot = self.vm.kvm.slots[usize::from(slot)].as_ref();
        slot.map_or(0, |s| (mask & ((1 << s.npages) - 1)) << s.base_gfn.0)
    }

    fn set_dirty_log(&self, slot: u8, log: DirtyLog) {
        self.vm.set_memory_region_log(usize::from(slot), log);
    }

    /// The VMM stores to guest memory. What it stores is another value each time.
    fn vmm_write(&self, gfn: Gfn) {
        self.m.call("vmm-write", || {
            let mut value = 0;
            self.user.with(|u| {
                u.vmm_writes += 1;
                value = u.vmm_writes;
            });
            self.m.checkpoint(value);
            self.vmm_store(gfn, VMM_BYTE, value);
        });
    }

    /// The VMM changes an entry of a guest table.
    fn vmm_set_gpte(&self, TableEntry { table, index }: TableEntry, to: Gpte) {
        self.m.call("vmm-set-gpte", || self.vmm_store(table, index, to.0));
    }

    fn vmm_store(&self, gfn: Gfn, byte: u8, value: u8) {
        while !self.vm.host.copy_to_user(gfn, byte, value) {
            self.cow_break(gfn);
        }
        self.vm.host.guest_store_emulated();
        self.m.mark(Mark::VmmStored);
        let log = || self.user.with(|u| u.harvested |= 1 << gfn.0);
        self.m.guarded(Guard::VmmMarksDirty, log);
    }

    /// In a frame of its own, which is not there while KVM fetches the log and which no image of
    /// the thread's stack has, therefore.
    #[inline(never)]
    fn keep_harvest(&self, to: Asker, slot: u8, mask: u64) {
        let index = usize::from(slot);
        let base = self.vm.kvm.slots[index].as_ref().map_or(0, |s| s.base_gfn.0);
        let frames = mask << base;
        self.user.with(|u| u.harvested |= frames);
        if let Some(harvests) = &self.harvests {
            harvests.with(|list| list.push(Harvest { to, slot, frames }));
        }
        self.m.note(format_args!("user: harvested {}", Frames(frames)));
    }

    /// Copies the pages that were harvested and not copied yet.
    fn copy_harvested(&self) {
        // User space runs: KVM never returns to it with a spinlock held.
        self.m.might_sleep();
        self.m.call("copy-harvested", || {
            loop {
                let mask = self.user.get().harvested;
                if mask == 0 {
                    break;
                }
                let gfn = Gfn(u64::from(mask.trailing_zeros()));
                self.m.checkpoint(gfn);
                let content = self.read_as_user(gfn);
                self.user.with(|u| {
                    u.copy[gfn.0 as usize] = content;
                    u.harvested &= !(1 << gfn.0);
                });
                self.m.mark(Mark::PageCopied);
                self.m.note(format_args!("user: gfn{} copied", gfn.0));
            }
        });
    }

    /// Copies all pages of a slot.
    fn copy_slot(&self, slot: u8) {
        let frames = self.frames_of(slot, !0);
        self.user.with(|u| u.harvested |= frames);
        self.copy_harvested();
    }

    /// Forgets what was harvested and not copied: a copy that failed, and that nobody tries again.
    fn drop_harvested(&self) {
        self.m.call("drop-harvested", || {
            let mut dropped = 0;
            self.user.with(|u| dropped = core::mem::take(&mut u.harvested));
            self.m.note(format_args!("user: {} not copied", Frames(dropped)));
        });
    }

    /// A copy fails, and is to be tried again.
    fn copy_fails(&self) {
        self.m.note(format_args!("user: the copy fails"));
        self.m.without(Guard::VmmKeepsHarvest, || self.drop_harvested());
    }

    /// User space reads a guest frame through its own mapping.
    fn read_as_user(&self, gfn: Gfn) -> u64 {
        let _mm = self.vm.host.lock();
        self.vm.host.content(gfn)
    }
}

/// A set of frames as text.
struct Frames(u64);

impl core::fmt::Display for Frames {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("{")?;
        let frames = (0..64).filter(|g| self.0 >> g & 1 == 1);
        for (i, g) in frames.enumerate() {
            write!(f, "{}gfn{g}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("}")
    }
}

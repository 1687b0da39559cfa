//! Operations, interpreted: the same code on every machine.
//!
//! Each operation is a `call`, with a checkpoint before it and before each retry of an instruction.

use kvmmu_model::mmu::RetPf;
use kvmmu_model::platform::Ordering::Relaxed;
use kvmmu_model::{Access, CpuId, Gfn, Gpte, Gva, Mark, Pfn, Word};

use crate::host_mm::HostPte;
use crate::machine::{AccessResult, Cell, GuestAccess, Machine, own_byte};
use crate::property::Property;
use crate::scenario::{Address, Op, Scenario, ThreadKind};
use crate::world::World;

impl<M: Machine> World<M> {
    /// Runs the program of a thread.
    ///
    /// # Panics
    /// If there is no such thread.
    pub fn run_thread(&self, scenario: &Scenario, thread: usize) {
        let program = &scenario.threads[thread];
        match program.kind {
            ThreadKind::Vcpu => self.run_vcpu(CpuId(thread as u8), &program.run),
            ThreadKind::Host | ThreadKind::User => self.run_ops(&program.run),
        }
    }

    /// What user space does at the end, and then the checks of the end.
    pub fn run_stop(&self, scenario: &Scenario) {
        self.run_ops(&scenario.at_stop);
        crate::oracle::check_end(self);
    }

    fn run_ops(&self, ops: &[Op]) {
        for (i, op) in ops.iter().enumerate() {
            self.m.checkpoint(i);
            match *op {
                Op::SwapOut(gfn) => self.swap_out(gfn),
                Op::SwapIn(gfn) => self.swap_in(gfn),
                Op::KsmMerge(keep, drop) => self.ksm_merge(keep, drop),
                Op::CowBreak(gfn) => self.cow_break(gfn),
                Op::ChangePte(gfn, pfn) => self.change_pte(gfn, pfn),
                Op::Age(gfn) => drop(self.mmu.clear_young(gfn, true)),
                Op::ClearYoung(gfn) => drop(self.mmu.clear_young(gfn, false)),
                Op::Shrink => self.mmu.mmu_shrink_scan(),
                Op::GetDirtyLog(slot) => self.get_dirty_log(usize::from(slot)),
                Op::CopyHarvested => self.copy_harvested(),
                Op::Guest(..)
                | Op::SetGpte(..)
                | Op::EmulateGpte(..)
                | Op::Invlpg(_)
                | Op::Prefault(_) => unreachable!("the loader gives vCPU operations to vCPUs"),
            }
        }
        self.m.checkpoint(ops.len());
    }
}

/// The vCPU side: KVM_RUN.
impl<M: Machine> World<M> {
    fn run_vcpu(&self, cpu: CpuId, ops: &[Op]) {
        let mut in_guest = false;
        for (i, op) in ops.iter().enumerate() {
            self.m.checkpoint((i, in_guest));
            let token = i as u8 + 1;
            match *op {
                Op::Guest(access, address) => {
                    let access = GuestAccess {
                        page: page_of(address),
                        access,
                        byte: (own_byte(cpu), token),
                    };
                    self.guest_instruction(cpu, access, &mut in_guest);
                }
                Op::SetGpte(address, index, gfn) => {
                    let access = GuestAccess {
                        page: page_of(address),
                        access: Access::Write,
                        byte: (index, Gpte::new(gfn, true).0),
                    };
                    self.guest_instruction(cpu, access, &mut in_guest);
                    self.m.mark(Mark::GuestPtWrite);
                }
                Op::EmulateGpte(table, index, gfn) => {
                    self.leave(cpu, &mut in_guest);
                    self.mmu.emulator_write_phys(cpu, table, index, Gpte::new(gfn, true));
                }
                Op::Invlpg(_) => {
                    self.leave(cpu, &mut in_guest);
                    self.mmu.kvm_mmu_invlpg(|| M::flush_tlb(self, cpu));
                }
                Op::Prefault(gfn) => {
                    self.leave(cpu, &mut in_guest);
                    self.mmu.prefault(cpu, gfn);
                }
                _ => unreachable!("the loader gives host and user operations to their threads"),
            }
        }
        self.m.checkpoint((ops.len(), in_guest));
        self.leave(cpu, &mut in_guest);
    }

    /// One guest instruction: entered, carried out, its faults handled, until it has completed.
    fn guest_instruction(&self, cpu: CpuId, access: GuestAccess, in_guest: &mut bool) {
        self.m.call(instruction_name(access.access), || {
            loop {
                self.m.checkpoint(*in_guest);
                if *in_guest && self.m.irq_pending(cpu) {
                    self.leave(cpu, in_guest);
                }
                while !*in_guest {
                    self.m.checkpoint(());
                    *in_guest = self.enter(cpu);
                }
                let present = match self.guest_access(cpu, access) {
                    AccessResult::Done => return *in_guest,
                    AccessResult::Fault(present) => present,
                };
                self.m.checkpoint(present);
                self.leave(cpu, in_guest);
                if self.handle_fault(cpu, access, present) {
                    return *in_guest;
                }
            }
        });
    }

    /// Handles a fault. True: the instruction has completed, by emulation or by a guest fault.
    fn handle_fault(&self, cpu: CpuId, access: GuestAccess, present: bool) -> bool {
        let ret = match self.mmu.vcpu(cpu).guest_root {
            None => self.mmu.direct_page_fault(cpu, Gfn(access.page), access.access, present),
            Some(_) => self.mmu.shadow_page_fault(cpu, Gva(access.page), access.access, present),
        };
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
        let (index, value) = access.byte;
        self.mmu.emulator_write_phys(cpu, gfn, index, Gpte(value));
    }

    fn enter(&self, cpu: CpuId) -> bool {
        let entered = !M::KVM_RUN || self.mmu.vcpu_enter_guest(cpu, || M::flush_tlb(self, cpu));
        if entered {
            M::guest_entered(self, cpu);
        }
        entered
    }

    fn leave(&self, cpu: CpuId, in_guest: &mut bool) {
        if *in_guest {
            M::guest_left(self, cpu);
            if M::KVM_RUN {
                self.mmu.vcpu_leave_guest(cpu);
            }
            *in_guest = false;
        }
    }
}

/// The host's memory manager.
impl<M: Machine> World<M> {
    /// Unmaps a page and reclaims it, unless somebody holds a reference.
    fn swap_out(&self, gfn: Gfn) {
        self.m.call("swap-out", || {
            self.mmu.invalidate_range_start(gfn);
            self.m.checkpoint(());
            let pfn = self.unmap(gfn);
            self.m.checkpoint(pfn);
            self.mmu.invalidate_range_end();
            if let Some(pfn) = pfn {
                self.m.checkpoint(pfn);
                self.reclaim(gfn, pfn);
            }
        });
    }

    /// Clears the host's own entry of a frame; the page goes to the swap cache.
    fn unmap(&self, gfn: Gfn) -> Option<Pfn> {
        let g = gfn.0 as usize;
        let _mm = self.mmu.host.lock();
        self.mmu.host.update(|s| {
            let pfn = s.pte[g].pfn.take();
            s.pte[g].writable = false;
            s.swap_cache[g] = pfn;
            if let Some(pfn) = pfn {
                self.m.mark(Mark::HostUnmapped);
                self.m.note(format_args!("host: gfn{g} unmapped from pfn{}", pfn.0));
            }
            pfn
        })
    }

    /// Frees a page that nobody uses: written out if it is dirty, dropped if it is clean.
    fn reclaim(&self, gfn: Gfn, pfn: Pfn) {
        let g = gfn.0 as usize;
        let _mm = self.mmu.host.lock();
        let state = self.mmu.host.state();
        let unused = state.swap_cache[g] == Some(pfn) && !self.mmu.host.is_referenced(pfn);
        self.m.checkpoint((pfn, unused, state.is_mapped(pfn)));
        if !unused || state.is_mapped(pfn) {
            return;
        }
        let dirty = self.mmu.host.test_clear_page_dirty(pfn);
        // ORDERING: relaxed: nobody else uses the page.
        let content = self.mmu.host.page(pfn).load(Relaxed);
        if dirty {
            self.mmu.host.update(|s| s.swap[g] = content);
            self.m.mark(Mark::SwappedOutDirty);
            self.m.note(format_args!("host: pfn{} written out and freed", pfn.0));
        } else {
            self.m.mark(Mark::ReclaimedClean);
            self.m.note(format_args!("host: pfn{} dropped as clean and freed", pfn.0));
            if content != state.swap[g] && self.watches(Property::Swap) {
                self.m.violate(
                    Property::Swap,
                    format_args!(
                        "gfn{g} was written, and its page is dropped as clean: it comes back old"
                    ),
                );
            }
        }
        self.mmu.host.update(|s| s.swap_cache[g] = None);
    }

    /// The host itself stores to the frame, or its swap-in for somebody does.
    fn swap_in(&self, gfn: Gfn) {
        self.m.call("swap-in", || {
            let _mm = self.mmu.host.lock();
            self.mmu.host.fault_in(gfn, true);
        });
    }

    /// Two frames with equal contents come to share one read-only page, as KSM does it: each is
    /// write-protected first, a page that somebody holds a reference on is left alone.
    fn ksm_merge(&self, keep: Gfn, drop: Gfn) {
        self.m.call("ksm-merge", || {
            let Some(kept) = self.write_protect_page(keep) else { return };
            self.m.checkpoint(kept);
            let Some(dropped) = self.write_protect_page(drop) else { return };
            self.m.checkpoint((kept, dropped));
            // ORDERING: relaxed: both are write-protected.
            let same =
                self.mmu.host.page(kept).load(Relaxed) == self.mmu.host.page(dropped).load(Relaxed);
            if same && kept != dropped {
                self.m.checkpoint(kept);
                self.replace_page(drop, kept);
                self.m.mark(Mark::KsmMerged);
            }
        });
    }

    /// KSM's `write_protect_page`. `None` if the frame is not mapped or its page is pinned.
    fn write_protect_page(&self, gfn: Gfn) -> Option<Pfn> {
        let g = gfn.0 as usize;
        self.m.call("write_protect_page", || {
            self.mmu.invalidate_range_start(gfn);
            let pfn = {
                let _mm = self.mmu.host.lock();
                self.mmu.host.update(|s| {
                    let pfn = s.pte[g].pfn.filter(|p| !self.mmu.host.is_referenced(*p))?;
                    s.pte[g].writable = false;
                    Some(pfn)
                })
            };
            self.m.checkpoint(pfn);
            self.mmu.invalidate_range_end();
            pfn
        })
    }

    /// Maps a frame to another page, read-only, between start and end.
    fn replace_page(&self, gfn: Gfn, pfn: Pfn) {
        self.mmu.invalidate_range_start(gfn);
        {
            let _mm = self.mmu.host.lock();
            self.mmu.change_pte(gfn, pfn);
            let pte = HostPte { pfn: Some(pfn), writable: false };
            self.mmu.host.update(|s| s.pte[gfn.0 as usize] = pte);
            self.m.note(format_args!("host: gfn{} is now pfn{}, read-only", gfn.0, pfn.0));
        }
        self.mmu.invalidate_range_end();
    }

    /// The same without start and end, as mms older than notifier ranges did it. The host's
    /// page-table lock is held over all of it.
    fn change_pte(&self, gfn: Gfn, pfn: Pfn) {
        self.m.call("change-pte", || {
            let _mm = self.mmu.host.lock();
            self.mmu.change_pte(gfn, pfn);
            let pte = HostPte { pfn: Some(pfn), writable: false };
            self.mmu.host.update(|s| s.pte[gfn.0 as usize] = pte);
            self.m.note(format_args!("host: gfn{} is now pfn{}, read-only", gfn.0, pfn.0));
        });
    }

    /// Gives a frame on a shared page a copy of its own, writable.
    fn cow_break(&self, gfn: Gfn) {
        self.m.call("cow-break", || {
            let g = gfn.0 as usize;
            self.mmu.invalidate_range_start(gfn);
            {
                let _mm = self.mmu.host.lock();
                let state = self.mmu.host.state();
                if let Some(old) = state.pte[g].pfn.filter(|p| state.is_shared(*p)) {
                    let new = self.mmu.host.alloc_page();
                    self.m.checkpoint((old, new));
                    // ORDERING: relaxed: the old page is read-only, the new one not mapped yet.
                    let content = self.mmu.host.page(old).load(Relaxed);
                    self.mmu.host.page(new).store(content, Relaxed);
                    let pte = HostPte { pfn: Some(new), writable: true };
                    self.mmu.host.update(|s| s.pte[g] = pte);
                    kvmmu_model::Host::kvm_set_pfn_dirty(&self.mmu.host, new);
                    self.m.mark(Mark::CowBroken);
                }
            }
            self.mmu.invalidate_range_end();
        });
    }
}

/// User space.
impl<M: Machine> World<M> {
    fn get_dirty_log(&self, slot: usize) {
        let mask = self.mmu.kvm_vm_ioctl_get_dirty_log(slot);
        let base = self.mmu.memslots[slot].as_ref().map_or(0, |s| s.base_gfn.0);
        self.user.with(|u| u.harvested |= mask << base);
        self.m.note(format_args!("user: harvested {}", Frames(mask << base)));
    }

    /// Copies the pages that were harvested and not copied yet.
    fn copy_harvested(&self) {
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

    /// User space reads a guest frame through its own mapping.
    fn read_as_user(&self, gfn: Gfn) -> u64 {
        let _mm = self.mmu.host.lock();
        let state = self.mmu.host.state();
        let g = gfn.0 as usize;
        match state.pte[g].pfn.or(state.swap_cache[g]) {
            // ORDERING: relaxed: guest memory; the guest may be writing it.
            Some(pfn) => self.mmu.host.page(pfn).load(Relaxed),
            None => state.swap[g],
        }
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

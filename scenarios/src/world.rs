//! A scenario's world: the MMU, the host around it, hardware, user space, and what observers keep.

use alloc::sync::Arc;
use alloc::vec::Vec;

use kvmmu_model::platform::Ordering::Relaxed;
use kvmmu_model::virt::{AsyncPf, GFNS, MEMSLOTS, MemslotConfig, VCPUS, VmConfig};
use kvmmu_model::x86::mmu::walk::GuestWalk;
use kvmmu_model::x86::{ApicAccessPage, PmlBuffer};
use kvmmu_model::{
    Access, CpuId, Gfn, Gva, Mmu, Object, Spte, SpteFormat, SpteLoc, Tables, Tag, Vm, Word,
};

use crate::host_mm::HostMm;
use crate::last_use::Readers;
use crate::machine::{Cell, GuestAccess, Machine};
use crate::mmu::{MmuOf, ScenarioMmu};
use crate::ops::Address;
use crate::outcome::{Harvests, Outcome};
use crate::own_lock::OwnLock;
use crate::property::Property;
use crate::scenario::{InitialSpte, Paging, Scenario, ThreadKind};
use crate::vmm_pause::VmmPause;

/// Everything that threads share.
#[derive(Debug)]
pub struct World<M: Machine> {
    /// The machine.
    pub m: M,
    /// The VM with its MMU, and the host's memory manager.
    pub vm: Vm<M, HostMm<M>, MmuOf<M>>,
    /// TLBs, and what else hardware keeps.
    pub hardware: M::Hardware,
    /// User space.
    pub user: M::Cell<User>,
    /// The guest has written something.
    pub wrote: M::Cell<bool>,
    /// What was harvested, where outcomes are asked for: [`World::record_harvests`].
    pub harvests: Option<M::Cell<Harvests>>,
    /// The memslots that user space has deleted, one bit each.
    pub deleted: M::Cell<u8>,
    /// The memslots that user space has made.
    pub(crate) created: M::Cell<Created>,
    /// How the VMM keeps vCPUs out of KVM_RUN. `None`: it never does.
    pub(crate) pause: Option<VmmPause<M>>,
    /// The vCPUs that may hand callbacks to RCU still. `None`: nobody runs callbacks.
    pub(crate) rcu_callers: Option<M::Word>,
    /// The memslots that the VMM is making again, one bit each.
    pub(crate) recreating: M::Cell<u8>,
    /// There is another VM.
    pub(crate) has_other_vm: bool,
    /// By CPU: the vCPU thread that is there at first has ended. `None`: nobody waits for that.
    pub(crate) left: Option<[M::Word; VCPUS]>,
    /// Which properties are watched, a bit each.
    pub watched: u32,
    /// The locks that the file declares, in its order.
    pub(crate) own_locks: Vec<OwnLock<M>>,
    /// Who reads what, of what programs read for the last time.
    pub(crate) readers: Readers,
    /// An SPTE of the initial state that is illegal.
    pub(crate) illegal: Option<(SpteLoc, Spte)>,
}

const _: () = assert!(Property::ALL.len() <= u32::BITS as usize && MEMSLOTS <= u8::BITS as usize);

/// User space's own memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct User {
    /// The frames that harvests named since the last copy.
    pub harvested: u64,
    /// The frames that were fetched by manual protect, and not cleared since.
    pub fetched: u64,
    /// How often the VMM has stored to guest memory.
    pub vmm_writes: u8,
    /// The destination of the migration, by gfn.
    pub copy: [u64; GFNS],
}

/// The memslots that an ioctl has made and none has begun to delete since, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Created {
    /// Now.
    pub(crate) made: u8,
    /// At the last fault of each vCPU.
    pub(crate) faulted: [u8; VCPUS],
}

impl<M: Machine> World<M> {
    /// Builds the world that a scenario begins in. Runs alone.
    pub fn new(m: &M, scenario: &Scenario) -> Self {
        let host = HostMm::new(
            m,
            scenario.host_pages,
            &scenario.backing,
            (&scenario.huge, &scenario.hugetlb),
            scenario.contends(),
        );
        let vcpus = scenario.vcpus();
        let mut slots =
            [MemslotConfig { base_gfn: Gfn(0), npages: 0, log: false, there: true }; MEMSLOTS];
        for (config, slot) in slots.iter_mut().zip(&scenario.slots) {
            *config = MemslotConfig {
                base_gfn: slot.base,
                npages: u64::from(slot.pages),
                log: slot.log,
                there: slot.there,
            };
        }
        let config = VmConfig {
            contended: scenario.contends(),
            unsync: scenario.unsync,
            nr_vcpus: vcpus as u8,
            slots: &slots[..scenario.slots.len()],
        };
        let mut world = World {
            vm: Vm::new(m, host, &config, MmuOf::<M>::of(m, scenario)),
            hardware: m.hardware(scenario),
            user: m.cell(User { harvested: 0, fetched: 0, vmm_writes: 0, copy: [0; GFNS] }),
            wrote: m.cell(false),
            harvests: None,
            deleted: m.cell(0),
            created: m.cell(Created::default()),
            pause: scenario.recreates_memslots().then(|| VmmPause::new(m, vcpus as u8)),
            rcu_callers: scenario
                .runs_rcu_callbacks()
                .then(|| m.word(Tag::one(Object::User), vcpus as u64)),
            has_other_vm: scenario.vmid.is_some_and(|vmid| vmid.other_vm != 0),
            left: (scenario.moves_vcpus() || scenario.releases_vm())
                .then(|| core::array::from_fn(|cpu| m.word(Tag::nth(Object::VcpuEnded, cpu), 0))),
            recreating: m.cell(0),
            own_locks: OwnLock::all(m, &scenario.locks),
            readers: Readers::of(scenario),
            illegal: None,
            watched: scenario.always.iter().fold(0, |bits, p| bits | 1 << *p as u32),
            m: m.clone(),
        };
        world.store_guest_tables(scenario);
        world.load_roots(scenario);
        for entry in &scenario.map {
            world.install(scenario, entry);
        }
        if let Some(root) =
            scenario.guest_root.filter(|_| world.watches(Property::GuestTranslation))
        {
            world.vm.host.watch_guest_tables(root);
        }
        if let Some(gfn) = scenario.apic_page
            && let Some(pfn) = world.vm.host.state().pte[gfn.0 as usize].pfn
        {
            world.vm.kvm.apic_access_page = Some(ApicAccessPage::new(m, gfn, pfn));
        }
        if scenario.has_async_pf() {
            world.vm.kvm.async_pf = Some(AsyncPf::new(m));
        }
        if world.watches(Property::Accessed) {
            world.vm.host.watch_accesses();
        }
        world.start_migration();
        world.forget_what_nobody_reads();
        world
    }

    /// Shares the world, and has the machine say to it what happens in it from now on.
    pub fn attach(self) -> Arc<Self> {
        let world = Arc::new(self);
        world.m.attach(&world);
        world
    }

    /// From now on harvests are recorded, and [`World::outcome`] has them. Before the first step.
    pub fn record_harvests(&mut self) {
        self.harvests = Some(self.m.cell(Harvests::EMPTY));
    }

    /// The outcome of an execution that has ended, stop phase included.
    pub fn outcome(&self, scenario: &Scenario) -> Outcome {
        let user = self.user.get();
        let harvests = self.harvests.as_ref().map_or(Harvests::EMPTY, Cell::get);
        let copy = |gfn: Gfn| user.copy[gfn.0 as usize];
        Outcome::new(scenario, |gfn| self.content(gfn), copy, harvests.iter())
    }

    /// A scenario that checks nothing else starts with destination equal to source.
    fn start_migration(&self) {
        let mut copy = [0; GFNS];
        for (gfn, content) in copy.iter_mut().enumerate() {
            *content = self.content(Gfn(gfn as u64));
        }
        self.user.with(|u| u.copy = copy);
    }

    fn store_guest_tables(&self, scenario: &Scenario) {
        for table in &scenario.guest_tables {
            let Some(pfn) = self.vm.host.state().pte[table.gfn.0 as usize].pfn else { continue };
            let mut content = 0;
            for (i, entry) in table.entries.iter().enumerate() {
                let Some(e) = entry else { continue };
                content |= u64::from(e.gpte().0) << (8 * i);
            }
            // ORDERING: relaxed: before any thread runs.
            self.vm.host.page(pfn).store(content, Relaxed);
            // A page that is clean equals what is in swap.
            self.vm.host.update(|host| host.swap[table.gfn.0 as usize] = content);
        }
    }

    fn load_roots(&mut self, scenario: &Scenario) {
        let vcpus = scenario.threads.iter().filter(|t| t.kind == ThreadKind::Vcpu);
        for (cpu, thread) in vcpus.enumerate() {
            let root = match thread.paging {
                Paging::Direct => None,
                Paging::Shadow => scenario.guest_root,
            };
            Mmu::kvm_mmu_load(&self.vm, CpuId(cpu as u8), root);
        }
    }

    /// Installs an SPTE of the initial state on the path of the first vCPU that translates this
    /// way.
    fn install(&mut self, scenario: &Scenario, entry: &InitialSpte) {
        let (page, paging) = match entry.address {
            Address::Gfn(gfn) => (gfn.0, Paging::Direct),
            Address::Gva(gva) => (gva.0, Paging::Shadow),
        };
        let vcpus = scenario.threads.iter().filter(|t| t.kind == ThreadKind::Vcpu);
        let cpus =
            vcpus.enumerate().filter(|(_, t)| t.paging == paging).map(|(i, _)| CpuId(i as u8));
        let mut place: Option<(SpteLoc, Spte)> = None;
        for cpu in cpus {
            let (loc, spte) = *place.get_or_insert_with(|| self.install_leaf(cpu, page, entry));
            if entry.cached {
                M::preload_tlb(self, cpu, page, loc, spte);
            }
        }
        let illegal = |(_, spte): &(SpteLoc, Spte)| !self.vm.mmu.format().is_legal_leaf(*spte);
        self.illegal = self.illegal.or(place.filter(illegal));
    }

    fn install_leaf(&self, cpu: CpuId, page: u64, entry: &InitialSpte) -> (SpteLoc, Spte) {
        let walk = self.guest_walk(cpu, page);
        let spte = initial_spte(self.vm.mmu.format(), entry);
        let loc = Tables::setup_leaf(&self.vm, cpu, page, walk.as_ref(), spte);
        let dirty = self.vm.mmu.pml(cpu).is_none() || self.vm.mmu.format().is_dirty(spte);
        if self.vm.mmu.format().is_writable(spte) && dirty {
            // What made it writable marked it: a writable page of a logged slot is in the log. With
            // PML it need not be, as long as D is clear.
            self.vm.mark_page_dirty(walk.map_or(Gfn(page), |walk| walk.gfn));
        }
        (loc, spte)
    }

    /// What the guest's tables say of a page in the initial state, if it has any.
    fn guest_walk(&self, cpu: CpuId, page: u64) -> Option<GuestWalk> {
        use kvmmu_model::Host;
        let root = self.vm.mmu.guest_root(cpu)?;
        GuestWalk::new(root, Gva(page), |table, i| Some(self.vm.host.read_gpte(table, i)))
    }

    /// True if a vCPU is of another VM.
    pub fn is_of_other_vm(&self, vcpu: CpuId) -> bool {
        self.has_other_vm && self.vm.mmu.root(vcpu) != self.vm.mmu.root(CpuId(0))
    }

    /// The contents of a guest frame, wherever they are. For observers and for setting up.
    pub fn content(&self, gfn: Gfn) -> u64 {
        self.vm.host.content(gfn)
    }

    /// A guest store or load reached this page: is that allowed? Part of the step of the access.
    #[track_caller]
    pub fn check_access(&self, cpu: CpuId, access: GuestAccess, pfn: kvmmu_model::Pfn) {
        if access.access == Access::Write {
            self.vm.host.guest_stored(false);
        }
        crate::oracle::check_access(self, cpu, access, pfn);
    }

    /// True if a CPU cannot turn an SPTE from one value to the other: it would have to log that it
    /// sets D, and has no room.
    pub fn pml_is_full(&self, cpu: CpuId, old: Spte, new: Spte) -> bool {
        let buffer = self.vm.mmu.pml(cpu);
        let buffer = buffer.filter(|_| self.sets(self.vm.mmu.format().dirty_mask, old, new));
        buffer.is_some_and(PmlBuffer::is_full)
    }

    /// A CPU has turned the SPTE of a page from one value to the other, to carry out an access.
    /// Part of the step of the access.
    pub fn hardware_updated(&self, cpu: CpuId, page: u64, old: Spte, new: Spte) {
        let format = self.vm.mmu.format();
        if self.sets(format.accessed_mask, old, new) {
            self.vm.host.hardware_set_accessed(format.pfn(new));
        }
        if let Some(buffer) = self.vm.mmu.pml(cpu)
            && self.sets(format.dirty_mask, old, new)
        {
            buffer.log(Gfn(page));
        }
    }

    fn sets(&self, mask: u64, old: Spte, new: Spte) -> bool {
        new.without(old.0).0 & mask != 0
    }

    /// One guest access on this machine.
    #[track_caller]
    pub(crate) fn guest_access(
        &self,
        cpu: CpuId,
        access: GuestAccess,
    ) -> crate::machine::AccessResult {
        M::guest_access(self, cpu, access)
    }
}

fn initial_spte(format: &SpteFormat, e: &InitialSpte) -> Spte {
    let bit = |on: bool, mask: u64| if on { mask } else { 0 };
    let spte = format
        .leaf(e.pfn)
        .with(bit(e.host_writable, format.host_writable_mask))
        .with(bit(e.mmu_writable, format.mmu_writable_mask))
        .with(bit(e.writable, format.writable_mask))
        .with(bit(e.accessed, format.accessed_mask))
        .with(bit(e.dirty, format.dirty_mask));
    let spte = if e.large { format.large(spte) } else { spte };
    if e.tracked { format.mark_for_access_track(spte, false) } else { spte }
}

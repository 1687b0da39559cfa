//! Goal: whatever faults, invalidations, aging and harvests do one after the other, each leaf SPTE
//! that results is one that KVM may make. Method: random sequences of operations of the model
//! on a machine of plain cells and one thread, with every layout, all leaves checked after each.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use kvmmu_model::Tables;
use kvmmu_model::arm64::{Dsb, TlbiScope};
use kvmmu_model::virt::{MemslotConfig, VmConfig};
use kvmmu_model::x86::mmu::paging::all_spte_locs;
use kvmmu_model::x86::mmu::walk::hardware_walk;
use kvmmu_model::{
    Access, CpuId, CpuMask, Gfn, GfnRange, Gpte, Guard, GuardSet, Guarded, Host, Lock, LockId, Mmu,
    Ordering, Pfn, PinnedPage, Platform, Rcu, RwLock, ShadowMmu, Spte, SpteFormat, SpteLoc, Srcu,
    Tag, Until, Vm, Word,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// One thread: words are cells, locks are free, interrupts have nobody to interrupt.
#[derive(Clone, Copy, Debug)]
struct Plain {
    without: GuardSet,
}

#[derive(Debug)]
struct PlainWord(Cell<u64>);

impl Word for PlainWord {
    fn load(&self, _: Ordering) -> u64 {
        self.0.get()
    }
    fn store(&self, value: u64, _: Ordering) {
        self.0.set(value);
    }
    fn swap(&self, value: u64, _: Ordering) -> u64 {
        self.0.replace(value)
    }
    fn compare_exchange(&self, old: u64, new: u64, _: Ordering, _: Ordering) -> Result<u64, u64> {
        let found = self.0.get();
        if found != old {
            return Err(found);
        }
        Ok(self.0.replace(new))
    }
    fn fetch_or(&self, bits: u64, _: Ordering) -> u64 {
        self.0.replace(self.0.get() | bits)
    }
    fn fetch_and(&self, bits: u64, _: Ordering) -> u64 {
        self.0.replace(self.0.get() & bits)
    }
    fn fetch_add(&self, value: u64, _: Ordering) -> u64 {
        self.0.replace(self.0.get().wrapping_add(value))
    }
    fn wait_until(&self, until: Until) -> u64 {
        assert!(until.is_met_by(self.0.get()), "one thread waits for itself");
        self.0.get()
    }
}

#[derive(Debug)]
struct PlainLock<T>(RefCell<T>);

impl<T: Guarded> Lock<T> for PlainLock<T> {
    type Guard<'a> = RefMut<'a, T>;
    fn lock(&self) -> RefMut<'_, T> {
        self.0.try_borrow_mut().expect("one thread takes a lock twice")
    }
}

impl<T: Guarded> RwLock<T> for PlainLock<T> {
    type Read<'a> = Ref<'a, T>;
    type Write<'a> = RefMut<'a, T>;
    fn read(&self) -> Ref<'_, T> {
        self.0.try_borrow().expect("one thread takes a lock twice")
    }
    fn write(&self) -> RefMut<'_, T> {
        self.lock()
    }
}

/// An SRCU or an RCU for one thread: nobody ever waits.
#[derive(Debug)]
struct Unshared;

impl Srcu for Unshared {
    type Section<'a> = ();
    fn read_lock(&self) {}
    fn synchronize(&self) {}
}

impl Rcu for Unshared {
    type Section<'a> = ();
    fn read_lock(&self) {}
    fn synchronize(&self) {}
    fn call(&self, _: u64) {
        unreachable!("nothing here is freed later")
    }
    fn wait_ripe(&self) -> Option<u64> {
        unreachable!("nothing here is freed later")
    }
    fn close(&self) {}
}

impl Platform for Plain {
    type Word = PlainWord;
    type Lock<T: Guarded> = PlainLock<T>;
    type Local = AtomicU64;
    type RwLock<T: Guarded> = PlainLock<T>;
    type Srcu = Unshared;
    type Rcu = Unshared;

    fn word(&self, _: Tag, init: u64) -> PlainWord {
        PlainWord(Cell::new(init))
    }
    fn lock<T: Guarded>(&self, _: LockId, init: T) -> PlainLock<T> {
        PlainLock(RefCell::new(init))
    }
    fn local(&self, init: u64) -> AtomicU64 {
        AtomicU64::new(init)
    }
    fn rw_lock<T: Guarded>(&self, id: LockId, init: T) -> PlainLock<T> {
        self.lock(id, init)
    }
    fn srcu(&self, _: LockId) -> Unshared {
        Unshared
    }
    fn rcu(&self, _: LockId) -> Unshared {
        Unshared
    }
    fn fence(&self, _: Ordering) {}
    fn local_irq_disable(&self, _: CpuId) {}
    fn local_irq_enable(&self, _: CpuId) {}
    fn smp_call_function_many(&self, _: Option<CpuId>, _: CpuMask, _: bool) {}
    fn tlbi(&self, _: TlbiScope) {}
    fn dsb(&self, _: Dsb) {}
    fn guard(&self, guard: Guard) -> bool {
        !self.without.contains(guard)
    }
}

/// How many guest frames there are; frame `g` is on page `g` at first.
const FRAMES: u64 = 3;

/// What the host maps: a page and whether it is writable, by gfn.
type Backing = Rc<RefCell<Vec<PinnedPage>>>;

/// A host that always has the page.
#[derive(Debug)]
struct Backed(Backing);

impl Backed {
    fn page(&self, gfn: Gfn) -> PinnedPage {
        self.0.borrow()[gfn.0 as usize]
    }
}

impl Host for Backed {
    fn gfn_to_pfn(&self, gfn: Gfn, write: bool) -> Option<PinnedPage> {
        let page = self.page(gfn);
        (page.writable || !write).then_some(page)
    }
    fn gfn_to_pfn_atomic(&self, gfn: Gfn, write: bool) -> Option<PinnedPage> {
        self.gfn_to_pfn(gfn, write)
    }
    fn access_user_memory(&self) {}
    fn mmu_notifier_register(&self) {}
    fn mmu_notifier_unregister(&self) {}
    fn kvm_release_pfn_clean(&self, _: Pfn) {}
    fn kvm_set_pfn_dirty(&self, _: Pfn) {}
    fn kvm_set_pfn_accessed(&self, _: Pfn) {}
    fn try_cmpxchg_user(&self, _: Gfn, _: u8, _: Gpte, _: Gpte) -> bool {
        false
    }
    fn cmpxchg_by_offset(&self, _: Gfn, _: u8, _: Gpte, _: Gpte) -> bool {
        false
    }
    fn read_gpte(&self, _: Gfn, _: u8) -> Gpte {
        unreachable!("direct paging reads no guest tables")
    }
    fn copy_to_user(&self, _: Gfn, _: u8, _: u8) -> bool {
        unreachable!("nothing here is emulated")
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Fault(Access, u64),
    Prefault(u64),
    Age(u64),
    Harvest,
    /// The host takes the page back and maps another one, writable or not.
    Invalidate(u64, bool),
    /// The host maps another page, read-only, by change_pte alone.
    ChangePte(u64),
    /// The guest writes: hardware sets A and D if the SPTE lets it.
    GuestWrite(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let access = prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::Fetch)];
    prop_oneof![
        4 => (access, 0..FRAMES).prop_map(|(a, g)| Op::Fault(a, g)),
        2 => (0..FRAMES).prop_map(Op::Prefault),
        2 => (0..FRAMES).prop_map(Op::Age),
        2 => Just(Op::Harvest),
        1 => (0..FRAMES, any::<bool>()).prop_map(|(g, w)| Op::Invalidate(g, w)),
        1 => (0..FRAMES).prop_map(Op::ChangePte),
        2 => (0..FRAMES).prop_map(Op::GuestWrite),
    ]
}

struct World {
    vm: Vm<Plain, Backed, ShadowMmu<Plain>>,
    backing: Backing,
    next_pfn: u64,
}

const CPU: CpuId = CpuId(0);

impl World {
    fn new(format: SpteFormat, without: GuardSet, writable: &[bool]) -> World {
        let page = |g: usize| PinnedPage { pfn: Pfn(g as u64), writable: writable[g] };
        let backing = Rc::new(RefCell::new((0..FRAMES as usize).map(page).collect()));
        let slot = MemslotConfig { base_gfn: Gfn(0), npages: FRAMES, log: true, there: true };
        let host = Backed(Rc::clone(&backing));
        let platform = Plain { without };
        let config = VmConfig { contended: false, unsync: false, nr_vcpus: 1, slots: &[slot] };
        let mmu = ShadowMmu::new(&platform, format);
        let vm = Vm::new(&platform, host, &config, mmu);
        Mmu::kvm_mmu_load(&vm, CPU, None);
        World { vm, backing, next_pfn: FRAMES }
    }

    /// The leaf of a frame, as a walk of hardware finds it.
    fn leaf(&self, gfn: u64) -> Option<SpteLoc> {
        let (f, root) = (&self.vm.mmu.format, self.vm.mmu.root(CPU));
        let read = |loc| self.vm.mmu_spte_get_lockless(loc);
        let (at, spte) = hardware_walk(f, root, gfn, read);
        f.is_last(spte, at.level).then_some(at.loc)
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Fault(access, g) => {
                let present = |loc| {
                    self.vm.mmu.format.allows(self.vm.mmu_spte_get_lockless(loc), Access::Read)
                };
                let present = self.leaf(g).is_some_and(present);
                self.vm.kvm_tdp_page_fault(CPU, Gfn(g), access, present);
            }
            Op::Prefault(g) => drop(self.vm.kvm_arch_async_page_ready(CPU, Gfn(g))),
            Op::Age(g) => drop(self.vm.clear_flush_young(Gfn(g))),
            Op::Harvest => drop(self.vm.kvm_vm_ioctl_get_dirty_log(0)),
            Op::Invalidate(g, writable) => {
                self.vm.invalidate_range_start(GfnRange::one(Gfn(g)));
                self.back(g, writable);
                self.vm.invalidate_range_end(GfnRange::one(Gfn(g)));
            }
            Op::ChangePte(g) => {
                let pfn = self.back(g, false);
                self.vm.change_pte(Gfn(g), pfn);
            }
            Op::GuestWrite(g) => self.guest_write(g),
        }
    }

    fn back(&mut self, gfn: u64, writable: bool) -> Pfn {
        let pfn = Pfn(self.next_pfn);
        self.next_pfn += 1;
        self.backing.borrow_mut()[gfn as usize] = PinnedPage { pfn, writable };
        pfn
    }

    fn guest_write(&self, gfn: u64) {
        let Some(loc) = self.leaf(gfn) else { return };
        let (f, spte) = (&self.vm.mmu.format, self.vm.mmu_spte_get_lockless(loc));
        if f.allows(spte, Access::Write) {
            self.vm.mmu.sptep(loc).fetch_or(f.accessed_mask | f.dirty_mask, Ordering::SeqCst);
        }
    }

    /// Checks every leaf against the law.
    fn check(&self) -> Result<(), TestCaseError> {
        let parents: Vec<SpteLoc> = (0..FRAMES).filter_map(|g| self.leaf(g)).collect();
        for loc in all_spte_locs().filter(|loc| parents.iter().any(|p| p.sp == loc.sp)) {
            let spte = self.vm.mmu_spte_get_lockless(loc);
            if spte == Spte::ZERO {
                continue;
            }
            let backing = self.backing.borrow()[usize::from(loc.index)];
            self.law(spte, backing)?;
        }
        Ok(())
    }

    fn law(&self, spte: Spte, page: PinnedPage) -> Result<(), TestCaseError> {
        let f = &self.vm.mmu.format;
        prop_assert!(f.is_shadow_present(spte) && !f.is_mmio(spte), "{:?}", spte);
        prop_assert!(f.is_legal_leaf(spte), "{:?}", spte);
        prop_assert_eq!(f.pfn(spte), page.pfn);
        prop_assert_eq!(f.is_host_writable(spte), page.writable);
        prop_assert_eq!(f.ad_enabled(spte), f.accessed_mask != 0);
        prop_assert!(!f.is_writable(spte) || f.allows(spte, Access::Write), "{:?}", spte);
        // Permissions are saved if and only if they are taken away; W never is.
        let with_w = f.acc_track_saved_mask | f.writable_mask;
        let saved = spte.0 >> f.acc_track_saved_shift & with_w;
        let wanted = if f.is_access_track(spte) { f.acc_track_saved_mask } else { 0 };
        prop_assert!(f.ad_enabled(spte) || saved == wanted, "{:?}", spte);
        if !f.is_access_track(spte) {
            prop_assert!(f.allows(spte, Access::Read) && f.allows(spte, Access::Fetch));
        }
        // D only where the guest may write: with W now, or after a harvest took W.
        let dirty = spte.0 & f.dirty_mask != 0;
        prop_assert!(!dirty || f.is_mmu_writable(spte) || !page.writable, "{:?}", spte);
        Ok(())
    }
}

/// The same sequences in every run, unless the environment says otherwise (`PROPTEST_RNG_SEED`).
fn config() -> ProptestConfig {
    let environment = ProptestConfig::default();
    let rng_seed = match environment.rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        fixed => fixed,
    };
    ProptestConfig { rng_seed, failure_persistence: None, cases: 2_000, ..environment }
}

fn run(
    format: SpteFormat,
    without: GuardSet,
    writable: &[bool],
    ops: &[Op],
) -> Result<(), TestCaseError> {
    let mut world = World::new(format, without, writable);
    for op in ops {
        world.run(*op);
        world.check()?;
    }
    Ok(())
}

fn writable() -> impl Strategy<Value = Vec<bool>> {
    prop::collection::vec(prop::bool::weighted(0.7), FRAMES as usize)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_leaf_that_any_sequence_makes_is_legal(
        format in 0..SpteFormat::ALL.len(),
        writable in writable(),
        ops in prop::collection::vec(op(), 1..16),
    ) {
        run(SpteFormat::ALL[format], GuardSet::EMPTY, &writable, &ops)?;
    }
}

#[test]
fn the_law_is_broken_without_each_guard_that_keeps_it() {
    let fault = |access| Op::Fault(access, 0);
    let (read, write) = (fault(Access::Read), fault(Access::Write));
    let cases: [(Guard, bool, &[Op]); 3] = [
        (Guard::MakeSpteHostReadonly, false, &[read]),
        (Guard::ChangePteClearsMmuWritable, true, &[write, Op::ChangePte(0)]),
        (Guard::AccessTrackDropsW, true, &[write, Op::Age(0)]),
    ];
    for (guard, writable, ops) in cases {
        let broken = |without| {
            let one = |f: &SpteFormat| run(*f, without, &[writable; FRAMES as usize], ops);
            SpteFormat::ALL.iter().filter(|f| one(f).is_err()).count()
        };
        assert_eq!(broken(GuardSet::EMPTY), 0, "{guard:?}");
        assert!(broken(GuardSet::EMPTY.with(guard)) > 0, "{guard:?}");
    }
}

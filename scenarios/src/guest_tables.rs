//! What the guest's own page tables allow: the observer behind `guest-translation`.
//!
//! A guest that changes an entry of its tables may see the old translation until it invalidates it.
//! So each vCPU may reach, by a virtual page, every frame that its tables gave since that vCPU
//! began to invalidate the page last. What KVM's shadow of the tables gives must be among those. A
//! store that KVM emulates counts from its end on: guest memory has it before the shadow is zapped,
//! and a vCPU that invalidates in between gets the old translation still.

use kvmmu_model::virt::{GFNS, VCPUS};
use kvmmu_model::x86::mmu::walk::GuestWalk;
use kvmmu_model::{Access, CpuId, Gfn, Gpte, Gva, Pfn};

use crate::host_mm::HostState;
use crate::machine::{Cell, GuestAccess, Machine, PAGES};

/// The frames that a virtual page may translate to, one bit each; above those, the ones that may be
/// written by it.
type Frames = u16;

const _: () = assert!(2 * GFNS <= Frames::BITS as usize);

/// What each vCPU may reach by each virtual page.
#[derive(Debug)]
pub(crate) struct GuestTranslations<M: Machine> {
    seen: M::Cell<Seen>,
    /// The root of the guest's tables; `None`: nobody watches.
    root: Option<Gfn>,
}

/// What the tables gave, by virtual page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Seen {
    /// Since each vCPU invalidated the page.
    allowed: [[Frames; PAGES]; VCPUS],
    /// Now.
    now: [Frames; PAGES],
    /// Before stores that KVM is emulating.
    before: [Frames; PAGES],
    /// How many those are.
    emulating: u8,
}

impl<M: Machine> GuestTranslations<M> {
    pub(crate) fn new(m: &M) -> Self {
        GuestTranslations { seen: m.cell(Seen::default()), root: None }
    }

    pub(crate) fn watch(&mut self, root: Gfn) {
        self.root = Some(root);
    }

    /// Somebody has stored to guest memory: what the tables say now is allowed, too. `read` reads a
    /// page. `emulated`: KVM has, and [`GuestTranslations::emulated`] follows.
    pub(crate) fn stored(&self, read: impl Fn(Pfn) -> u64, host: &HostState, emulated: bool) {
        let Some(root) = self.root else { return };
        self.seen.with(|seen| {
            seen.emulating += u8::from(emulated);
            for page in 0..PAGES {
                if emulated {
                    seen.before[page] |= seen.now[page];
                }
                seen.now[page] = translate(root, Gva(page as u64), &read, host);
                for of_cpu in &mut seen.allowed {
                    of_cpu[page] |= seen.now[page];
                }
            }
        });
    }

    /// KVM has emulated a store.
    pub(crate) fn emulated(&self) {
        if self.root.is_none() {
            return;
        }
        self.seen.with(|seen| {
            seen.emulating -= 1;
            if seen.emulating == 0 {
                seen.before = [0; PAGES];
            }
        });
    }

    /// A vCPU invalidates a page, or all: what the tables gave before is not allowed any more.
    pub(crate) fn invalidates(&self, cpu: CpuId, gva: Option<Gva>) {
        if self.root.is_none() {
            return;
        }
        let is = |page: &usize| gva.is_none_or(|gva| gva.0 as usize == *page);
        self.seen.with(|seen| {
            for page in (0..PAGES).filter(is) {
                seen.allowed[usize::from(cpu.0)][page] = seen.now[page] | seen.before[page];
            }
        });
    }

    /// True if an access may go to a device: some frame that is allowed has no memslot, or none is
    /// allowed.
    pub(crate) fn allow_mmio(
        &self,
        cpu: CpuId,
        access: GuestAccess,
        has_slot: impl Fn(u64) -> bool,
    ) -> bool {
        let frames = self.seen.get().allowed[usize::from(cpu.0)][access.page as usize];
        let mut allowed = (0..GFNS as u64).filter(|gfn| frames >> gfn & 1 == 1).peekable();
        allowed.peek().is_none() || !allowed.all(has_slot)
    }

    /// True if a page is that of an allowed frame, or on its way to one, or of no frame at all:
    /// that it is reached all the same is for `pfn-safety` to say.
    pub(crate) fn allow(
        &self,
        cpu: CpuId,
        access: GuestAccess,
        pfn: Pfn,
        host: &HostState,
    ) -> bool {
        let frames = self.seen.get().allowed[usize::from(cpu.0)][access.page as usize];
        let frames = if access.access == Access::Write { frames >> GFNS } else { frames };
        let is = |g: usize| host.pte[g].pfn == Some(pfn) || host.swap_cache[g] == Some(pfn);
        let mut theirs = (0..GFNS).filter(|g| is(*g)).peekable();
        let on_its_way = host.taken >> pfn.0 & 1 == 1;
        on_its_way || theirs.peek().is_none() || theirs.any(|g| frames >> g & 1 == 1)
    }
}

/// What the guest's tables say of a virtual page.
pub(crate) fn walk(
    root: Gfn,
    gva: Gva,
    read: impl Fn(Pfn) -> u64,
    host: &HostState,
) -> Option<GuestWalk> {
    let entry = |table: Gfn, index: u8| {
        let g = table.0 as usize;
        let page = host.pte.get(g)?.pfn.or(host.swap_cache[g]);
        let page = page.map_or(host.swap[g], &read);
        Some(Gpte((page >> (8 * u32::from(index))) as u8))
    };
    GuestWalk::new(root, gva, entry)
}

/// The frame that the guest's tables give for a virtual page, as a set; empty if none.
fn translate(root: Gfn, gva: Gva, read: impl Fn(Pfn) -> u64, host: &HostState) -> Frames {
    let Some(walk) = walk(root, gva, read, host) else { return 0 };
    let (frame, writable) = (1 << walk.gfn.0, walk.allows_writes());
    frame | if writable { frame << GFNS } else { 0 }
}

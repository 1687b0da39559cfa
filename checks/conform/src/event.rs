//! Events of a trace: what one line says, and which thread said it.

use kvmmu_model::Spte;
use serde::{Deserialize, Deserializer, de};

use crate::walk::Element;

/// A place in the order of the trace: event `i` stands at `i + 1`; 0 is before all of them.
pub type Pos = u32;

/// After the last event.
pub const END: Pos = Pos::MAX;

/// One line of a trace.
#[derive(Clone, Debug)]
pub struct Event {
    /// The line in the file.
    pub line: u32,
    /// Who did it: an index into the threads of the trace, in order of appearance.
    pub thread: u32,
    /// What it says.
    pub what: What,
}

/// What a line says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// `kvmmmu:fast_page_fault`, after the attempts of one fast fault.
    FastFault(FastFault),
    /// `kvmmmu:kvm_mmu_set_spte`, under `mmu_lock`, after the SPTE was written.
    SetSpte(SetSpte),
    /// `kvmmmu:kvm_mmu_get_page`, under `mmu_lock`.
    GetPage {
        /// The shadow page.
        page: Page,
        /// It was made just now, and not found.
        created: bool,
    },
    /// `kvmmmu:kvm_mmu_prepare_zap_page`, under `mmu_lock`, before its SPTEs are cleared.
    ZapPage(Page),
    /// `kvmmmu:kvm_mmu_zap_all_fast`, under `mmu_lock`: pages of this generation are zapped from
    /// now on.
    ZapAll(u8),
    /// `kvmmmu:mark_mmio_spte`: the SPTE says that no slot has the frame.
    MmioSpte {
        /// Where.
        sptep: u64,
        /// The frame.
        gfn: u64,
    },
    /// `kvm:kvm_page_fault`: a fault begins.
    Fault {
        /// The address.
        address: u64,
        /// `PFERR_*`.
        error: ErrorCode,
    },
    /// `kvmmmu:kvm_mmu_pagetable_walk`: KVM begins to walk the guest's own tables.
    Walk {
        /// The guest's address.
        address: u64,
    },
    /// `kvmmmu:kvm_mmu_paging_element`: an entry of them.
    Element(Element),
    /// `kvmmmu:kvm_mmu_set_accessed_bit`, `kvm_mmu_set_dirty_bit`: KVM sets A or D of one.
    GuestBit {
        /// Where the entry is.
        gpa: u64,
        /// D, and not A.
        dirty: bool,
    },
    /// `kvmmmu:kvm_mmu_unsync_page`, under `mmu_lock`: from now on the guest may store to the table
    /// that this page shadows.
    Unsync(Page),
    /// `kvmmmu:kvm_mmu_sync_page`, under `mmu_lock`: it may not any more.
    Sync(Page),
    /// `kvm:kvm_age_page`, `kvm_age_hva`: the host ages these pages.
    Age(Range),
    /// `kvm:kvm_unmap_hva_range`: the host takes these pages back.
    Unmap(Range),
    /// User space begins or ends something that changes SPTEs.
    User(User),
    /// An event that says nothing about SPTEs.
    Other(String),
}

impl What {
    /// The name of the tracepoint.
    pub fn name(&self) -> &str {
        match self {
            What::FastFault(_) => "fast_page_fault",
            What::SetSpte(_) => "kvm_mmu_set_spte",
            What::GetPage { .. } => "kvm_mmu_get_page",
            What::ZapPage(_) => "kvm_mmu_prepare_zap_page",
            What::ZapAll(_) => "kvm_mmu_zap_all_fast",
            What::MmioSpte { .. } => "mark_mmio_spte",
            What::Fault { .. } => "kvm_page_fault",
            What::Walk { .. } => "kvm_mmu_pagetable_walk",
            What::Element(_) => "kvm_mmu_paging_element",
            What::GuestBit { dirty: false, .. } => "kvm_mmu_set_accessed_bit",
            What::GuestBit { dirty: true, .. } => "kvm_mmu_set_dirty_bit",
            What::Unsync(_) => "kvm_mmu_unsync_page",
            What::Sync(_) => "kvm_mmu_sync_page",
            What::Age(_) => "kvm_age",
            What::Unmap(_) => "kvm_unmap_hva_range",
            What::User(_) => "user",
            What::Other(name) => name,
        }
    }
}

/// `fast_page_fault`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FastFault {
    /// The vCPU.
    pub vcpu: u32,
    /// The address that faulted.
    pub address: u64,
    /// Why it faulted.
    pub error: ErrorCode,
    /// The virtual address of the SPTE.
    pub sptep: u64,
    /// What the last attempt read.
    pub old: Spte,
    /// What the SPTE held when the event was written: later than the cmpxchg.
    pub new: Spte,
    /// What became of it.
    pub ret: Ret,
}

/// What became of a fast fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ret {
    /// `RET_PF_FIXED`.
    Fixed,
    /// `RET_PF_SPURIOUS`.
    Spurious,
    /// `RET_PF_INVALID`: left to the slow path.
    Refused,
}

impl Ret {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Ret::Fixed => "fixed",
            Ret::Spurious => "spurious",
            Ret::Refused => "refused",
        }
    }
}

/// `kvm_mmu_set_spte`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetSpte {
    /// The frame.
    pub gfn: u64,
    /// The level of the table.
    pub level: u8,
    /// The physical address of the SPTE.
    pub sptep: u64,
    /// What the SPTE held when the event was written.
    pub spte: Spte,
    /// The same with U and NX as they were: where a guest's own tables are shadowed they are the
    /// guest's, and `spte` has those of a page that all may use.
    pub raw: u64,
}

/// A shadow page, as the tracepoints name it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Page {
    /// Its first frame.
    pub gfn: u64,
    /// `role.word`.
    pub role: u32,
    /// `mmu_valid_gen`.
    pub generation: u8,
}

impl Page {
    const DIRECT: u32 = 1 << 7;
    const INVALID: u32 = 1 << 11;

    /// `role.level`.
    pub fn level(self) -> u8 {
        (self.role & 0xf) as u8
    }
    /// `role.direct`: no table of the guest is behind it.
    pub fn is_direct(self) -> bool {
        self.role & Page::DIRECT != 0
    }
    /// `role.invalid`: it was zapped before and kept because it was in use as a root.
    pub fn is_invalid(self) -> bool {
        self.role & Page::INVALID != 0
    }
    /// The same page before it was zapped.
    #[must_use]
    pub fn valid(self) -> Page {
        Page { role: self.role & !Page::INVALID, ..self }
    }
}

/// `PFERR_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorCode(pub u64);

impl ErrorCode {
    /// The translation was there but did not allow it.
    pub fn present(self) -> bool {
        self.0 & 1 != 0
    }
    /// Hardware found nothing present.
    pub fn misses(self) -> bool {
        !self.present() && !self.reserved()
    }
    /// A write.
    pub fn write(self) -> bool {
        self.0 & 1 << 1 != 0
    }
    /// A reserved bit was set: an MMIO SPTE.
    pub fn reserved(self) -> bool {
        self.0 & 1 << 3 != 0
    }
    /// An instruction fetch.
    pub fn fetch(self) -> bool {
        self.0 & 1 << 4 != 0
    }
}

/// What a notifier is called for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Range {
    /// These frames, the last included.
    Gfns(u64, u64),
    /// These addresses of the process, the end excluded.
    Hvas(u64, u64),
}

impl Range {
    /// It covers whole pages.
    pub fn is_whole(self) -> bool {
        match self {
            Range::Gfns(..) => true,
            Range::Hvas(start, end) => start & 0xfff == 0 && end & 0xfff == 0,
        }
    }
}

/// What user space does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// Its name.
    pub op: String,
    /// Begin or end.
    pub phase: Phase,
    /// The slot that it is about.
    pub slot: Option<u32>,
    /// The frames that it is about, the last included.
    pub gfns: Option<(u64, u64)>,
}

/// Begin or end.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Before the system call.
    Enter,
    /// After it.
    Exit,
    /// Nothing lasts.
    At,
}

/// A number, as a JSON number or as a hexadecimal string: JSON readers lose bits above 2^53.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Number(pub u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        deserializer.deserialize_any(NumberVisitor).map(Number)
    }
}

/// Reads a [`Number`].
struct NumberVisitor;

impl de::Visitor<'_> for NumberVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("a number, or a string such as \"0x1f\"")
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<u64, E> {
        Ok(u64::from(value))
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
        // The standard library takes a sign, too.
        let parsed = u64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'));
        parsed.ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(text), &self))
    }
}

//! What lines of a trace have: the header, and the fields of events.

use serde::Deserialize;

use crate::event::{Number, Phase};

/// The first line of a trace.
#[derive(Deserialize, Clone, Debug)]
pub struct Header {
    /// [`VERSION`](crate::file::VERSION).
    #[serde(rename = "kvmmu-trace")]
    pub version: u64,
    /// The kernel's version.
    pub kernel: String,
    /// `uname -r`, if the recorder says it.
    pub release: Option<String>,
    /// `x86-64`.
    pub arch: String,
    /// The layout of its SPTEs.
    pub format: String,
    /// How KVM and the guest use page tables.
    pub mode: Mode,
    /// How many vCPUs there are.
    pub vcpus: u32,
    /// The memslots.
    #[serde(default)]
    pub slots: Vec<Slot>,
    /// The seed of the workload.
    pub seed: Option<u64>,
}

/// How KVM and the guest use page tables.
#[derive(Deserialize, Clone, Debug)]
pub struct Mode {
    /// Nested paging. Other kernels than those of AMD's have no such parameter.
    pub npt: Option<u8>,
    /// The TDP MMU.
    pub tdp_mmu: Option<u8>,
    /// `direct` (nested paging), `none` (the guest has paging off) or `guest`.
    pub paging: String,
}

/// A memslot.
#[derive(Deserialize, Clone, Debug)]
pub struct Slot {
    /// Its number.
    pub slot: u32,
    /// Its first frame.
    pub base_gfn: Number,
    /// How many frames.
    pub pages: u64,
    /// Dirty logging is on from the beginning.
    #[serde(default)]
    pub log: bool,
    /// Where user space has it.
    pub hva: Option<Number>,
}

/// The fields that some event or other has.
#[derive(Deserialize, Default, Debug)]
pub(crate) struct Line {
    pub(crate) event: String,
    pub(crate) n: Option<u64>,
    pub(crate) cpu: Option<u32>,
    pub(crate) pid: Option<u32>,
    pub(crate) vcpu_id: Option<u32>,
    pub(crate) cr2_or_gpa: Option<Number>,
    pub(crate) error_code: Option<Number>,
    pub(crate) sptep: Option<Number>,
    pub(crate) old_spte: Option<Number>,
    pub(crate) new_spte: Option<Number>,
    pub(crate) ret: Option<i64>,
    pub(crate) spurious: Option<Number>,
    pub(crate) fixed: Option<Number>,
    pub(crate) gfn: Option<Number>,
    pub(crate) level: Option<u8>,
    pub(crate) spte: Option<Number>,
    pub(crate) role: Option<Number>,
    pub(crate) mmu_valid_gen: Option<Number>,
    pub(crate) created: Option<Number>,
    pub(crate) fault_address: Option<Number>,
    pub(crate) addr: Option<Number>,
    pub(crate) pte: Option<Number>,
    pub(crate) gpa: Option<Number>,
    pub(crate) start: Option<Number>,
    pub(crate) end: Option<Number>,
    pub(crate) hva: Option<Number>,
    pub(crate) op: Option<String>,
    pub(crate) phase: Option<Phase>,
    pub(crate) slot: Option<u32>,
    pub(crate) first_gfn: Option<Number>,
    pub(crate) base_gfn: Option<Number>,
    pub(crate) pages: Option<u64>,
    pub(crate) dirty: Option<u64>,
    pub(crate) events: Option<u64>,
    pub(crate) lost: Option<u64>,
}

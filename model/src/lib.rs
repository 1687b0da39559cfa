//! The locking protocol of the Linux KVM MMU: one generic program, run by simulators, by loom and
//! shuttle, by real threads and on real page tables.
//!
//! It is written from facts about Linux v5.10 (x86, shadow paging and the legacy direct MMU; arm64,
//! stage 2, that of v6.1 and v6.12 too), in a design of its own. Functions have the kernel's names;
//! each says which locks it needs, what it guarantees and what is left out. There is no heap, no
//! `unsafe`, no `cfg`, and no dependency but the attribute `#[kernel]`, which names functions for
//! observers.
//!
//! # In which order to read
//!
//! `docs/protocol.md` has it in order, with the tool's lines taken out. In the sources, what stands
//! in `without`, `mark`, `checkpoint` or `forget` is the tool's: skip it, and what is left is KVM.
//!
//! 1. [`spte`]: what an SPTE is, and the questions that can be asked of one. [`transition`]: what
//!    one may become.
//! 2. [`vm`]: a VM, its MMU and its host, and what generic KVM asks of an MMU.
//! 3. [`x86::mmu`]: the MMU of shadow pages, and which lock protects what. `fast_fault.rs`
//!    (`fast_page_fault`, the step that everything else has to live with), `spte_update.rs` (how an
//!    SPTE is changed under it), `lockless.rs` (the walk), `direct.rs`, `paging_tmpl.rs` and
//!    `map.rs`, `large.rs`, `mmio.rs` (slow faults), `write_protect.rs`, `rmap.rs`,
//!    `shadow_page.rs`, `pte_write.rs`, `unsync.rs` and `sync.rs`.
//! 4. [`virt`]: generic KVM. `requests.rs` (what a flush means and how it waits), `notifier.rs`
//!    (the host takes pages back), `dirty_log.rs`, `memslots.rs` and its neighbours (what vCPUs
//!    read is replaced under them), whole VMs, vCPUs and CPUs.
//! 5. [`x86`] and [`arm64`]: the rest of the architectures. The other MMU, stage 2 of arm64, is
//!    [`arm64::pgtable`], `arm64/mmu.rs` and `arm64/tlb.rs`; its VMIDs are in `arm64/vmid`.
//! 6. [`guard`]: every protective step, what it prevents, and what takes its place when it is
//!    removed.
//! 7. [`platform`] and [`host`]: what KVM asks of the machine and of the rest of the kernel.
//! 8. [`lock`]: every lock, and the orders in which they are taken.
//!
//! # What is not here yet
//!
//! A third level, the dirty ring, generations of roots (`mmu_valid_gen`), the TDP MMU.
//! docs/model.md and docs/arm64.md say of each function where it is or why it is left out.
#![no_std]
#![forbid(unsafe_code)]

pub mod arm64;
pub mod guard;
pub mod host;
pub mod lock;
pub mod mark;
pub mod platform;
pub mod spte;
pub mod tables;
pub mod tag;
pub mod transition;
pub mod types;
pub mod virt;
pub mod vm;
pub mod x86;

use kvmmu_model_macros::kernel;

pub use arm64::pgtable::Stage2Mmu;
pub use guard::{Guard, GuardInfo, GuardSet, Release, ShownUnder};
pub use host::{Host, PinnedPage};
pub use lock::{Hold, LockClass, LockId, LockKind, Mode};
pub use mark::Mark;
pub use platform::{
    Guarded, Local, Lock, Ordering, Platform, RCU_CALLBACKS_MAX, Rcu, RwLock, Srcu, Until, Word,
};
pub use spte::{Gpte, Spte, SpteFormat};
pub use tables::{Leaf, Tables};
pub use tag::{Object, Protection, Tag};
pub use transition::{Algorithm, FastFault, NewLeaf, Transitions};
pub use types::{
    Access, CpuId, CpuMask, FaultStatus, Gfn, GfnRange, Gva, Pfn, SpId, SpteLoc, Vmid,
};
pub use vm::{Mmu, RetPf, Vm};
pub use x86::mmu::ShadowMmu;

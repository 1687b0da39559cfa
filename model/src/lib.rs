//! The locking protocol of the Linux KVM MMU: one generic program, run by simulators, by loom and
//! shuttle, by real threads and on real page tables.
//!
//! It is written from facts about Linux v5.10 (x86, shadow paging and the legacy direct MMU), in a
//! design of its own. Functions have the kernel's names; each says which locks it needs, what it
//! guarantees and what is left out. There is no heap, no `unsafe`, no `cfg` and no dependency.
//!
//! # In which order to read
//!
//! 1. [`spte`]: what an SPTE is, and the questions that can be asked of one. [`transition`]: what
//!    one may become.
//! 2. [`mmu`]: the shared state, and which lock protects what. Then, in its folder:
//!    `fast_fault.rs` (`fast_page_fault`, the step that everything else has to live with),
//!    `spte_update.rs` (how an SPTE is changed under it), `lockless.rs` (the walk), `flush.rs` and
//!    `vcpu.rs` (what a flush means and how it waits), `direct.rs`, `paging_tmpl.rs` and `map.rs`
//!    (slow faults), `notifier.rs` (the host takes pages back), `dirty_log.rs`, `write_protect.rs`,
//!    `rmap.rs`,
//!    `shadow_page.rs`, `pte_write.rs`.
//! 3. [`kvm`]: the VM around the MMU. `kvm/memslots.rs` and its neighbours replace what vCPUs read;
//!    `kvm/vm.rs` and its neighbours are about whole VMs, vCPUs and CPUs.
//! 4. [`guard`]: every protective step, what it prevents, and what takes its place when it is
//!    removed.
//! 5. [`platform`] and [`host`]: what the MMU asks of the machine and of the rest of the kernel.
//! 6. [`lock`]: every lock, and the orders in which they are taken.
//!
//! # What is not here yet
//!
//! Unsync pages and `tlbs_dirty` (every shadowed guest table stays write-protected:
//! `mmu_need_write_protect` is called with `can_unsync = false`), large pages, MMIO SPTEs, PML,
//! manual protect and the dirty ring, `zap_all_fast`, root changes, the TDP MMU, arm64.
#![no_std]
#![forbid(unsafe_code)]

pub mod guard;
pub mod guard_set;
pub mod host;
pub mod kvm;
pub mod lock;
pub mod mark;
pub mod mmu;
pub mod platform;
pub mod spte;
pub mod tag;
pub mod transition;
pub mod types;

pub use guard::{Guard, GuardInfo};
pub use guard_set::GuardSet;
pub use host::{Host, PinnedPage};
pub use kvm::Kvm;
pub use lock::{Hold, LockClass, LockId, LockKind, Mode};
pub use mark::Mark;
pub use mmu::Mmu;
pub use platform::{Guarded, Lock, Ordering, Platform, RwLock, Srcu, Until, Word};
pub use spte::{Gpte, Spte, SpteFormat};
pub use tag::{Object, Protection, Tag};
pub use transition::{Algorithm, FastFault, NewLeaf, Transitions};
pub use types::{Access, CpuId, CpuMask, Gfn, Gva, Pfn, SpId, SpteLoc};

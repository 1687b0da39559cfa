//! KVM for arm64 (`arch/arm64/kvm`): its MMU (`mmu.rs`, `pgtable/`), how that flushes TLBs
//! (`tlb.rs`, by the instructions of `tlbi.rs`), what tells the entries of VMs apart (`vmid/`),
//! vCPUs (`arm.rs`), powering them on, cleaning the cache. `relax_perms.rs` is for the MMU of x86
//! where that runs on tables of arm64.

mod arm;
mod coherent;
mod mmu;
pub mod pgtable;
mod psci;
mod relax_perms;
mod seam;
mod tlb;
mod tlbi;
mod vmid;

pub use tlbi::{Dsb, Tlbi, TlbiOn, TlbiScope};
pub use vmid::{VMID_BITS_MAX, VmidConfig, Vmids};

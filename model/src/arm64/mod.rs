//! KVM for arm64 (`arch/arm64/kvm`): so far, powering vCPUs on, cleaning the cache, one flush, and
//! the instructions that an MMU of arm64 flushes by.

mod coherent;
mod psci;
mod relax_perms;
mod tlbi;

pub use tlbi::{Dsb, Tlbi, TlbiOn, TlbiScope};

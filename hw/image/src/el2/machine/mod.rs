//! The machine that the model and the scenarios run on: words that are descriptors, locks, guest
//! accesses, KVM_RUN, and what is checked meanwhile.

pub(crate) mod access;
pub(crate) mod mmu;
pub(crate) mod platform;
pub(crate) mod vcpu;
pub(crate) mod watch;

mod lock;
mod rcu;

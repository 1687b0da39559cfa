//! KVM for arm64 (`arch/arm64/kvm`): so far, powering vCPUs on, and one flush.

mod psci;
mod relax_perms;

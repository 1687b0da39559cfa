//! KVM for x86 (`arch/x86/kvm`): entering the guest, interrupt controllers, clocks, Hyper-V and
//! Xen; and in `mmu/` the MMU.

mod apicv;
mod cr3;
mod emulate;
mod enter;
mod every_vm;
mod hyperv;
mod irqchip;
pub mod mmu;
mod posted_intr;
mod tsc;
mod vcpu;
mod xen;

pub use emulate::Emulated;
pub use irqchip::Irqchip;

//! KVM for x86 (`arch/x86/kvm`): entering the guest, interrupt controllers, clocks, Hyper-V and
//! Xen; and in `mmu/` the MMU.

mod apic_page;
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
mod vmx;
mod xen;

pub use apic_page::ApicAccessPage;
pub use emulate::Emulated;
pub use irqchip::Irqchip;
pub use vmx::{PML_ENTITY_NUM, PmlBuffer};

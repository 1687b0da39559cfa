//! What a `/dev/kvm` offers.

use kvm_bindings::{
    KVM_CAP_BINARY_STATS_FD, KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
};
use kvmmu_qemu::{Exit, Failure};

use crate::cluster;
use crate::kernel::Kernel;
use crate::report::Report;
use crate::trace;
use crate::vm;

/// What is asked for.
const CAPABILITIES: &[(&str, u32)] = &[
    ("manual dirty-log protect", KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2),
    ("dirty ring", KVM_CAP_DIRTY_LOG_RING),
    ("dirty ring, acquire/release", KVM_CAP_DIRTY_LOG_RING_ACQ_REL),
    ("statistics of vCPUs", KVM_CAP_BINARY_STATS_FD),
];

/// Prints it.
///
/// # Errors
///
/// When there is none.
pub fn print(report: Report) -> Result<Exit, Failure> {
    #[derive(serde::Serialize)]
    struct Offer<'a> {
        name: &'a str,
        value: i32,
    }
    report.kernel(&Kernel::running());
    let kvm = vm::open()?;
    for (name, number) in CAPABILITIES {
        let value = kvm.check_extension_raw((*number).into());
        let human = match value {
            0 => format!("{name}: no"),
            value => format!("{name}: yes ({value:#x})"),
        };
        report.say("offer", &Offer { name, value }, &human);
    }
    let fast = trace::tracefs()
        .map(|tracefs| tracefs.join("events/kvmmmu/fast_page_fault").is_dir())
        .unwrap_or(false);
    let human = format!("tracepoints of the MMU: {}", if fast { "yes" } else { "no" });
    report.say("offer", &Offer { name: "tracepoints", value: fast.into() }, &human);
    for cluster in cluster::clusters() {
        let human = format!("CPUs {:?}: {}", cluster.cpus, cluster.name);
        let value = i32::try_from(cluster.cpus.len()).unwrap_or(i32::MAX);
        report.say("cluster", &Offer { name: &cluster.name, value }, &human);
    }
    Ok(Exit::Expected)
}

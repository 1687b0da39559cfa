//! `[vmid]`, and what is of another VM: which vCPUs are, and what they may do.

use alloc::format;

use kvmmu_model::arm64::pgtable::OtherVm;
use kvmmu_model::arm64::{VMID_BITS_MAX, VmidConfig};

use super::error::{LoadError, listed, quoted};
use super::program::numbered;
use super::table::{Step, Table, Text};
use super::threads::Draft;
use crate::ops::{Op, VcpuOp};
use crate::property::Property;
use crate::scenario::{Profile, Scenario};

/// What vCPUs of VM 1 do.
const OF_VM1: [&str; 4] = ["read", "write", "new-vm", "move-to"];

/// Reads `[vmid]`: of how many bits VMIDs are, and whether VM 0 has one.
pub(super) fn read(
    root: &Table<'_>,
    drafts: &[Draft<'_>],
) -> Result<Option<VmidConfig>, LoadError> {
    let vmid = root.table("vmid", "[vmid]")?;
    for draft in drafts {
        check_thread(draft, vmid.is_some())?;
    }
    let Some(table) = vmid else { return Ok(None) };
    table.only(&["bits", "given"])?;
    let bits = table.need_small("bits", 1..=VMID_BITS_MAX, "bits = 2")?.value;
    let given = table.flag("given")?.unwrap_or(false);
    let others = drafts.iter().zip(0..).filter(|(draft, _)| draft.vm == 1);
    // There are too many vCPUs if a bit is missing, which is said later.
    let bit = |vcpu: u32| 1_u8.checked_shl(vcpu).unwrap_or(0);
    let other_vm = others.fold(0, |mask, (_, vcpu)| mask | bit(vcpu));
    if other_vm != 0 && bits == 1 {
        return Err(root.source.error(
            table.place("bits"),
            "two VMs, and one VMID for them",
            "VMID 0 is no guest's, and they would take the other from one another for ever: \
             bits = 2",
        ));
    }
    Ok(Some(VmidConfig { bits, given, other_vm }))
}

/// Refuses a thread that is not of the VM that it says, or does what its VM has no use for.
fn check_thread(draft: &Draft<'_>, has_vmids: bool) -> Result<(), LoadError> {
    let (name, table) = (&draft.name, draft.table());
    let refuse = |message, hint| Err(table.source.error(table.place("vm"), message, hint));
    match draft.vm {
        1 if !draft.is_vcpu() => {
            return refuse(
                format!("{} is no vCPU, and of VM 1", quoted(name.value)),
                "the host and user space are those of VM 0: remove the line",
            );
        }
        1 if name.value == "vcpu0" => {
            return refuse(
                "vcpu0 is of VM 1".into(),
                "VM 0 is the one that the scenario is about: its vCPUs come first",
            );
        }
        1 if !has_vmids => {
            return refuse(
                format!("{} is of VM 1, and there are no VMIDs", quoted(name.value)),
                "VMIDs are what two VMs share: add [vmid] with bits = 2 (a profile of arm64)",
            );
        }
        _ => {}
    }
    for key in ["run", "more"] {
        for step in table.program(key)? {
            match step {
                Step::One(text) => check_op(draft, &text, has_vmids)?,
                Step::OneOf(choice) => {
                    for text in &choice.value {
                        check_op(draft, text, has_vmids)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Refuses an operation that makes no sense on a vCPU of its VM. What is no operation is refused
/// later.
fn check_op(draft: &Draft<'_>, text: &Text<'_>, has_vmids: bool) -> Result<(), LoadError> {
    let words = text.words();
    let (Some(verb), argument) = (words.first(), words.get(1)) else { return Ok(()) };
    let refuse = |at, message, hint| Err(text.source.error(at, message, hint));
    if !draft.is_vcpu() {
        return Ok(());
    }
    let moves = verb.text == "move-to";
    if (moves || verb.text == "new-vm") && !has_vmids {
        return refuse(
            verb.at,
            format!("'{}', and there are no VMIDs", verb.text),
            "it is about what is cached under a VMID: add [vmid] with bits = 2 (a profile of arm64)"
                .into(),
        );
    }
    if moves && let Some(to) = argument.filter(|to| to.text == draft.name.value) {
        return refuse(
            to.at,
            format!("{} moves to its own CPU", quoted(draft.name.value)),
            "name the vCPU whose CPU it comes to when that has ended".into(),
        );
    }
    if draft.vm == 0 && verb.text == "new-vm" {
        return refuse(
            verb.at,
            format!("'new-vm' on {}, which is of VM 0", draft.name.value),
            "VM 0 is the one that the scenario is about, and stays: give the thread vm = 1".into(),
        );
    }
    if draft.vm == 0 {
        return Ok(());
    }
    if !OF_VM1.contains(&verb.text) {
        return refuse(
            verb.at,
            format!("'{}' on {}, which is of VM 1", verb.text, draft.name.value),
            format!("VM 1 has its memory mapped, and nothing else: {}", listed(OF_VM1)),
        );
    }
    let frame = argument.and_then(|word| Some((word.at, numbered(word.text, "gfn")?)));
    match frame.filter(|(_, gfn)| *gfn >= OtherVm::FRAMES) {
        Some((at, gfn)) => refuse(
            at,
            format!("gfn{gfn} of VM 1"),
            format!("it has gfn0 to gfn{}", OtherVm::FRAMES - 1),
        ),
        None => Ok(()),
    }
}

/// Refuses VMIDs that make no sense with the rest.
pub(super) fn check(root: &Table<'_>, s: &Scenario) -> Result<(), LoadError> {
    let Some(vmid) = s.vmid else { return Ok(()) };
    let refuse = |key, what, help| Err(root.source.error(root.place(key), what, help));
    let vcpus = s.vcpus() as u8;
    let reserves = matches!(s.profile, Profile::Arm64V6_1 | Profile::Arm64V6_12);
    if reserves && vmid.space() - 1 <= vcpus {
        return refuse(
            "vmid",
            format!("{} VMIDs to give out, and {vcpus} CPUs", vmid.space() - 1),
            "since 5.18 each CPU may hold one over the end of a generation, and KVM warns unless \
             there are more (kvm_arm_vmid_alloc_init): at most two vCPUs, with bits = 2, or \
             profile = \"arm64-v5.10\" alone",
        );
    }
    if s.recreates_memslots() {
        return refuse(
            "thread",
            "'recreate-memslot', and there are VMIDs".into(),
            "the VMM keeps its vCPUs out meanwhile, which one that moves or one of another VM does \
             not know of: remove one of the two",
        );
    }
    if !vmid.given && s.map.iter().any(|entry| entry.cached) {
        return refuse(
            "map",
            "something is cached, and VM 0 has no VMID yet".into(),
            "what is cached is under the VMID of its VM: write given = true in [vmid], or remove \
             'cached'",
        );
    }
    let movers = s.threads.iter().filter(|thread| thread.moves());
    if movers.count() > 1 {
        return refuse(
            "thread",
            "two vCPUs that move".into(),
            "each would wait for the end of another: let one of them stay",
        );
    }
    if vmid.other_vm == 0 {
        return Ok(());
    }
    if s.always.contains(&Property::Bbm) {
        return refuse(
            "check",
            "'bbm' is watched, and there is a VM 1".into(),
            "a VM whose VMID was given to another one shares it until it runs, and nothing comes \
             of that: watch it in a file of one VM",
        );
    }
    let is_new_vm = |op| matches!(op, Op::Vcpu(VcpuOp::NewVm));
    if vmid.other_vm.count_ones() > 1 && s.ops().any(is_new_vm) {
        return refuse(
            "thread",
            "'new-vm', and several vCPUs of VM 1".into(),
            "a VM is destroyed when none of its vCPUs is left: let VM 1 have one",
        );
    }
    if u64::from(s.host_pages) > OtherVm::FIRST_PAGE.0 {
        return refuse(
            if root.has("host") { "host" } else { "slot" },
            format!("{} pages for VM 0", s.host_pages),
            "those of VM 1 are pfn4 to pfn7: at most pages = 4",
        );
    }
    if !s.always.contains(&Property::VmIsolation) {
        return refuse(
            "check",
            "there is a VM 1, and 'vm-isolation' is not watched".into(),
            "nothing else is said of it: add it to 'always'",
        );
    }
    Ok(())
}

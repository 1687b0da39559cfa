//! What each field of an event may be, by itself.
//!
//! Guarantee: no later part meets a frame, an address or a role that no machine has. The bounds are
//! the kernel's and the processor's, not those of one machine: a field that is refused here is one
//! that no kernel can have recorded.

use crate::event::Number;
use crate::line::Line;

/// Frames have fewer: physical addresses have 52 bits.
pub const FRAMES: u64 = 1 << 40;
/// Physical addresses are below.
const PHYSICAL: u64 = 1 << 52;
/// Addresses of a process are below, with five levels.
pub const USER: u64 = 1 << 56;
/// `KVM_MEM_MAX_NR_PAGES`.
pub const PAGES_MAX: u64 = (1 << 31) - 1;
/// `KVM_USER_MEM_SLOTS`; above are the slots of other address spaces.
pub const SLOT_MAX: u64 = (1 << 15) - 1;
/// `PID_MAX_LIMIT`.
const PID_MAX: u64 = 1 << 22;
/// `CONFIG_NR_CPUS` of x86 is 8192 at most.
const CPU_MAX: u64 = 8191;
/// `PG_LEVEL_1G`: no leaf is in a table of a higher level.
const LEAF_LEVEL_MAX: u64 = 3;
/// Five-level paging.
const LEVEL_MAX: u64 = 5;
/// `role.direct`.
const DIRECT: u64 = 1 << 7;
/// `PFERR_*`: P W U R F PK SS, SGX, those of SEV-SNP, final and table walk, implicit.
const ERROR_BITS: u64 = 0x7f | 1 << 15 | 0x3f << 31 | 1 << 48;

/// Checks the fields of an event that the checker knows; `guest_tables`: KVM shadows those of the
/// guest. `Err` names the field.
pub(crate) fn check(line: &Line, guest_tables: bool) -> Result<(), String> {
    let number = |field: Option<Number>| field.map(|n| n.0);
    // A guest's own addresses have all bits.
    let address_max = if guest_tables { u64::MAX } else { PHYSICAL - 1 };
    let is_walk = line.event == "kvm_mmu_paging_element";
    let level_max = if is_walk { LEVEL_MAX } else { LEAF_LEVEL_MAX };
    let bounds = [
        ("pid", line.pid.map(u64::from), 0, PID_MAX),
        ("cpu", line.cpu.map(u64::from), 0, CPU_MAX),
        ("gfn", number(line.gfn), 0, FRAMES - 1),
        ("first_gfn", number(line.first_gfn), 0, FRAMES - 1),
        ("base_gfn", number(line.base_gfn), 0, FRAMES - 1),
        ("pages", line.pages, 0, PAGES_MAX),
        ("slot", line.slot.map(u64::from), 0, SLOT_MAX),
        ("cr2_or_gpa", number(line.cr2_or_gpa), 0, PHYSICAL - 1),
        ("fault_address", number(line.fault_address), 0, address_max),
        ("gpa", number(line.gpa), 0, PHYSICAL - 1),
        ("start", number(line.start), 0, USER - 1),
        ("hva", number(line.hva), 0, USER - 1),
        ("level", line.level.map(u64::from), 1, level_max),
        ("role", number(line.role), 0, u64::from(u32::MAX)),
        ("mmu_valid_gen", number(line.mmu_valid_gen), 0, 1),
        ("created", number(line.created), 0, 1),
        ("fixed", number(line.fixed), 0, 1),
        ("spurious", number(line.spurious), 0, 1),
    ];
    for (field, value, least, most) in bounds {
        if let Some(value) = value
            && !(least..=most).contains(&value)
        {
            return Err(format!("\"{field}\" is {value:#x}, not from {least} to {most:#x}"));
        }
    }
    addresses(line)?;
    roles(line, guest_tables)?;
    results(line)
}

fn addresses(line: &Line) -> Result<(), String> {
    if let Some(at) = line.sptep.filter(|at| at.0 % 8 != 0) {
        let why = "which is no place of an entry: the kernel hides addresses ('no_hash_pointers')";
        return Err(format!("\"sptep\" is {:#x}, {why}", at.0));
    }
    if let (Some(start), Some(end)) = (line.start, line.end)
        && start.0 >= end.0
    {
        return Err(format!("\"end\" is {:#x}, not after \"start\", {:#x}", end.0, start.0));
    }
    if let (Some(first), Some(base)) = (line.first_gfn, line.base_gfn)
        && first != base
    {
        let (first, base) = (first.0, base.0);
        return Err(format!("\"first_gfn\" is {first:#x}, but \"base_gfn\" is {base:#x}"));
    }
    let first = line.first_gfn.or(line.base_gfn);
    match (first, line.pages) {
        (Some(_), None) => Err("a first frame without \"pages\"".to_owned()),
        (Some(first), Some(pages)) if first.0 + pages > FRAMES => {
            Err(format!("\"pages\" is {pages}: from {:#x} on there are fewer frames", first.0))
        }
        _ => Ok(()),
    }
}

fn roles(line: &Line, guest_tables: bool) -> Result<(), String> {
    let Some(role) = line.role.map(|n| n.0) else { return Ok(()) };
    let level = role & 0xf;
    if !(1..=LEVEL_MAX).contains(&level) {
        return Err(format!("\"role\" is {role:#x}: no page is of level {level}"));
    }
    if role & DIRECT == 0 && !guest_tables {
        let why = "a shadow of a guest's table, which \"paging\" of the header excludes";
        return Err(format!("\"role\" is {role:#x}, {why}"));
    }
    Ok(())
}

/// Error codes, and the ways to say what became of a fast fault.
fn results(line: &Line) -> Result<(), String> {
    if let Some(code) = line.error_code.filter(|code| code.0 & !ERROR_BITS != 0) {
        let unknown = code.0 & !ERROR_BITS;
        return Err(format!("\"error_code\" is {:#x}: no fault has {unknown:#x}", code.0));
    }
    match (line.fixed.map(|n| n.0), line.spurious.map(|n| n.0)) {
        (Some(1), Some(1)) => Err("\"fixed\" and \"spurious\" are both 1".to_owned()),
        (Some(_), None) => Err("\"fixed\" without \"spurious\"".to_owned()),
        (None, Some(_)) => Err("\"spurious\" without \"fixed\"".to_owned()),
        _ => Ok(()),
    }
}

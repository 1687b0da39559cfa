//! What makes no sense with memory that is given back, or with a VM that ends.

use alloc::format;

use super::error::LoadError;
use super::memory;
use super::table::Table;
use crate::ops::{LockOp, Op, UserOp};
use crate::property::Property;
use crate::scenario::Scenario;

/// Refuses it.
pub(super) fn check(root: &Table<'_>, s: &Scenario) -> Result<(), LoadError> {
    let refuse = |key, what, help| Err(root.source.error(root.place(key), what, help));
    for op in s.ops() {
        let Op::User(UserOp::MadviseDontneed(slot)) = op else { continue };
        if s.always.contains(&Property::Migration) {
            return refuse(
                "check",
                format!("'migration' is watched, and user space has {op}"),
                "what was in the pages is gone: leave the property out",
            );
        }
        let has = |gfn| memory::contains(&s.slots[usize::from(slot.0)], gfn);
        if s.huge.iter().any(|first| memory::large_frames(*first).any(has)) {
            return refuse(
                "host",
                format!("{op}, and the slot has a huge page"),
                "huge pages are split before they are given back: take it out of 'huge'",
            );
        }
    }
    if !s.releases_vm() {
        return Ok(());
    }
    if s.ops().filter(|op| *op == Op::User(UserOp::ReleaseVm)).count() > 1 {
        return refuse(
            "thread",
            "'release-vm' twice".into(),
            "there is one VM to be released: remove one of the two",
        );
    }
    // What holds a reference on the VM.
    let is_ioctl = |op: &Op| match op {
        Op::User(op) => !matches!(
            op,
            UserOp::ReleaseVm | UserOp::MadviseDontneed(_) | UserOp::MadvisePageout(_)
        ),
        Op::Lock(LockOp::Lock(_) | LockOp::ReadLock(_) | LockOp::Synchronize(_)) => true,
        _ => false,
    };
    if let Some(op) = s.ops().find(is_ioctl) {
        return refuse(
            "thread",
            format!("'release-vm' and {op}"),
            "who closes the last descriptor of a VM does nothing else with KVM, and an ioctl of it \
             would keep it: beside it the host may unmap frames (swap-out, madvise-dontneed)",
        );
    }
    Ok(())
}

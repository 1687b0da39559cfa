//! What makes no sense together: each part of the file is right, and the whole is not.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use kvmmu_model::Gfn;
use kvmmu_model::x86::mmu::paging;

use super::error::LoadError;
use super::map::Uses;
use super::memory;
use super::table::Table;
use crate::ops::{Address, HostOp, Op, SlotIndex, UserOp, VcpuOp};
use crate::property::Property;
use crate::scenario::{
    Format, GuestEntry, IndirectFastFault, InitialSpte, Profile, Scenario, Thread,
};

/// Refuses a scenario that makes no sense as a whole.
pub(super) fn check(root: &Table<'_>, s: &Scenario, uses: Uses) -> Result<(), LoadError> {
    check_unsync(root, s, uses)?;
    check_pml(root, s, uses)?;
    check_huge(root, s)?;
    check_apic_page(root, s)?;
    check_async_pf(root, s)?;
    check_recreated(root, s, uses)?;
    check_pool(root, s, uses)?;
    check_pinned(root, s)?;
    check_manual_protect(root, s)?;
    check_slots_that_come(root, s)?;
    if s.runs_rcu_callbacks() && s.profile != Profile::Arm64V6_12 {
        return refused(
            root,
            "profile",
            "'rcu-callbacks', and a profile of kernels that free no table by RCU",
            "set profile = \"arm64-v6.12\", or remove the operation",
        );
    }
    let is_change_pte = |op| matches!(op, Op::Host(HostOp::ChangePte(..)));
    if s.profile == Profile::Arm64V6_12 && s.ops().any(is_change_pte) {
        return refused(
            root,
            "profile",
            "'change-pte', and a profile of kernels without that notifier (since 6.10)",
            "hosts call range_start there: write ksm-merge, or name another profile",
        );
    }
    let watched = |property| s.always.contains(&property);
    if watched(Property::MmioGeneration) && uses.shadow {
        return refused(
            root,
            "check",
            "'mmio-generation' is watched, and a vCPU shadows guest page tables",
            "it is said of frames, and such a vCPU names virtual pages: set paging = \"direct\", \
             or leave the property out",
        );
    }
    let sets = |op| matches!(op, UserOp::VmmSetGpte(..) | UserOp::VmmSetLargeGpte(..));
    if watched(Property::GuestTranslation) && user_ops(s).any(sets) {
        return refused(
            root,
            "check",
            "'guest-translation' is watched, and the VMM changes guest page tables",
            "KVM is not told of that, and owes the guest nothing for it: leave the property out, \
             or have the guest change its tables, by emulate-gpte or set-gpte",
        );
    }
    if watched(Property::Accessed) && !s.spte.has_ad() {
        return refused(
            root,
            "check",
            "'accessed' is watched, and the SPTEs have no A",
            "set spte = \"ept\" or \"npt\", or leave the property out",
        );
    }
    if watched(Property::Migration) {
        check_log_stays(root, s)?;
        check_migration(root, s)?;
    }
    Ok(())
}

/// What is wrong, at this key or table of the file, and what would mend it.
fn refused(
    root: &Table<'_>,
    key: &str,
    what: impl Into<String>,
    help: impl Into<String>,
) -> Result<(), LoadError> {
    Err(root.source.error(root.place(key), what, help))
}

/// What user space does, in any program.
fn user_ops(s: &Scenario) -> impl Iterator<Item = UserOp> {
    s.ops().filter_map(|op| match op {
        Op::User(op) => Some(op),
        _ => None,
    })
}

/// PML is of VMX, logs what the guest's physical addresses are, and needs D.
fn check_pml(root: &Table<'_>, s: &Scenario, uses: Uses) -> Result<(), LoadError> {
    if !s.pml || s.spte == Format::Ept && !uses.shadow {
        return Ok(());
    }
    refused(
        root,
        "pml",
        "'pml' without two-dimensional paging by EPT with D",
        "set spte = \"ept\" and paging = \"direct\" for every vCPU, or remove 'pml'",
    )
}

/// What the host does with the frames of a huge page is to split it, and to swap them out.
fn check_huge(root: &Table<'_>, s: &Scenario) -> Result<(), LoadError> {
    let is_huge =
        |gfn: Gfn| s.huge.iter().any(|first| memory::large_frames(*first).any(|of| of == gfn));
    if let Some(gfn) = s.apic_page.filter(|gfn| is_huge(*gfn)) {
        return refused(
            root,
            "apic-page",
            format!("gfn{} is in a huge page", gfn.0),
            "the APIC access page is a page of its own: name another frame",
        );
    }
    check_hugetlb(root, s)?;
    for op in s.ops() {
        let frames = match op {
            Op::Host(HostOp::SplitHuge(gfn)) if !is_huge(gfn) => {
                return refused(
                    root,
                    "thread",
                    format!("{op}, and gfn{} is in no huge page", gfn.0),
                    "name a frame of a huge page: [host] huge = [\"gfn0\"]",
                );
            }
            Op::Host(HostOp::KsmMerge(one, other)) => [one, other],
            Op::Host(HostOp::CowBreak(gfn) | HostOp::ChangePte(gfn, _)) => [gfn; 2],
            _ => continue,
        };
        if let Some(gfn) = frames.into_iter().find(|gfn| is_huge(*gfn)) {
            return refused(
                root,
                "thread",
                format!("{op}, and gfn{} is in a huge page", gfn.0),
                "the host splits a huge page before: name another frame",
            );
        }
    }
    if !s.huge.is_empty() && s.always.contains(&Property::Accessed) {
        return refused(
            root,
            "check",
            "'accessed' is watched, and the host has huge pages",
            "A of a large SPTE is that of four pages: leave the property out",
        );
    }
    Ok(())
}

/// Pages of hugetlbfs are neither split nor swapped out; they go when their VMA does.
fn check_hugetlb(root: &Table<'_>, s: &Scenario) -> Result<(), LoadError> {
    let of =
        |gfn: Gfn| s.hugetlb.iter().any(|first| memory::large_frames(*first).any(|of| of == gfn));
    for op in s.ops() {
        match op {
            Op::User(UserOp::MmapSmall(gfn)) if !of(gfn) => {
                return refused(
                    root,
                    "thread",
                    format!("{op}, and gfn{} is in no page of hugetlbfs", gfn.0),
                    "name a frame of one: [host] hugetlb = [\"gfn0\"]",
                );
            }
            Op::User(UserOp::MmapSmall(_)) if s.always.contains(&Property::Migration) => {
                return refused(
                    root,
                    "check",
                    format!("'migration' is watched, and user space has {op}"),
                    "what was in the old pages is gone: leave the property out",
                );
            }
            Op::Host(HostOp::SplitHuge(gfn) | HostOp::SwapOut(gfn))
            | Op::User(UserOp::MadvisePageout(gfn))
                if of(gfn) =>
            {
                return refused(
                    root,
                    "thread",
                    format!("{op}, and gfn{} is in a page of hugetlbfs", gfn.0),
                    "such a page is neither split nor swapped out: write 'huge' for 'hugetlb'",
                );
            }
            _ => {}
        }
    }
    Ok(())
}

/// The APIC access page is there at first, its vCPUs use it, and it is no guest table.
fn check_apic_page(root: &Table<'_>, s: &Scenario) -> Result<(), LoadError> {
    let used =
        s.threads.iter().any(|t| t.run.ops().any(|(_, op)| op == Op::Vcpu(VcpuOp::AccessApic)));
    let error = |key: &str, what: String, help: &str| refused(root, key, what, help);
    let Some(gfn) = s.apic_page else {
        return match used {
            true => error(
                "thread",
                "access-apic, and there is no APIC access page".into(),
                "say which frame it has: apic-page = \"gfn0\"",
            ),
            false => Ok(()),
        };
    };
    if !used {
        return error(
            "apic-page",
            "'apic-page', and no vCPU uses it".into(),
            "add access-apic to the program of a vCPU, or remove 'apic-page'",
        );
    }
    let backed = s.backing.iter().any(|b| b.gfn == gfn && b.pfn.is_some() && b.writable);
    if !backed || s.guest_tables.iter().any(|table| table.gfn == gfn) {
        return error(
            "apic-page",
            format!("gfn{} is swapped out, read-only in the host, or a guest page table", gfn.0),
            "name a frame that has a writable page of its own",
        );
    }
    let of_slot = |slot: SlotIndex| {
        let slot = s.slots.get(usize::from(slot.0));
        slot.is_some_and(|slot| memory::contains(slot, gfn))
    };
    let moves = |op| match op {
        Op::Host(HostOp::KsmMerge(keep, drop)) => keep == gfn || drop == gfn,
        Op::Host(HostOp::CowBreak(of) | HostOp::ChangePte(of, _)) => of == gfn,
        Op::User(UserOp::DeleteMemslot(slot) | UserOp::RecreateMemslot(slot)) => of_slot(slot),
        _ => false,
    };
    if let Some(op) = s.ops().find(|op| moves(*op)) {
        return error(
            "apic-page",
            format!("gfn{} is the APIC access page, and there is: {op}", gfn.0),
            "what the host does with it is swap-out and swap-in, and its memslot stays: name \
             another frame",
        );
    }
    Ok(())
}

/// A slot that the VMM makes again is there, and nobody else deletes or makes it. By frames it is
/// known which slot an access is for.
fn check_recreated(root: &Table<'_>, s: &Scenario, uses: Uses) -> Result<(), LoadError> {
    let error = |what: String, help: &str| refused(root, "thread", what, help);
    let programs = s.threads.iter().map(|t| t.run.ops().map(|(_, op)| op).collect::<Vec<_>>());
    let programs: Vec<Vec<Op>> =
        programs.chain([s.at_stop.ops().map(|(_, op)| op).collect()]).collect();
    for (slot, index) in s.slots.iter().zip((0..).map(SlotIndex)) {
        let recreates = |op: &Op| *op == Op::User(UserOp::RecreateMemslot(index));
        let by = programs.iter().filter(|ops| ops.iter().any(recreates)).count();
        if by == 0 {
            continue;
        }
        let changes = |op: &Op| match op {
            Op::User(UserOp::CreateMemslot(of) | UserOp::DeleteMemslot(of)) => *of == index,
            _ => false,
        };
        if by > 1 || !slot.there || programs.iter().flatten().any(changes) {
            return error(
                format!("slot{} is made again, and deleted or made elsewhere, too", index.0),
                "keep recreate-memslot of a slot in one program, and leave create-memslot, \
                 delete-memslot and there = false out",
            );
        }
        if slot.log && s.always.contains(&Property::Migration) {
            return error(
                format!("slot{} is made again, and its log is lost with it", index.0),
                "'migration' needs the log to its end: leave the property out, or name a slot that \
                 is not logged",
            );
        }
        if uses.shadow && s.always.contains(&Property::RamIsNotMmio) {
            return error(
                "recreate-memslot, 'ram-is-not-mmio', and a vCPU that shadows guest tables".into(),
                "such a vCPU names virtual pages, and not the slots that they are in: set paging = \
                 \"direct\", or leave the property out",
            );
        }
    }
    Ok(())
}

/// There is one VM to close, and one worker, which is waited for.
fn check_async_pf(root: &Table<'_>, s: &Scenario) -> Result<(), LoadError> {
    if !s.has_async_pf() {
        return Ok(());
    }
    let error = |key: &str, what: String, help: &str| refused(root, key, what, help);
    let ops = || s.threads.iter().flat_map(|t| t.run.ops());
    let times = |wanted: Op| ops().filter(|(_, op)| *op == wanted).count();
    let workers = times(Op::Host(HostOp::AsyncPf));
    if workers != 1 {
        return error(
            "thread",
            format!("{workers} workers of the other VM"),
            "write async-pf once, in the program of a host thread",
        );
    }
    if times(Op::User(UserOp::CloseVm)) > 1 {
        return error(
            "thread",
            "the other VM is closed twice".into(),
            "write close-vm once, in the program of a user thread",
        );
    }
    if s.at_stop.ops().any(|(_, op)| matches!(op, Op::User(UserOp::CloseVm | UserOp::Rmmod))) {
        return error(
            "at-stop",
            "the other VM is closed, or KVM unloaded, when all threads have ended".into(),
            "move close-vm and rmmod to a user thread, beside the worker",
        );
    }
    Ok(())
}

/// Refuses more tables than the pool of shadow pages can hold next to those of direct mappings.
fn check_pool(root: &Table<'_>, s: &Scenario, uses: Uses) -> Result<(), LoadError> {
    let others = if uses.direct { paging::direct_pages() } else { 0 };
    let tables = s.guest_tables.len();
    // A table has a shadow page for the root's writable entries and one for those that are not.
    let top = s.guest_tables.iter().find(|table| Some(table.gfn) == s.guest_root);
    let entries = || top.into_iter().flat_map(|top| top.entries.iter().flatten());
    let read_only = |gfn| entries().any(|e| e.gfn == gfn && !e.writable && !e.large);
    let twice = s.guest_tables.iter().filter(|table| read_only(table.gfn)).count();
    // So has a large page, which is mapped by 4K; one without D is not written by at first.
    let of_entry = |e: &GuestEntry| [(e.gfn.0, e.writable && e.dirty), (e.gfn.0, e.writable)];
    let mut large: BTreeSet<(u64, bool)> =
        entries().filter(|e| e.large).flat_map(of_entry).collect();
    large.extend(user_ops(s).filter_map(|op| match op {
        UserOp::VmmSetLargeGpte(_, to) => Some((to.0, true)),
        _ => None,
    }));
    if tables + twice + large.len() + others <= paging::SHADOW_PAGES {
        return Ok(());
    }
    let mut found = match twice {
        0 => format!("{tables} guest page tables"),
        _ => format!("{tables} guest page tables, {twice} of them behind a read-only entry"),
    };
    if !large.is_empty() {
        found.push_str(&format!(", and {} large pages", large.len()));
    }
    let fit = paging::SHADOW_PAGES - others;
    refused(
        root,
        "guest",
        found,
        format!(
            "at most {fit} fit here, the root among them; one behind a read-only entry counts twice"
        ),
    )
}

/// Tables go out of sync where they are shadowed; how 6.1 does it is not modelled.
fn check_unsync(root: &Table<'_>, s: &Scenario, uses: Uses) -> Result<(), LoadError> {
    if !s.unsync {
        return Ok(());
    }
    let error = |what: &str, help: &str| refused(root, "unsync", what, help);
    if s.profile != Profile::Fixed {
        return error(
            "'unsync' with the algorithms of 6.1",
            "what goes out of sync, and how it is synchronised, is that of 5.10: remove 'profile'",
        );
    }
    if !uses.shadow {
        return error(
            "'unsync', and no vCPU shadows guest page tables",
            "set paging = \"shadow\", for the file or for a vCPU, or remove 'unsync'",
        );
    }
    Ok(())
}

/// The pin is made with interrupts off, as by `get_user_page_fast_only`, which takes no lock. Here
/// it takes that of the host's page table, and `change-pte` has KVM flush under it.
fn check_pinned(root: &Table<'_>, s: &Scenario) -> Result<(), LoadError> {
    if s.indirect != IndirectFastFault::Pinned {
        return Ok(());
    }
    let changes =
        |t: &&Thread| t.run.ops().any(|(_, op)| matches!(op, Op::Host(HostOp::ChangePte(..))));
    let Some(thread) = s.threads.iter().find(changes) else { return Ok(()) };
    refused(
        root,
        "indirect-fast-fault",
        format!("\"pinned\", and {} does change-pte", thread.name),
        "the model's pin takes the host's page-table lock, which change-pte holds while KVM \
         flushes: use ksm-merge or swap-out, or another indirect-fast-fault",
    )
}

/// With manual protect GET_DIRTY_LOG is another ioctl, and that is so for the whole VM.
fn check_manual_protect(root: &Table<'_>, s: &Scenario) -> Result<(), LoadError> {
    use UserOp::{ClearDirtyLog, FetchDirtyLog, GetDirtyLog, StartDirtyLog, StartDirtyLogSet};
    let has = |is: fn(UserOp) -> bool| user_ops(s).any(is);
    let error = |what: &str, help: &str| refused(root, "thread", what, help);
    if has(|op| matches!(op, FetchDirtyLog(_) | ClearDirtyLog(_) | StartDirtyLogSet(_)))
        && has(|op| matches!(op, GetDirtyLog(_)))
    {
        return error(
            "get-dirty-log beside an operation of manual protect",
            "a VM has manual protect or not: take fetch-dirty-log and clear-dirty-log everywhere, \
             or, without start-dirty-log-set, nowhere",
        );
    }
    if has(|op| matches!(op, StartDirtyLogSet(_))) && has(|op| matches!(op, StartDirtyLog(_))) {
        return error(
            "start-dirty-log beside start-dirty-log-set",
            "KVM_DIRTY_LOG_INITIALLY_SET is of the whole VM: take one of the two",
        );
    }
    Ok(())
}

/// A slot that is not there at first is made by a program, and nothing is in it before. Only one
/// program makes a slot and deletes it, in turns: what is there is known when an ioctl returns.
fn check_slots_that_come(root: &Table<'_>, s: &Scenario) -> Result<(), LoadError> {
    let error = |key: &str, what: String, help: &str| refused(root, key, what, help);
    for (slot, index) in s.slots.iter().zip(0..) {
        let change = |op: Op| match op {
            Op::User(UserOp::CreateMemslot(of)) if of == SlotIndex(index) => Some(true),
            Op::User(UserOp::DeleteMemslot(of)) if of == SlotIndex(index) => Some(false),
            _ => None,
        };
        let of_thread = |t: &Thread| t.run.ops().filter_map(|(_, op)| change(op)).collect();
        let mut programs: Vec<Vec<bool>> = s.threads.iter().map(of_thread).collect();
        programs.push(s.at_stop.ops().filter_map(|(_, op)| change(op)).collect());
        let created = programs.iter().flatten().any(|creates| *creates);
        if !slot.there && !created {
            return error(
                "slot",
                format!("slot{index} is not there at first, and nothing creates it"),
                "add create-memslot to a program of user space, or remove 'there'",
            );
        }
        let mut changing = programs.iter().filter(|changes| !changes.is_empty());
        let (changes, other) = (changing.next(), changing.next());
        if created && other.is_some() {
            return error(
                "thread",
                format!("two programs make or delete slot{index}"),
                "keep create-memslot and delete-memslot of a slot in one program",
            );
        }
        let mut there = slot.there;
        for creates in changes.into_iter().flatten().filter(|_| created) {
            if *creates == there {
                let (verb, is) = if *creates { ("create", "is") } else { ("delete", "is not") };
                return error(
                    "thread",
                    format!("{verb}-memslot slot{index}, which {is} there by then"),
                    "create-memslot and delete-memslot take turns; there = false for a [[slot]] \
                     that is created first",
                );
            }
            there = *creates;
        }
        if slot.there {
            continue;
        }
        let mapped = |spte: &&InitialSpte| match spte.address {
            Address::Gfn(gfn) => memory::contains(slot, gfn),
            Address::Gva(gva) => s.translate(gva).is_some_and(|gfn| memory::contains(slot, gfn)),
        };
        if let Some(spte) = s.map.iter().find(mapped) {
            return error(
                "map",
                format!("{} is in slot{index}, which is not there at first", spte.address),
                "take it out of [map], or remove 'there' from that [[slot]]",
            );
        }
        if let Some(table) = s.guest_tables.iter().find(|t| memory::contains(slot, t.gfn)) {
            return error(
                "guest",
                format!("gfn{} is in slot{index}, which is not there at first", table.gfn.0),
                "keep guest page tables in a slot that is there",
            );
        }
    }
    Ok(())
}

/// Where a migration is watched, no program leaves a log off at its end: nobody would miss
/// anything.
fn check_log_stays(root: &Table<'_>, s: &Scenario) -> Result<(), LoadError> {
    use UserOp::{StartDirtyLog, StartDirtyLogSet, StopDirtyLog};
    let stays_off = |ops: &mut dyn Iterator<Item = Op>| {
        let change = |op: Op| match op {
            Op::User(StartDirtyLog(slot) | StartDirtyLogSet(slot)) => Some((slot, true)),
            Op::User(StopDirtyLog(slot)) => Some((slot, false)),
            _ => None,
        };
        let mut off = Vec::new();
        for (slot, on) in ops.filter_map(change) {
            off.retain(|of| *of != slot);
            if !on {
                off.push(slot);
            }
        }
        !off.is_empty()
    };
    let programs =
        s.threads.iter().map(|thread| stays_off(&mut thread.run.ops().map(|(_, op)| op)));
    if programs.chain([stays_off(&mut s.at_stop.ops().map(|(_, op)| op))]).any(|off| off) {
        return refused(
            root,
            "thread",
            "'migration' is watched, and a program ends with a dirty log off",
            "add start-dirty-log after stop-dirty-log: a migration needs the log to its end",
        );
    }
    Ok(())
}

/// A migration that is watched must have a log, and must end.
fn check_migration(root: &Table<'_>, s: &Scenario) -> Result<(), LoadError> {
    let starts = |op| matches!(op, UserOp::StartDirtyLog(_) | UserOp::StartDirtyLogSet(_));
    let logs = s.slots.iter().any(|slot| slot.log) || user_ops(s).any(starts);
    let last = |of: fn(UserOp) -> bool| {
        let is = |op| matches!(op, Op::User(op) if of(op));
        s.at_stop.ops().filter(|(_, op)| is(*op)).last().map(|(i, _)| i)
    };
    let harvest = last(|op| matches!(op, UserOp::GetDirtyLog(_) | UserOp::FetchDirtyLog(_)));
    // What was harvested must be copied; anything may follow.
    let ends = harvest.is_some() && last(|op| op == UserOp::CopyHarvested) > harvest;
    if !logs {
        return refused(
            root,
            "check",
            "'migration' is watched, and no slot has dirty logging",
            "add log = true to the [[slot]] whose pages are migrated, or start-dirty-log",
        );
    }
    if !ends {
        return refused(
            root,
            "at-stop",
            "'migration' is watched, and [at-stop] does not harvest and copy what is left",
            "add [at-stop] with run = [\"get-dirty-log slot0\", \"copy-harvested\"]",
        );
    }
    Ok(())
}

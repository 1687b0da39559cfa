//! Which rules a trace does not allow to apply, and why: without them an explained trace says less.
//!
//! A trace without a kind of events is not wrong: a tracepoint may be absent, or nothing of the
//! kind happened. Which of the two cannot be known, so the kind is named.

use crate::checker::guest;
use crate::event::{END, Event, What};
use crate::file::Recording;
use crate::windows::Windows;

/// Rules that need a kind of events, and the kind.
const KINDS: &[(&str, &str)] = &[
    ("fast faults computed again", "fast_page_fault"),
    ("what slow faults map", "kvm_mmu_set_spte"),
    ("which fault a fast fault or a new SPTE belongs to", "kvm_page_fault"),
    ("shadow pages come and go in order; the place of an SPTE", "kvm_mmu_get_page"),
    ("zapped pages leave empty SPTEs", "kvm_mmu_prepare_zap_page"),
    ("SPTEs are dropped only when the host takes pages back", "kvm_unmap_hva_range"),
];

/// The same, where KVM shadows a guest's own tables: no fault goes the fast way there.
const GUEST_KINDS: &[(&str, &str)] =
    &[("which frame the guest maps, and how", "kvm_mmu_paging_element")];

/// One sentence for each rule.
pub fn of(recording: &Recording, windows: &Windows) -> Vec<String> {
    let events = &recording.events;
    let lacks = |name: &&(_, &str)| !events.iter().any(|e| e.what.name() == name.1);
    let guest_tables = recording.kernel.guest_tables;
    let kinds = KINDS.iter().filter(|kind| !guest_tables || kind.1 != "fast_page_fault");
    let kinds = kinds.chain(GUEST_KINDS.iter().filter(|_| guest_tables));
    let mut gaps: Vec<String> =
        kinds.filter(lacks).map(|(rule, kind)| format!("{rule}: no {kind}")).collect();
    let no_hva = recording.header.slots.iter().find(|s| s.hva.is_none());
    if windows.has_unmaps()
        && let Some(slot) = no_hva
    {
        let slot = slot.slot;
        gaps.push(format!("which frames the host takes back: no hva of slot {slot} in the header"));
    }
    if recording.header.slots.is_empty() {
        gaps.push("which frames an event of a slot is about: no slots in the header".to_owned());
    }
    gaps.extend(misses(events));
    gaps.extend(stores(events));
    gaps.extend(harvests(events, windows));
    gaps
}

/// A fault that finds nothing present may be missing the way to its table, and not the SPTE.
fn misses(events: &[Event]) -> Option<String> {
    let is_upper = |e: &Event| matches!(e.what, What::ZapPage(page) if page.level() > 1);
    let zap = events.iter().position(is_upper)?;
    let misses = |e: &Event| matches!(e.what, What::Fault { error, .. } if error.misses());
    events[zap..].iter().any(misses).then(|| {
        let line = events[zap].line;
        format!("where nothing is present to hardware: an upper page is zapped at line {line}")
    })
}

/// What the guest stores to its tables is not traced.
fn stores(events: &[Event]) -> Option<String> {
    let line = events[guest::first_store(events)?].line;
    Some(format!("SPTEs in shadows of the guest's tables: it stores to those at line {line}"))
}

/// Why a harvest need not have taken W.
fn harvests(events: &[Event], windows: &Windows) -> Vec<String> {
    const RULE: &str = "harvests take W wherever it is set";
    let line = |i: usize| events[i].line;
    if windows.logged().is_empty() {
        return vec![format!("{RULE}: no logged slot in the header")];
    }
    if let Some(i) = windows.cleared() {
        let line = line(i);
        return vec![format!("{RULE}: clear-dirty-log (line {line}) takes logs instead")];
    }
    let changed = windows.logged().iter().filter(|l| l.until != END).map(|l| {
        let line = line(l.until as usize - 1);
        format!("{RULE}: user space changes slot {} at line {line}", l.slot)
    });
    let mut gaps: Vec<String> = changed.collect();
    if !windows.harvests().iter().any(|h| h.must) {
        gaps.push(format!("{RULE}: no whole get-dirty-log of a logged slot"));
    }
    gaps
}

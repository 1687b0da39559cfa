//! What is true before the first step, in words.

use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::scenario::{Address, Format, InitialSpte, Op, Paging};

/// The lines of the first box of a report.
pub fn lines(scenario: &Scenario) -> Vec<String> {
    let mut lines = Vec::new();
    let paging = match scenario.paging {
        Paging::Direct => "direct",
        Paging::Shadow => "shadow",
    };
    let format = match scenario.spte {
        Format::Ept => "EPT with A/D bits",
        Format::EptNoAd => "EPT without A/D bits",
        Format::Npt => "the legacy layout",
    };
    lines.push(format!("{paging} paging, {format}"));
    for (i, slot) in scenario.slots.iter().enumerate() {
        let last = slot.base.0 + u64::from(slot.pages).saturating_sub(1);
        let log = if slot.log { ", dirty logging on, bitmap = {}" } else { "" };
        lines.push(format!("slot{i} = gfn{}..gfn{last}{log}", slot.base.0));
    }
    for table in &scenario.guest_tables {
        for (i, entry) in table.entries.iter().enumerate() {
            if let Some(entry) = entry {
                let access = if entry.writable { "writable" } else { "read-only" };
                let (table, gfn) = (table.gfn.0, entry.gfn.0);
                lines.push(format!("gpte gfn{table}[{i}] = gfn{gfn} {access}"));
            }
        }
    }
    for backing in &scenario.backing {
        let gfn = backing.gfn.0;
        lines.push(match backing.pfn {
            None => format!("gfn{gfn} is swapped out"),
            Some(pfn) => {
                let access = if backing.writable { "" } else { " read-only" };
                let dirty = if backing.dirty { "dirty" } else { "clean" };
                format!("gfn{gfn} is pfn{} on the host{access}, {dirty}", pfn.0)
            }
        });
    }
    lines.extend(scenario.map.iter().map(|spte| entry(scenario, spte)));
    lines
}

/// One SPTE: `spte of gfn0 = pfn0 110 (H,M,W), A, D`.
fn entry(scenario: &Scenario, spte: &InitialSpte) -> String {
    let what = address(spte.address);
    let bit = |set: bool| if set { '1' } else { '0' };
    let (h, m, w) = (bit(spte.host_writable), bit(spte.mmu_writable), bit(spte.writable));
    let mut line = format!("spte of {what} = pfn{} HMW {h}{m}{w}", spte.pfn.0);
    if scenario.spte != Format::EptNoAd {
        line += &format!(" A={} D={}", bit(spte.accessed), bit(spte.dirty));
    }
    for (set, text) in [(spte.tracked, ", access-tracked"), (spte.cached, ", in TLBs")] {
        line += if set { text } else { "" };
    }
    line
}

/// `gfn0` or `gva1`.
fn address(address: Address) -> String {
    match address {
        Address::Gfn(gfn) => format!("gfn{}", gfn.0),
        Address::Gva(gva) => format!("gva{}", gva.0),
    }
}

/// An operation as scenario files have it.
pub fn operation(op: Op) -> String {
    use kvmmu_model::Access;
    match op {
        Op::Guest(Access::Read, a) => format!("read {}", address(a)),
        Op::Guest(Access::Write, a) => format!("write {}", address(a)),
        Op::Guest(Access::Fetch, a) => format!("fetch {}", address(a)),
        Op::SetGpte(a, i, gfn) => format!("set-gpte {}[{i}] gfn{}", address(a), gfn.0),
        Op::EmulateGpte(t, i, gfn) => format!("emulate-gpte gfn{}[{i}] gfn{}", t.0, gfn.0),
        Op::Invlpg(gva) => format!("invlpg gva{}", gva.0),
        Op::Prefault(gfn) => format!("prefault gfn{}", gfn.0),
        Op::SwapOut(gfn) => format!("swap-out gfn{}", gfn.0),
        Op::SwapIn(gfn) => format!("swap-in gfn{}", gfn.0),
        Op::KsmMerge(a, b) => format!("ksm-merge gfn{} gfn{}", a.0, b.0),
        Op::CowBreak(gfn) => format!("cow-break gfn{}", gfn.0),
        Op::ChangePte(gfn, pfn) => format!("change-pte gfn{} pfn{}", gfn.0, pfn.0),
        Op::Age(gfn) => format!("age gfn{}", gfn.0),
        Op::ClearYoung(gfn) => format!("clear-young gfn{}", gfn.0),
        Op::Shrink => "shrink".to_owned(),
        Op::GetDirtyLog(slot) => format!("get-dirty-log slot{slot}"),
        Op::CopyHarvested => "copy-harvested".to_owned(),
    }
}

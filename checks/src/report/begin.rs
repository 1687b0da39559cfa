//! What is true before the first step, in words.

use kvmmu_scenarios::Property;
use std::collections::BTreeSet;

use kvmmu_model::arm64::pgtable::OtherVm;
use kvmmu_model::x86::mmu::paging::{PG_LEVEL_4K, index_at};
use kvmmu_model::{CpuId, Gfn, Gva};
use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::ops::Address;
use kvmmu_scenarios::scenario::{Arch, Format, InitialSpte, Paging, ThreadKind};

use super::Facts;
use super::descriptor;
use super::fold::Step;
use super::phrase::list;
use super::value::Values;

/// The lines of the first box of a report: of what is true at first, what the steps speak of.
pub fn lines(
    facts: &Facts<'_>,
    steps: &[Step],
    heads: &[String; 2],
    oops: &str,
    values: Values<'_>,
) -> Vec<String> {
    let scenario = &facts.variant.scenario;
    let said = steps.iter().flat_map(|s| s.deltas.iter().chain([&s.text]));
    let said: Vec<&str> = said.map(String::as_str).chain([oops]).collect();
    let mut words: BTreeSet<String> = said.iter().flat_map(|text| names_in(text)).collect();
    words.extend(heads.iter().flat_map(|text| names_in(text)));
    let begin = Begin { scenario, words, all: facts.all };
    let mut lines = vec![begin.paging()];
    lines.extend(begin.vmids());
    if scenario.early_completion {
        lines.push("CPUs with Cortex-A55 erratum 2441007 or A76 4193800".to_owned());
    }
    lines.extend(begin.slots());
    lines.extend(begin.guest_tables());
    lines.extend(begin.backing(facts.found.rule == Property::Swap.into()));
    let cached = scenario.map.iter().any(|spte| spte.cached);
    match scenario.map.is_empty() {
        true => lines.push(begin.nothing_mapped().to_owned()),
        false => lines.extend(scenario.map.iter().map(|spte| begin.entry(spte, values))),
    }
    if !cached && said.iter().any(|text| text.contains("TLB")) {
        lines.push("TLBs are empty".to_owned());
    }
    lines.push(String::new());
    lines.push(legend(scenario).to_owned());
    lines
}

/// How SPTEs read.
fn legend(scenario: &Scenario) -> &'static str {
    if scenario.spte == Format::Arm64 {
        return "(rw: S2AP; AF: it was used)";
    }
    if scenario.spte.has_ad() {
        "(H, M: host-, MMU-writable; A, D: accessed, dirty)"
    } else {
        "(H, M: host-, MMU-writable)"
    }
}

/// The layout of SPTEs.
pub fn format(scenario: &Scenario) -> &'static str {
    match scenario.spte {
        Format::Ept => "EPT SPTEs with A/D bits",
        Format::EptNoAd => "EPT SPTEs without A/D bits",
        Format::Npt => "legacy SPTEs",
        Format::NptV6_1 => "legacy SPTEs of 6.1",
        Format::Stage2 => "stage-2 descriptors, AF kept by software",
        Format::Arm64 => "as Linux for arm64 has it",
        Format::Stage2Hd => "stage-2 descriptors, AF and dirty state kept by hardware",
    }
}

/// `direct`, or `direct (vcpu0: shadow)`.
pub fn paging(scenario: &Scenario) -> String {
    if scenario.profile.arch() == Arch::Arm64 {
        return "stage 2".to_owned();
    }
    let name = |paging| match paging {
        Paging::Direct => "direct",
        Paging::Shadow => "shadow",
    };
    let vcpus = || scenario.threads.iter().filter(|t| t.kind == ThreadKind::Vcpu);
    if vcpus().all(|t| t.paging == scenario.paging) {
        return format!("{} paging", name(scenario.paging));
    }
    let each: Vec<String> =
        vcpus().map(|t| format!("{}: {} paging", t.name, name(t.paging))).collect();
    each.join(", ")
}

/// What is reported of the initial state.
struct Begin<'a> {
    scenario: &'a Scenario,
    /// Frames, pages and addresses that the report speaks of.
    words: BTreeSet<String>,
    all: bool,
}

impl Begin<'_> {
    fn nothing_mapped(&self) -> &'static str {
        match self.scenario.profile.arch() {
            Arch::X86 => "no SPTE is present yet",
            Arch::Arm64 => "nothing is mapped yet",
        }
    }

    fn speaks_of(&self, word: String) -> bool {
        self.all || self.words.contains(&word)
    }

    fn paging(&self) -> String {
        format!("{}, {}", paging(self.scenario), format(self.scenario))
    }

    /// What VMIDs there are, and who is of the other VM.
    fn vmids(&self) -> Vec<String> {
        let Some(vmid) = self.scenario.vmid else { return Vec::new() };
        let has = if vmid.given { "VM 0 has VMID 1" } else { "VM 0 has no VMID" };
        let mut lines = vec![format!("{has}, and none of {} is left", vmid.space() - 1)];
        let vcpus = (0..self.scenario.vcpus() as u8).map(CpuId);
        let others = vcpus.filter(|vcpu| vmid.vm_of(*vcpu) == 1);
        let others: Vec<String> = others.map(|vcpu| format!("vcpu{}", vcpu.0)).collect();
        if !others.is_empty() {
            let (first, page) = (Gfn(0), OtherVm::page(Gfn(0)));
            let who = list(&others);
            lines.push(format!("{who}: of VM 1, whose gfn{} is pfn{}", first.0, page.0));
        }
        lines
    }

    fn slots(&self) -> Vec<String> {
        let one = |(i, slot): (usize, &kvmmu_scenarios::scenario::Slot)| {
            let (base, last) = (slot.base.0, slot.base.0 + u64::from(slot.pages).saturating_sub(1));
            let frames =
                if base == last { format!("gfn{base}") } else { format!("gfn{base}..gfn{last}") };
            match slot.log {
                true => format!(
                    "slot{i} = {frames}, dirty logging on, bitmap = {{{}}}",
                    self.marked(base, last).join(",")
                ),
                false => format!("slot{i} = {frames}"),
            }
        };
        self.scenario.slots.iter().enumerate().map(one).collect()
    }

    /// The frames that are marked dirty from the start: what made an SPTE writable marked them.
    fn marked(&self, first: u64, last: u64) -> Vec<String> {
        let writable = self.scenario.map.iter().filter(|spte| spte.writable);
        let gfns: BTreeSet<u64> = writable.filter_map(|spte| self.gfn(spte.address)).collect();
        gfns.into_iter().filter(|g| (first..=last).contains(g)).map(|g| format!("gfn{g}")).collect()
    }

    /// The leaf guest table and the index in it that translate a virtual page.
    fn leaf(&self, gva: u64) -> Option<(&kvmmu_scenarios::scenario::GuestTable, usize)> {
        let leaf = self.scenario.leaf_table(Gva(gva))?;
        let table = self.scenario.guest_tables.iter().find(|t| t.gfn == leaf)?;
        Some((table, usize::from(index_at(PG_LEVEL_4K, gva))))
    }

    /// The frame that an address means.
    fn gfn(&self, address: Address) -> Option<u64> {
        match address {
            Address::Gfn(gfn) => Some(gfn.0),
            Address::Gva(gva) => {
                let (table, i) = self.leaf(gva.0)?;
                table.entries.get(i).copied().flatten().map(|e| e.gfn.0)
            }
        }
    }

    fn guest_tables(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for table in &self.scenario.guest_tables {
            for (i, entry) in table.entries.iter().enumerate() {
                let Some(entry) = entry else { continue };
                let gvas = (0..16).filter(|gva| {
                    self.leaf(*gva).is_some_and(|(t, at)| t.gfn == table.gfn && at == i)
                });
                let gvas: Vec<String> = gvas.map(|gva| format!("gva{gva}")).collect();
                let (from, to) = (format!("gfn{}", table.gfn.0), format!("gfn{}", entry.gfn.0));
                let named = gvas.iter().any(|gva| self.words.contains(gva));
                if named || self.speaks_of(from.clone()) {
                    let of = match gvas.is_empty() {
                        true => String::new(),
                        false => format!(" of {}", list(&gvas)),
                    };
                    let access = if entry.writable { "" } else { ", read-only" };
                    lines.push(format!("gpte{of}: {from}[{i}] = {to}{access}"));
                }
            }
        }
        lines
    }

    /// `gfn1 is pfn0 on the host, gfn2 is swapped out`, and whether pages are dirty if it matters.
    fn backing(&self, flags: bool) -> Vec<String> {
        let mut parts = Vec::new();
        for backing in &self.scenario.backing {
            let gfn = backing.gfn;
            let table = self.scenario.guest_tables.iter().any(|t| t.gfn == gfn);
            let page = backing.pfn.is_some_and(|pfn| self.speaks_of(format!("pfn{}", pfn.0)));
            if !page && (table || !self.speaks_of(format!("gfn{}", gfn.0))) {
                continue;
            }
            parts.push(match backing.pfn {
                None => format!("gfn{} is swapped out", gfn.0),
                Some(pfn) => {
                    let access = if backing.writable { "" } else { ", read-only" };
                    let dirty = match (flags, backing.dirty) {
                        (false, _) => "",
                        (true, true) => " (dirty)",
                        (true, false) => " (clean)",
                    };
                    format!("gfn{} is pfn{}{dirty} on the host{access}", gfn.0, pfn.0)
                }
            });
        }
        parts.chunks(2).map(|pair| pair.join("; ")).collect()
    }

    /// One SPTE: `spte[gfn0] = pfn0 r-x HM AD`, and who has it in a TLB.
    fn entry(&self, spte: &InitialSpte, values: Values<'_>) -> String {
        let format = self.scenario.spte;
        if let (Format::Arm64, Some(gfn)) = (format, self.gfn(spte.address)) {
            return descriptor::initial(spte, gfn) + &self.cached(spte);
        }
        let bit = |set: bool, letter: char| if set { letter } else { '-' };
        let mut line = format!("{} = pfn{} ", self.name(spte.address, values), spte.pfn.0);
        let writable = bit(spte.writable && !spte.tracked, 'w');
        line.extend([bit(!spte.tracked, 'r'), writable, bit(!spte.tracked, 'x'), ' ']);
        line.extend([bit(spte.host_writable, 'H'), bit(spte.mmu_writable, 'M')]);
        if format.has_ad() {
            line.extend([' ', bit(spte.accessed, 'A'), bit(spte.dirty, 'D')]);
        } else if spte.tracked {
            line += " saved r-x";
        }
        line + &self.cached(spte)
    }

    /// `, and in the TLB of vcpu0`.
    fn cached(&self, spte: &InitialSpte) -> String {
        if !spte.cached {
            return String::new();
        }
        let paging = match spte.address {
            Address::Gfn(_) => Paging::Direct,
            Address::Gva(_) => Paging::Shadow,
        };
        let has = |t: &&kvmmu_scenarios::scenario::Thread| {
            t.kind == ThreadKind::Vcpu && t.paging == paging
        };
        let cpus = self.scenario.threads.iter().filter(has);
        let cpus: Vec<String> = cpus.map(|t| t.name.clone()).collect();
        let tlbs = if cpus.len() == 1 { "TLB" } else { "TLBs" };
        format!(", and in the {tlbs} of {}", list(&cpus))
    }

    /// What the steps call the SPTE of an address.
    fn name(&self, address: Address, values: Values<'_>) -> String {
        let Address::Gva(gva) = address else { return format!("spte[{address}]") };
        let name = format!("spte[gva{}]", gva.0);
        let known = values.names().any(|(_, known)| known == name);
        match self.leaf(gva.0).filter(|_| !known) {
            Some((table, i)) => format!("spte[gfn{}[{i}]]", table.gfn.0),
            None => name,
        }
    }
}

/// The frames, pages and addresses that a text names: `gfn1`, `pfn0`, `gva0`.
fn names_in(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let kind = |w: &&str| {
        ["gfn", "pfn", "gva"]
            .iter()
            .any(|kind| w.strip_prefix(kind).is_some_and(|n| n.parse::<u64>().is_ok()))
    };
    words.filter(kind).map(str::to_owned).collect()
}

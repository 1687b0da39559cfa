//! How values read in reports, by what holds them.

use kvmmu_model::spte::SHADOW_PAGES_BASE;
use kvmmu_model::virt::{KVM_REQ_APIC_PAGE_RELOAD, KVM_REQ_TLB_FLUSH, KVM_REQ_TLB_FLUSH_CURRENT};
use kvmmu_model::x86::mmu::Header;
use kvmmu_model::{Access, Gpte, Object, Spte, SpteFormat, Tag};
use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::mmu::format_of;
use kvmmu_scenarios::scenario::Arch;
use kvmmu_sim::names::Names;

use super::descriptor;
use crate::report::trace::object_text;

/// Formats values of one scenario.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    scenario: &'a Scenario,
    names: &'a Names,
    /// The event that is spoken of, by index: names may change in a run.
    at: usize,
}

impl<'a> Values<'a> {
    /// For a run of `scenario` whose objects have these names.
    pub fn new(scenario: &'a Scenario, names: &'a Names) -> Values<'a> {
        Values { scenario, names, at: 0 }
    }

    /// The scenario is of the stage-2 MMU of arm64.
    pub fn is_arm64(&self) -> bool {
        self.scenario.profile.arch() == Arch::Arm64
    }

    /// The same for the event with this index.
    pub fn at(self, event: usize) -> Values<'a> {
        Values { at: event, ..self }
    }

    /// What the object is called.
    pub fn name(&self, tag: Tag) -> String {
        object_text(self.names, self.at, tag)
    }

    /// Every object that has a name of its own, and that name.
    pub fn names(&self) -> impl Iterator<Item = (Tag, &'a str)> {
        self.names.all(self.at)
    }

    /// The shadow page at this place of the pool: `sp[gfn3]`.
    fn page(&self, sp: u8) -> String {
        let name = self.names.of(self.at, Tag::nth(Object::SpHeader, usize::from(sp)));
        let page = name.and_then(|name| name.strip_suffix("->role"));
        page.map_or_else(|| format!("sp{sp}"), str::to_owned)
    }

    /// `value` as something in `tag` reads.
    pub fn text(&self, tag: Tag, value: u64) -> String {
        match tag.object {
            Object::Spte if self.is_arm64() => descriptor::text(value),
            Object::Spte => match child_of(value) {
                Some(sp) => self.page(sp),
                None => format_spte(self.scenario, value),
            },
            Object::SpHeader => role(value),
            Object::Gfns => format!("gfn{value}"),
            Object::DirtyBitmap => self.bitmap(tag.index[0], value),
            Object::PageFlags => set(value, |bit| format!("pfn{bit}")),
            Object::VcpuMode => mode(value),
            Object::VcpuRequests => requests(value),
            Object::Irq => irq(value),
            Object::Page if self.is_table(tag.index[0]) => table(value),
            _ if value < 4096 => value.to_string(),
            _ => format!("{value:#x}"),
        }
    }

    /// True if the host page holds a guest page table before the first step.
    fn is_table(&self, pfn: u8) -> bool {
        let backs = |gfn| {
            self.scenario
                .backing
                .iter()
                .any(|b| b.gfn == gfn && b.pfn.is_some_and(|p| p.0 == u64::from(pfn)))
        };
        self.scenario.guest_tables.iter().any(|table| backs(table.gfn))
    }

    /// `{gfn0,gfn2}`.
    fn bitmap(&self, slot: u8, value: u64) -> String {
        let base = self.scenario.slots.get(usize::from(slot)).map_or(0, |s| s.base.0);
        set(value, |bit| format!("gfn{}", base + bit))
    }
}

/// The frame and the role of a shadow page.
fn role(value: u64) -> String {
    let header = Header(value);
    match header.level() {
        0 => "unused".to_owned(),
        level => {
            let direct = if header.is_direct() { "direct" } else { "indirect" };
            format!("gfn{} level {level} {direct}", header.gfn().0)
        }
    }
}

/// `vcpu->mode` by the kernel's names.
fn mode(value: u64) -> String {
    match value {
        0 => "OUTSIDE_GUEST_MODE".to_owned(),
        1 => "IN_GUEST_MODE".to_owned(),
        2 => "EXITING_GUEST_MODE".to_owned(),
        3 => "READING_SHADOW_PAGE_TABLES".to_owned(),
        _ => format!("mode {value}"),
    }
}

/// `vcpu->requests` by the kernel's names.
fn requests(value: u64) -> String {
    set(value, |bit| match 1 << bit {
        KVM_REQ_TLB_FLUSH => "TLB_FLUSH".to_owned(),
        KVM_REQ_TLB_FLUSH_CURRENT => "TLB_FLUSH_CURRENT".to_owned(),
        KVM_REQ_APIC_PAGE_RELOAD => "APIC_PAGE_RELOAD".to_owned(),
        _ => format!("request{bit}"),
    })
}

/// Interrupts: on or off, and who sent one.
fn irq(value: u64) -> String {
    let state = if value >> 63 == 1 { "off" } else { "on" };
    match value & !(1 << 63) {
        0 => state.to_owned(),
        pending => format!("{state}, IPI from {}", set(pending, |bit| bit.to_string())),
    }
}

/// The entries of a guest page table, one byte each: `[0]=gfn1 w`.
fn table(value: u64) -> String {
    let entry = |i: usize| {
        let gpte = Gpte(value.to_le_bytes()[i]);
        let flags = [
            (gpte.is_writable(), " w"),
            (gpte.has(Gpte::PS), " large"),
            (!gpte.is_accessed(), " old"),
            (!gpte.is_dirty(), " clean"),
        ];
        let flags: String = flags.iter().filter(|(is, _)| *is).map(|(_, flag)| *flag).collect();
        gpte.is_present().then(|| format!("[{i}]=gfn{}{flags}", gpte.gfn().0))
    };
    let entries: Vec<String> = (0..8).filter_map(entry).collect();
    if entries.is_empty() { "empty table".to_owned() } else { entries.join(" ") }
}

/// A set of bits.
fn set(value: u64, name: impl Fn(u64) -> String) -> String {
    let bits: Vec<String> = (0..64).filter(|bit| value >> bit & 1 == 1).map(name).collect();
    format!("{{{}}}", bits.join(","))
}

/// The shadow page that a non-leaf SPTE points to, by its place in the pool.
pub fn child_of(value: u64) -> Option<u8> {
    // Only shadow pages lie this high.
    // Every format has its pfn there.
    let (format, spte) = (SpteFormat::STAGE2, Spte(value));
    (format.pfn(spte).0 >= SHADOW_PAGES_BASE).then(|| format.child(spte).0)
}

/// How an SPTE's value reads in reports: `pfn1 r-x HM AD`, where `r-x` is what hardware allows, H
/// and M are host- and MMU-writable, A and D are the hardware's bits. Or `MMIO gfn1, generation 0`.
pub fn format_spte(scenario: &Scenario, value: u64) -> String {
    let spte = Spte(value);
    if value == 0 {
        return "0".to_owned();
    }
    let format = format_of(scenario.spte);
    if format.is_mmio(spte) {
        let (gfn, generation) = (format.mmio_gfn(spte).0, format.mmio_generation(spte));
        return format!("MMIO gfn{gfn}, generation {generation}");
    }
    if let Some(sp) = child_of(value) {
        return format!("sp{sp}");
    }
    let bit = |set: bool, letter: char| if set { letter } else { '-' };
    let mut text = format!("pfn{} ", format.pfn(spte).0);
    let accesses = [(Access::Read, 'r'), (Access::Write, 'w'), (Access::Fetch, 'x')];
    text.extend(accesses.map(|(access, letter)| bit(format.allows(spte, access), letter)));
    text.push(' ');
    text.push(bit(format.is_host_writable(spte), 'H'));
    text.push(bit(format.is_mmu_writable(spte), 'M'));
    if scenario.spte.has_ad() {
        text.push(' ');
        text.push(bit(format.is_accessed(spte), 'A'));
        text.push(bit(format.is_dirty(spte), 'D'));
    } else if format.is_access_track(spte) {
        // What a restore would give back.
        let saved = format.restore_acc_track(spte);
        text += " saved ";
        text.extend(accesses.map(|(access, letter)| bit(format.allows(saved, access), letter)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_sets_name_their_members() {
        assert_eq!(set(0b101, |b| format!("gfn{b}")), "{gfn0,gfn2}");
        assert_eq!(set(0, |b| b.to_string()), "{}");
        assert_eq!(requests(1), "{TLB_FLUSH}");
        assert_eq!(requests(0b1111), "{TLB_FLUSH,TLB_FLUSH_CURRENT,APIC_PAGE_RELOAD,request3}");
        assert_eq!(irq(1 << 63 | 2), "off, IPI from {1}");
        assert_eq!(mode(3), "READING_SHADOW_PAGE_TABLES");
    }
}

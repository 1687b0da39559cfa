//! Events in words.

use crate::event::{EntryFlush, Event, Site, Tlbi, User, What, Word};
use crate::functions;
use crate::layout::Layout;
use crate::step::Step;
use crate::trees::Trees;

/// An event in a few words, without where it is. `trees` are those before it.
pub fn words(event: &Event, trees: &Trees) -> String {
    let layout = trees.layout;
    match &event.what {
        What::Table { page, level, first, entries, .. } => {
            let has = match entries.len() {
                0 => String::new(),
                n => format!(", with {n} entries"),
            };
            format!("table {page} of level {level} from gfn {first:#x} on{has}")
        }
        What::Detach { page } => format!("table {page} is detached"),
        What::Reuse { page } => format!("table {page} is used for something else"),
        What::Store { place, old, new } | What::Hardware { place, old, new, .. } => {
            let Some(spot) = trees.spot(*place) else {
                return format!("{old:#x} -> {new:#x} in {}", place.table);
            };
            let (level, gfn) = (spot.level, spot.gfn);
            let step = match event.what {
                What::Hardware { .. } => "hardware".to_owned(),
                _ => Step::of(layout, level, *old, *new).to_string(),
            };
            let (was, is) = (layout.describe(*old, level), layout.describe(*new, level));
            let gone = if spot.detached { " (detached)" } else { "" };
            format!("{step} gfn {gfn:#x} level {level}{gone}: {was} -> {is}")
        }
        What::Tlbi { op: op @ Tlbi::Invlpga, operand, id, .. } => {
            format!("{op} {operand:#x} asid {id}")
        }
        What::Tlbi { op, operand, id, .. } => match op.to_string().contains("IPAS2") {
            true => format!("TLBI {op} gfn {:#x} vmid {id}", operand & 0xf_ffff_ffff),
            false => format!("TLBI {op} vmid {id}"),
        },
        What::Barrier(barrier) => barrier.to_string(),
        What::Enter { id, pc, flush, .. } => match (layout, flush) {
            (Layout::Stage2, _) => format!("enters the guest at {pc:#x}, vmid {id}"),
            (Layout::X86, None) => format!("enters the guest at {pc:#x}, asid {id}"),
            (Layout::X86, Some(EntryFlush::Own)) => {
                format!("enters the guest at {pc:#x}, asid {id}, which is flushed")
            }
            (Layout::X86, Some(EntryFlush::All)) => {
                format!("enters the guest at {pc:#x}, asid {id}, all are flushed")
            }
        },
        What::Exit { reason, address, ipa } if layout == Layout::X86 => match reason {
            // VMEXIT_NPF: the error code, and the address.
            0x400 => {
                let write = if address & 2 != 0 { "write" } else { "read" };
                format!("leaves the guest: {write} of gfn {:#x}", ipa >> 12)
            }
            _ => format!("leaves the guest: {reason:#x}"),
        },
        What::Exit { reason, address, ipa } => match reason >> 26 & 63 {
            0x24 => {
                let write = if reason & 0x40 != 0 { "write" } else { "read" };
                format!("leaves the guest: {write} of {address:#x}, gfn {:#x}", ipa >> 12)
            }
            0x20 => format!("leaves the guest: fetch of {address:#x}, gfn {:#x}", ipa >> 12),
            _ => format!("leaves the guest: {reason:#x}"),
        },
        What::Call { function, arguments } => {
            let [a, b, c, d, _] = arguments;
            format!("{}({a:#x}, {b:#x}, {c:#x}, {d:#x})", functions::name(*function))
        }
        What::Return { function, value } => {
            format!("{} returns {value:#x}", functions::name(*function))
        }
        What::Word { word: word @ Word::DirtyBitmap, new, .. } => {
            format!("{word} becomes {new:#x}")
        }
        What::Word { word, old, new, .. } => format!("{word} {old:#x} -> {new:#x}"),
        What::Read { word, value, .. } => format!("reads {word} {value:#x}"),
        What::Load { place, value } => match trees.spot(*place) {
            Some(spot) => {
                let (level, gfn) = (spot.level, spot.gfn);
                format!("reads gfn {gfn:#x} level {level}: {}", layout.describe(*value, level))
            }
            None => format!("reads {value:#x} in {}", place.table),
        },
        What::Stale { page, store, .. } => {
            format!("the guest {} page {page}", if *store { "writes" } else { "reads" })
        }
        What::User(User::Kernel { version, .. }) => format!("user: kernel {version}"),
        What::User(User::Mark { op, exit, fields }) => {
            let fields: Vec<String> = fields.iter().map(|(n, v)| format!(" {n} {v:#x}")).collect();
            let end = if *exit { "ends" } else { "begins" };
            format!("user: {op} {end}{}", fields.concat())
        }
    }
}

/// An event on a line of its own.
pub fn line(number: u64, event: &Event, site: &Site, trees: &Trees) -> String {
    let Event { cpu, thread, .. } = event;
    format!("{number:>7} cpu{cpu} t{thread:<3} {}   @{site}", words(event, trees))
}

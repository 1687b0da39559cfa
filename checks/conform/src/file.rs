//! Trace files: a header line, one line per event, an end line.
//!
//! Guarantee: a file that was cut short, that lost events, or that some other program made is not
//! taken for a trace that the model cannot explain. Lines are read one by one; of a file that is
//! not text, no more than one line's limit is read.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use kvmmu_model::Spte;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::agree::{self, Agreement};
use crate::checker::guest;
use crate::event::{
    ErrorCode, Event, FastFault, Number, Page, Phase, Range, Ret, SetSpte, User, What,
};
use crate::kernel::{self, Kernel};
use crate::line::{Header, Line};
use crate::ranges;
use crate::refused::Refused;
use crate::walk::{Element, ROOT_LEVEL_MIN};

/// The version of the file format.
pub const VERSION: u64 = 1;

/// No line of a trace is longer.
const LINE_MAX: u64 = 1 << 16;

/// No trace has more events: they are held in memory, and a larger file is of no use.
const EVENTS_MAX: usize = 1 << 24;

/// A trace that was read and is whole.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Its first line.
    pub header: Header,
    /// The kernel that it is of.
    pub kernel: Kernel,
    /// Its events.
    pub events: Vec<Event>,
}

/// What is read of an event that the checker does not know: its own fields are not read.
#[derive(Deserialize, Debug)]
struct Unknown {
    event: String,
    n: Option<u64>,
    cpu: Option<u32>,
    pid: Option<u32>,
}

/// The events whose fields are read, and the end.
const KNOWN: &[&str] = &[
    "fast_page_fault",
    "kvm_mmu_set_spte",
    "kvm_mmu_get_page",
    "kvm_mmu_prepare_zap_page",
    "kvm_mmu_zap_all_fast",
    "mark_mmio_spte",
    "kvm_page_fault",
    "kvm_mmu_pagetable_walk",
    "kvm_mmu_paging_element",
    "kvm_mmu_set_accessed_bit",
    "kvm_mmu_set_dirty_bit",
    "kvm_mmu_unsync_page",
    "kvm_mmu_sync_page",
    "kvm_age_page",
    "kvm_age_hva",
    "kvm_unmap_hva_range",
    "kvm_set_spte_hva",
    "user",
    "end",
];

/// Reads a trace.
///
/// # Errors
///
/// Files that cannot be read, that are no traces, were cut short or lost events, and those of
/// another version or of a kernel that the model does not know.
pub fn read(path: &Path) -> Result<Recording, Refused> {
    if path.is_dir() {
        let message = format!("{} is a directory, not a trace", path.display());
        let help = "name one trace file in it: kvmmu conform DIRECTORY/TRACE.jsonl";
        return Err(Refused::bad(message, help));
    }
    let file = File::open(path).map_err(|error| {
        let message = format!("cannot read the trace {}: {error}", path.display());
        Refused::bad(message, "record one with 'kvmmu-live --trace FILE', or check the path")
    })?;
    read_from(BufReader::new(file), &path.display().to_string())
}

/// Reads a trace that is called `name` in messages.
///
/// # Errors
///
/// As [`read`].
pub fn read_from(mut from: impl BufRead, name: &str) -> Result<Recording, Refused> {
    let mut reader = Reader { name, line: 0, threads: HashMap::new(), walking: HashSet::new() };
    let first = reader.next_line(&mut from)?;
    let first = first.ok_or_else(|| reader.bad("the file is empty", RECORD))?;
    let header = reader.header(&first)?;
    let kernel = reader.kernel(&header)?;
    let mut agreement = Agreement::new(&header);
    let mut events = Vec::new();
    let end = loop {
        let Some(text) = reader.next_line(&mut from)? else {
            let message = format!("the trace was cut short: no end line after {}", events.len());
            return Err(reader.bad(&(message + " events"), RECORD));
        };
        let line = reader.parse(&text)?;
        if line.event == "end" {
            break line;
        }
        if events.len() == EVENTS_MAX {
            let message = format!("more than {EVENTS_MAX} events");
            return Err(reader.bad(&message, "record a shorter run"));
        }
        let event = reader.event(line, kernel, &mut agreement)?;
        events.push(event);
    };
    reader.end(&end, events.len())?;
    if reader.next_line(&mut from)?.is_some() {
        return Err(reader.bad("a line after the end line", "give one trace per file"));
    }
    Ok(Recording { header, kernel, events })
}

const HEADER: &str = "docs/conformance.md lists the fields of the header";
const RECORD: &str = "record it again with 'kvmmu-live --trace FILE' and let it finish";

/// Where in the file we are.
struct Reader<'a> {
    name: &'a str,
    line: u32,
    threads: HashMap<(bool, u32), u32>,
    /// Threads that have begun to walk a guest's tables, and have read no entry.
    walking: HashSet<u32>,
}

impl Reader<'_> {
    fn bad(&self, message: &str, help: &str) -> Refused {
        Refused::bad(format!("{}:{}: {message}", self.name, self.line), help)
    }

    fn other(&self, message: &str, help: &str) -> Refused {
        Refused::foreign(format!("{}:{}: {message}", self.name, self.line), help)
    }

    fn next_line(&mut self, from: &mut impl BufRead) -> Result<Option<String>, Refused> {
        let mut bytes = Vec::new();
        self.line += 1;
        let read = from.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes);
        read.map_err(|error| {
            self.bad(
                &format!("cannot be read: {error}"),
                "copy the file to another place and try again",
            )
        })?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.last() != Some(&b'\n') && bytes.len() as u64 == LINE_MAX {
            return Err(self.bad("a line longer than 64 KiB: this is no trace", RECORD));
        }
        let text = String::from_utf8(bytes);
        text.map(Some).map_err(|_| self.bad("not UTF-8: this is no trace", RECORD))
    }

    fn header(&self, text: &str) -> Result<Header, Refused> {
        let json: serde_json::Value = serde_json::from_str(text)
            .map_err(|error| self.bad(&format!("not a line of JSON: {error}"), RECORD))?;
        let Some(version) = json.get("kvmmu-trace") else {
            let help = "a trace begins with {\"kvmmu-trace\":1,...}: see docs/conformance.md; \
                        traces of the simulator are for 'kvmmu replay'";
            return Err(self.bad("the first line has no \"kvmmu-trace\": not a trace", help));
        };
        if version.as_u64() != Some(VERSION) {
            let message = format!("trace format version {version}, but this kvmmu reads {VERSION}");
            return Err(self.other(&message, "use kvmmu and kvmmu-live of one version"));
        }
        // From the text, and not from what was read of it: that has each field once.
        parse(text).map_err(|error| self.bad(&format!("header: {error}"), HEADER))
    }

    /// The kernel that the header names, if its fields go together.
    fn kernel(&self, header: &Header) -> Result<Kernel, Refused> {
        let kernel = Kernel::of(header).map_err(|(message, help)| self.other(&message, &help))?;
        agree::header(header).map_err(|why| self.bad(&format!("header: {why}"), HEADER))?;
        kernel::mode(header).map_err(|(message, help)| self.other(&message, &help))?;
        Ok(kernel)
    }

    fn parse(&self, text: &str) -> Result<Line, Refused> {
        let known = |event: &str| KNOWN.contains(&event);
        if let Ok(Unknown { event, n, cpu, pid }) = serde_json::from_str(text)
            && !known(&event)
        {
            return Ok(Line { event, n, cpu, pid, ..Line::default() });
        }
        parse(text).map_err(|error| {
            let cut = if text.ends_with('\n') { "" } else { " (the last line has no end)" };
            self.bad(&format!("not an event: {error}{cut}"), RECORD)
        })
    }

    fn end(&self, end: &Line, events: usize) -> Result<(), Refused> {
        let said = end.events.ok_or_else(|| self.bad("the end line has no \"events\"", RECORD))?;
        let lost = end.lost.ok_or_else(|| self.bad("the end line has no \"lost\"", RECORD))?;
        if said != events as u64 {
            let message = format!("the end line says {said} events, but {events} are here");
            return Err(self.bad(&message, RECORD));
        }
        if lost != 0 {
            let help = "record it again with a larger trace buffer or a shorter run: nothing can \
                        be said of a trace with holes";
            return Err(self.bad(&format!("the kernel lost {lost} events"), help));
        }
        Ok(())
    }

    fn event(
        &mut self,
        mut line: Line,
        kernel: Kernel,
        agreement: &mut Agreement,
    ) -> Result<Event, Refused> {
        let at = self.line;
        let refuse = |reader: &Self, (why, help): agree::Refusal| reader.bad(&why, help);
        let who = match (line.pid, line.cpu) {
            (Some(pid), _) => (true, pid),
            (None, Some(cpu)) => (false, cpu),
            (None, None) => return Err(self.bad("neither \"pid\" nor \"cpu\"", RECORD)),
        };
        let thread = self.threads.len() as u32;
        let thread = *self.threads.entry(who).or_insert(thread);
        agreement.order(line.n, line.pid.is_some()).map_err(|why| refuse(self, why))?;
        ranges::check(&line, kernel.guest_tables).map_err(|why| self.bad(&why, agree::FIELDS))?;
        if let ("fast_page_fault" | "kvm_page_fault", Some(vcpu)) = (&*line.event, line.vcpu_id) {
            agreement.vcpu(vcpu, line.pid, at).map_err(|why| refuse(self, why))?;
        }
        if line.event == "user" {
            agreement.user(&line, thread, at).map_err(|why| refuse(self, why))?;
        }
        if kernel.guest_tables {
            self.levels(thread, &line)?;
        }
        let name = std::mem::take(&mut line.event);
        let what = self.what(&name, line, kernel)?;
        Ok(Event { line: self.line, thread, what })
    }

    /// Only guests with four or five levels of tables are followed.
    fn levels(&mut self, thread: u32, line: &Line) -> Result<(), Refused> {
        let begins = self.walking.remove(&thread);
        match (&*line.event, line.level) {
            ("kvm_mmu_pagetable_walk", _) => {
                self.walking.insert(thread);
            }
            ("kvm_mmu_paging_element", Some(level)) if begins && level < ROOT_LEVEL_MIN => {
                let message = format!("the guest's tables have {level} levels");
                return Err(self.other(&message, "record a guest in 64-bit mode"));
            }
            _ => {}
        }
        Ok(())
    }

    fn what(&self, name: &str, line: Line, kernel: Kernel) -> Result<What, Refused> {
        let need = |field: &str, value: Option<Number>| {
            let message = || format!("{name} without \"{field}\"");
            value.map(|n| n.0).ok_or_else(|| self.bad(&message(), RECORD))
        };
        if kernel.guest_tables && name == "fast_page_fault" {
            let message = "a fast fault: the guest's paging was off for a time, and its tables are \
                           not all that is shadowed";
            return Err(self.other(message, "record a guest whose paging is on from the start"));
        }
        Ok(match name {
            "fast_page_fault" => What::FastFault(FastFault {
                vcpu: line.vcpu_id.ok_or_else(|| self.bad("no \"vcpu_id\"", RECORD))?,
                address: need("cr2_or_gpa", line.cr2_or_gpa)?,
                error: ErrorCode(need("error_code", line.error_code)?),
                sptep: need("sptep", line.sptep)?,
                old: Spte(need("old_spte", line.old_spte)?),
                new: Spte(need("new_spte", line.new_spte)?),
                ret: self.ret(&line, kernel)?,
            }),
            "kvm_mmu_set_spte" => {
                let raw = need("spte", line.spte)?;
                let all = |raw: u64| Spte((raw | guest::USER) & !guest::NO_EXECUTE);
                let is_leaf = kernel.format.is_shadow_present(Spte(raw));
                What::SetSpte(SetSpte {
                    gfn: need("gfn", line.gfn)?,
                    level: line.level.ok_or_else(|| self.bad("no \"level\"", RECORD))?,
                    sptep: need("sptep", line.sptep)?,
                    spte: if kernel.guest_tables && is_leaf { all(raw) } else { Spte(raw) },
                    raw,
                })
            }
            "kvm_mmu_get_page"
            | "kvm_mmu_prepare_zap_page"
            | "kvm_mmu_unsync_page"
            | "kvm_mmu_sync_page" => {
                let page = Page {
                    gfn: need("gfn", line.gfn)?,
                    role: need("role", line.role)? as u32,
                    generation: need("mmu_valid_gen", line.mmu_valid_gen)? as u8,
                };
                match name {
                    "kvm_mmu_get_page" => {
                        What::GetPage { page, created: need("created", line.created)? != 0 }
                    }
                    "kvm_mmu_unsync_page" => What::Unsync(page),
                    "kvm_mmu_sync_page" => What::Sync(page),
                    _ => What::ZapPage(page),
                }
            }
            // With nested paging KVM walks them only to emulate an instruction.
            "kvm_mmu_pagetable_walk"
            | "kvm_mmu_paging_element"
            | "kvm_mmu_set_accessed_bit"
            | "kvm_mmu_set_dirty_bit"
                if !kernel.guest_tables =>
            {
                What::Other(name.to_owned())
            }
            "kvm_mmu_pagetable_walk" => What::Walk { address: need("addr", line.addr)? },
            "kvm_mmu_paging_element" => What::Element(Element {
                level: line.level.ok_or_else(|| self.bad("no \"level\"", RECORD))?,
                pte: need("pte", line.pte)?,
            }),
            "kvm_mmu_set_accessed_bit" | "kvm_mmu_set_dirty_bit" => What::GuestBit {
                gpa: need("gpa", line.gpa)?,
                dirty: name == "kvm_mmu_set_dirty_bit",
            },
            "kvm_mmu_zap_all_fast" => {
                What::ZapAll(need("mmu_valid_gen", line.mmu_valid_gen)? as u8)
            }
            "mark_mmio_spte" => {
                What::MmioSpte { sptep: need("sptep", line.sptep)?, gfn: need("gfn", line.gfn)? }
            }
            "kvm_page_fault" => What::Fault {
                address: need("fault_address", line.fault_address)?,
                error: ErrorCode(need("error_code", line.error_code)?),
            },
            "kvm_age_page" => {
                let gfn = need("gfn", line.gfn)?;
                What::Age(Range::Gfns(gfn, gfn))
            }
            "kvm_age_hva" => {
                What::Age(Range::Hvas(need("start", line.start)?, need("end", line.end)?))
            }
            "kvm_unmap_hva_range" => {
                What::Unmap(Range::Hvas(need("start", line.start)?, need("end", line.end)?))
            }
            "kvm_set_spte_hva" => {
                let hva = need("hva", line.hva)?;
                What::Unmap(Range::Hvas(hva, hva + 1))
            }
            "user" => What::User(self.user(line)?),
            _ => What::Other(name.to_owned()),
        })
    }

    fn ret(&self, line: &Line, kernel: Kernel) -> Result<Ret, Refused> {
        let set = |field: Option<Number>| field.is_some_and(|n| n.0 != 0);
        let told = match (line.fixed, line.spurious) {
            (None, None) => None,
            (fixed, _) if set(fixed) => Some(Ret::Fixed),
            (_, spurious) if set(spurious) => Some(Ret::Spurious),
            _ => Some(Ret::Refused),
        };
        let Some(ret) = line.ret else {
            return told.ok_or_else(|| self.bad("fast_page_fault without \"ret\"", RECORD));
        };
        let means = kernel.ret(ret).ok_or_else(|| {
            let message = format!("fast_page_fault with ret {ret}, which no fast fault returns");
            self.bad(&message, "check the \"kernel\" of the header")
        })?;
        if told.is_some_and(|told| told != means) {
            let means = means.name();
            let message = format!("\"ret\" says {means}, but \"fixed\" and \"spurious\" do not");
            return Err(self.bad(&message, agree::FIELDS));
        }
        Ok(means)
    }

    fn user(&self, line: Line) -> Result<User, Refused> {
        let op = line.op.ok_or_else(|| self.bad("a user event without \"op\"", RECORD))?;
        let gfns = match (line.first_gfn.or(line.base_gfn), line.pages) {
            (Some(first), Some(pages)) if pages > 0 => {
                Some((first.0, first.0.saturating_add(pages - 1)))
            }
            _ => None,
        };
        Ok(User { op, phase: line.phase.unwrap_or(Phase::At), slot: line.slot, gfns })
    }
}

/// Reads a line. An error names the field that it is in.
fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| {
        let mut again = serde_json::Deserializer::from_str(text);
        match serde_path_to_error::deserialize::<_, T>(&mut again) {
            Err(found) if found.path().iter().len() > 0 => {
                format!("\"{}\": {error}", found.path())
            }
            _ => error.to_string(),
        }
    })
}

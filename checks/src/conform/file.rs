//! Trace files: a header line, one line per event, an end line.
//!
//! Guarantee: a file that was cut short, that lost events, or that some other program made is told
//! apart from a trace that the model cannot explain. Lines are read one by one; of a file that is
//! not text, no more than one line's limit is read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use kvmmu_model::Spte;
use serde::Deserialize;

use super::event::{
    ErrorCode, Event, FastFault, Number, Page, Phase, Range, Ret, SetSpte, User, What,
};
use super::kernel::Kernel;
use crate::exit::{Exit, Failure};

/// The version of the file format.
pub const VERSION: u64 = 1;

/// No line of a trace is longer.
const LINE_MAX: u64 = 1 << 16;

/// No trace has more events: positions are 32 bits, and a larger file is no use to anybody.
const EVENTS_MAX: usize = 1 << 28;

/// The first line of a trace.
#[derive(Deserialize, Clone, Debug)]
pub struct Header {
    /// [`VERSION`].
    #[serde(rename = "kvmmu-trace")]
    pub version: u64,
    /// `uname -r`.
    pub kernel: String,
    /// `x86-64`.
    pub arch: String,
    /// The layout of its SPTEs.
    pub format: String,
    /// How KVM and the guest use page tables.
    pub mode: Mode,
    /// How many vCPUs there are.
    pub vcpus: u32,
    /// The memslots.
    #[serde(default)]
    pub slots: Vec<Slot>,
    /// The seed of the workload.
    pub seed: Option<u64>,
}

/// How KVM and the guest use page tables.
#[derive(Deserialize, Clone, Debug)]
pub struct Mode {
    /// Nested paging.
    pub npt: u8,
    /// The TDP MMU.
    pub tdp_mmu: u8,
    /// `direct` (nested paging), `none` (the guest has paging off) or `guest`.
    pub paging: String,
}

/// A memslot.
#[derive(Deserialize, Clone, Debug)]
pub struct Slot {
    /// Its number.
    pub slot: u32,
    /// Its first frame.
    pub base_gfn: Number,
    /// How many frames.
    pub pages: u64,
    /// Dirty logging is on from the beginning.
    #[serde(default)]
    pub log: bool,
    /// Where user space has it.
    pub hva: Option<Number>,
}

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

/// The fields that some event or other has.
#[derive(Deserialize, Debug)]
struct Line {
    event: String,
    n: Option<u64>,
    cpu: Option<u32>,
    pid: Option<u32>,
    vcpu_id: Option<u32>,
    cr2_or_gpa: Option<Number>,
    error_code: Option<Number>,
    sptep: Option<Number>,
    old_spte: Option<Number>,
    new_spte: Option<Number>,
    ret: Option<i64>,
    spurious: Option<Number>,
    fixed: Option<Number>,
    gfn: Option<Number>,
    level: Option<u8>,
    spte: Option<Number>,
    role: Option<Number>,
    mmu_valid_gen: Option<Number>,
    created: Option<Number>,
    fault_address: Option<Number>,
    start: Option<Number>,
    end: Option<Number>,
    hva: Option<Number>,
    op: Option<String>,
    phase: Option<Phase>,
    slot: Option<u32>,
    first_gfn: Option<Number>,
    base_gfn: Option<Number>,
    pages: Option<u64>,
    events: Option<u64>,
    lost: Option<u64>,
}

/// Reads a trace.
///
/// # Errors
///
/// Files that cannot be read, that are no traces, were cut short or lost events (exit 2), and
/// those of another version or of a kernel that the model does not know (exit 5).
pub fn read(path: &Path) -> Result<Recording, Failure> {
    if path.is_dir() {
        let message = format!("{} is a directory, not a trace", path.display());
        let help = "name one trace file in it: kvmmu conform DIRECTORY/TRACE.jsonl";
        return Err(Failure::usage(message, help));
    }
    let file = File::open(path).map_err(|error| {
        let message = format!("cannot read the trace {}: {error}", path.display());
        Failure::usage(message, "record one with 'kvmmu-live --trace FILE', or check the path")
    })?;
    read_from(BufReader::new(file), &path.display().to_string())
}

/// Reads a trace that is called `name` in messages.
///
/// # Errors
///
/// As [`read`].
pub fn read_from(mut from: impl BufRead, name: &str) -> Result<Recording, Failure> {
    let mut reader = Reader { name, line: 0, threads: HashMap::new(), last_n: None };
    let first = reader.next_line(&mut from)?;
    let first = first.ok_or_else(|| reader.bad("the file is empty", RECORD))?;
    let header = reader.header(&first)?;
    let kernel = Kernel::of(&header).map_err(|(message, help)| reader.other(&message, &help))?;
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
            return Err(reader.bad("too many events", "record a shorter run"));
        }
        let event = reader.event(line, kernel)?;
        events.push(event);
    };
    reader.end(&end, events.len())?;
    if reader.next_line(&mut from)?.is_some() {
        return Err(reader.bad("a line after the end line", "give one trace per file"));
    }
    Ok(Recording { header, kernel, events })
}

const RECORD: &str = "record it again with 'kvmmu-live --trace FILE' and let it finish";

/// Where in the file we are.
struct Reader<'a> {
    name: &'a str,
    line: u32,
    threads: HashMap<(bool, u32), u32>,
    last_n: Option<u64>,
}

impl Reader<'_> {
    fn bad(&self, message: &str, help: &str) -> Failure {
        Failure::usage(format!("{}:{}: {message}", self.name, self.line), help)
    }

    fn other(&self, message: &str, help: &str) -> Failure {
        Failure::new(Exit::Diverged, format!("{}:{}: {message}", self.name, self.line), help)
    }

    fn next_line(&mut self, from: &mut impl BufRead) -> Result<Option<String>, Failure> {
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

    fn header(&self, text: &str) -> Result<Header, Failure> {
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
        let help = "docs/conformance.md lists the fields of the header";
        serde_json::from_value(json).map_err(|error| self.bad(&format!("header: {error}"), help))
    }

    fn parse(&self, text: &str) -> Result<Line, Failure> {
        serde_json::from_str(text).map_err(|error| {
            let cut = if text.ends_with('\n') { "" } else { " (the last line has no end)" };
            self.bad(&format!("not an event: {error}{cut}"), RECORD)
        })
    }

    fn end(&self, end: &Line, events: usize) -> Result<(), Failure> {
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

    fn event(&mut self, mut line: Line, kernel: Kernel) -> Result<Event, Failure> {
        if let Some(n) = line.n {
            if self.last_n.is_some_and(|last| n <= last) {
                let help = "\"n\" must grow: sort the events by the trace clock";
                return Err(
                    self.bad(&format!("event {n} after event {}", self.last_n.unwrap_or(0)), help)
                );
            }
            self.last_n = Some(n);
        }
        let who = match (line.pid, line.cpu) {
            (Some(pid), _) => (true, pid),
            (None, Some(cpu)) => (false, cpu),
            (None, None) => return Err(self.bad("neither \"pid\" nor \"cpu\"", RECORD)),
        };
        let thread = self.threads.len() as u32;
        let thread = *self.threads.entry(who).or_insert(thread);
        let name = std::mem::take(&mut line.event);
        let what = self.what(&name, line, kernel)?;
        Ok(Event { line: self.line, thread, what })
    }

    fn what(&self, name: &str, line: Line, kernel: Kernel) -> Result<What, Failure> {
        let need = |field: &str, value: Option<Number>| {
            let message = || format!("{name} without \"{field}\"");
            value.map(|n| n.0).ok_or_else(|| self.bad(&message(), RECORD))
        };
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
            "kvm_mmu_set_spte" => What::SetSpte(SetSpte {
                gfn: need("gfn", line.gfn)?,
                level: line.level.ok_or_else(|| self.bad("no \"level\"", RECORD))?,
                sptep: need("sptep", line.sptep)?,
                spte: Spte(need("spte", line.spte)?),
            }),
            "kvm_mmu_get_page" | "kvm_mmu_prepare_zap_page" => {
                let page = Page {
                    gfn: need("gfn", line.gfn)?,
                    role: need("role", line.role)? as u32,
                    generation: line.mmu_valid_gen.map_or(0, |n| n.0 as u8),
                };
                match name {
                    "kvm_mmu_get_page" => {
                        What::GetPage { page, created: need("created", line.created)? != 0 }
                    }
                    _ => What::ZapPage(page),
                }
            }
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

    fn ret(&self, line: &Line, kernel: Kernel) -> Result<Ret, Failure> {
        let set = |field: Option<Number>| field.is_some_and(|n| n.0 != 0);
        match line.ret {
            Some(ret) => kernel.ret(ret).ok_or_else(|| {
                let message =
                    format!("fast_page_fault with ret {ret}, which no fast fault returns");
                self.bad(&message, "check the \"kernel\" of the header")
            }),
            None if line.spurious.is_none() && line.fixed.is_none() => {
                Err(self.bad("fast_page_fault without \"ret\"", RECORD))
            }
            None if set(line.fixed) => Ok(Ret::Fixed),
            None if set(line.spurious) => Ok(Ret::Spurious),
            None => Ok(Ret::Refused),
        }
    }

    fn user(&self, line: Line) -> Result<User, Failure> {
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

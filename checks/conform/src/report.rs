//! What is said of a trace: how many events of each kind are explained, and the first that is not,
//! in context.

use std::fmt::Write as _;

use kvmmu_model::{Spte, SpteFormat};
use serde::Serialize;

use crate::checker::Checked;
use crate::event::{ErrorCode, Event, FastFault, Phase, Ret, What};
use crate::file::Recording;
use crate::history::{Op, Unexplained};
use crate::line::Mode;
use crate::place;
use crate::walk::Element;
use crate::windows::{Allowed, effects};

/// The kinds of events, in the order of the report.
const KINDS: &[&str] = &[
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
    "kvm_age",
    "kvm_unmap_hva_range",
    "user",
];

/// What came of the events of one kind.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Count {
    /// The tracepoint.
    pub event: String,
    /// How many there are, all of them checked.
    pub checked: usize,
    /// Those that the model explains.
    pub explained: usize,
    /// The others.
    pub unexplained: usize,
}

/// How fast faults ended.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FastFaults {
    /// Repaired.
    pub fixed: usize,
    /// Nothing was to be repaired.
    pub spurious: usize,
    /// Left to the slow path.
    pub refused: usize,
}

/// What a trace comes to.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every event is explained.
    Explained,
    /// Some event is not.
    Unexplained,
    /// The history of some SPTE is too much to follow, and nothing else is unexplained.
    Inconclusive,
    /// Nothing in it can be judged.
    NothingToJudge,
}

impl Verdict {
    /// The exit code of `kvmmu conform`.
    pub const fn exit(self) -> u8 {
        match self {
            Verdict::Explained => 0,
            Verdict::Unexplained => 1,
            Verdict::Inconclusive => 3,
            Verdict::NothingToJudge => 4,
        }
    }
}

/// What is said of a trace.
#[derive(Serialize, Debug)]
pub struct Report {
    v: u32,
    r#type: &'static str,
    /// The file.
    pub trace: String,
    kernel: String,
    format: String,
    seed: Option<u64>,
    vcpus: u32,
    mode: String,
    /// By kind.
    pub kinds: Vec<Count>,
    /// How fast faults ended.
    pub fast_faults: FastFaults,
    /// SPTEs that the events are about.
    pub sptes: usize,
    /// Events that were checked.
    pub checked: usize,
    /// Those that the model explains.
    pub explained: usize,
    /// The others.
    pub unexplained: usize,
    /// Events of other tracepoints.
    pub ignored: usize,
    /// User operations of which nothing is known.
    pub unknown_ops: Vec<String>,
    /// The rules that could not be applied, and why.
    pub not_checked: Vec<String>,
    /// The first event at which the history of an SPTE was too much to follow.
    pub gave_up: Option<Brief>,
    /// The first event that is not explained.
    pub first: Option<First>,
    /// Every event that is not explained: only with -v.
    pub all: Vec<Brief>,
    verdict: Verdict,
    exit: u8,
}

/// An event that is not explained.
#[derive(Serialize, Clone, Debug)]
pub struct Brief {
    /// Its line.
    pub line: u32,
    /// What it says.
    pub event: String,
    /// One sentence.
    pub why: String,
}

/// The first event that is not explained, in context.
#[derive(Serialize, Clone, Debug)]
pub struct First {
    /// Its line.
    pub line: u32,
    /// What it says.
    pub event: String,
    /// One sentence.
    pub why: String,
    /// The values that the SPTE may have had here.
    pub allowed: Vec<String>,
    /// Where the SPTE is.
    pub spte: Option<String>,
    /// What was seen of this SPTE, and what user space did, up to the event after it.
    pub history: Vec<String>,
}

impl Report {
    /// Of a trace that was checked.
    pub fn of(name: &str, recording: &Recording, checked: &Checked, all: bool) -> Report {
        let header = &recording.header;
        let (kinds, ignored) = counts(&recording.events, &checked.unexplained);
        let total = |of: fn(&Count) -> usize| kinds.iter().map(of).sum();
        let unexplained = total(|c| c.unexplained);
        let teller = Teller { recording, format: &recording.kernel.format };
        let all = match all {
            true => {
                let brief = |u: &Unexplained| teller.brief(u.event, &u.why);
                checked.unexplained.iter().map(brief).collect()
            }
            false => Vec::new(),
        };
        let verdict = verdict(&recording.events, checked);
        let gave_up = checked.gave_up.first();
        Report {
            v: 1,
            r#type: "conform",
            trace: name.to_owned(),
            kernel: header.kernel.clone(),
            format: header.format.clone(),
            seed: header.seed,
            vcpus: header.vcpus,
            mode: mode(&header.mode),
            fast_faults: fast_faults(&recording.events),
            sptes: checked.sptes.len(),
            checked: total(|c| c.checked),
            explained: total(|c| c.explained),
            unexplained,
            ignored,
            unknown_ops: unknown_ops(&recording.events),
            not_checked: checked.not_checked.clone(),
            gave_up: gave_up.map(|(event, why)| teller.brief(*event, why)),
            first: checked.unexplained.first().map(|u| teller.first(u, checked)),
            all,
            verdict,
            exit: verdict.exit(),
            kinds,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let plural = if self.vcpus == 1 { "" } else { "s" };
        let _ = writeln!(out, "{}", self.trace);
        let _ = writeln!(
            out,
            "  kernel {}, {}, {}, {} vCPU{plural}",
            self.kernel, self.format, self.mode, self.vcpus
        );
        let _ = writeln!(out, "\n  event                      checked explained unexplained");
        for kind in self.kinds.iter().filter(|kind| kind.checked > 0) {
            let _ = writeln!(
                out,
                "  {:<25} {:>8} {:>9} {:>11}",
                kind.event, kind.checked, kind.explained, kind.unexplained
            );
        }
        let _ = writeln!(
            out,
            "  {:<25} {:>8} {:>9} {:>11}\n",
            "all", self.checked, self.explained, self.unexplained
        );
        let FastFaults { fixed, spurious, refused } = self.fast_faults;
        let _ = writeln!(
            out,
            "  fast faults: {fixed} fixed, {spurious} spurious, {refused} left to the slow path; \
             {} SPTEs",
            self.sptes
        );
        self.notes(&mut out);
        for brief in &self.all {
            let _ = writeln!(out, "\n  line {}: {}\n    {}", brief.line, brief.event, brief.why);
        }
        match &self.first {
            None => self.tell_verdict(&mut out),
            Some(first) => first.tell(&mut out),
        }
        out
    }

    /// What the trace comes to.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The last line of a trace in which nothing is unexplained.
    fn tell_verdict(&self, out: &mut String) {
        if let (Verdict::Inconclusive, Some(Brief { line, event, why })) =
            (self.verdict, &self.gave_up)
        {
            let _ = writeln!(out, "\nINCONCLUSIVE, first at line {line}:\n  {event}");
            let _ = writeln!(out, "  why: {why}");
            let _ =
                writeln!(out, "  record with fewer vCPUs, or with more pages for them to share");
            return;
        }
        out.push_str(match (self.verdict, self.not_checked.is_empty()) {
            (Verdict::NothingToJudge, _) => {
                "\nNOTHING TO JUDGE: no fast fault, no new SPTE and no zapped page in the trace\n"
            }
            (_, true) => "\nEXPLAINED: the trace is a behaviour of the model\n",
            (_, false) => {
                "\nEXPLAINED as far as it could be checked: nothing contradicts the model\n"
            }
        });
    }

    fn notes(&self, out: &mut String) {
        for rule in &self.not_checked {
            let _ = writeln!(out, "  not checked: {rule}");
        }
        if self.ignored > 0 {
            let _ =
                writeln!(out, "  {} events of other tracepoints were passed over", self.ignored);
        }
        if !self.unknown_ops.is_empty() {
            let _ = writeln!(
                out,
                "  nothing is known of these user operations: {}",
                self.unknown_ops.join(", ")
            );
        }
    }
}

impl First {
    fn tell(&self, out: &mut String) {
        let _ = writeln!(out, "\nUNEXPLAINED, first at line {}:\n  {}", self.line, self.event);
        let _ = writeln!(out, "  why: {}", self.why);
        if !self.allowed.is_empty() {
            let _ = writeln!(out, "  the model would allow here:");
            for value in &self.allowed {
                let _ = writeln!(out, "    {value}");
            }
        }
        if let Some(spte) = &self.spte {
            let _ = writeln!(out, "  what was seen of {spte} (line, thread, event):");
        }
        for line in &self.history {
            let _ = writeln!(out, "    {line}");
        }
    }
}

fn verdict(events: &[Event], checked: &Checked) -> Verdict {
    let judged =
        |e: &Event| matches!(e.what, What::FastFault(_) | What::SetSpte(_) | What::ZapPage(_));
    if !checked.unexplained.is_empty() {
        Verdict::Unexplained
    } else if !checked.gave_up.is_empty() {
        Verdict::Inconclusive
    } else if events.iter().any(judged) {
        Verdict::Explained
    } else {
        Verdict::NothingToJudge
    }
}

fn mode(mode: &Mode) -> String {
    let paging = match mode.paging.as_str() {
        "none" => ", paging off in the guest",
        "guest" => ", the guest's own tables",
        _ => "",
    };
    let [npt, tdp_mmu] = [mode.npt, mode.tdp_mmu].map(Option::unwrap_or_default);
    format!("npt={npt} tdp_mmu={tdp_mmu}{paging}")
}

fn counts(events: &[Event], unexplained: &[Unexplained]) -> (Vec<Count>, usize) {
    let mut kinds: Vec<Count> = KINDS
        .iter()
        .map(|k| Count { event: (*k).to_owned(), checked: 0, explained: 0, unexplained: 0 })
        .collect();
    let of = |event: &Event| KINDS.iter().position(|k| *k == event.what.name());
    let mut ignored = 0;
    for event in events {
        match of(event) {
            Some(kind) => {
                kinds[kind].checked += 1;
                kinds[kind].explained += 1;
            }
            None => ignored += 1,
        }
    }
    for kind in unexplained.iter().filter_map(|u| of(&events[u.event])) {
        kinds[kind].explained -= 1;
        kinds[kind].unexplained += 1;
    }
    (kinds, ignored)
}

fn fast_faults(events: &[Event]) -> FastFaults {
    let mut counts = FastFaults::default();
    for event in events {
        match &event.what {
            What::FastFault(FastFault { ret: Ret::Fixed, .. }) => counts.fixed += 1,
            What::FastFault(FastFault { ret: Ret::Spurious, .. }) => counts.spurious += 1,
            What::FastFault(FastFault { ret: Ret::Refused, .. }) => counts.refused += 1,
            _ => {}
        }
    }
    counts
}

/// User operations that may do anything as far as the checker knows; it takes them to do nothing.
fn unknown_ops(events: &[Event]) -> Vec<String> {
    let mut unknown: Vec<String> = Vec::new();
    for event in events {
        if let What::User(user) = &event.what
            && user.phase == Phase::Enter
            && effects(&user.op).is_none()
            && !unknown.contains(&user.op)
        {
            unknown.push(user.op.clone());
        }
    }
    unknown
}

/// Puts events into words.
struct Teller<'a> {
    recording: &'a Recording,
    format: &'a SpteFormat,
}

/// Events of an SPTE that the report shows before the one that is unexplained.
const HISTORY: usize = 6;

impl Teller<'_> {
    fn brief(&self, event: usize, why: &str) -> Brief {
        let event = &self.recording.events[event];
        Brief { line: event.line, event: self.event(event), why: why.to_owned() }
    }

    fn first(&self, found: &Unexplained, checked: &Checked) -> First {
        let Brief { line, event, why } = self.brief(found.event, &found.why);
        let spte = checked.spte_of(found.event);
        First {
            line,
            event,
            why,
            allowed: found.allowed.iter().take(8).map(|s| value(self.format, *s)).collect(),
            spte: spte.map(|(at, ops)| {
                let gfn = ops.iter().find(|op| op.event == found.event).map_or(0, |op| op.gfn);
                format!(
                    "entry {} of the table at {:#x}, frame {gfn:#x}",
                    place::index(at),
                    place::table(at)
                )
            }),
            history: spte.map_or_else(Vec::new, |(_, ops)| self.history(ops, found.event)),
        }
    }

    /// The last events of an SPTE before `event`, it, the next, and user events in between.
    fn history(&self, ops: &[Op], event: usize) -> Vec<String> {
        let here = ops.iter().position(|op| op.event == event).unwrap_or(0);
        let begin = here.saturating_sub(HISTORY);
        let end = (here + 2).min(ops.len());
        let mut shown: Vec<usize> = ops[begin..end].iter().map(|op| op.event).collect();
        let (first, last) = (shown[0], event);
        let user = |i: &usize| match &self.recording.events[*i].what {
            What::User(user) => effects(&user.op) != Some(Allowed::default()),
            What::Age(_) | What::Unmap(_) => true,
            _ => false,
        };
        let between: Vec<usize> = (first..last).filter(user).collect();
        shown.extend(&between[between.len().saturating_sub(HISTORY)..]);
        shown.sort_unstable();
        shown.dedup();
        let line = |i: usize| {
            let e = &self.recording.events[i];
            let mark = if i == event { "> " } else { "  " };
            format!("{mark}{:<7} t{:<3} {}", e.line, e.thread, self.event(e))
        };
        shown.into_iter().map(line).collect()
    }

    fn event(&self, event: &Event) -> String {
        let value = |spte| value(self.format, spte);
        match &event.what {
            What::FastFault(f) => format!(
                "fast_page_fault vcpu{} {:#x} {} {} {} -> {}",
                f.vcpu,
                f.address,
                error(f.error),
                f.ret.name(),
                value(f.old),
                value(f.new)
            ),
            What::SetSpte(s) => {
                format!("kvm_mmu_set_spte frame {:#x} level {} {}", s.gfn, s.level, value(s.spte))
            }
            What::GetPage { page, created } => format!(
                "kvm_mmu_get_page frame {:#x} role {:#x}{}",
                page.gfn,
                page.role,
                if *created { " new" } else { "" }
            ),
            What::ZapPage(page) => {
                format!("kvm_mmu_prepare_zap_page frame {:#x} role {:#x}", page.gfn, page.role)
            }
            What::Fault { address, error: code } => {
                format!("kvm_page_fault {address:#x} {}", error(*code))
            }
            What::MmioSpte { gfn, .. } => format!("mark_mmio_spte frame {gfn:#x}"),
            What::User(user) => {
                format!("user {} {}", user.op, format!("{:?}", user.phase).to_lowercase())
            }
            What::Element(Element { level, pte }) => {
                format!("kvm_mmu_paging_element level {level} {pte:#x}")
            }
            What::Unsync(page) | What::Sync(page) => {
                format!("{} frame {:#x} role {:#x}", event.what.name(), page.gfn, page.role)
            }
            What::Walk { address } => format!("kvm_mmu_pagetable_walk {address:#x}"),
            What::GuestBit { gpa, .. } => format!("{} at {gpa:#x}", event.what.name()),
            What::Age(_) | What::Unmap(_) | What::ZapAll(_) | What::Other(_) => {
                event.what.name().to_owned()
            }
        }
    }
}

/// The letters of an error code.
fn error(code: ErrorCode) -> String {
    let letters = [
        (code.present(), 'P'),
        (code.write(), 'W'),
        (code.0 & 4 != 0, 'U'),
        (code.reserved(), 'R'),
        (code.fetch(), 'F'),
    ];
    let set: String = letters.iter().filter(|(set, _)| *set).map(|(_, letter)| *letter).collect();
    if set.is_empty() { "-".to_owned() } else { set }
}

/// An SPTE and its letters of `HMWAD`.
pub fn value(format: &SpteFormat, spte: Spte) -> String {
    if spte == Spte::ZERO {
        return "0".to_owned();
    }
    if !format.is_shadow_present(spte) {
        let what = if format.is_mmio(spte) { "MMIO" } else { "not present" };
        return format!("{spte:?} {what}");
    }
    let bits = [
        (format.is_host_writable(spte), 'H'),
        (format.is_mmu_writable(spte), 'M'),
        (format.is_writable(spte), 'W'),
        (spte.0 & format.accessed_mask != 0, 'A'),
        (spte.0 & format.dirty_mask != 0, 'D'),
    ];
    let letters: String =
        bits.iter().map(|(set, letter)| if *set { *letter } else { '-' }).collect();
    format!("{spte:?} {letters}")
}

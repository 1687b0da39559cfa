//! From events to what explains them.
//!
//! Three things are checked, in this order: each event by itself (what the model's fast fault makes
//! of the SPTE that was read, H, M and W), the shadow pages, and the history of each SPTE. An event
//! is unexplained if any of them refuses it; the first that does says why.

pub(crate) mod guest;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kvmmu_model::{FastFault as Attempt, Spte};

use crate::event::{ErrorCode, Event, FastFault, Phase, Pos, Ret, SetSpte, What};
use crate::file::Recording;
use crate::gaps;
use crate::history::{self, Does, Op, Unexplained};
use crate::offset;
use crate::pages::Pages;
use crate::place::{self, Place};
use crate::rules::{Mapped, Rules, expected};
use crate::threads::Threads;
use crate::walk::Walk;
use crate::windows::{self, Harvest, Windows};

/// What came of a trace.
#[derive(Debug)]
pub struct Checked {
    /// The events that nothing explains, in the order of the trace.
    pub unexplained: Vec<Unexplained>,
    /// Where the history of an SPTE was too much to follow to its end, and why.
    pub gave_up: Vec<(usize, String)>,
    /// The rules that could not be applied, and why.
    pub not_checked: Vec<String>,
    /// The events about each SPTE, by its physical address.
    pub sptes: BTreeMap<u64, Vec<Op>>,
    /// Virtual addresses of SPTEs are larger than physical ones by this.
    pub offset: u64,
}

impl Checked {
    /// The address and the events of the SPTE that event `i` is about.
    pub fn spte_of(&self, i: usize) -> Option<(u64, &[Op])> {
        let mut sptes = self.sptes.iter();
        let found =
            sptes.find(|(_, ops)| ops.iter().any(|op| op.event == i && op.does != Does::Zap));
        found.map(|(at, ops)| (*at, ops.as_slice()))
    }
}

/// Checks a trace.
///
/// # Errors
///
/// Says why the addresses of SPTEs make no sense.
pub fn check(recording: &Recording) -> Result<Checked, String> {
    let events = &recording.events;
    let rules = Rules::of(recording.kernel);
    let threads = Threads::of(events);
    let (windows, unpaired) = Windows::of(&recording.header, events, &threads);
    let offset = offset::infer(events, &rules)?;
    let mut checker = Checker {
        rules: &rules,
        threads: &threads,
        windows: &windows,
        offset,
        pages: Pages::new(events),
        has_faults: events.iter().any(|e| matches!(e.what, What::Fault { .. })),
        has_walks: events.iter().any(|e| matches!(e.what, What::Element(_))),
        one_root: guest::one_root(events),
        unlinked: unlinked(events),
        faults: HashMap::new(),
        walks: HashMap::new(),
        guest_stores: guest::first_store(events).is_some(),
        sptes: BTreeMap::new(),
        refused: BTreeMap::new(),
    };
    for (i, why) in unpaired {
        checker.refuse(i, why);
    }
    for (i, event) in events.iter().enumerate() {
        checker.event(i, event, events);
    }
    let Checker { mut sptes, mut refused, pages, guest_stores, .. } = checker;
    if guest_stores {
        sptes.retain(|at, _| !pages.shadows.contains(&place::table(*at)));
    }
    let trace = Trace { events, threads: &threads };
    add_by_frame(&mut sptes, recording, &windows, trace);
    add_zaps(&mut sptes, &pages.zapped, trace);
    let mut budget = history::steps_max(events.len());
    let mut gave_up = BTreeMap::new();
    for ops in sptes.values() {
        let followed = history::check(&rules, &windows, ops, &mut budget);
        gave_up.extend(followed.gave_up);
        for found in followed.found {
            refused.entry(found.event).or_insert(found);
        }
    }
    Ok(Checked {
        unexplained: refused.into_values().collect(),
        gave_up: gave_up.into_iter().collect(),
        not_checked: gaps::of(recording, &windows),
        sptes,
        offset,
    })
}

/// A table was zapped: so was each of its SPTEs.
fn add_zaps(sptes: &mut BTreeMap<u64, Vec<Op>>, zapped: &[(u64, usize)], trace: Trace<'_>) {
    for (at, event) in zapped {
        for ops in sptes.range_mut(at..&(at + 0x1000)).map(|(_, ops)| ops) {
            add(ops, Op { does: Does::Zap, ..trace.after(*event) });
        }
    }
}

/// What must happen to every SPTE of some frames: the host has taken their pages back, or the log
/// was fetched.
fn add_by_frame(
    sptes: &mut BTreeMap<u64, Vec<Op>>,
    recording: &Recording,
    windows: &Windows,
    trace: Trace<'_>,
) {
    let mut by_frame: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (at, ops) in &*sptes {
        let mut gfns: Vec<u64> = ops.iter().map(|op| op.gfn).collect();
        gfns.dedup();
        if let [gfn] = gfns.as_slice() {
            by_frame.entry(*gfn).or_default().push(*at);
        }
    }
    let mut add_to = |(first, last): (u64, u64), op: &Op| {
        for at in by_frame.range(first..=last).flat_map(|(_, sptes)| sptes) {
            if let Some(ops) = sptes.get_mut(at) {
                add(ops, op.clone());
            }
        }
    };
    let unlinked = unlinked(&recording.events);
    // The address is the guest's own there: [`Checker::missed`].
    let by_address = !recording.kernel.guest_tables;
    for (i, event) in recording.events.iter().enumerate() {
        match event.what {
            What::Unmap(range) => {
                let gfns = windows::gfns(&recording.header, range);
                if gfns != windows::ALL && range.is_whole() {
                    add_to(gfns, &Op { does: Does::Zap, ..trace.after(i) });
                }
            }
            // After an upper page was zapped, what is missing may be the way to the table.
            What::Fault { address, error } if by_address && i < unlinked && error.misses() => {
                let gfn = address >> 12;
                let op = op_of(trace.threads, i, event.thread);
                add_to((gfn, gfn), &Op { does: Does::Miss, ..op });
            }
            _ => {}
        }
    }
    for ops in sptes.values_mut() {
        add_harvests(ops, windows.harvests(), trace);
    }
}

/// The first event by which an upper page goes: what is missing then may be the way to a table.
fn unlinked(events: &[Event]) -> usize {
    let upper = |e: &Event| matches!(e.what, What::ZapPage(page) if page.level() > 1);
    events.iter().position(upper).unwrap_or(events.len())
}

/// Adds the harvests that may matter to an SPTE: those during an event about it, and those after
/// it up to the first that takes W for certain. W is clear in all that follow. Of harvests that may
/// take W the first stands for the others: no thread sees the SPTE in between.
fn add_harvests(ops: &mut Vec<Op>, harvests: &[Harvest], trace: Trace<'_>) {
    let about = |h: &&Harvest| ops.iter().any(|op| (h.gfns.0..=h.gfns.1).contains(&op.gfn));
    let harvests: Vec<&Harvest> = harvests.iter().filter(about).collect();
    let mut latest = 0;
    let ends: Vec<Pos> = harvests
        .iter()
        .map(|h| {
            latest = h.to.max(latest);
            latest
        })
        .collect();
    let mut chosen: BTreeSet<usize> = BTreeSet::new();
    for op in ops.iter() {
        let first = ends.partition_point(|end| *end <= op.opens);
        let after = harvests.partition_point(|h| h.from < op.closes);
        chosen.extend((first..after).filter(|i| harvests[*i].to > op.opens));
        chosen.extend((after < harvests.len()).then_some(after));
        chosen.extend((after..harvests.len()).find(|i| harvests[*i].must));
    }
    for Harvest { must, thread, from, to, .. } in chosen.into_iter().map(|i| *harvests[i]) {
        let op = Op { thread, opens: from, closes: to, ..trace.after(from as usize - 1) };
        add(ops, Op { does: Does::Harvest { must }, ..op });
    }
}

/// Puts a step at its place among the events of an SPTE.
fn add(ops: &mut Vec<Op>, op: Op) {
    let at = ops.partition_point(|other| other.event < op.event);
    let gfn = ops[at.min(ops.len() - 1)].gfn;
    ops.insert(at, Op { gfn, ..op });
}

/// The events with their neighbours.
#[derive(Clone, Copy)]
struct Trace<'a> {
    events: &'a [Event],
    threads: &'a Threads,
}

impl Trace<'_> {
    /// A step after event `i` and before the thread's next.
    fn after(self, i: usize) -> Op {
        let opens = i as Pos + 1;
        Op { opens, ..op_of(self.threads, i, self.events[i].thread) }
    }
}

/// A fault that a thread handles.
#[derive(Clone, Copy, Debug)]
struct Handled {
    /// The event that says so.
    event: usize,
    /// Of the address: the frame, or the page of the guest's own address space.
    page: u64,
    error: ErrorCode,
    /// It made or found a shadow page.
    links: bool,
    /// Its own SPTE was set already.
    mapped: bool,
}

/// Who asks for an SPTE.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// The fault of its own frame.
    Own {
        /// It is a write.
        write: bool,
    },
    /// The fault of a neighbour.
    Neighbour,
    /// The trace does not report faults.
    Unknown,
}

/// `PTE_PREFETCH_NUM`: a fault maps neighbours in the same group of this many after its own page,
/// unless the slot is logged.
const PREFETCH: u64 = 8;

/// What is known at one point of the trace.
struct Checker<'a> {
    rules: &'a Rules,
    threads: &'a Threads,
    windows: &'a Windows,
    offset: u64,
    pages: Pages,
    /// The trace has `kvm_page_fault` at all.
    has_faults: bool,
    /// The trace has walks of the guest's own tables.
    has_walks: bool,
    /// See [`guest::one_root`].
    one_root: bool,
    /// See [`unlinked`].
    unlinked: usize,
    /// The fault that each thread handles.
    faults: HashMap<u32, Handled>,
    /// What the guest's own tables said to it.
    walks: HashMap<u32, Walk>,
    /// The guest stores to its tables, as far as can be seen: what it stores is not traced.
    guest_stores: bool,
    sptes: BTreeMap<u64, Vec<Op>>,
    refused: BTreeMap<usize, Unexplained>,
}

impl Checker<'_> {
    fn refuse(&mut self, event: usize, why: impl Into<String>) {
        self.refuse_but(event, why, Vec::new());
    }

    fn refuse_but(&mut self, event: usize, why: impl Into<String>, allowed: Vec<Spte>) {
        let found = Unexplained { event, why: why.into(), allowed };
        self.refused.entry(event).or_insert(found);
    }

    fn event(&mut self, i: usize, event: &Event, events: &[Event]) {
        let result = match &event.what {
            What::FastFault(fault) => return self.fast_fault(i, event.thread, fault, events),
            What::SetSpte(set) => return self.set(i, event.thread, set),
            What::MmioSpte { sptep, gfn } => return self.mmio(i, event.thread, *sptep, *gfn),
            What::Fault { address, error } => {
                self.faults.insert(event.thread, handled(i, *address, *error));
                self.walks.remove(&event.thread);
                self.begins(i, *address, *error, events)
            }
            What::Walk { address } => {
                self.walks.insert(event.thread, Walk::of(*address));
                Ok(())
            }
            What::Element(element) => match self.walks.get_mut(&event.thread) {
                Some(walk) => walk.read(*element),
                None => Err("no walk of its thread has begun".to_owned()),
            },
            What::GuestBit { gpa, dirty } => match self.walks.get_mut(&event.thread) {
                Some(walk) => walk.set(*gpa, *dirty),
                None if !self.has_walks => Ok(()),
                None => Err("no walk of its thread has begun".to_owned()),
            },
            What::Unsync(page) => self.pages.set_unsync(*page, true),
            What::Sync(page) => self.pages.set_unsync(*page, false),
            What::GetPage { page, created } => {
                if let Some(fault) = self.faults.get_mut(&event.thread) {
                    fault.links = true;
                }
                let asked = self.asked_for(event.thread, *page);
                self.pages.get(event.thread, *page, *created).and(asked)
            }
            What::ZapPage(page) => self.pages.zap(*page, i),
            What::ZapAll(generation) => {
                self.pages.zap_all(event.thread, *generation);
                Ok(())
            }
            What::User(user) if user.phase == Phase::Exit => self.pages.call_ends(event.thread),
            What::Age(_) | What::Unmap(_) | What::User(_) | What::Other(_) => Ok(()),
        };
        if let Err(why) = result {
            self.refuse(i, why);
        }
    }

    /// A fault that can be fast is followed by its fast fault in the same thread.
    fn begins(
        &self,
        i: usize,
        address: u64,
        error: ErrorCode,
        events: &[Event],
    ) -> Result<(), String> {
        if !self.rules.can_be_fast(error) {
            return Ok(());
        }
        let mut next = self.threads.next(i);
        while let Some(What::Other(_)) = next.map(|n| &events[n].what) {
            next = next.and_then(|n| self.threads.next(n));
        }
        match next.map(|n| &events[n].what) {
            None => Ok(()),
            Some(What::FastFault(fault)) if same(fault, address, error) => Ok(()),
            Some(_) => Err("this fault can be fast, but the thread's next event is not its \
                            fast_page_fault"
                .to_owned()),
        }
    }

    fn fast_fault(&mut self, i: usize, thread: u32, fault: &FastFault, events: &[Event]) {
        if let Err((why, allowed)) = self.by_itself(fault) {
            self.refuse_but(i, why, allowed);
        }
        let mut previous = self.threads.previous(i);
        while let Some(What::Other(_)) = previous.map(|p| &events[p].what) {
            previous = previous.and_then(|p| self.threads.previous(p));
        }
        let begun = match previous.map(|p| &events[p].what) {
            Some(What::Fault { address, error }) => same(fault, *address, *error),
            _ => !self.has_faults,
        };
        if !begun {
            self.refuse(i, "it does not belong to the thread's kvm_page_fault before it");
        }
        self.faults.insert(thread, handled(i, fault.address, fault.error));
        let sptep = fault.sptep.wrapping_sub(self.offset);
        let level = match self.pages.fast_fault(sptep, fault, self.threads.before(i)) {
            Ok(level) => level,
            Err(why) => return self.refuse(i, why),
        };
        let is_leaf = self.rules.is_leaf(fault.old);
        if level.is_none() {
            if is_leaf {
                self.refuse(i, "an SPTE is present there, but no kvm_mmu_set_spte made it");
            }
            // The walk ended above the last level: nothing more is known of such entries.
            return;
        }
        let refused = fault.ret == Ret::Refused;
        let goes_slow = refused && !self.windows.has_unmaps();
        let does = match self.attempt(fault) {
            Attempt::Fix(new) if fault.ret == Ret::Fixed => Does::Fix(fault.old, new),
            Attempt::Fix(_) if refused => Does::Lose(fault.old),
            _ => Does::Read(fault.old),
        };
        let seen = (level == Some(1) || is_leaf).then_some(fault.new);
        let op = Op { gfn: fault.address >> 12, does, seen, goes_slow, ..self.op(i, thread) };
        self.sptes.entry(sptep).or_default().push(op);
    }

    /// What the model's fast fault makes of the value that was read.
    fn attempt(&self, fault: &FastFault) -> Attempt {
        let level = self.rules.level(fault.old);
        let logged = self.rules.fast_fault(fault.old, level, fault.error, true);
        let unlogged = self.rules.fast_fault(fault.old, level, fault.error, false);
        if expected(logged) == fault.ret { logged } else { unlogged }
    }

    /// The fast fault alone, recomputed.
    fn by_itself(&self, fault: &FastFault) -> Result<(), (String, Vec<Spte>)> {
        if !self.rules.can_be_fast(fault.error) {
            return Err(("a fault with this error code does not go the fast way".into(), vec![]));
        }
        self.legal(fault.old).map_err(|why| (why, vec![]))?;
        self.legal(fault.new).map_err(|why| (why, vec![]))?;
        let attempt = self.attempt(fault);
        let gave_up = matches!(attempt, Attempt::Fix(_)) && fault.ret == Ret::Refused;
        if expected(attempt) == fault.ret || gave_up {
            return Ok(());
        }
        let (said, allowed) = match attempt {
            Attempt::Spurious => ("finds that it allows the access already: spurious", vec![]),
            Attempt::Refuse => ("refuses to repair it", vec![]),
            Attempt::Fix(new) => ("repairs it", vec![new]),
        };
        let why = format!(
            "the kernel says {}, but of {:?} the model's fast fault {said}",
            fault.ret.name(),
            fault.old
        );
        Err((why, allowed))
    }

    /// W only with H and M, M only with H.
    fn legal(&self, spte: Spte) -> Result<(), String> {
        let format = self.rules.format();
        if !self.rules.is_leaf(spte) || format.is_legal_leaf(spte) {
            return Ok(());
        }
        let (has, lacks) = match (format.is_writable(spte), format.is_host_writable(spte)) {
            (true, true) => ("W", "M"),
            (true, false) => ("W", "H"),
            _ => ("M", "H"),
        };
        Err(format!("{spte:?} has {has} without {lacks}, which no step of the model makes"))
    }

    fn set(&mut self, i: usize, thread: u32, set: &SetSpte) {
        let walked = self.walked(thread, set.level);
        let placed = self
            .legal(set.spte)
            .and_then(|()| self.has_walked(thread))
            .and_then(|()| self.keeps_tables(set))
            .and_then(|()| self.pages.set(thread, set, walked));
        if let Err(why) = placed {
            return self.refuse(i, why);
        }
        let asked = match self.belongs(i, thread, set) {
            Ok(asked) => asked,
            Err(why) => return self.refuse(i, why),
        };
        let format = self.rules.format();
        let does = if format.is_mmio(set.spte) {
            Does::Mmio(set.spte)
        } else if self.rules.is_leaf(set.spte) {
            let pfn = format.pfn(set.spte);
            let new = |host_writable, speculative| Mapped {
                pfn,
                level: set.level,
                host_writable,
                speculative,
                guest_writable: true,
                write_protected_pt: self.pages.needs_write_protection(set.gfn),
            };
            // A write fault looks its page up for writing; no fault asked for neighbours.
            let sets = match asked {
                Asked::Own { write: true } => vec![new(true, false)],
                Asked::Own { write: false } => vec![new(true, false), new(false, false)],
                Asked::Neighbour => vec![new(true, true), new(false, true)],
                Asked::Unknown => {
                    let all = [(true, false), (true, true), (false, false), (false, true)];
                    all.map(|(host, speculative)| new(host, speculative)).to_vec()
                }
            };
            Does::Set(self.as_the_guest_allows(sets, thread, asked))
        } else {
            return self.refuse(i, "it maps nothing");
        };
        let breaks_cow = matches!(asked, Asked::Own { write: true } | Asked::Unknown);
        let goes_slow = breaks_cow && !self.windows.has_unmaps();
        let op = Op { gfn: set.gfn, does, seen: Some(set.spte), goes_slow, ..self.op(i, thread) };
        let missed = self.missed(thread, asked);
        let ops = self.sptes.entry(set.sptep).or_default();
        ops.push(op);
        if let Some(miss) = missed {
            add(ops, Op { gfn: set.gfn, does: Does::Miss, ..miss });
        }
    }

    /// Who asks for an SPTE: the fault that the thread handles, once, or a neighbour's.
    fn belongs(&mut self, i: usize, thread: u32, set: &SetSpte) -> Result<Asked, String> {
        if !self.has_faults {
            return Ok(Asked::Unknown);
        }
        if let Some(fault) = self.faults.get_mut(&thread) {
            let (place, entry) = (Place::of(set.level, fault.page), place::index(set.sptep));
            let (own, near) = match self.rules.guest_tables() {
                true => (place.index == entry, place.index / PREFETCH == entry / PREFETCH),
                false => (
                    place == Place::of(set.level, set.gfn),
                    set.gfn / PREFETCH == fault.page / PREFETCH,
                ),
            };
            if own && !fault.mapped {
                fault.mapped = true;
                let write = fault.error.write();
                return self.as_walked(thread, set, write).map(|()| Asked::Own { write });
            }
            let neighbour = near && self.faults.get(&thread).is_some_and(|f| f.mapped);
            // What the guest's tables do not let it write is no matter of the log.
            let unlogged =
                !self.windows.is_logged(set.gfn, i) || self.is_read_only_to_guest(set.spte);
            if !own && neighbour && unlogged {
                return Ok(Asked::Neighbour);
            }
        }
        if self.guest_stores {
            // INVLPG and emulated stores map what they find in tables that are not followed.
            return Ok(Asked::Unknown);
        }
        Err("no fault of its thread asks for it".to_owned())
    }

    fn mmio(&mut self, i: usize, thread: u32, sptep: u64, gfn: u64) {
        let sptep = sptep.wrapping_sub(self.offset);
        // What it holds is the slots' business; in 5.10 kvm_mmu_set_spte says it again.
        if let Some(ops) = self.sptes.get_mut(&sptep) {
            let op = op_of(self.threads, i, thread);
            ops.push(Op { gfn, does: Does::Zap, ..op });
        }
    }

    fn op(&self, i: usize, thread: u32) -> Op {
        op_of(self.threads, i, thread)
    }
}

/// A fault, at its beginning.
fn handled(event: usize, address: u64, error: ErrorCode) -> Handled {
    Handled { event, page: address >> 12, error, links: false, mapped: false }
}

/// An event without a step yet.
fn op_of(threads: &Threads, i: usize, thread: u32) -> Op {
    Op {
        event: i,
        thread,
        opens: threads.before(i),
        at: i as Pos + 1,
        closes: threads.after(i),
        gfn: 0,
        does: Does::Zap,
        seen: None,
        goes_slow: false,
    }
}

/// A fast fault is about this fault. With paging off in the guest, 5.10 passes on the page alone.
fn same(fast: &FastFault, address: u64, error: ErrorCode) -> bool {
    fast.address >> 12 == address >> 12 && fast.error.0 as u32 == error.0 as u32
}

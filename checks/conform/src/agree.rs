//! Whether the fields of a trace go together: those of the header, and each event with the header
//! and with the events before it.
//!
//! Guarantee: what contradicts itself is refused with the name of a field, and never judged: a
//! verdict on it would be one on nothing that happened.

use std::collections::HashMap;

use crate::event::{Number, Phase};
use crate::kernel::series;
use crate::line::{Header, Line, Slot};
use crate::ranges::{FRAMES, PAGES_MAX, SLOT_MAX, USER};

/// `KVM_MAX_VCPUS`.
const VCPUS_MAX: u32 = 1024;

/// Checks a header. `Err` names the field.
pub fn header(header: &Header) -> Result<(), String> {
    if !(1..=VCPUS_MAX).contains(&header.vcpus) {
        return Err(format!("\"vcpus\" is {}, not from 1 to {VCPUS_MAX}", header.vcpus));
    }
    for (field, value) in [("npt", header.mode.npt), ("tdp_mmu", header.mode.tdp_mmu)] {
        match value {
            Some(0 | 1) => {}
            Some(value) => return Err(format!("\"mode.{field}\" is {value}, not 0 or 1")),
            None => return Err(format!("\"mode.{field}\" is missing")),
        }
    }
    if let Some(release) = header.release.as_deref()
        && series(release) != series(&header.kernel)
    {
        let kernel = &header.kernel;
        return Err(format!("\"release\" is '{release}', but \"kernel\" is '{kernel}'"));
    }
    for (i, one) in header.slots.iter().enumerate() {
        let named = |(field, why): (&str, String)| format!("\"slots[{i}].{field}\" {why}");
        slot(one).map_err(named)?;
        header.slots[..i].iter().try_for_each(|other| apart(one, other)).map_err(named)?;
    }
    Ok(())
}

/// What is wrong with a slot: the field, and why.
type Wrong = (&'static str, String);

fn slot(slot: &Slot) -> Result<(), Wrong> {
    let Slot { slot: number, base_gfn: Number(base), pages, hva, .. } = *slot;
    if u64::from(number) > SLOT_MAX {
        return Err(("slot", format!("is {number}, and no slot has a number above {SLOT_MAX}")));
    }
    if !(1..=PAGES_MAX).contains(&pages) {
        return Err(("pages", format!("is {pages}, not from 1 to {PAGES_MAX}")));
    }
    if base > FRAMES - pages {
        return Err(("base_gfn", format!("is {base:#x}: {pages} frames from there do not exist")));
    }
    match hva {
        Some(Number(at)) if at % 0x1000 != 0 => {
            Err(("hva", format!("is {at:#x}, where no page begins")))
        }
        Some(Number(at)) if at > USER - (pages << 12) => {
            Err(("hva", format!("is {at:#x}: no process has {pages} pages from there")))
        }
        _ => Ok(()),
    }
}

/// Two slots have different numbers and no frame in common.
fn apart(slot: &Slot, other: &Slot) -> Result<(), Wrong> {
    if slot.slot == other.slot {
        return Err(("slot", format!("is {}, as that of another one", slot.slot)));
    }
    let (base, others) = (slot.base_gfn.0, other.base_gfn.0);
    if base < others + other.pages && others < base + slot.pages {
        return Err(("base_gfn", format!("is {base:#x}: slot {} has frames of it", other.slot)));
    }
    Ok(())
}

/// What was refused, and what to try.
pub type Refusal = (String, &'static str);

const LOST: &str = "record it again with a larger trace buffer or a shorter run: nothing can be \
                    said of a trace with holes";
const ORDER: &str = "\"n\" must grow: sort the events by the trace clock";
/// What to try where fields contradict each other.
pub const FIELDS: &str = "docs/conformance.md says what each field may be; record the trace \
                          again with 'kvmmu-live --trace FILE'";

/// What the events so far have said.
#[derive(Debug)]
pub struct Agreement {
    vcpus: u32,
    /// How many pages each slot has had at most. `None`: the header has no slots.
    slots: Option<HashMap<u32, u64>>,
    /// The last number and its line. `None` before the first event; `Some(None)`: no numbers.
    numbered: Option<Option<u64>>,
    /// Events name their threads by `pid`.
    by_pid: Option<bool>,
    /// The thread of each vCPU, the vCPU of each thread, and the line that says so.
    threads: HashMap<u32, (u32, u32)>,
    vcpu_of: HashMap<u32, (u32, u32)>,
    /// System calls that have begun, by thread and name.
    calls: HashMap<(u32, String), Vec<Call>>,
}

/// The fields of a system call that its two events share.
#[derive(Clone, Copy, Debug)]
struct Call {
    line: u32,
    slot: Option<u64>,
    first: Option<u64>,
    pages: Option<u64>,
}

impl Agreement {
    /// Before the first event.
    pub fn new(header: &Header) -> Agreement {
        let slots = header.slots.iter().map(|s| (s.slot, s.pages)).collect();
        Agreement {
            vcpus: header.vcpus,
            slots: (!header.slots.is_empty()).then_some(slots),
            numbered: None,
            by_pid: None,
            threads: HashMap::new(),
            vcpu_of: HashMap::new(),
            calls: HashMap::new(),
        }
    }

    /// The numbers of the events have no hole, and all events name threads in one way.
    ///
    /// # Errors
    ///
    /// A number that is missing is an event that was lost.
    pub fn order(&mut self, n: Option<u64>, has_pid: bool) -> Result<(), Refusal> {
        let refuse = |message: String| Err((message, FIELDS));
        if *self.by_pid.get_or_insert(has_pid) != has_pid {
            let which = if has_pid { "no event before has one" } else { "other events have one" };
            return refuse(format!("\"pid\" is {}, but {which}", given(has_pid)));
        }
        match (self.numbered.replace(n), n) {
            (None | Some(None), None) => Ok(()),
            (None, Some(0)) => Ok(()),
            (None, Some(n)) => Err((format!("\"n\" begins at {n}: {n} events were lost"), LOST)),
            (Some(Some(last)), Some(n)) if n <= last => {
                Err((format!("event {n} after event {last}"), ORDER))
            }
            (Some(Some(last)), Some(n)) if n - last > 1 => {
                let lost = n - last - 1;
                Err((format!("\"n\" is {n} after {last}: {lost} events were lost"), LOST))
            }
            (Some(Some(_)), Some(_)) => Ok(()),
            (Some(Some(_)), None) => refuse("\"n\" is missing, but other events have it".into()),
            (Some(None), Some(_)) => refuse("\"n\" is given, but no event before has it".into()),
        }
    }

    /// A vCPU is one that the header has, and of one thread only.
    ///
    /// # Errors
    ///
    /// An event of another vCPU than its thread's.
    pub fn vcpu(&mut self, vcpu: u32, pid: Option<u32>, line: u32) -> Result<(), Refusal> {
        let refuse = |message: String| Err((message, FIELDS));
        if vcpu >= self.vcpus {
            let vcpus = self.vcpus;
            return refuse(format!(
                "\"vcpu_id\" is {vcpu}, but \"vcpus\" of the header is {vcpus}"
            ));
        }
        // A CPU may run one vCPU after another.
        let Some(pid) = pid else { return Ok(()) };
        let (known, since) = *self.vcpu_of.entry(pid).or_insert((vcpu, line));
        if known != vcpu {
            return refuse(format!(
                "\"vcpu_id\" is {vcpu}, but \"pid\" {pid} is vCPU {known} at line {since}"
            ));
        }
        let (thread, since) = *self.threads.entry(vcpu).or_insert((pid, line));
        if thread != pid {
            return refuse(format!(
                "\"vcpu_id\" is {vcpu}, but \"pid\" is {pid}, and {thread} at line {since}"
            ));
        }
        Ok(())
    }

    /// A call of user space is about a slot that there is, and ends as it began.
    ///
    /// # Errors
    ///
    /// A slot that does not exist; more dirty pages than it has; an exit of another call.
    pub(crate) fn user(&mut self, user: &Line, thread: u32, line: u32) -> Result<(), Refusal> {
        self.exists(user).map_err(|message| (message, FIELDS))?;
        let first = user.first_gfn.or(user.base_gfn).map(|n| n.0);
        let call = Call { line, slot: user.slot.map(u64::from), first, pages: user.pages };
        let key = (thread, user.op.clone().unwrap_or_default());
        match user.phase {
            Some(Phase::Enter) => self.calls.entry(key).or_default().push(call),
            Some(Phase::Exit) => {
                if let Some(begun) = self.calls.get_mut(&key).and_then(Vec::pop) {
                    same(begun, call).map_err(|message| (message, FIELDS))?;
                }
            }
            Some(Phase::At) => {}
            None => return Err(("a user event without \"phase\"".to_owned(), FIELDS)),
        }
        Ok(())
    }

    fn exists(&mut self, user: &Line) -> Result<(), String> {
        let (Some(op), Some(slot)) = (user.op.as_deref(), user.slot) else { return Ok(()) };
        let Some(slots) = &mut self.slots else { return Ok(()) };
        let pages = user.pages.unwrap_or(0);
        match op {
            "set-memslot" if user.pages.is_none() || pages > 0 => {
                let had = slots.entry(slot).or_insert(pages);
                *had = pages.max(*had);
                Ok(())
            }
            "set-memslot" | "set-memslot-flags" | "get-dirty-log" | "clear-dirty-log" => {
                let Some(pages) = slots.get(&slot) else {
                    let why = "but the header has no such slot, and no set-memslot made it";
                    return Err(format!("\"slot\" is {slot}, {why}"));
                };
                match user.dirty {
                    Some(dirty) if dirty > *pages => {
                        Err(format!("\"dirty\" is {dirty}, but slot {slot} has {pages} pages"))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

/// An exit says what its enter said, as far as both say it.
fn same(begun: Call, ends: Call) -> Result<(), String> {
    let fields = [
        ("slot", begun.slot, ends.slot),
        ("first_gfn\" or \"base_gfn", begun.first, ends.first),
        ("pages", begun.pages, ends.pages),
    ];
    for (field, before, now) in fields {
        if let (Some(before), Some(now)) = (before, now)
            && before != now
        {
            let line = begun.line;
            return Err(format!(
                "\"{field}\" is {now}, but {before} where the call began, line {line}"
            ));
        }
    }
    Ok(())
}

fn given(is: bool) -> &'static str {
    if is { "given" } else { "missing" }
}

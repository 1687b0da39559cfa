//! When which unobserved steps may happen: between the events that begin and end their causes.
//!
//! Guarantee: write protection for the dirty log, aging and the host's taking pages back explain a
//! value only while something that does that is under way, and only for the frames that it is
//! about; one fetch of the log takes W from an SPTE once.

use std::collections::HashMap;

use crate::event::{END, Event, Phase, Pos, Range, User, What};
use crate::line::Header;
use crate::threads::Threads;

/// Which unobserved steps are possible.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Allowed {
    /// W is cleared for the dirty log.
    pub write_protect: bool,
    /// A is cleared.
    pub age: bool,
    /// The SPTE is dropped.
    pub zap: bool,
}

/// A time in which something may happen: both ends are excluded.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: Pos,
    to: Pos,
    gfns: (u64, u64),
}

/// The windows of one kind, by their beginning.
#[derive(Clone, Default, Debug)]
struct Kind {
    windows: Vec<Window>,
    /// The latest end of the windows up to each.
    latest: Vec<Pos>,
}

impl Kind {
    fn sort(&mut self) {
        self.windows.sort_by_key(|w| w.from);
        let mut latest = 0;
        for window in &self.windows {
            latest = latest.max(window.to);
            self.latest.push(latest);
        }
    }

    /// True if a window about `gfn` and the time from `from` to `to` have something in common.
    fn any(&self, from: Pos, to: Pos, gfn: u64) -> bool {
        let begun = self.windows.partition_point(|w| w.from < to);
        let mut i = begun;
        while i > 0 && self.latest[i - 1] > from {
            i -= 1;
            let w = self.windows[i];
            if w.to > from && (w.gfns.0..=w.gfns.1).contains(&gfn) {
                return true;
            }
        }
        false
    }
}

/// Every window of a trace.
#[derive(Clone, Default, Debug)]
pub struct Windows {
    write_protect: Kind,
    age: Kind,
    zap: Kind,
    harvests: Vec<Harvest>,
    /// The frames of the slots that user space has made.
    made: HashMap<u32, (u64, u64)>,
    logged: Vec<Logged>,
    /// Somebody takes the log of a logged slot by `KVM_CLEAR_DIRTY_LOG`.
    cleared: Option<usize>,
    /// The trace has the notifiers' events: nothing else takes pages back.
    has_unmaps: bool,
}

/// A slot that is logged from the beginning.
#[derive(Clone, Copy, Debug)]
pub struct Logged {
    /// Its number.
    pub slot: u32,
    /// Its frames, the last included.
    pub gfns: (u64, u64),
    /// Up to here: [`END`], or where user space begins to change the slot.
    pub until: Pos,
}

/// One `KVM_GET_DIRTY_LOG` or `KVM_CLEAR_DIRTY_LOG`: it takes W from an SPTE at most once, because
/// it takes each word of the bitmap once.
#[derive(Clone, Copy, Debug)]
pub struct Harvest {
    /// It takes W from whatever it finds writable: the log of a slot that is logged is fetched
    /// and cleared at once.
    pub must: bool,
    /// Who does it.
    pub thread: u32,
    /// Between these two places.
    pub from: Pos,
    /// See `from`.
    pub to: Pos,
    /// The frames of the slot, the last included.
    pub gfns: (u64, u64),
}

/// Every frame.
pub const ALL: (u64, u64) = (0, u64::MAX);

impl Windows {
    /// The windows of a trace, and the user events that end what did not begin, begin what has not
    /// ended, or whose end is missing.
    pub fn of(
        header: &Header,
        events: &[Event],
        threads: &Threads,
    ) -> (Windows, Vec<(usize, &'static str)>) {
        let logged = logged(header, events);
        let clears = |e: &Event| match &e.what {
            What::User(user) if user.op == "clear-dirty-log" => {
                user.slot.is_none_or(|slot| logged.iter().any(|l| l.slot == slot))
            }
            _ => false,
        };
        let cleared = events.iter().position(clears);
        let has_unmaps = events.iter().any(|e| matches!(e.what, What::Unmap(_)));
        let mut windows = Windows { logged, cleared, has_unmaps, ..Windows::default() };
        let mut open: HashMap<(u32, String), Vec<(Pos, User)>> = HashMap::new();
        let mut unpaired = Vec::new();
        for (i, event) in events.iter().enumerate() {
            let at = i as Pos + 1;
            for ((thread, op), begun) in &mut open {
                if *thread == event.thread && has_returned(op, &event.what) {
                    for (from, user) in begun.drain(..) {
                        unpaired.push((from as usize - 1, NO_EXIT));
                        windows.add(header, &user, event.thread, (from, at));
                    }
                }
            }
            match &event.what {
                What::Age(range) => {
                    let gfns = gfns(header, *range);
                    let (from, to) = (threads.before(i), threads.after(i));
                    windows.age.windows.push(Window { from, to, gfns });
                }
                What::Unmap(range) => {
                    let gfns = gfns(header, *range);
                    windows.zap.windows.push(Window { from: at, to: threads.after(i), gfns });
                }
                What::User(user) => {
                    let key = (event.thread, user.op.clone());
                    match user.phase {
                        Phase::Enter => {
                            open.entry(key).or_default().push((at, user.clone()));
                        }
                        Phase::At => {}
                        Phase::Exit => match open.get_mut(&key).and_then(Vec::pop) {
                            Some((from, begun)) => {
                                windows.add(header, &begun, event.thread, (from, at));
                            }
                            None if effects(&user.op).unwrap_or_default() == Allowed::default() => {
                            }
                            None => unpaired.push((i, NO_ENTER)),
                        },
                    }
                }
                _ => {}
            }
        }
        for ((thread, _), begun) in open {
            for (from, user) in begun {
                windows.add(header, &user, thread, (from, END));
            }
        }
        windows.harvests.sort_by_key(|h| (h.from, h.to));
        for kind in [&mut windows.write_protect, &mut windows.age, &mut windows.zap] {
            kind.sort();
        }
        (windows, unpaired)
    }

    /// What a system call of a thread may do between its two events.
    fn add(&mut self, header: &Header, user: &User, thread: u32, (from, to): (Pos, Pos)) {
        let effects = effects(&user.op).unwrap_or_default();
        let gfns = self.frames(header, user);
        let window = Window { from, to, gfns };
        match user.op.as_str() {
            "get-dirty-log" | "clear-dirty-log" => {
                let must = user.op == "get-dirty-log" && to != END && self.takes_all(user, to);
                self.harvests.push(Harvest { must, thread, from, to, gfns });
            }
            _ if effects.write_protect => self.write_protect.windows.push(window),
            _ => {}
        }
        if effects.age {
            self.age.windows.push(window);
        }
        if effects.zap && (effects.write_protect || !self.has_unmaps) {
            self.zap.windows.push(window);
        }
    }

    /// The frames that a call is about: all if nothing says which. A call that changes a slot is
    /// about the frames that it had, too.
    fn frames(&mut self, header: &Header, user: &User) -> (u64, u64) {
        let made = user.slot.and_then(|slot| self.made.get(&slot).copied());
        let had = made.or_else(|| slot_gfns(header, user.slot?));
        let (Some(slot), "set-memslot") = (user.slot, user.op.as_str()) else {
            return user.gfns.or(had).unwrap_or(ALL);
        };
        let has = user.gfns.or(had).unwrap_or(ALL);
        self.made.insert(slot, has);
        had.map_or(has, |had| (had.0.min(has.0), had.1.max(has.1)))
    }

    /// A `KVM_GET_DIRTY_LOG` that ends at `to` gives the log and takes it away at once: its slot is
    /// logged until then, and no call takes logs by `KVM_CLEAR_DIRTY_LOG`, for which
    /// `KVM_GET_DIRTY_LOG` would leave them, in every slot of the VM.
    fn takes_all(&self, user: &User, to: Pos) -> bool {
        let is_logged = |l: &Logged| user.slot == Some(l.slot) && to < l.until;
        self.cleared.is_none() && self.logged.iter().any(is_logged)
    }

    /// The frame is in a slot that is logged from the beginning up to event `i`.
    pub fn is_logged(&self, gfn: u64, i: usize) -> bool {
        let is = |l: &Logged| (l.gfns.0..=l.gfns.1).contains(&gfn) && (i as Pos) < l.until;
        self.logged.iter().any(is)
    }

    /// The slots that are logged from the beginning.
    pub fn logged(&self) -> &[Logged] {
        &self.logged
    }

    /// The first `KVM_CLEAR_DIRTY_LOG` of a logged slot.
    pub fn cleared(&self) -> Option<usize> {
        self.cleared
    }

    /// The trace has the notifiers' events: nothing else takes pages back.
    pub fn has_unmaps(&self) -> bool {
        self.has_unmaps
    }

    /// Every call that fetches or clears a log, by its beginning.
    pub fn harvests(&self) -> &[Harvest] {
        &self.harvests
    }

    /// What may happen to the SPTE of `gfn` between two places in the trace.
    pub fn during(&self, from: Pos, to: Pos, gfn: u64) -> Allowed {
        Allowed {
            write_protect: self.write_protect.any(from, to, gfn),
            age: self.age.any(from, to, gfn),
            zap: self.zap.any(from, to, gfn),
        }
    }
}

/// What something that the recorder names may do to SPTEs, if anything is known of it.
pub fn effects(op: &str) -> Option<Allowed> {
    let none = Allowed::default();
    Some(match op {
        "get-dirty-log" | "clear-dirty-log" | "reset-dirty-rings" => {
            Allowed { write_protect: true, ..none }
        }
        // Logging on: W is cleared. Logging off: what could be a large page is dropped.
        "set-memslot" | "set-memslot-flags" => Allowed { write_protect: true, zap: true, ..none },
        // The host takes pages back, replaces them, or makes them read-only; where the trace has
        // the notifiers' events, those say when.
        "madvise" | "munmap" | "mmap" | "mremap" | "mprotect" | "fork" | "ksm" | "swap-out"
        | "host-write" | "migrate-pages" | "reclaim" => Allowed { age: true, zap: true, ..none },
        "age" => Allowed { age: true, ..none },
        // Phases of the recorder.
        "run" | "stop" | "slots" | "relog" => none,
        _ => return None,
    })
}

const NO_ENTER: &str = "it ends what did not begin";
const NO_EXIT: &str = "it has no exit, but its thread goes on in user space or in the guest";

/// True if a thread that does `what` is not in the system call `op` any more: user space writes
/// its markers itself, and runs guests by another call. Other events may come out of the call.
fn has_returned(op: &str, what: &What) -> bool {
    if effects(op).unwrap_or_default() == Allowed::default() {
        return false;
    }
    match what {
        What::User(user) => !(user.op == op && user.phase == Phase::Exit),
        What::Fault { .. } | What::FastFault(_) => true,
        _ => false,
    }
}

/// The slots that are logged from the beginning, and for how long.
fn logged(header: &Header, events: &[Event]) -> Vec<Logged> {
    let changes = |event: &Event, number: u32| match &event.what {
        What::User(user) => {
            matches!(user.op.as_str(), "set-memslot" | "set-memslot-flags")
                && user.slot.is_none_or(|slot| slot == number)
        }
        _ => false,
    };
    let logged = header.slots.iter().filter(|s| s.log).map(|s| {
        let change = events.iter().position(|event| changes(event, s.slot));
        let until = change.map_or(END, |i| i as Pos + 1);
        Some(Logged { slot: s.slot, gfns: slot_gfns(header, s.slot)?, until })
    });
    logged.flatten().collect()
}

/// The frames of a slot.
fn slot_gfns(header: &Header, number: u32) -> Option<(u64, u64)> {
    let slot = header.slots.iter().find(|s| s.slot == number)?;
    let last = slot.base_gfn.0.saturating_add(slot.pages.max(1) - 1);
    Some((slot.base_gfn.0, last))
}

/// The frames of a range, the last included: all of them if the trace does not say where slots are.
pub fn gfns(header: &Header, range: Range) -> (u64, u64) {
    let (start, end) = match range {
        Range::Gfns(first, last) => return (first, last),
        Range::Hvas(start, end) => (start, end),
    };
    let mut found: Option<(u64, u64)> = None;
    for slot in &header.slots {
        let Some(hva) = slot.hva.map(|n| n.0) else { return ALL };
        let (low, high) = (start.max(hva), end.min(hva + (slot.pages << 12)));
        if low < high {
            let first = slot.base_gfn.0 + ((low - hva) >> 12);
            let last = slot.base_gfn.0 + ((high - 1 - hva) >> 12);
            found = Some(found.map_or((first, last), |(a, b)| (a.min(first), b.max(last))));
        }
    }
    match found {
        None if header.slots.is_empty() => ALL,
        // Nothing of the guest: no frame has this number.
        None => (u64::MAX, u64::MAX),
        Some(gfns) => gfns,
    }
}

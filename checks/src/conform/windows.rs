//! When which unobserved steps may happen: between the events that begin and end their causes.
//!
//! Guarantee: write protection for the dirty log, aging and the host's taking pages back explain a
//! value only while something that does that is under way, and only for the frames that it is
//! about.

use std::collections::HashMap;

use super::event::{END, Event, Phase, Pos, Range, User, What};
use super::file::Header;
use super::threads::Threads;

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
    /// The slots that are logged all the time, and their frames.
    logged: Vec<(u32, (u64, u64))>,
    /// The trace has the notifiers' events: nothing else takes pages back.
    has_unmaps: bool,
}

/// One `KVM_GET_DIRTY_LOG` of a slot that is logged all the time.
#[derive(Clone, Copy, Debug)]
pub struct Harvest {
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
    /// The windows of a trace, and the user events that end what did not begin or begin what has
    /// not ended.
    pub fn of(header: &Header, events: &[Event], threads: &Threads) -> (Windows, Vec<usize>) {
        let does = |op, slot| events.iter().any(|e| is_user(e, op, slot));
        let changes =
            |slot| does("set-memslot", Some(slot)) || does("set-memslot-flags", Some(slot));
        let logged = header.slots.iter().filter(|s| s.log && !changes(s.slot));
        let logged = logged.filter_map(|s| Some((s.slot, slot_gfns(header, s.slot)?))).collect();
        let has_unmaps = events.iter().any(|e| matches!(e.what, What::Unmap(_)));
        let mut windows = Windows { logged, has_unmaps, ..Windows::default() };
        let mut open: HashMap<(u32, String), Vec<(Pos, User)>> = HashMap::new();
        let mut unpaired = Vec::new();
        for (i, event) in events.iter().enumerate() {
            let at = i as Pos + 1;
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
                            let begun = open.entry(key).or_default();
                            if !begun.is_empty() {
                                unpaired.push(i);
                            }
                            begun.push((at, user.clone()));
                        }
                        Phase::At => {}
                        Phase::Exit => match open.get_mut(&key).and_then(Vec::pop) {
                            Some((from, begun)) => {
                                windows.add(header, &begun, from, at);
                                windows.harvest(&begun, event.thread, from, at);
                            }
                            None if effects(&user.op).unwrap_or_default() == Allowed::default() => {
                            }
                            None => unpaired.push(i),
                        },
                    }
                }
                _ => {}
            }
        }
        if does("clear-dirty-log", None) {
            windows.harvests.clear();
        }
        windows.harvests.sort_by_key(|h| h.from);
        for (from, begun) in open.into_values().flatten() {
            windows.add(header, &begun, from, END);
        }
        for kind in [&mut windows.write_protect, &mut windows.age, &mut windows.zap] {
            kind.sort();
        }
        (windows, unpaired)
    }

    /// What a system call may do between its two events.
    fn add(&mut self, header: &Header, user: &User, from: Pos, to: Pos) {
        let effects = effects(&user.op).unwrap_or_default();
        let slot = || user.slot.and_then(|number| slot_gfns(header, number));
        let gfns = user.gfns.or_else(slot).unwrap_or(ALL);
        let window = Window { from, to, gfns };
        if effects.write_protect {
            self.write_protect.windows.push(window);
        }
        if effects.age {
            self.age.windows.push(window);
        }
        if effects.zap && (effects.write_protect || !self.has_unmaps) {
            self.zap.windows.push(window);
        }
    }

    /// `KVM_GET_DIRTY_LOG`, where it takes the log away as it gives it: nobody clears it by
    /// `KVM_CLEAR_DIRTY_LOG` then.
    fn harvest(&mut self, user: &User, thread: u32, from: Pos, to: Pos) {
        let slot = self.logged.iter().find(|(slot, _)| user.slot == Some(*slot));
        if let (Some((_, gfns)), "get-dirty-log") = (slot, user.op.as_str()) {
            self.harvests.push(Harvest { thread, from, to, gfns: *gfns });
        }
    }

    /// The frame is in a slot that is logged all the time.
    pub fn is_logged(&self, gfn: u64) -> bool {
        self.logged.iter().any(|(_, (first, last))| (*first..=*last).contains(&gfn))
    }

    /// The trace has the notifiers' events: nothing else takes pages back.
    pub fn has_unmaps(&self) -> bool {
        self.has_unmaps
    }

    /// The harvests that must write-protect what they find writable.
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

/// User space does this, with this slot.
fn is_user(event: &Event, op: &str, slot: Option<u32>) -> bool {
    matches!(&event.what, What::User(u) if u.op == op && (slot.is_none() || u.slot == slot))
}

/// The frames of a slot.
fn slot_gfns(header: &Header, number: u32) -> Option<(u64, u64)> {
    let slot = header.slots.iter().find(|s| s.slot == number)?;
    Some((slot.base_gfn.0, slot.base_gfn.0 + slot.pages.max(1) - 1))
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

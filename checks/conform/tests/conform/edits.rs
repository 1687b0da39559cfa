//! Goal: a trace that somebody edited is refused. Method: the recorded traces, each edit at many
//! random places; per kind of edit every one must be refused, and none may panic. Edits that no
//! checker can see are not made: a fault that is left out with all its events, when nobody saw what
//! it did, is a run in which it did not happen.

use std::rc::Rc;

use serde_json::{Value, json};

use crate::common::judge_text;
use crate::recorded::TRACES;

/// A trace as JSON.
#[derive(Clone)]
struct Trace {
    header: Value,
    events: Vec<Rc<Value>>,
}

/// Of one kernel: H, M and the values of `RET_PF_*`.
#[derive(Clone, Copy)]
struct Bits {
    mmu: u64,
    fixed: i64,
    spurious: i64,
}

const W: u64 = 1 << 1;
const AD: u64 = 1 << 5 | 1 << 6;

impl Trace {
    fn of(text: &str) -> Trace {
        let mut lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
        lines.pop();
        let header = lines.remove(0);
        Trace { header, events: lines.into_iter().map(Rc::new).collect() }
    }

    fn bits(&self) -> Bits {
        match self.header["format"].as_str() {
            Some("npt-v5.10") => Bits { mmu: 1 << 11, fixed: 3, spurious: 4 },
            _ => Bits { mmu: 1 << 10, fixed: 4, spurious: 5 },
        }
    }

    /// The text, numbered anew: that a number is missing must not be what tells.
    fn text(&self) -> String {
        let mut text = format!("{}\n", self.header);
        for (n, event) in self.events.iter().enumerate() {
            let mut event = Value::clone(event);
            event["n"] = json!(n);
            text += &format!("{event}\n");
        }
        text + &format!("{}\n", json!({"event": "end", "events": self.events.len(), "lost": 0}))
    }

    fn is(&self, i: usize, name: &str) -> bool {
        self.events[i]["event"] == name
    }

    fn hex(&self, i: usize, field: &str) -> u64 {
        let text = self.events[i][field].as_str().and_then(|t| t.strip_prefix("0x"));
        text.map_or(0, |digits| u64::from_str_radix(digits, 16).expect("it is hexadecimal"))
    }

    fn put(&mut self, i: usize, field: &str, value: u64) {
        Rc::make_mut(&mut self.events[i])[field] = json!(format!("{value:#x}"));
    }

    fn returns(&mut self, i: usize, ret: i64) {
        Rc::make_mut(&mut self.events[i])["ret"] = json!(ret);
    }

    fn is_fixed(&self, i: usize) -> bool {
        self.is(i, "fast_page_fault") && self.events[i]["ret"] == self.bits().fixed
    }

    /// The next event of the thread of event `i`.
    fn next(&self, i: usize) -> Option<usize> {
        (i + 1..self.events.len()).find(|j| self.events[*j]["pid"] == self.events[i]["pid"])
    }

    /// Somebody sees what event `i` sets before anybody sets it again.
    fn is_seen(&self, i: usize) -> bool {
        let gfn = self.hex(i, "gfn");
        let about = |j: &usize| {
            self.is(*j, "kvm_mmu_set_spte") && self.hex(*j, "gfn") == gfn
                || self.is(*j, "fast_page_fault") && self.hex(*j, "cr2_or_gpa") >> 12 == gfn
        };
        let next = (i + 1..self.events.len()).find(about);
        next.is_some_and(|j| self.is(j, "fast_page_fault") && self.hex(j, "old_spte") != 0)
    }

    /// The frame is in a slot that is logged: neighbours are not mapped there.
    fn is_logged(&self, gfn: u64) -> bool {
        gfn >= 0x200
    }

    fn user(&self, i: usize, op: &str) -> bool {
        self.is(i, "user") && self.events[i]["op"] == op
    }

    /// User space harvests, or may, in the time in which the step of event `i` happened.
    fn harvest_near(&self, i: usize) -> bool {
        let pid = &self.events[i]["pid"];
        let from = (0..i).rev().find(|j| self.events[*j]["pid"] == *pid).unwrap_or(0);
        let to = self.next(i).unwrap_or(self.events.len());
        let harvest =
            |j: &usize, phase| self.user(*j, "get-dirty-log") && self.events[*j]["phase"] == phase;
        let count = |phase| (0..from).filter(|j| harvest(j, phase)).count();
        count("enter") != count("exit") || (from..to).any(|j| self.is(j, "user"))
    }
}

/// An edit at event `i`, if it can be made there.
type Edit = fn(&Trace, usize, u64) -> Option<Trace>;

const EDITS: &[(&str, Edit)] = &[
    ("W without M", |t, i, _| {
        let field = if t.is(i, "kvm_mmu_set_spte") { "spte" } else { "new_spte" };
        let value = t.hex(i, field);
        let mut edited = t.clone();
        edited.put(i, field, value & !t.bits().mmu);
        (value & W != 0).then_some(edited)
    }),
    ("lost: fast_page_fault", |t, i, _| {
        (t.is(i, "fast_page_fault") && t.next(i).is_some()).then(|| without(t, i))
    }),
    ("lost: kvm_page_fault", |t, i, _| {
        let fault =
            t.is(i, "kvm_page_fault") && t.next(i).is_some_and(|j| t.is(j, "fast_page_fault"));
        fault.then(|| without(t, i))
    }),
    ("lost: kvm_mmu_set_spte", |t, i, _| {
        (t.is(i, "kvm_mmu_set_spte") && t.is_seen(i) && t.is_first_of_its_frame(i))
            .then(|| without(t, i))
    }),
    ("lost: kvm_mmu_get_page", |t, i, _| {
        let leaf = t.hex(i, "role") & 0xf == 1;
        (t.is(i, "kvm_mmu_get_page") && leaf).then(|| without(t, i))
    }),
    ("lost: kvm_mmu_prepare_zap_page", |t, i, _| {
        // A root is zapped twice; what is zapped last is missed by nobody.
        let zap = t.is(i, "kvm_mmu_prepare_zap_page") && t.hex(i, "role") & 1 << 11 == 0;
        let ends = (i..t.events.len()).any(|j| t.user(j, "set-memslot"));
        (zap && ends).then(|| without(t, i))
    }),
    ("lost: one end of a harvest", |t, i, _| {
        let last = (i + 1..t.events.len()).all(|j| !t.user(j, "get-dirty-log"));
        (t.user(i, "get-dirty-log") && !last).then(|| without(t, i))
    }),
    ("swapped: a fault and its fast fault", |t, i, _| {
        let j = t.next(i)?;
        (t.is(i, "kvm_page_fault") && t.is(j, "fast_page_fault")).then(|| swapped(t, i, j))
    }),
    ("swapped: a fault and its new SPTE", |t, i, _| {
        let j = t.next(i)?;
        let pair = t.is(i, "kvm_page_fault") && t.is(j, "kvm_mmu_set_spte");
        // The fault before may be a retry of this one.
        let before = (0..i)
            .rev()
            .find(|k| t.is(*k, "kvm_page_fault") && t.events[*k]["pid"] == t.events[i]["pid"])?;
        let page = |k: usize| t.hex(k, "fault_address") >> 12;
        (pair && t.is_logged(page(i)) && page(before) != page(i)).then(|| swapped(t, i, j))
    }),
    ("swapped: SPTE set and repaired", |t, i, _| {
        // By one thread: the order of two threads' events is not that of their steps.
        let j = (i + 1..t.events.len()).find(|j| {
            t.is(*j, "fast_page_fault") && t.hex(*j, "cr2_or_gpa") >> 12 == t.hex(i, "gfn")
        })?;
        let same = t.events[i]["pid"] == t.events[j]["pid"];
        (t.is(i, "kvm_mmu_set_spte") && same && t.is_first_of_its_frame(i))
            .then(|| swapped(t, i, j))
    }),
    ("an extra bit", |t, i, random| {
        let new = t.hex(i, "new_spte");
        let bit = 1 << (random % 64);
        let mut edited = t.clone();
        edited.put(i, "new_spte", new | bit);
        (t.is_fixed(i) && (new | AD) & bit == 0).then_some(edited)
    }),
    ("fixed, though W was set", |t, i, _| {
        let mut edited = t.clone();
        edited.put(i, "old_spte", t.hex(i, "new_spte") | W);
        (t.is_fixed(i)).then_some(edited)
    }),
    ("fixed, but W is not set then", |t, i, _| {
        let mut edited = t.clone();
        edited.put(i, "new_spte", t.hex(i, "old_spte"));
        (t.is_fixed(i) && !t.harvest_near(i)).then_some(edited)
    }),
    ("W is back without a fast fault", |t, i, _| {
        let mut edited = t.clone();
        edited.put(i, "old_spte", t.hex(i, "old_spte") | W);
        edited.put(i, "new_spte", t.hex(i, "old_spte") | W);
        edited.returns(i, t.bits().spurious);
        (t.is_fixed(i) && t.was_clear(i)).then_some(edited)
    }),
    ("spurious, though W was clear", |t, i, _| {
        let mut edited = t.clone();
        edited.returns(i, t.bits().spurious);
        t.is_fixed(i).then_some(edited)
    }),
    ("a miss of what was just repaired", |t, i, _| {
        let mut miss = json!({"event": "kvm_page_fault", "error_code": "0x4"});
        miss["pid"] = t.events[i]["pid"].clone();
        miss["fault_address"] = t.events[i]["cr2_or_gpa"].clone();
        let mut edited = t.clone();
        edited.events.insert(i + 1, Rc::new(miss));
        (t.is_fixed(i) && t.stays(i)).then_some(edited)
    }),
    ("another frame", |t, i, random| {
        let mut edited = t.clone();
        edited.put(i, "gfn", t.hex(i, "gfn") ^ 1 << (random % 9));
        t.is(i, "kvm_mmu_set_spte").then_some(edited)
    }),
    ("another page", |t, i, random| {
        let mut edited = t.clone();
        edited.put(i, "old_spte", t.hex(i, "old_spte") ^ 0x1000 << (random % 8));
        t.is(i, "fast_page_fault").then_some(edited)
    }),
];

fn without(t: &Trace, i: usize) -> Trace {
    let mut edited = t.clone();
    edited.events.remove(i);
    edited
}

fn swapped(t: &Trace, i: usize, j: usize) -> Trace {
    let mut edited = t.clone();
    edited.events.swap(i, j);
    edited
}

impl Trace {
    /// No event before `i` sets the SPTE of the same frame.
    fn is_first_of_its_frame(&self, i: usize) -> bool {
        let gfn = self.hex(i, "gfn");
        (0..i).all(|j| !self.is(j, "kvm_mmu_set_spte") || self.hex(j, "gfn") != gfn)
    }

    /// Nothing is dropped right after event `i`, and no upper page was zapped before it.
    fn stays(&self, i: usize) -> bool {
        let drops = |j: usize| {
            let unmaps = self.is(j, "kvm_unmap_hva_range") || self.user(j, "set-memslot");
            let upper = self.is(j, "kvm_mmu_prepare_zap_page") && self.hex(j, "role") & 0xf > 1;
            upper || unmaps && self.next(j).is_none_or(|next| next > i)
        };
        !(0..=i).any(drops)
    }

    /// A whole harvest lies between the time in which anybody can have set W before and the time in
    /// which the step of event `i` happened: W was clear.
    fn was_clear(&self, i: usize) -> bool {
        let gfn = self.hex(i, "cr2_or_gpa") >> 12;
        let sets = |j: &usize| {
            self.is(*j, "kvm_mmu_set_spte") && self.hex(*j, "gfn") == gfn
                || self.is(*j, "fast_page_fault") && self.hex(*j, "cr2_or_gpa") >> 12 == gfn
        };
        let others = |j: &usize| self.events[*j]["pid"] != self.events[i]["pid"] && sets(j);
        let Some(last) = (0..i).rev().find(sets) else { return false };
        // Somebody else may be repairing it, and tell of it later.
        if (i + 1..self.events.len()).any(|j| others(&j)) {
            return false;
        }
        let ends = self.next(last).unwrap_or(i);
        let is =
            |j: &usize, phase| self.user(*j, "get-dirty-log") && self.events[*j]["phase"] == phase;
        let enter = (ends + 1..i).find(|j| is(j, "enter"));
        enter.is_some_and(|enter| (enter..i).any(|j| is(&j, "exit")))
    }
}

/// An edit that depends on chance can be made at an event if it can be made with this.
const PROBE: u64 = 50;

/// Edits of one kind that are tried on one trace.
const PLACES: usize = 25;

#[test]
fn edited_traces_are_refused() {
    let mut escaped = Vec::new();
    for (name, edit) in EDITS {
        let (mut tried, mut refused) = (0, 0);
        for (file, text) in TRACES {
            let trace = Trace::of(text);
            let mut random = 0x9e37_79b9_7f4a_7c15_u64;
            let mut places: Vec<usize> =
                (0..trace.events.len()).filter(|i| edit(&trace, *i, PROBE).is_some()).collect();
            for _ in 0..PLACES.min(places.len()) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
                let i = places.swap_remove((random >> 33) as usize % places.len());
                let Some(edited) = edit(&trace, i, random >> 40) else { continue };
                tried += 1;
                match judge_text(&edited.text()) {
                    Ok(report) if report.unexplained == 0 => {
                        escaped.push(format!("{name}: {file}, event {i}: {}", trace.events[i]));
                    }
                    _ => refused += 1,
                }
            }
        }
        println!("{name}: {refused} of {tried} refused");
        assert!(tried >= 7, "{name}: only {tried} places");
    }
    assert!(escaped.is_empty(), "{}", escaped.join("\n"));
}

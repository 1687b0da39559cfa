//! A violation of the rules of locks, reported as lockdep does: what was being acquired, what was
//! held and where it was taken, which rule or which chain says no, and how CPUs could block one
//! another.

use kvmmu_model::lock::order::{self, Order};
use kvmmu_model::lock::rules;
use kvmmu_model::{Hold, LockClass, LockKind, Mode};
use kvmmu_scenarios::Property;
use kvmmu_scenarios::lockdep::{Nesting, held_text, wanted_text};
use kvmmu_sim::event::{Event, What};
use kvmmu_sim::names::Wait;
use kvmmu_sim::rule::Rule;
use serde::Serialize;

use super::held::{call, class, held, held_words};
use super::phrase::{called, function};
use super::wrap::{wrap, wrap_after};
use crate::lab::replayed::{Example, Replayed};
use crate::report::trace::mode_text;

/// The width of the scenario's columns together.
const WIDTH: usize = 72;

/// A violation of the rules of locks.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Lockdep {
    /// The thread that did it; empty: it took several.
    pub thread: String,
    /// What it asks for; absent: it does something else, or it took several threads.
    pub wanted: Option<Taken>,
    /// What it does in place of that, and where.
    pub does: Option<(String, Place)>,
    /// What it holds, in the order in which it took it.
    pub held: Vec<Taken>,
    /// Which rule says no.
    pub rule: Vec<String>,
    /// The nestings of a cycle: each inner lock is the outer one of the next.
    pub chain: Vec<Link>,
    /// How CPUs could block one another, a column each.
    pub unsafe_scenario: Vec<String>,
}

/// A lock that is held or asked for.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Taken {
    /// Which one: `vcpu0->mutex`, `a read section of srcu`.
    pub lock: String,
    /// Its entry of the table of locks.
    pub class: &'static str,
    /// Its type.
    pub r#type: &'static str,
    /// How: `exclusive`, `read` or `grace-period`.
    pub mode: &'static str,
    /// In which step it was taken; 0: before the first. Absent: it is only asked for.
    pub step: Option<u32>,
    /// Where.
    pub place: Place,
}

/// A place in the model, and the kernel function that it stands for.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Place {
    /// The file.
    pub file: &'static str,
    /// The line.
    pub line: u32,
    /// The kernel function.
    pub function: String,
}

/// One nesting of a cycle.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Link {
    /// Its number; 0 is the nesting that closed the cycle.
    pub number: usize,
    /// What is held: `a read section of kvm->srcu`.
    pub outer: String,
    /// What is asked for.
    pub inner: String,
    /// The type of what is asked for.
    pub r#type: &'static str,
    /// A run in which it happens; absent: none was found within the bounds.
    pub witness: Option<Seen>,
}

/// A run in which one lock is asked for inside another.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Seen {
    /// The thread that does it.
    pub thread: String,
    /// The lock that it asks for.
    pub wanted: Taken,
    /// The lock that it holds.
    pub held: Taken,
    /// The way there, with its fingerprint.
    pub schedule: String,
    /// The one command that replays it.
    pub replay: String,
}

/// True if the rule is about the use of locks.
pub fn is(rule: Rule) -> bool {
    use Property::{LockCycle, LockLeaf, LockOrder, LockProtection, LockSleep, LockUsage};
    let all = [LockOrder, LockCycle, LockSleep, LockLeaf, LockProtection, LockUsage];
    rule.property().is_some_and(|property| all.contains(&property))
}

/// Tells the violation that `run` ends with; `None`: it does not end with one of locks.
pub fn violation(run: &Replayed, threads: &[String]) -> Option<Lockdep> {
    let told = |e: &&Event| matches!(e.what, What::Violation { rule, .. } if is(rule));
    let event = run.events.iter().find(told)?;
    let What::Violation { rule: violated, detail } = &event.what else { return None };
    let held = held(&run.events, event.thread);
    let holds: Vec<Hold> = held
        .iter()
        .filter_map(|held| class(held.tag).map(|class| Hold::new(class, held.mode)))
        .collect();
    let ask = run.asks.iter().find(|ask| ask.thread == event.thread);
    let wanted = ask.and_then(|ask| Some(Hold::new(class(ask.object?)?, ask.mode?)));
    let (rule, nestings) = rule(*violated, &holds, wanted);
    Some(Lockdep {
        thread: name(event.thread, threads).to_owned(),
        wanted: ask.and_then(|ask| asked(run, ask, event)),
        does: ask.is_none().then(|| (detail.clone(), place(event))),
        held: held.iter().map(|held| taken(run, held)).collect(),
        rule,
        chain: Vec::new(),
        unsafe_scenario: columns(&nestings),
    })
}

/// Tells a cycle, the nesting that closed it first, with a witness for each nesting. `command`
/// stamps a schedule and gives the command that replays it.
pub fn cycle(
    cycle: &[(Nesting, Option<Example>)],
    threads: &[String],
    command: impl Fn(&Example) -> (String, String),
) -> Lockdep {
    // Within parentheses and among others there is no room for more.
    let plain = |text: String| text.replace(" (for reading)", " for reading");
    let plain = |text: String| plain(text).replace(" (for writing)", " for writing");
    let link = |(number, (nesting, witness)): (usize, &(Nesting, Option<Example>))| Link {
        number,
        outer: plain(held_text(nesting.outer)),
        inner: plain(wanted_text(nesting.inner)),
        r#type: nesting.inner.class.info().kind.name(),
        witness: witness.as_ref().and_then(|w| seen(*nesting, w, threads, command(w))),
    };
    let nestings: Vec<Nesting> = cycle.iter().map(|(nesting, _)| *nesting).collect();
    Lockdep {
        thread: String::new(),
        wanted: None,
        does: None,
        held: Vec::new(),
        rule: readers(&nestings),
        chain: cycle.iter().enumerate().map(link).collect(),
        unsafe_scenario: columns(&nestings),
    }
}

/// The innermost functions in which the inner locks of a cycle are asked for.
pub fn functions(lockdep: &Lockdep) -> Vec<&str> {
    let seen = lockdep.chain.iter().filter_map(|link| link.witness.as_ref());
    seen.map(|seen| seen.wanted.place.function.as_str()).collect()
}

/// The name of a thread.
fn name(thread: u8, threads: &[String]) -> &str {
    threads.get(usize::from(thread)).map_or("stop", String::as_str)
}

/// Where an event happened.
fn place(event: &Event) -> Place {
    Place { file: event.file, line: event.line, function: function(event, "").to_owned() }
}

/// A lock that is asked for by the thread of `event`.
fn asked(run: &Replayed, ask: &Wait, event: &Event) -> Option<Taken> {
    let (tag, mode) = (ask.object?, ask.mode?);
    let info = class(tag)?.info();
    let function = function(event, "").to_owned();
    Some(Taken {
        lock: held_words(run, tag, mode),
        class: info.name,
        r#type: info.kind.name(),
        mode: mode_text(mode),
        step: None,
        place: Place { file: ask.file, line: ask.line, function },
    })
}

/// A lock that is held.
fn taken(run: &Replayed, held: &super::held::Held) -> Taken {
    let event = &run.events[held.event];
    let info = class(held.tag).map(LockClass::info);
    Taken {
        lock: held_words(run, held.tag, held.mode),
        class: info.map_or("", |info| info.name),
        r#type: info.map_or("", |info| info.kind.name()),
        mode: mode_text(held.mode),
        step: Some(event.step),
        place: place(event),
    }
}

/// Where the run of a witness shows its nesting.
fn seen(
    nesting: Nesting,
    witness: &Example,
    threads: &[String],
    (schedule, replay): (String, String),
) -> Option<Seen> {
    let run = &witness.run;
    let ask = run.asks.first()?;
    let event = run.events.iter().rev().find(|e| e.thread == ask.thread)?;
    let outer = |held: &&super::held::Held| {
        class(held.tag) == Some(nesting.outer.class) && held.mode == nesting.outer.mode
    };
    let held = held(&run.events, ask.thread);
    Some(Seen {
        thread: name(ask.thread, threads).to_owned(),
        wanted: asked(run, ask, event)?,
        held: taken(run, held.iter().rev().find(outer)?),
        schedule,
        replay,
    })
}

/// Which rule an acquisition breaks, and the nestings that together would be a deadlock.
fn rule(violated: Rule, held: &[Hold], wanted: Option<Hold>) -> (Vec<String>, Vec<Nesting>) {
    let document = "Documentation/virt/kvm/locking.rst, section 1";
    let (Some(property), Some(wanted)) = (violated.property(), wanted) else {
        return (Vec::new(), Vec::new());
    };
    let info = wanted.class.info();
    match property {
        Property::LockOrder => {
            let chain = |hold: &Hold| {
                let chain = chain(wanted.class, hold.class)?;
                Some((*hold, chain))
            };
            let Some((hold, chain)) = held.iter().find_map(chain) else {
                return Default::default();
            };
            let order = |o: &&Order| {
                format!(
                    "{} is taken outside {}",
                    o.outer.class.info().name,
                    o.inner.class.info().name
                )
            };
            let orders: Vec<String> = chain.iter().map(order).collect();
            let mut lines = vec![format!("{document}: {}.", orders.join(", and "))];
            let mut nestings = vec![Nesting { outer: hold, inner: wanted }];
            for (i, order) in chain.iter().enumerate() {
                lines.push(format!("CPU{}: {}.", i + 1, order.nested_by));
                nestings.push(Nesting { outer: order.outer, inner: order.inner });
            }
            (lines, nestings)
        }
        Property::LockSleep => {
            let forbids = held.iter().find(|hold| hold.class.info().kind.forbids_sleep());
            let why = match forbids {
                Some(hold) if hold.class.info().kind.has_sections() => {
                    format!("inside {}", held_text(*hold))
                }
                Some(hold) => {
                    let info = hold.class.info();
                    format!("while it holds {}, a {}", info.name, info.kind.name())
                }
                None => "with interrupts off".to_owned(),
            };
            let what = match wanted.mode {
                Mode::Synchronize => "A grace period".to_owned(),
                _ => format!("Taking a {}", info.kind.name()),
            };
            (vec![format!("{what} may sleep, and a thread must not sleep {why}.")], Vec::new())
        }
        Property::LockLeaf => {
            let Some(leaf) = held.iter().find(|hold| hold.class.info().leaf) else {
                return Default::default();
            };
            let leaf = leaf.class.info().name;
            (vec![format!("{document}: {leaf} is a leaf, no lock is taken inside it.")], Vec::new())
        }
        Property::LockUsage => {
            let mine = held.iter().find(|hold| hold.class == wanted.class);
            let nesting = mine.map(|hold| Nesting { outer: *hold, inner: wanted });
            let lines = vec!["The thread would wait for itself.".to_owned()];
            (lines, nesting.into_iter().collect())
        }
        _ => Default::default(),
    }
}

/// The document's orders that put one lock outside another, as few as there are.
fn chain(outer: LockClass, inner: LockClass) -> Option<Vec<&'static Order>> {
    let mut first = order::documented().filter(|o| o.outer.class == outer);
    if let Some(order) = first.clone().find(|o| o.inner.class == inner) {
        return Some(vec![order]);
    }
    let order = first.find(|o| rules::outside(o.inner.class, inner))?;
    let rest = chain(order.inner.class, inner)?;
    Some([vec![order], rest].concat())
}

/// What is to be said of read-write locks that a cycle has for reading on both sides.
fn readers(cycle: &[Nesting]) -> Vec<String> {
    let next = cycle.iter().cycle().skip(1);
    let both = cycle.iter().zip(next).filter(|(this, next)| {
        let read = this.inner.mode == Mode::Read && next.outer.mode == Mode::Read;
        read && this.inner.class.info().kind.has_readers()
    });
    both.map(|(this, _)| {
        let name = this.inner.class.info().name;
        format!("Both sides read {name}: a writer that waits keeps the second one out.")
    })
    .collect()
}

/// A column for each nesting: each CPU has taken its outer lock before any asks for its inner one.
pub fn columns(nestings: &[Nesting]) -> Vec<String> {
    let count = nestings.len();
    if count == 0 {
        return Vec::new();
    }
    let calls = |hold: Hold| format!("{};", call(hold.class, hold.mode));
    let rows: Vec<(usize, String)> = nestings
        .iter()
        .map(|n| calls(n.outer))
        .enumerate()
        .chain(nestings.iter().map(|n| calls(n.inner)).enumerate())
        .collect();
    let longest = rows.iter().map(|(_, text)| text.len()).max().unwrap_or(0);
    // Every row has one column that is not empty: only the last must fit.
    let step = match count {
        1 => 0,
        _ => (WIDTH / count).min((WIDTH - 2).saturating_sub(longest) / (count - 1)).max(6),
    };
    let at = |cpu: usize, text: &str| format!("{:1$}{text}", "", 2 + cpu * step);
    let head = |text: &dyn Fn(usize) -> String| {
        let cells = (0..count).map(|cpu| format!("{:<step$}", text(cpu))).collect::<String>();
        format!("  {}", cells.trim_end())
    };
    let mut lines = vec![head(&|cpu| format!("CPU{cpu}")), head(&|_| "----".to_owned())];
    lines.extend(rows.iter().map(|(cpu, text)| at(*cpu, text)));
    lines
}

/// `model/src/kvm/run.rs:17 in kvm_vcpu_ioctl()`.
fn at(place: &Place) -> String {
    let inside = match place.function.as_str() {
        "" => String::new(),
        function => format!(" in {}", called(function)),
    };
    format!("at {}:{}{inside}", place.file, place.line)
}

/// What a lock is called in a sentence, with its type.
fn typed(lock: &Taken) -> String {
    format!("{} ({})", lock.lock, lock.r#type)
}

/// What asking for a lock is called.
fn verb(lock: &Taken) -> &'static str {
    let sections = [LockKind::Srcu, LockKind::Rcu].map(LockKind::name).contains(&lock.r#type);
    match (sections, lock.mode) {
        (true, "read") => "enter",
        (true, _) => "wait for",
        _ => "acquire",
    }
}

/// The whole section as plain text.
pub fn lines(lockdep: &Lockdep) -> Vec<String> {
    let mut lines = if lockdep.chain.is_empty() { one(lockdep) } else { several(lockdep) };
    if !lockdep.rule.is_empty() {
        lines.push(String::new());
        lines.extend(lockdep.rule.iter().flat_map(|rule| wrap(rule, WIDTH)));
    }
    if !lockdep.unsafe_scenario.is_empty() {
        lines.extend([String::new(), " Possible unsafe locking scenario:".to_owned()]);
        lines.push(String::new());
        lines.extend(lockdep.unsafe_scenario.iter().cloned());
        lines.extend([String::new(), " *** DEADLOCK ***".to_owned()]);
    }
    lines
}

/// What one thread did.
fn one(lockdep: &Lockdep) -> Vec<String> {
    let mut lines = Vec::new();
    let who = &lockdep.thread;
    if let Some(wanted) = &lockdep.wanted {
        lines.push(format!("{who} is trying to {} {}", verb(wanted), typed(wanted)));
        lines.push(format!("    {}", at(&wanted.place)));
    } else if let Some((does, place)) = &lockdep.does {
        lines.extend(wrap_after(&format!("{who}: "), "    ", does, WIDTH));
        lines.push(format!("    {}", at(place)));
    }
    lines.push(match (lockdep.held.is_empty(), &lockdep.wanted) {
        (true, _) => "It holds no lock.".to_owned(),
        (false, Some(_)) => "but it already holds".to_owned(),
        (false, None) => "It holds".to_owned(),
    });
    for held in &lockdep.held {
        let when = match held.step {
            Some(0) | None => "taken before the first step".to_owned(),
            Some(step) => format!("taken in step {step}"),
        };
        lines.extend(wrap_after("  ", "    ", &format!("{}, {when}", typed(held)), WIDTH));
        lines.push(format!("    {}", at(&held.place)));
    }
    lines
}

/// A cycle: the newest order last, as lockdep has it.
fn several(lockdep: &Lockdep) -> Vec<String> {
    let intro = "These orders have a cycle. No run has to deadlock to show it: each order was seen \
                 in a run of its own, whose schedule is below.";
    let mut lines = wrap(intro, WIDTH);
    for link in lockdep.chain.iter().rev() {
        let wait = link.inner.starts_with("a grace period");
        lines.push(String::new());
        let first = format!("-> #{} ", link.number);
        let rest = " ".repeat(first.len());
        let Some(seen) = &link.witness else {
            let text = format!(
                "({}, {}): inside {}; no run was found again within the bounds",
                link.inner, link.r#type, link.outer
            );
            lines.extend(wrap_after(&first, &rest, &text, WIDTH));
            continue;
        };
        let verb = if wait { "waited for" } else { "taken" };
        let text = format!("({}, {}): {verb} by {}", link.inner, link.r#type, seen.thread);
        lines.extend(wrap_after(&first, &rest, &text, WIDTH));
        lines.push(format!("{rest}  {}", at(&seen.wanted.place)));
        let text = format!("while it holds {}, taken", link.outer);
        lines.extend(wrap_after(&rest, &rest, &text, WIDTH));
        lines.push(format!("{rest}  {}", at(&seen.held.place)));
    }
    lines
}

//! Compares the broken run with the correct one: where the correct protocol takes another path.

use kvmmu_model::{GuardSet, Mode};
use kvmmu_sim::Actor;
use kvmmu_sim::event::{Event, What, Write as How};
use kvmmu_sim::schedule::{Move, Schedule};

use super::Facts;
use super::held::held_words;
use super::phrase::{called, delta, function, object, statement, thread};
use super::value::Values;
use crate::cli::exit::Failure;
use crate::lab::replayed::{Replayed, violation};
use crate::lab::run::Machine;
use crate::lab::variant::Variant;
use crate::report::trace::object_text;

/// The most steps that are put into a schedule one after the other.
const EXTRA_MAX: usize = 8;

/// Runs `schedule`, whose run without the guards is `run`, with every guard. Where a guard only
/// looks, or waits for nobody, and all goes on as before, that makes no difference: its steps are
/// put into the schedule, so that what follows can be compared.
///
/// # Errors
///
/// Those of the engine: bugs.
pub fn follow(
    machine: &dyn Machine,
    whole: &Variant,
    schedule: &Schedule,
    run: &Replayed,
) -> Result<Replayed, Failure> {
    let mut moves = schedule.0.clone();
    let mut twin = machine.replay(whole, schedule)?;
    let mut at = same(run, &twin);
    loop {
        // Whether the way of some steps leads back is known at its end only.
        let (mut way, mut last) = (moves.clone(), twin.clone());
        let mut back = None;
        while last.extra.len() < twin.extra.len() + EXTRA_MAX {
            let Some((step, thread)) = idle(run, &last, at) else { break };
            way.insert(step as usize - 1, Move { actor: Actor::Thread(thread), choice: 0 });
            let extra = [last.extra.as_slice(), &[step]].concat();
            last = Replayed { extra, ..machine.replay(whole, &Schedule(way.clone()))? };
            let now = same(run, &last);
            if now > at {
                back = Some(now);
                break;
            }
        }
        let Some(now) = back else { return Ok(twin) };
        (moves, twin, at) = (way, last, now);
    }
}

/// The step and the thread of the first access that differs, if it changes nothing and holds nobody
/// up.
fn idle(run: &Replayed, twin: &Replayed, at: usize) -> Option<(u32, u8)> {
    let theirs = &twin.events[*accesses(twin).get(at)?];
    let ours = &run.events[*accesses(run).get(at)?];
    let idle =
        matches!(theirs.what, What::Load { .. } | What::Waited { .. } | What::GracePeriod { .. });
    (idle && ours.thread == theirs.thread).then_some((theirs.step, theirs.thread))
}

/// How many accesses two runs have in common before the first that differs.
fn same(run: &Replayed, twin: &Replayed) -> usize {
    let same = |(a, b): (usize, usize)| {
        let (a, b) = (&run.events[a], &twin.events[b]);
        a.thread == b.thread && a.what == b.what
    };
    accesses(run).into_iter().zip(accesses(twin)).take_while(|pair| same(*pair)).count()
}

/// The indices of the accesses of a run, but for those of steps that were put in.
fn accesses(run: &Replayed) -> Vec<usize> {
    let access = |i: &usize| {
        let event = &run.events[*i];
        event.step > 0 && !run.extra.contains(&event.step) && object(&event.what).is_some()
    };
    (0..run.events.len()).filter(access).collect()
}

/// The number of a step as the table without the guards counts.
fn number(run: &Replayed, step: u32) -> u32 {
    step - run.extra.iter().filter(|extra| **extra < step).count() as u32
}

/// The first step that differs when the same schedule runs with every guard. Only accesses count:
/// what the model calls and marks on the way says little to a reader.
pub fn correct(facts: &Facts<'_>, threads: &[String], values: Values<'_>) -> Option<String> {
    let twin = facts.twin?;
    let run = facts.run;
    let (broken, other) = (accesses(run), accesses(twin));
    let at = same(run, twin);
    let Some(theirs) = other.get(at).copied() else {
        let with = guards(facts.variant.without, &[]);
        return Some(match (stop(facts, twin, threads), violation(&twin.events)) {
            (Some((step, why)), _) => format!("with {with} {why} from step {step} on."),
            (None, Some((property, _))) => {
                format!("with {with} the same schedule violates {property}, too.")
            }
            (None, None) => format!("with {with} the same schedule violates nothing."),
        });
    };
    let event = &twin.events[theirs];
    let ours = broken.get(at).copied();
    let stacks: Vec<&'static str> =
        ours.iter().flat_map(|i| &run.events[*i].stack).chain(&event.stack).copied().collect();
    let with = guards(facts.variant.without, &stacks);
    let there =
        Side { run: twin, values: Values::new(&facts.variant.scenario, &twin.names), threads };
    let here = Side { run, values, threads };
    let place = format!("({}:{})", event.file, event.line);
    let way = match ours {
        Some(ours) => another_way(&here, ours, &there, theirs),
        None => format!("step {} goes well: {}", there.step(theirs), there.words(theirs)),
    };
    let cut = match ours {
        Some(ours) if run.events[ours].thread == event.thread => None,
        _ => grace_period(twin, threads),
    };
    let cut = cut.unwrap_or_else(|| cut_off(facts, twin, threads, there.step(theirs)));
    Some(format!("with {with} {way} {place}.{cut}"))
}

/// One of the two runs.
struct Side<'a> {
    run: &'a Replayed,
    values: Values<'a>,
    threads: &'a [String],
}

impl Side<'_> {
    fn event(&self, i: usize) -> &Event {
        &self.run.events[i]
    }
    fn step(&self, i: usize) -> u32 {
        number(self.run, self.event(i).step)
    }
    /// `vcpu0`.
    fn who(&self, i: usize) -> &str {
        thread(self.event(i), self.threads)
    }
    /// `fast_page_fault()`.
    fn inside(&self, i: usize) -> String {
        called(function(self.event(i), self.who(i)))
    }
    fn statement(&self, i: usize) -> String {
        statement(&self.event(i).what, self.values.at(i))
    }
    /// The statement and what it saw or changed.
    fn words(&self, i: usize) -> String {
        match delta(&self.event(i).what, self.values.at(i)) {
            Some(delta) => format!("{} {delta}", self.statement(i)),
            None => self.statement(i),
        }
    }
    /// `f() calls g()`: the call that leads to the event and that its thread's access before it
    /// was not inside of, below the first `shared` callers.
    fn calls(&self, i: usize, shared: usize) -> String {
        let event = self.event(i);
        let mine = |e: &&Event| e.thread == event.thread && object(&e.what).is_some();
        let before = self.run.events[..i].iter().rev().find(mine);
        let common = before.map_or(0, |before| {
            before.stack.iter().zip(&event.stack).take_while(|(a, b)| a == b).count()
        });
        let at = common.max(shared).min(event.stack.len() - 1);
        match at.checked_sub(1) {
            Some(caller) => {
                format!("{} calls {}", called(event.stack[caller]), called(event.stack[at]))
            }
            None => format!("{} calls {}", self.who(i), called(event.stack[at])),
        }
    }
    /// True if the event's thread enters `name` later.
    fn calls_later(&self, i: usize, name: &str) -> bool {
        let thread = self.event(i).thread;
        let mut later = self.run.events[i..].iter().filter(|e| e.thread == thread);
        later.any(|e| matches!(e.what, What::Call(f) if f == name))
    }
}

/// How the run with every guard goes on where this one does `ours`.
fn another_way(here: &Side<'_>, ours: usize, there: &Side<'_>, theirs: usize) -> String {
    let (broken, other) = (here.event(ours), there.event(theirs));
    let step = there.step(theirs);
    if broken.thread != other.thread {
        let (inside, not) = (here.inside(ours), here.statement(ours));
        let (next, words) = (there.who(theirs), there.words(theirs));
        return format!("{inside} does not come to {not} here: {next} goes on, {words}");
    }
    let shared = broken.stack.iter().zip(&other.stack).take_while(|(a, b)| a == b).count();
    let caller = match shared.checked_sub(1) {
        Some(at) => called(broken.stack[at]),
        None => here.who(ours).to_owned(),
    };
    let would = format!("step {step} would be {}", there.words(theirs));
    match (broken.stack.get(shared), other.stack.get(shared)) {
        (Some(not), None) if there.calls_later(theirs, not) => {
            format!("{caller} does not call {} yet: {would}", called(not))
        }
        (Some(not), None) => format!("{caller} does not call {} here: {would}", called(not)),
        (None, Some(_)) => format!("{} here: {would}", there.calls(theirs, shared)),
        (Some(not), Some(_)) => {
            format!("{} here, not {}: {would}", there.calls(theirs, shared), called(not))
        }
        (None, None) => other_access(here, ours, there, theirs),
    }
}

/// How a step of the same function differs.
fn other_access(here: &Side<'_>, ours: usize, there: &Side<'_>, theirs: usize) -> String {
    let (step, inside) = (there.step(theirs), there.inside(theirs));
    let (is, not) = (there.statement(theirs), here.statement(ours));
    match (&here.event(ours).what, &there.event(theirs).what) {
        (
            What::Write { object: a, how: How::Store, .. },
            What::Write { object: b, how: How::Swap, old, .. },
        ) if a == b => {
            let old = there.values.at(theirs).text(*b, *old);
            format!("step {step} of {inside} is {is}, which returns {old}, not {not}")
        }
        (What::Write { .. }, What::CmpxchgFailed { object, found, .. }) => {
            let found = there.values.at(theirs).text(*object, *found);
            format!("step {step} of {inside} is a cmpxchg that finds {found} and fails, not {not}")
        }
        (What::Write { object: a, new: ours_new, .. }, What::Write { object: b, new, .. })
            if a == b && is == not =>
        {
            let text = |side: &Side<'_>, i: usize, value| side.values.at(i).text(*a, value);
            let (stored, wrong) = (text(there, theirs, *new), text(here, ours, *ours_new));
            format!("step {step} of {inside} writes {stored}, not {wrong}")
        }
        _ => format!("step {step} of {inside} is {}, not {not}", there.words(theirs)),
    }
}

/// The missing guards that speak of one of these functions: all if none or each does.
fn guards(without: GuardSet, functions: &[&str]) -> String {
    let speaks = |g: &kvmmu_model::Guard| functions.contains(&g.info().function);
    let near: GuardSet = without.iter().filter(speaks).collect();
    match (near.iter().count(), without.iter().count()) {
        (1, _) => near.iter().map(|g| g.info().name).collect(),
        (_, 1) => without.iter().map(|g| g.info().name).collect(),
        _ => "every guard".to_owned(),
    }
}

/// Where the schedule does not fit the run with every guard any more, if later than `differs`.
fn cut_off(facts: &Facts<'_>, twin: &Replayed, threads: &[String], differs: u32) -> String {
    match stop(facts, twin, threads) {
        Some((step, why)) if step > differs => format!(" From step {step} on {why}."),
        _ => String::new(),
    }
}

/// Who is still to wait for a grace period, and so has not freed anything yet.
fn grace_period(twin: &Replayed, threads: &[String]) -> Option<String> {
    let ask = twin.asks.iter().find(|ask| ask.mode == Some(Mode::Synchronize))?;
    let who = threads.get(usize::from(ask.thread))?;
    let what = held_words(twin, ask.object?, Mode::Synchronize);
    Some(format!(" {who} waits for {what} first."))
}

/// The step of the schedule that the run with every guard cannot take, if that is because its
/// thread has to wait.
fn stop(facts: &Facts<'_>, twin: &Replayed, threads: &[String]) -> Option<(u32, String)> {
    let (at, _) = twin.stuck.as_ref()?;
    let step = number(twin, *at as u32 + 1);
    let wanted = facts.found.schedule.0.get(step as usize - 1)?;
    let Actor::Thread(wanted) = wanted.actor;
    let who = threads.get(usize::from(wanted))?;
    let wait = twin.waits.iter().find(|w| w.thread == wanted)?;
    let what = wait.object.map_or(String::new(), |object| match wait.mode {
        Some(mode) => format!(" for {}", held_words(twin, object, mode)),
        None => format!(" for {}", object_text(&twin.names, twin.events.len(), object)),
    });
    Some((step, format!("{who} has to wait{what}")))
}

//! The counterexample report: one [`Report`] is built, then written as text, reStructuredText or
//! JSON.
//!
//! Its first line is the identity of the bug: property and functions, no numbers, so that reports
//! can be distinguished and found again by it.

pub mod begin;
mod descriptor;
pub mod fold;
pub mod held;
pub mod lockdep;
pub mod phrase;
pub mod race;
pub mod rst;
pub mod story;
pub mod stuck;
pub mod table;
pub mod text;
pub mod trace;
pub mod twin;
pub mod value;
pub mod why;
pub mod wrap;

use std::fmt::Display;

use kvmmu_model::{LockClass, Tag};
use kvmmu_scenarios::lockdep::Nesting;
use kvmmu_scenarios::scenario::ThreadKind;
use kvmmu_sim::event::{Event, What, Write};
use kvmmu_sim::outcome::{Found, Stats};
use kvmmu_sim::rule::Rule;
use serde::Serialize;

use crate::lab::judge::counted;
use crate::lab::replayed::{Example, Replayed};
use crate::lab::run::MEMORY_MODEL;
use crate::lab::variant::{Goal, Variant};
use fold::{Keep, Step};
use lockdep::Lockdep;
use race::Race;
use table::Table;
use value::Values;

/// What a report is made of.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The variant.
    pub variant: &'a Variant,
    /// What was looked for.
    pub goal: &'a Goal,
    /// The counterexample.
    pub found: &'a Found,
    /// What happens in it.
    pub run: &'a Replayed,
    /// The same schedule with every guard, as far as it goes; absent if no guard is missing.
    pub twin: Option<&'a Replayed>,
    /// How it was found: strategy and seed.
    pub how: &'a str,
    /// What the search took.
    pub stats: Stats,
    /// How many steps the counterexample had before it was minimised.
    pub steps_before: usize,
    /// True if a search showed that no smaller one exists.
    pub exact: bool,
    /// Where the trace was written.
    pub trace: Option<&'a str>,
    /// Show every step.
    pub all: bool,
}

/// A counterexample, as it is reported.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Report {
    /// The version of this form.
    pub v: u32,
    /// `report`.
    pub r#type: &'static str,
    /// `BUG: property in f / g`.
    pub title: String,
    /// The scenario's name.
    pub scenario: String,
    /// The guards that are missing.
    pub without: Vec<&'static str>,
    /// The property that is violated.
    pub property: String,
    /// What it says.
    pub statement: String,
    /// The kernel text that the scenario comes from.
    pub kernel: String,
    /// Memory model and threads.
    pub model: String,
    /// How it was found, and minimised.
    pub found: String,
    /// What is true before the first step.
    pub beginning: Vec<String>,
    /// What is wrong with the use of locks, where that is what is violated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lockdep: Option<Lockdep>,
    /// The names of the threads, in schedule order.
    pub threads: Vec<String>,
    /// The thread of the left column.
    pub left: u8,
    /// The heads of the two columns, a line for each thread.
    pub heads: [String; 2],
    /// The steps of the table.
    pub steps: Vec<Step>,
    /// What is lost.
    pub oops: String,
    /// Where nothing goes on: what each thread waits for and holds.
    pub stuck: Vec<String>,
    /// Why it happens.
    pub why: Vec<String>,
    /// The two racing steps and their places.
    pub race: Vec<String>,
    /// Where the correct protocol takes another way.
    pub correct: Option<String>,
    /// What of the counterexample is needed.
    pub needed: String,
    /// The schedule, with its fingerprint.
    pub schedule: String,
    /// The one command that replays it.
    pub replay: String,
    /// Where the trace is.
    pub trace: Option<String>,
    /// What else can be asked.
    pub more: String,
}

/// Tells a counterexample.
pub fn build(facts: &Facts<'_>) -> Report {
    let scenario = &facts.variant.scenario;
    let names: Vec<String> = scenario.threads.iter().map(|t| t.name.clone()).collect();
    let values = Values::new(scenario, &facts.run.names);
    let events = &facts.run.events;
    let moments = match &facts.goal.story {
        Some(witness) => story::moments(&witness.story, events),
        None => Vec::new(),
    };
    let stuck = match facts.found.rule {
        Rule::DEADLOCK | Rule::LIVELOCK => stuck::lines(facts.run, &names),
        _ => Vec::new(),
    };
    let lockdep = match lockdep::is(facts.found.rule) {
        true => lockdep::violation(facts.run, &names),
        false => None,
    };
    // Neither threads that wait nor wrong uses of locks are a matter of two accesses.
    let none = !stuck.is_empty() || lockdep.is_some();
    let race = if none { None } else { race::find(events, &moments) };
    let left = left(facts, race.as_ref(), &moments);
    let mut keep: Vec<usize> = moments.clone();
    if let Some(race) = &race {
        keep.extend([Some(race.first), Some(race.second), race.third].into_iter().flatten());
    }
    let kept = Keep { events: &keep, moments: &moments, rule: facts.found.rule, all: facts.all };
    let mut steps = fold::steps(events, kept, &names, values);
    if let Some(race) = &race {
        remark(&mut steps, events, race);
    }
    let (heads, oops) = (heads(facts, left), oops(facts, values));
    Report {
        v: 1,
        r#type: "report",
        title: title(facts, &names, race.as_ref()),
        scenario: scenario.name.clone(),
        without: facts.variant.without.iter().map(|g| g.info().name).collect(),
        property: facts.found.rule.to_string(),
        statement: statement(facts.found.rule),
        kernel: scenario.source.clone(),
        model: model(facts),
        found: found(facts),
        beginning: begin::lines(facts, &steps, &heads, &oops, values),
        lockdep,
        heads,
        threads: names.clone(),
        left,
        steps,
        oops,
        stuck,
        why: why::lines(facts, race.as_ref(), &moments, &names, values),
        race: race.map_or(Vec::new(), |race| places(events, &race, &names)),
        correct: twin::correct(facts, &names, values),
        needed: needed(facts),
        schedule: facts.variant.stamp(&facts.found.schedule).to_string(),
        replay: facts.variant.replay_command(&facts.found.schedule),
        trace: facts.trace.map(str::to_owned),
        more: "-v shows every step   --format text|rst|json   kvmmu guards".to_owned(),
    }
}

/// Tells a cycle of lock orders. No single run shows it: `chain` has one for each of its nestings,
/// that which closed it first.
pub fn build_cycle(facts: &Facts<'_>, chain: &[(Nesting, Option<Example>)]) -> Report {
    let variant = facts.variant;
    let scenario = &variant.scenario;
    let threads: Vec<String> = scenario.threads.iter().map(|t| t.name.clone()).collect();
    let lockdep = lockdep::cycle(chain, &threads, |witness| {
        (variant.stamp(&witness.schedule).to_string(), variant.replay_command(&witness.schedule))
    });
    let mut functions = lockdep::functions(&lockdep);
    functions.sort_unstable();
    functions.dedup();
    let first = lockdep.chain.iter().find_map(|link| link.witness.clone());
    Report {
        v: 1,
        r#type: "report",
        title: titled(facts.found.rule, &functions),
        scenario: scenario.name.clone(),
        without: variant.without.iter().map(|g| g.info().name).collect(),
        property: facts.found.rule.to_string(),
        statement: statement(facts.found.rule),
        kernel: scenario.source.clone(),
        model: model(facts),
        found: format!("{}, after {}", facts.how, amount(facts.stats)),
        beginning: Vec::new(),
        heads: [String::new(), String::new()],
        threads: threads.clone(),
        left: 0,
        steps: Vec::new(),
        oops: facts.found.detail.clone(),
        stuck: Vec::new(),
        why: why::lines(facts, None, &[], &threads, Values::new(scenario, &facts.run.names)),
        race: Vec::new(),
        correct: None,
        needed: String::new(),
        schedule: first.as_ref().map_or(String::new(), |seen| seen.schedule.clone()),
        replay: first.map_or(String::new(), |seen| seen.replay),
        lockdep: Some(lockdep),
        trace: facts.trace.map(str::to_owned),
        more: "--format text|rst|json   kvmmu locks".to_owned(),
    }
}

impl Report {
    /// True if the table has something to say: what one thread does with locks is reported without.
    pub fn has_table(&self) -> bool {
        let several = self.steps.iter().any(|step| step.thread != self.steps[0].thread);
        self.lockdep.is_none() || several
    }

    /// The table of this report.
    pub fn table(&self) -> Vec<String> {
        table::lines(&Table {
            beginning: &self.beginning,
            heads: self.heads.clone(),
            steps: &self.steps,
            left: self.left,
            names: &self.threads,
            oops: &self.oops,
            stuck: &self.stuck,
        })
    }

    /// `aba-indirect without fast-fault-direct-only + lockless-walk-mode`.
    pub fn variant(&self) -> String {
        match self.without.is_empty() {
            true => format!("{}, every guard present", self.scenario),
            false => format!("{} without {}", self.scenario, self.without.join(" + ")),
        }
    }
}

/// The thread whose step loses the race: the one that relied on what another changed; without a
/// race that of the story's first moment, else the first thread.
fn left(facts: &Facts<'_>, race: Option<&Race>, moments: &[usize]) -> u8 {
    let told = if moments.is_empty() { None } else { race.map(|race| race.first) };
    told.or(moments.first().copied()).map_or(0, |i| match facts.run.events[i].thread {
        Event::STOP => 0,
        thread => thread,
    })
}

/// `BUG: property in f / g`, the functions sorted.
fn title(facts: &Facts<'_>, names: &[String], race: Option<&Race>) -> String {
    let of = |i: usize| {
        let event = &facts.run.events[i];
        let name = names.get(usize::from(event.thread)).map_or("stop", String::as_str);
        event.stack.last().copied().unwrap_or(name.trim_end_matches(|c: char| c.is_ascii_digit()))
    };
    let last = || {
        let violated = |e: &Event| matches!(e.what, What::Violation { .. });
        facts.run.events.iter().position(violated).map(of)
    };
    let mut functions: Vec<&str> = match race {
        Some(race) => vec![of(race.first), of(race.second)],
        None if matches!(facts.found.rule, Rule::DEADLOCK | Rule::LIVELOCK) => {
            stuck::functions(facts.run)
        }
        None => last().into_iter().collect(),
    };
    functions.sort_unstable();
    functions.dedup();
    titled(facts.found.rule, &functions)
}

/// `BUG: property in f / g`, on one line, whatever its width. Of more than two functions as many
/// as it has room for.
fn titled(rule: Rule, functions: &[&str]) -> String {
    let title = format!("BUG: {rule}");
    let Some((first, others)) = functions.split_first() else { return title };
    let mut title = format!("{title} in {first}");
    for (i, function) in others.iter().enumerate() {
        let more = if i + 1 < others.len() { " / ...".len() } else { 0 };
        let width = title.len() + " / ".len() + function.len() + more;
        if i > 0 && width > table::WIDTH {
            return title + " / ...";
        }
        title += &format!(" / {function}");
    }
    title
}

/// What a rule says.
fn statement(rule: Rule) -> String {
    rule.property().map_or(String::new(), |property| property.statement().trim().to_owned())
}

/// Memory model and threads.
fn model(facts: &Facts<'_>) -> String {
    let count = |kind| facts.variant.scenario.threads.iter().filter(|t| t.kind == kind).count();
    let (vcpus, hosts, users) =
        (count(ThreadKind::Vcpu), count(ThreadKind::Host), count(ThreadKind::User));
    let mut parts = vec![format!("{vcpus} vCPU{}", if vcpus == 1 { "" } else { "s" })];
    for (count, name) in [(hosts, "host"), (users, "user")] {
        match count {
            0 => {}
            1 => parts.push(name.to_owned()),
            _ => parts.push(format!("{count} {name}s")),
        }
    }
    format!("{MEMORY_MODEL} interleavings of {}   (not: weak memory)", parts.join(", "))
}

/// What a search looked at.
fn amount(stats: Stats) -> String {
    match stats.states {
        0 => counted(stats.executions, "execution"),
        states => counted(states, "state"),
    }
}

/// How it was found, and minimised.
fn found(facts: &Facts<'_>) -> String {
    let amount = amount(facts.stats);
    let after = facts.found.schedule.0.len();
    let switches = facts.found.schedule.context_switches();
    let cut = match facts.steps_before {
        before if before == after => counted(after as u64, "step"),
        before => format!("minimised {before} -> {after} steps"),
    };
    let switches = counted(switches as u64, "context switch").replace("switchs", "switches");
    format!("{}, after {amount}; {cut}, {switches}", facts.how)
}

/// The heads of the two columns.
fn heads(facts: &Facts<'_>, left: u8) -> [String; 2] {
    let scenario = &facts.variant.scenario;
    let acts = |thread: u8| facts.run.events.iter().any(|e| e.step > 0 && e.thread == thread);
    let head = |name: &str, program: &dyn Display| match program.to_string() {
        nothing if nothing.is_empty() => name.to_owned(),
        program => format!("{name}: {program}"),
    };
    let mut others: Vec<String> = Vec::new();
    for (i, thread) in scenario.threads.iter().enumerate() {
        if i != usize::from(left) && acts(i as u8) {
            others.push(head(&thread.name, &thread.run));
        }
    }
    if acts(Event::STOP) {
        others.push(head("stop", &scenario.at_stop));
    }
    let first = scenario.threads.get(usize::from(left));
    let first = first.map_or_else(|| "stop".to_owned(), |t| head(&t.name, &t.run));
    let right = if others.is_empty() { "nobody else".to_owned() } else { others.join(";\n") };
    [first, right]
}

/// What is lost. Objects that the simulator names by their places get their names.
fn oops(facts: &Facts<'_>, values: Values<'_>) -> String {
    if facts.found.detail.is_empty() {
        return format!("{} is violated.", facts.found.rule);
    }
    let values = values.at(facts.run.events.len());
    let named = |word: &str| {
        let place = |tag: Tag| match tag.index {
            [0, 0] => tag.object.name().to_owned(),
            [i, 0] => format!("{}[{i}]", tag.object.name()),
            [i, j] => format!("{}[{i}][{j}]", tag.object.name()),
        };
        let name = values.names().find(|(tag, _)| word.contains('[') && place(*tag) == word);
        name.map_or_else(|| word.to_owned(), |(_, name)| name.to_owned())
    };
    facts.found.detail.split(' ').map(named).collect::<Vec<_>>().join(" ")
}

/// The racing steps, one per line.
fn places(events: &[Event], race: &Race, names: &[String]) -> Vec<String> {
    let place = |i: usize| {
        let event = &events[i];
        let name = names.get(usize::from(event.thread)).map_or("stop", String::as_str);
        let kind = match event.what {
            What::Load { .. } => "read",
            What::CmpxchgFailed { .. } => "lost",
            _ => "write",
        };
        let held = match event.held.contains(&Tag::lock(LockClass::MmuLock.one())) {
            true => ", mmu_lock held",
            false => "",
        };
        let (step, function) = (event.step, phrase::function(event, name));
        format!("step {step} ({kind}) {}:{} {function}{held}", event.file, event.line)
    };
    vec![place(race.first), place(race.second)]
}

/// What of the counterexample is needed.
fn needed(facts: &Facts<'_>) -> String {
    match (facts.exact, facts.found.schedule.context_switches()) {
        (true, 0) => "no context switch: one thread does it alone".to_owned(),
        (true, 1) => "one context switch; without it nothing goes wrong".to_owned(),
        (true, n) => format!("all {n} context switches: no counterexample has fewer"),
        (false, n) => format!("{n} context switches; a smaller one was not ruled out"),
    }
}

/// Says at the step that went on as if nothing had changed what it went by.
fn remark(steps: &mut [Step], events: &[Event], race: &Race) {
    let Some(third) = race.third else { return };
    let plain = matches!(events[third].what, What::Write { how: Write::Store, .. });
    let (first, second) = (events[race.first].step, events[race.second].step);
    if let Some(step) = steps.iter_mut().find(|s| s.number == events[third].step) {
        if race.same_bits {
            step.deltas.push(format!("same bits as in step {first}, stored by step {second}"));
        } else if plain {
            step.deltas.push(format!("believes step {first}, not step {second}"));
        }
    }
}

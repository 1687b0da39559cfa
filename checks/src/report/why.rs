//! Why it happens, in prose: which step relied on what, which changed it, and what is lost.

use kvmmu_model::{Mark, Object};
use kvmmu_scenarios::Property;
use kvmmu_sim::event::{Event, What, Write as How};
use kvmmu_sim::rule::Rule;

use super::Facts;
use super::phrase::{called, delta, function, list, object, statement, thread};
use super::race::Race;
use super::value::Values;

/// The paragraphs of the explanation.
pub fn lines(
    facts: &Facts<'_>,
    race: Option<&Race>,
    moments: &[usize],
    threads: &[String],
    values: Values<'_>,
) -> Vec<String> {
    let mut why = Vec::new();
    if let Some(race) = race {
        let story = Story { events: &facts.run.events, race, threads, values };
        let mut told = match story.built_on() {
            Some(told) => vec![told],
            None => vec![story.relied(), story.changed(), story.went_on(moments.last())],
        };
        told.push(story.lost(facts.found.rule));
        told.retain(|sentence| !sentence.is_empty());
        why.push(told.join(" "));
    }
    if let Some(because) = facts.variant.expect.as_ref().map(|e| e.because.trim())
        && !because.is_empty()
    {
        why.push(sentence(because));
    }
    for guard in facts.variant.without.iter() {
        let info = guard.info();
        why.push(format!("Without {}: {}", info.name, info.without));
    }
    why
}

/// A race to be explained.
struct Story<'a> {
    events: &'a [Event],
    race: &'a Race,
    threads: &'a [String],
    values: Values<'a>,
}

impl Story<'_> {
    fn who(&self, i: usize) -> &str {
        thread(&self.events[i], self.threads)
    }

    fn inside(&self, i: usize) -> String {
        function(&self.events[i], self.who(i)).to_owned()
    }

    /// The value before and after, or the value that was seen.
    fn delta(&self, i: usize) -> String {
        delta(&self.events[i].what, self.values.at(i)).unwrap_or_default()
    }

    /// What the first step relied on.
    fn relied(&self) -> String {
        let first = self.race.first;
        let (who, step, inside) = (self.who(first), self.events[first].step, self.inside(first));
        let (name, delta) = (self.values.at(first).name(self.race.object), self.delta(first));
        match self.events[first].what {
            What::Load { .. } => format!("In step {step} {who} ({inside}) reads {name} {delta}."),
            What::Write { old, new, .. } if old == new => {
                format!("In step {step} {who} ({inside}) writes {name}, which {delta}.")
            }
            _ => format!("In step {step} {who} ({inside}) changes {name}: {delta}."),
        }
    }

    /// The way of a race in which the first thread sees the change, and should not have met it.
    fn built_on(&self) -> Option<String> {
        let race = self.race;
        let first = &self.events[race.first];
        if race.third.is_some() || matches!(first.what, What::Load { .. }) {
            return None;
        }
        let later = |i: &usize| {
            let event = &self.events[*i];
            event.thread == first.thread && object(&event.what) == Some(race.object)
        };
        let changes = |i: &usize| {
            matches!(self.events[*i].what, What::Write { how, old, new, .. }
                if old != new && how != How::Hardware)
        };
        let all: Vec<usize> = (race.second + 1..self.events.len()).filter(later).collect();
        let next = all.iter().copied().find(changes).or(all.first().copied())?;
        let (who, step) = (self.who(race.second), self.events[race.second].step);
        let (inside, delta) = (self.inside(race.second), self.delta(race.second));
        let name = self.values.at(race.second).name(race.object);
        let act = statement(&self.events[next].what, self.values.at(next));
        Some(format!(
            "In step {step} {who} ({inside}) changes {name}: {delta}. Step {} ({}, {}) takes it as \
             it is: {act}, {}.",
            self.events[next].step,
            self.who(next),
            self.inside(next),
            self.delta(next)
        ))
    }

    /// Who changed it meanwhile.
    fn changed(&self) -> String {
        let race = self.race;
        let end = race.third.unwrap_or(race.second + 1);
        let changes = |i: &usize| {
            let event = &self.events[*i];
            event.thread != self.events[race.first].thread
                && object(&event.what) == Some(race.object)
                && matches!(event.what, What::Write { old, new, .. } if old != new)
        };
        let changes: Vec<usize> = (race.first + 1..end).filter(changes).collect();
        let steps: Vec<String> = changes.iter().map(|i| self.events[*i].step.to_string()).collect();
        let mut who: Vec<String> = Vec::new();
        for i in &changes {
            if !who.iter().any(|name| name == self.who(*i)) {
                who.push(self.who(*i).to_owned());
            }
        }
        let (last, inside) = (self.delta(race.second), self.inside(race.second));
        match steps.as_slice() {
            [step] => format!("Step {step} ({}, {inside}) changes it: {last}.", list(&who)),
            _ => format!(
                "Steps {} ({}) change it, at last {last} ({inside}).",
                list(&steps),
                list(&who)
            ),
        }
    }

    /// How the first thread went on as if nothing had happened.
    fn went_on(&self, last_moment: Option<&usize>) -> String {
        let race = self.race;
        let saw = self.events[race.first].step;
        if let Some(third) = race.third {
            let (step, inside) = (self.events[third].step, self.inside(third));
            return match self.events[third].what {
                What::Write { how: How::Cmpxchg, .. } if race.same_bits => format!(
                    "These are the bits of step {saw} again, so the cmpxchg of step {step} \
                     succeeds: it compares bits, not what they stand for."
                ),
                What::Write { how: How::Store, old, .. } => format!(
                    "The plain store of step {step} ({inside}) goes by what step {saw} saw, and \
                     overwrites {} unseen.",
                    self.values.at(third).text(race.object, old)
                ),
                What::CmpxchgFailed { .. } => format!("The cmpxchg of step {step} fails."),
                _ => format!("Step {step} ({inside}) goes by what step {saw} saw."),
            };
        }
        let who = self.who(race.first);
        let mine = |e: &&Event| e.thread == self.events[race.first].thread;
        let later = || self.events[race.second..].iter().filter(mine);
        let again = later().any(|e| object(&e.what) == Some(race.object));
        let kernel = |name: &&&str| name.contains('_');
        let outermost = self.events[race.first].stack.iter().find(kernel).copied();
        let wrote = !matches!(self.events[race.first].what, What::Load { .. });
        let between = || self.events[race.first..race.second].iter().filter(mine);
        let left = |name| between().any(|e| matches!(e.what, What::Return(f) if f == name));
        let mut text = match outermost {
            Some(name) if wrote && !left(name) => {
                let flushed = |e: &Event| {
                    matches!(e.what, What::Mark(Mark::FlushRequested | Mark::FlushDone))
                };
                // Stage 2 of arm64 is flushed where it is changed, and sets no mark for it.
                let owes = race.object.object == Object::Spte
                    && !self.values.is_arm64()
                    && !between().any(flushed);
                let yet = if owes { ", and has not flushed yet" } else { "" };
                format!("All this while {who} is still in {}{yet}.", called(name))
            }
            _ if !wrote && !again => format!("After that {who} does not look again."),
            _ => String::new(),
        };
        if let Some(last) = last_moment.filter(|last| **last > race.second)
            && self.events[*last].thread == self.events[race.first].thread
            && let Some(act) = self.act(*last)
        {
            text += &format!(" {who} goes on to step {}: {act}.", self.events[*last].step);
        }
        text.trim().to_owned()
    }

    /// The change that the step of an event made, as a statement.
    fn act(&self, moment: usize) -> Option<String> {
        let step = self.events[moment].step;
        let acts = |i: &usize| {
            let event = &self.events[*i];
            let wrote = |old, new, how| old != new && how != How::Hardware;
            event.step == step
                && matches!(event.what, What::Write { old, new, how, .. } if wrote(old, new, how))
        };
        let i = (0..self.events.len()).find(acts)?;
        let words = statement(&self.events[i].what, self.values.at(i));
        Some(format!("{words}, {}", self.delta(i)))
    }

    /// The write that is lost, where it is plain which one it is.
    fn lost(&self, rule: Rule) -> String {
        if !matches!(rule, Rule::Property(Property::Migration | Property::Swap)) {
            return String::new();
        }
        let written = |e: &&Event| matches!(e.what, What::Mark(Mark::GuestWrite));
        let from = self.events[self.race.second].step;
        let writes: Vec<&Event> =
            self.events.iter().filter(|e| e.step >= from).filter(written).collect();
        match writes.as_slice() {
            [write] => {
                let who = thread(write, self.threads);
                format!("The write of step {} ({who}) is the one that is lost.", write.step)
            }
            _ => String::new(),
        }
    }
}

/// An author's words as a sentence.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let identifier = text
        .split(' ')
        .next()
        .is_some_and(|word| word.contains(|c: char| matches!(c, '_' | '>') || c.is_ascii_digit()));
    let up = |c: char| if identifier { c } else { c.to_ascii_uppercase() };
    let first = letters.next().map(up);
    let stop = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{}{}{stop}", first.map(String::from).unwrap_or_default(), letters.as_str())
}

//! What is printed of a recording.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::event::Site;
use crate::file::Reader;
use crate::judge::{Judged, Violation};
use crate::kernel::Mmu;
use crate::layout::Layout;
use crate::refused::Refused;
use crate::rules::{Order, Rule};
use crate::show;
use crate::step::Step;
use crate::trees::Trees;

/// No line of a violation is longer.
const WIDTH: usize = 74;
/// So many events before and after one that a violation is about are shown.
const BEFORE: u64 = 2;
/// See [`BEFORE`].
const AFTER: u64 = 3;

/// The verdict on a recording.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// No rule is broken.
    Holds,
    /// Some rule is.
    Broken,
    /// Some rule seems to be, but CPUs ran at a time: the order of events may be another one.
    NotDecided,
    /// Nothing was stored that a rule says anything of.
    NothingToJudge,
}

/// A report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of this object.
    pub version: u32,
    /// The file.
    pub file: String,
    /// The machine's architecture.
    pub arch: String,
    /// The kernel.
    pub kernel: String,
    /// Its MMU.
    pub mmu: Mmu,
    /// How CPUs took turns.
    pub schedule: Option<u8>,
    /// The order of events is that of what happened.
    pub exact: bool,
    /// Events.
    pub events: u64,
    /// Stores, by step and function.
    pub steps: Vec<StepLine>,
    /// Descriptors that the table walker changed.
    pub hardware: u64,
    /// Rules, how often they were applied and broken.
    pub rules: Vec<RuleLine>,
    /// Orders that the model calls reachable.
    pub orders: Vec<OrderLine>,
    /// Rules that say nothing of this recording, and why.
    pub not_checked: Vec<LeftOut>,
    /// What is wrong.
    pub violations: Vec<Told>,
    /// The verdict.
    pub verdict: Verdict,
}

/// Stores of a function that are the same step.
#[derive(Clone, Debug, Serialize)]
pub struct StepLine {
    /// Which.
    pub step: Step,
    /// How many.
    pub stores: u64,
    /// The function.
    pub function: String,
}

/// A rule.
#[derive(Clone, Debug, Serialize)]
pub struct RuleLine {
    /// Which.
    pub rule: Rule,
    /// How often it was applied.
    pub applied: u64,
    /// How often it was broken.
    pub broken: u64,
}

/// An order that the model calls reachable.
#[derive(Clone, Debug, Serialize)]
pub struct OrderLine {
    /// Which.
    pub order: Order,
    /// How often it was seen.
    pub seen: u64,
    /// The built-in scenario that has it.
    pub scenario: &'static str,
}

/// A rule that was not applied.
#[derive(Clone, Debug, Serialize)]
pub struct LeftOut {
    /// Which.
    pub rule: Rule,
    /// Why.
    pub why: String,
}

/// A violation with the events around it.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// It.
    #[serde(flatten)]
    pub violation: Violation,
    /// The instruction at which it was.
    pub place: String,
    /// The events around it, in order.
    pub events: Vec<Shown>,
}

/// An event that is shown.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// Its number.
    pub number: u64,
    /// Its CPU.
    pub cpu: u8,
    /// Its thread.
    pub thread: u32,
    /// What it is.
    pub what: String,
    /// Where in the kernel.
    pub place: String,
}

impl Report {
    /// Of what was judged; the recording is read once more if there are events to show.
    ///
    /// # Errors
    ///
    /// When it cannot be read any more.
    pub fn of(name: &str, reader: &Reader, judged: Judged) -> Result<Report, Refused> {
        let Judged { header, kernel, events, steps, hardware, rules, .. } = judged;
        let Judged { left_out, violations, orders, .. } = judged;
        let steps: Vec<StepLine> = steps
            .into_iter()
            .map(|((step, function), stores)| StepLine { step, stores, function })
            .collect();
        let rules: Vec<RuleLine> = Rule::ALL
            .into_iter()
            .map(|rule| {
                let (applied, broken) = rules.get(&rule).copied().unwrap_or_default();
                RuleLine { rule, applied, broken }
            })
            .collect();
        let verdict = match (rules.iter().any(|rule| rule.broken > 0), steps.is_empty()) {
            (true, _) if !header.exact => Verdict::NotDecided,
            (true, _) => Verdict::Broken,
            (false, true) => Verdict::NothingToJudge,
            (false, false) => Verdict::Holds,
        };
        let shown = shown(reader, &violations)?;
        let violations = violations
            .into_iter()
            .map(|violation| {
                let events: Vec<Shown> =
                    wanted(&violation).filter_map(|number| shown.get(&number).cloned()).collect();
                let at = shown.get(&violation.event).map(|shown| shown.place.clone());
                Told { violation, place: at.unwrap_or_default(), events }
            })
            .collect();
        let left_out = left_out.into_iter().map(|(rule, why)| LeftOut { rule, why });
        Ok(Report {
            version: 1,
            file: name.to_owned(),
            arch: header.arch.to_string(),
            mmu: kernel.mmu,
            kernel: kernel.version,
            schedule: header.schedule,
            exact: header.exact,
            events,
            steps,
            hardware,
            rules,
            orders: Order::ALL
                .into_iter()
                .map(|order| {
                    let seen = orders.get(&order).copied().unwrap_or_default();
                    OrderLine { order, seen, scenario: order.scenario() }
                })
                .collect(),
            not_checked: left_out.collect(),
            violations,
            verdict,
        })
    }

    /// As text.
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        let schedule = self.schedule.map_or(String::new(), |n| format!(", schedule {n}"));
        out.push(self.file.clone());
        let mmu = match self.mmu {
            Mmu::Stage2 | Mmu::Legacy => "",
            Mmu::Shadow => ", shadow paging",
            Mmu::Tdp => ", TDP MMU",
        };
        let kernel = format!("  {} {}{mmu}{schedule}", self.arch, self.kernel);
        out.push(format!("{kernel}: {} events", self.events));
        if self.mmu == Mmu::Shadow {
            out.push("  frames are those of a guest that maps its memory one to one".to_owned());
        }
        if !self.exact {
            out.push("  CPUs ran at a time: the order of events is not exact".to_owned());
        }
        out.push(String::new());
        out.push(format!("  {:<14} {:>8}  by", "step", "stores"));
        for StepLine { step, stores, function } in &self.steps {
            let function = if function.is_empty() { "(unknown)" } else { function };
            out.push(format!("  {step:<14} {stores:>8}  {function}"));
        }
        if self.hardware > 0 {
            out.push(format!("  {:<14} {:>8}  the table walker", "A", self.hardware));
        }
        out.push(String::new());
        out.push(format!("  {:<22} {:>8} {:>8}", "rule", "applied", "broken"));
        for RuleLine { rule, applied, broken } in &self.rules {
            let left_out = self.not_checked.iter().any(|out| out.rule == *rule);
            let note = if *applied == 0 && !left_out { "   never exercised" } else { "" };
            out.push(format!("  {rule:<22} {applied:>8} {broken:>8}{note}"));
        }
        if self.verdict != Verdict::NothingToJudge {
            out.push(String::new());
            out.push(format!("  {:>8}  reachable by the model, and seen", "times"));
            for OrderLine { order, seen, scenario } in &self.orders {
                out.push(format!("  {seen:>8}  {order} ({scenario})"));
            }
            out.push(String::new());
        }
        for LeftOut { rule, why } in &self.not_checked {
            out.push(format!("  not checked: {rule}: {why}"));
        }
        for told in &self.violations {
            out.push(String::new());
            out.extend(told.lines());
        }
        let broken: u64 = self.rules.iter().map(|rule| rule.broken).sum();
        let more = broken - self.violations.len() as u64;
        if more > 0 {
            out.push(String::new());
            out.push(format!("and {more} more of these"));
        }
        out.push(String::new());
        out.push(match self.verdict {
            Verdict::Holds => format!("HOLDS: {} stores, no rule is broken", self.stores()),
            Verdict::Broken => format!("BROKEN: {broken} times, in {} stores", self.stores()),
            Verdict::NotDecided => format!(
                "NOT DECIDED: rules seem broken {broken} times, in {} stores; CPUs ran at a time",
                self.stores()
            ),
            Verdict::NothingToJudge => "NOTHING TO JUDGE: no store to a descriptor".to_owned(),
        });
        out.join("\n") + "\n"
    }

    fn stores(&self) -> u64 {
        self.steps.iter().map(|step| step.stores).sum()
    }
}

/// The events that are shown with a violation.
fn wanted(violation: &Violation) -> impl Iterator<Item = u64> {
    let mut numbers: Vec<u64> = violation
        .about
        .iter()
        .flat_map(|about| about.saturating_sub(BEFORE)..=about + AFTER)
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into_iter().filter(|number| *number > 0)
}

/// The events that some violation shows.
fn shown(reader: &Reader, violations: &[Violation]) -> Result<BTreeMap<u64, Shown>, Refused> {
    let mut numbers: Vec<u64> = violations.iter().flat_map(wanted).collect();
    numbers.sort_unstable();
    let mut shown = BTreeMap::new();
    let Some(last) = numbers.last().copied() else { return Ok(shown) };
    each(reader, (1, last), |number, event, site, trees| {
        if numbers.binary_search(&number).is_ok() {
            let what = show::words(event, trees);
            let (cpu, thread) = (event.cpu, event.thread);
            shown.insert(number, Shown { number, cpu, thread, what, place: site.to_string() });
        }
    })?;
    Ok(shown)
}

/// Reads the events of a range, with the page tables before each.
///
/// # Errors
///
/// When the recording cannot be read any more.
pub fn each(
    reader: &Reader,
    (from, to): (u64, u64),
    mut see: impl FnMut(u64, &crate::event::Event, &Site, &Trees),
) -> Result<(), Refused> {
    let mut events = reader.events()?;
    let mut trees = Trees::new(Layout::of(reader.header().arch));
    while let Some((number, event)) = events.read()? {
        if number > to {
            break;
        }
        if number >= from {
            see(number, &event, &events.sites()[event.site as usize], &trees);
        }
        trees.see(&event.what);
    }
    Ok(())
}

impl Told {
    /// The violation, and a table with a column for each CPU.
    fn lines(&self) -> Vec<String> {
        let Violation { rule, event, what, wanted, .. } = &self.violation;
        let mut out = wrap(&format!("{rule}, event {event}, at {}: {what}", self.place), WIDTH);
        out.extend(wrap(rule.sentence(), WIDTH - 2).into_iter().map(|line| format!("  {line}")));
        let wanted = wrap(&format!("What should have come: {wanted}"), WIDTH - 2);
        out.extend(wanted.into_iter().map(|line| format!("  {line}")));
        let mut cpus: Vec<u8> = self.events.iter().map(|event| event.cpu).collect();
        cpus.sort_unstable();
        cpus.dedup();
        if cpus.is_empty() {
            return out;
        }
        let width = (WIDTH - 1) / cpus.len() - 1;
        let rule = "+".to_owned() + &format!("{}+", "-".repeat(width)).repeat(cpus.len());
        let row = |cells: &[String]| {
            let cells = cells.iter().map(|cell| format!("{cell:<width$}|"));
            "|".to_owned() + &cells.collect::<String>()
        };
        out.push(rule.clone());
        out.push(row(&cpus.iter().map(|cpu| format!(" CPU {cpu}")).collect::<Vec<_>>()));
        out.push(rule.clone());
        let mut before = None;
        for event in &self.events {
            let gap = before.is_some_and(|before| before + 1 < event.number);
            if gap {
                out.push(row(&vec![" ...".to_owned(); cpus.len()]));
            }
            before = Some(event.number);
            let mark = if event.number == self.violation.event { "!" } else { " " };
            let text = format!("{mark}{} {} @{}", event.number, event.what, event.place);
            let column = cpus.iter().position(|cpu| *cpu == event.cpu).unwrap_or(0);
            for (i, line) in wrap(&text, width - 3).into_iter().enumerate() {
                let mut cells = vec![String::new(); cpus.len()];
                cells[column] = format!(" {}{line}", if i == 0 { "" } else { "  " });
                out.push(row(&cells));
            }
        }
        out.push(rule);
        out
    }
}

/// Lines of at most `width` characters, broken at blanks; a longer word is broken anywhere.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(8);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word;
        loop {
            let line = lines.last_mut().expect("there is one");
            let blank = usize::from(!line.is_empty());
            if line.len() + blank + word.len() <= width {
                if blank == 1 {
                    line.push(' ');
                }
                line.push_str(word);
                break;
            }
            if !line.is_empty() {
                lines.push(String::new());
                continue;
            }
            let (head, tail) = word.split_at(width);
            line.push_str(head);
            lines.push(String::new());
            word = tail;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_wide_as_they_may_be() {
        assert_eq!(wrap("aaaa bbbb cccc", 9), ["aaaa bbbb", "cccc"]);
        assert_eq!(wrap("aaaaaaaaaaaa b", 8), ["aaaaaaaa", "aaaa b"]);
    }
}

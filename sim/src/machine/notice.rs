//! What the machine notices: marks, stories and violations.

use core::panic::Location;

use kvmmu_model::{Mark, Object, Tag};
use kvmmu_scenarios::{Observer, Story};

use super::hash::word_part;
use super::state::Machine;
use crate::record::event::What;
use crate::record::goal::{Goal, Violation};
use crate::record::outcome::Seen;
use crate::record::rule::Rule;
use crate::record::story::Automaton;

/// The automata of a program and a goal.
pub(crate) fn automata(witnesses: &[Story], goal: &Goal) -> Vec<Automaton> {
    let witness = |(i, story)| Automaton::new(story, Some(i as u32));
    let watched = witnesses.iter().enumerate().map(witness);
    watched.chain(goal.story.iter().map(|story| Automaton::new(story, None))).collect()
}

impl Machine {
    /// Makes the automata; their progress is shared state.
    pub(crate) fn watch(&self, automata: Vec<Automaton>) {
        for mut automaton in automata {
            if automaton.has_progress() {
                let tag = Tag::nth(Object::Var, self.locations());
                let (loc, cell) = self.new_word(tag, 0);
                automaton.progress = Some((cell, loc));
            }
            self.automata.borrow_mut().push(automaton);
        }
        self.note_watched();
    }

    /// These witnesses make no progress any more.
    pub(crate) fn stop_watching(&self, witnesses: u64) {
        let stays = |witness: u32| witnesses >> witness & 1 == 0;
        self.automata.borrow_mut().retain(|a| a.witness.is_none_or(stays));
        self.note_watched();
    }

    fn note_watched(&self) {
        let automata = self.automata.borrow();
        self.watched.set(automata.iter().fold(0, |marks, a| marks | a.marks()));
    }

    /// Something happened in the step that runs.
    #[inline(always)]
    pub(crate) fn observe(&self, say: impl FnOnce(&dyn Observer)) {
        self.switch.with_instance(|instance| {
            if let Some(observer) = instance.observer() {
                say(observer);
            }
        });
    }

    /// True if the checkpoint at this place has no effect.
    #[inline(always)]
    pub(crate) fn ignores_checkpoint(&self, site: &Location<'_>) -> bool {
        let is_it = |(file, line)| site.line() == line && site.file().ends_with(file);
        self.ignored_checkpoint.get().is_some_and(is_it)
    }

    /// A mark was passed.
    #[inline(always)]
    pub(crate) fn mark(&self, mark: Mark, site: &'static Location<'static>) {
        let bit = 1 << mark as u8;
        self.seen_marks.set(self.seen_marks.get() | bit);
        if self.watched.get() & bit != 0 {
            self.advance(mark);
        }
        if self.tracer.on() {
            self.tracer.record(self.running.get(), site, What::Mark(mark));
        }
    }

    fn advance(&self, mark: Mark) {
        for automaton in self.automata.borrow().iter() {
            let progress = automaton.progress.map_or(0, |(cell, _)| self.arena.get(cell));
            let mut next = automaton.advance(progress, mark, self.running.get());
            if let (Some(witness), true) = (automaton.witness, next == automaton.complete()) {
                self.seen_witnesses.set(self.seen_witnesses.get() | 1 << witness);
                next = 0;
            }
            let Some((cell, loc)) = automaton.progress else { continue };
            if automaton.marks() >> mark as u8 & 1 == 1 {
                self.reads.add(self.bit(loc));
            }
            if next != progress {
                self.arena.set(cell, next);
                self.mix(word_part(loc, progress) ^ word_part(loc, next));
                self.writes.add(self.bit(loc));
            }
        }
    }

    /// True if the goal's story is complete, or there is none.
    pub(crate) fn story_is_complete(&self) -> bool {
        let automata = self.automata.borrow();
        let done = |a: &Automaton| {
            a.progress.is_none_or(|(cell, loc)| {
                // A violating step depends on each thread that advances the story.
                self.reads.add(self.bit(loc));
                self.arena.get(cell) == a.complete()
            })
        };
        automata.iter().filter(|a| a.witness.is_none()).all(done)
    }

    /// Marks and witnesses seen since the engine was made.
    pub(crate) fn seen(&self) -> Seen {
        Seen {
            marks: self.seen_marks.get(),
            witnesses: self.seen_witnesses.get(),
            asked: self.seen_asked.get(),
        }
    }

    /// True if a violation ended the execution.
    pub(crate) fn is_violated(&self) -> bool {
        self.violation.borrow().is_some()
    }

    /// Keeps the first violation of the execution.
    pub(crate) fn record_violation(&self, rule: Rule, detail: String) {
        let story = self.story_is_complete();
        self.violation.borrow_mut().get_or_insert(Violation { rule, detail, story });
    }

    /// Records a violation of `thread`.
    pub(crate) fn report_violation(
        &self,
        thread: u8,
        site: &'static Location<'static>,
        rule: Rule,
        detail: String,
    ) {
        if self.tracer.on() {
            let detail = detail.clone();
            self.tracer.record(thread, site, What::Violation { rule, detail });
        }
        self.record_violation(rule, detail);
    }

    /// Records a violation; if a thread runs, it does not return.
    #[cold]
    pub(crate) fn violate(
        &self,
        rule: Rule,
        detail: impl FnOnce() -> String,
        site: &'static Location<'static>,
    ) {
        self.report_violation(self.running.get(), site, rule, detail());
        while self.switch.inside() {
            self.switch.suspend();
        }
    }
}

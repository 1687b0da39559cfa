//! A search over states that is saved, and gone on with by another process.
//!
//! What is saved is all that the search depends on, but for snapshots, which hold addresses: they
//! are taken again on the way to where the search stood.

use std::io;

use super::{Frame, Walk};
use crate::explore::cycles::Cycles;
use crate::explore::keep::{Reading, Unusable, Writing};
use crate::explore::visited::{Insert, Visited};
use crate::record::outcome::{Found, Reason, Verdict};
use crate::record::rule::Rule;
use crate::record::schedule::Schedule;

/// Whether there was a search to go on with.
pub(super) enum Resumed {
    Yes,
    No,
    /// There was, and the memory is too small for it.
    NoRoom,
}

impl Walk<'_, '_, '_, '_> {
    /// The search ends here, though it could go on.
    #[cold]
    pub(super) fn end_early(&mut self, reason: Reason) -> Verdict {
        self.save_if_due(Some(reason));
        Verdict::Inconclusive(reason)
    }

    /// The last step led to where there was no room: it is as if it had not been made.
    pub(super) fn take_back(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.next -= 1;
            self.search.stats.transitions -= 1;
            self.here = false;
        }
    }

    /// Between two steps: saves the search, if it shall be.
    #[cold]
    pub(super) fn save_if_due(&mut self, end: Option<Reason>) {
        // Of a search that is shared no engine has all.
        let Some(keep) = self.keep.take_if(|_| self.states.member.is_none()) else { return };
        if keep.is_due(end) {
            keep.save(&mut |to| self.write(&mut Writing(to)));
        }
        self.keep = Some(keep);
    }

    fn write(&self, to: &mut Writing<'_>) -> io::Result<()> {
        to.put(&self.persistent.is_some())?;
        to.put(&(&self.moves, &self.frames, self.here, self.cut))?;
        self.search.write(self.engine, to)?;
        self.cycles.write(to)?;
        if let Some(persistent) = &self.persistent {
            persistent.write(to)?;
        }
        self.states.own.write(to)
    }

    /// Goes on with the search that was saved, if one was.
    pub(super) fn resume(&mut self) -> Result<Resumed, Unusable> {
        let saved = self.keep.as_mut().and_then(|keep| keep.saved());
        match saved {
            Some(mut from) => self.read(&mut Reading::new(&mut *from)),
            None => Ok(Resumed::No),
        }
    }

    fn read(&mut self, from: &mut Reading<'_>) -> Result<Resumed, Unusable> {
        let reduced: bool = from.get()?;
        if reduced != self.persistent.is_some() {
            return Err(Unusable::new("it is of another strategy"));
        }
        let here: bool;
        (self.moves, self.frames, here, self.cut) = from.get()?;
        let learned = self.search.read(from)?;
        self.cycles = Cycles::read(from)?;
        if let Some(persistent) = &mut self.persistent {
            persistent.read(from)?;
        }
        if let Insert::Full = self.states.own.read(from)? {
            return Ok(Resumed::NoRoom);
        }
        // The way there is no part of the search: what it shows was learned before.
        if !self.engine.recall(&learned) || !self.walk_path() || !self.engine.recall(&learned) {
            return Err(Unusable::new("it is of another program"));
        }
        self.here = here;
        Ok(Resumed::Yes)
    }

    /// Goes to the state where the search stood, and takes the snapshots that it had. False: there
    /// is no such way.
    fn walk_path(&mut self) -> bool {
        self.engine.reset();
        for at in 0..self.frames.len() {
            if at > 0 {
                let Frame { next, ref moves, .. } = self.frames[at - 1];
                let made = next.checked_sub(1).filter(|made| moves.contains(made));
                let step = made.and_then(|made| self.moves.get(made)).copied();
                let Some(step) = step.filter(|step| self.engine.can(*step)) else { return false };
                self.engine.step(step);
            }
            let there = self.states.own.insert(Visited::place(self.engine.key()));
            if !matches!(there, Insert::Known(true, _)) {
                return false;
            }
            if self.frames[at].snapshot.is_some() {
                self.engine.save(&mut self.snapshots);
                self.frames[at].snapshot = Some(self.snapshots.len() - 1);
            }
        }
        self.search.forget_steps(self.engine);
        self.cycles.depth() == self.frames.len()
    }
}

/// A search that was saved and cannot be gone on with.
pub(super) fn refused(why: &Unusable) -> Found {
    let detail = format!("a saved search cannot be gone on with: {why}");
    let schedule = Schedule::default();
    Found { rule: Rule::InternalError, detail, schedule, story: false }
}

//! Stories: marks in order, and the one rule by which every machine checks a run against them.

use alloc::vec::Vec;

use kvmmu_model::Mark;

/// A sequence of moments: each must come after the one before it. Seeing the first again starts
/// over, so that `read < zap < cmpxchg` speaks of the read that the cmpxchg belongs to.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Story(pub Vec<Moment>);

/// One moment of a story.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Moment {
    /// What happened.
    pub mark: Mark,
    /// In which thread, by index; `None`: any.
    pub thread: Option<u8>,
}

impl Moment {
    /// True if this mark of this thread is it.
    pub fn is(&self, mark: Mark, thread: u8) -> bool {
        self.mark == mark && self.thread.is_none_or(|t| t == thread)
    }
}

impl Story {
    /// How many moments have passed after this mark of this thread, if `passed` had before it.
    /// `None`: the mark changes nothing. A story that is complete stays so.
    pub fn advance(&self, passed: usize, mark: Mark, thread: u8) -> Option<usize> {
        let next = self.0.get(passed)?;
        match next.is(mark, thread) {
            true => Some(passed + 1),
            false => self.0[0].is(mark, thread).then_some(1),
        }
    }

    /// Where in a run its moments are: an index into the marks for each, the last story that the
    /// run begins if it passes none to its end.
    pub fn find(&self, marks: impl IntoIterator<Item = (Mark, u8)>) -> Vec<usize> {
        let mut found = Vec::new();
        for (i, (mark, thread)) in marks.into_iter().enumerate() {
            if let Some(passed) = self.advance(found.len(), mark, thread) {
                found.truncate(passed - 1);
                found.push(i);
            }
        }
        found
    }

    /// True if a run of these marks passes it.
    pub fn is_told_by(&self, marks: impl IntoIterator<Item = (Mark, u8)>) -> bool {
        self.find(marks).len() == self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Mark::{FastFaultFixed as Fixed, FastFaultRead as Read, SpteZapped as Zap};

    fn story(thread: Option<u8>) -> Story {
        Story([Read, Zap, Fixed].map(|mark| Moment { mark, thread }).to_vec())
    }

    #[test]
    fn the_first_moment_starts_over() {
        let found = |marks: &[Mark]| story(None).find(marks.iter().map(|mark| (*mark, 0)));
        assert_eq!(found(&[Read, Zap, Fixed]), [0, 1, 2]);
        assert_eq!(found(&[Read, Zap, Read, Fixed]), [2]);
        assert_eq!(found(&[Read, Read, Zap]), [1, 2]);
        assert_eq!(found(&[Read, Fixed, Zap, Fixed, Read]), [0, 2, 3], "it stays complete");
        assert_eq!(found(&[Zap, Fixed]), []);
        assert!(story(None).is_told_by([(Read, 0), (Zap, 1), (Fixed, 2)]));
    }

    #[test]
    fn a_moment_of_one_thread_is_not_that_of_another() {
        assert!(story(Some(1)).is_told_by([(Read, 1), (Read, 0), (Zap, 1), (Fixed, 1)]));
        assert!(!story(Some(1)).is_told_by([(Read, 1), (Zap, 0), (Fixed, 1)]));
    }
}

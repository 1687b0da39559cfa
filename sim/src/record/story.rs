//! Sequences of marks, and watching for them: the witnesses of a program and the story of a goal.

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
    /// In which thread; `None`: any.
    pub thread: Option<u8>,
}

/// A sequence that is watched for.
#[derive(Clone, Debug)]
pub(crate) struct Automaton {
    moments: Vec<Moment>,
    /// Where its progress is kept, if it has any: a cell of the arena and its location.
    pub(crate) progress: Option<(u16, u16)>,
    /// The witness bit that its completion sets; `None`: the goal's story, which stays complete.
    pub(crate) witness: Option<u32>,
}

impl Automaton {
    pub(crate) fn new(story: &Story, witness: Option<u32>) -> Automaton {
        Automaton { moments: story.0.clone(), progress: None, witness }
    }

    /// True if progress must be kept: there is something to remember between two marks.
    pub(crate) fn has_progress(&self) -> bool {
        self.moments.len() > 1 || self.witness.is_none()
    }

    /// The progress of a sequence that is complete.
    pub(crate) fn complete(&self) -> u64 {
        self.moments.len() as u64
    }

    /// The marks that it looks at.
    pub(crate) fn marks(&self) -> u128 {
        self.moments.iter().fold(0, |m, moment| m | 1 << moment.mark as u8)
    }

    /// The progress after a mark: the next moment advances, the first one starts over.
    pub(crate) fn advance(&self, progress: u64, mark: Mark, thread: u8) -> u64 {
        let is = |moment: &Moment| moment.mark == mark && moment.thread.is_none_or(|t| t == thread);
        match self.moments.get(progress as usize) {
            None => progress,
            Some(next) if is(next) => progress + 1,
            Some(_) if is(&self.moments[0]) => 1,
            Some(_) => progress,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_moment_starts_over() {
        let moment = |mark| Moment { mark, thread: None };
        let story = [Mark::FastFaultRead, Mark::SpteZapped, Mark::FastFaultFixed].map(moment);
        let automaton = Automaton::new(&Story(story.to_vec()), None);
        let run = |marks: &[Mark]| {
            marks.iter().fold(0, |progress, mark| automaton.advance(progress, *mark, 0))
        };
        use Mark::{FastFaultFixed as Fixed, FastFaultRead as Read, SpteZapped as Zap};
        assert_eq!(run(&[Read, Zap, Fixed]), 3);
        assert_eq!(run(&[Read, Zap, Read, Fixed]), 1);
        assert_eq!(run(&[Read, Fixed, Zap, Fixed, Read]), 3);
        assert_eq!(run(&[Zap, Fixed]), 0);
    }
}

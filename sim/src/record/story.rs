//! Watching for stories: the witnesses of a program and the story of a goal.

use kvmmu_model::Mark;
use kvmmu_scenarios::Story;

/// A sequence that is watched for.
#[derive(Clone, Debug)]
pub(crate) struct Automaton {
    story: Story,
    /// Where its progress is kept, if it has any: a cell of the arena and its location.
    pub(crate) progress: Option<(u16, u16)>,
    /// The witness bit that its completion sets; `None`: the goal's story, which stays complete.
    pub(crate) witness: Option<u32>,
}

impl Automaton {
    pub(crate) fn new(story: &Story, witness: Option<u32>) -> Automaton {
        Automaton { story: story.clone(), progress: None, witness }
    }

    /// True if progress must be kept: there is something to remember between two marks.
    pub(crate) fn has_progress(&self) -> bool {
        self.story.0.len() > 1 || self.witness.is_none()
    }

    /// The progress of a sequence that is complete.
    pub(crate) fn complete(&self) -> u64 {
        self.story.0.len() as u64
    }

    /// The marks that it looks at.
    pub(crate) fn marks(&self) -> u128 {
        self.story.0.iter().fold(0, |m, moment| m | 1 << moment.mark as u8)
    }

    /// The progress after a mark.
    pub(crate) fn advance(&self, progress: u64, mark: Mark, thread: u8) -> u64 {
        let advanced = self.story.advance(progress as usize, mark, thread);
        advanced.map_or(progress, |passed| passed as u64)
    }
}

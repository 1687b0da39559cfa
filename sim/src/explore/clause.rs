//! The clauses of the argument that few threads of a state are enough (docs/engine.md, "States by
//! few threads"). As the guards of the model, each can be removed, for tests: a search without it
//! must miss something, or it is not needed.

/// A clause.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Clause {
    /// What a step touches is in the future of the state before it ("Futures", 1).
    Step,
    /// So is what may come after the step ("Futures", 1).
    Then,
    /// So is what blocked threads wait for ("Futures", 2).
    Waits,
    /// That is so where no thread can move, too ("Futures", 2).
    WaitsAtEnd,
    /// So is what threads may do that were not explored ("Futures", 3).
    Rest,
    /// A blocked thread goes on if the others of its set touch what it waits for ("A step that
    /// enables or disables").
    WaitEnded,
    /// Steps are compared with what all other threads may do together, which is more than what
    /// each may do alone ("The rule"; with many threads, "An upper bound is enough").
    Together,
    /// All threads are explored where a step violates something ("A violating step").
    Violation,
    /// The future of a state that is still on the path is "anything" ("Nobody is put off").
    Open,
    /// Every step that was made is compared, not only the first ("The rule").
    EveryStep,
    /// After threads were added the steps are compared again, till none is added ("The rule").
    EveryRound,
    /// If none of the threads that can move is in the way alone, all are added ("The rule").
    AllAdded,
}

impl Clause {
    /// All of them.
    pub const ALL: [Clause; 12] = [
        Clause::Step,
        Clause::Then,
        Clause::Waits,
        Clause::WaitsAtEnd,
        Clause::Rest,
        Clause::WaitEnded,
        Clause::Together,
        Clause::Violation,
        Clause::Open,
        Clause::EveryStep,
        Clause::EveryRound,
        Clause::AllAdded,
    ];

    /// True unless it is the one that was removed.
    #[inline(always)]
    pub(crate) fn stands(self, removed: Option<Clause>) -> bool {
        removed != Some(self)
    }
}

//! How far the keys of states are from the best ones: how many states a program has, and how many
//! there would be if those that no future tells apart were one.
//!
//! What is seen of a state from outside is what each thread does next (its pending operation, what
//! it may lead to, whether it can be taken, and the locks held then, as lock orders are reported)
//! and, where nothing is left to do, what is wrong. Of a step it is the move, the witnesses that it
//! completes, the removed guards that it asks for, and the violation that it is, if it is one. The
//! shared state is not seen: values that nobody will read tell no states apart.
//! [`Graph::quotient`](super::graph::Graph::quotient) is another thing, with the shared state.

mod attribution;
mod partition;
mod walk;

pub(super) use partition::{count, partition};

pub use attribution::{Attribution, Part, Place};

use attribution::Rows;
use partition::fold;
use walk::{Step, Visitor, walk};

use super::Auto;
use super::explorer::Limits;
use super::graph::look;
use crate::machine::hash::Chain;
use crate::record::goal::Goal;
use crate::record::outcome::Reason;
use crate::run::engine::Engine;
use crate::run::program::Program;

/// How many there are.
#[derive(Clone, Debug)]
pub struct Classes {
    /// All states.
    pub states: u64,
    /// All steps from them.
    pub transitions: u64,
    /// The classes of states that no future tells apart.
    pub classes: u64,
    /// What tells states of one class apart, if that was asked for.
    pub attribution: Option<Attribution>,
}

impl Classes {
    /// Those of a program. As in a search by [`Auto`], progress towards witnesses that its samples
    /// see makes no states differ.
    ///
    /// # Errors
    /// If there are more states than the limits allow, or no memory for them.
    ///
    /// # Panics
    /// As [`Engine::new`] does.
    pub fn of(
        program: &dyn Program,
        goal: &Goal,
        limits: &Limits,
        attribute: bool,
    ) -> Result<Classes, Reason> {
        let engine = &mut Engine::new(program, goal.clone());
        Auto::default().sample(engine, limits, &|_| true);
        engine.settle_witnesses();
        let mut graph = Compact::default();
        let cyclic = walk(engine, limits, &mut graph)?;
        let (states, transitions) = (graph.labels.len() as u64, graph.steps.len() as u64);
        let classes = graph.classes(cyclic);
        let number = count(classes.clone());
        let attribution = match attribute {
            true => {
                let mut rows = Rows::new(engine, classes);
                walk(engine, limits, &mut rows)?;
                Some(rows.attribute())
            }
            false => None,
        };
        Ok(Classes { states, transitions, classes: number as u64, attribution })
    }
}

/// A state graph: 20 bytes for each state and 8 for each step.
#[derive(Default)]
struct Compact {
    /// What is seen of each state.
    labels: Vec<u64>,
    /// Which of `steps` are those of each state: the first, and the first behind them.
    of: Vec<(u32, u32)>,
    steps: Vec<Step>,
    /// The states in the order in which they were left: without cycles, behind all that follow.
    left: Vec<u32>,
}

impl Compact {
    /// The class of each state.
    fn classes(self, cyclic: bool) -> Vec<u64> {
        let Compact { labels, of, steps, left } = self;
        let from = |state: usize| {
            let (first, end) = of[state];
            let steps = &steps[first as usize..end as usize];
            steps.iter().map(|step| (u64::from(step.shown), step.to()))
        };
        match cyclic {
            true => partition(labels, from),
            false => fold(labels, &left, from),
        }
    }
}

impl Visitor for Compact {
    fn arrive(&mut self, engine: &mut Engine, _: u32, is_end: bool) {
        let mut chain = look(engine, Chain::EMPTY);
        for t in 0..engine.threads() {
            chain = chain.then(engine.held(t));
        }
        if is_end {
            let wrong = engine.finish().map(|violation| (violation.rule, violation.story));
            chain = chain.then_hash(&wrong);
        }
        self.labels.push(chain.part(0) as u64);
        self.of.push((0, 0));
    }

    fn leave(&mut self, state: u32, steps: &[Step]) {
        let first = self.steps.len() as u32;
        self.steps.extend_from_slice(steps);
        self.of[state as usize] = (first, self.steps.len() as u32);
        self.left.push(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::mini::{FastFault, LastZero, Simulated};

    /// In the order of the graph, and in rounds until nothing changes.
    #[test]
    fn both_ways_to_the_classes_find_the_same() {
        let check = |program: &dyn Program| {
            let [once, rounds] = [false, true].map(|in_rounds| {
                let engine = &mut Engine::new(program, Goal::ANY);
                let mut graph = Compact::default();
                let cyclic = walk(engine, &Limits::default(), &mut graph).expect("it is small");
                assert!(!cyclic);
                graph.classes(in_rounds)
            });
            let number = count(once.clone());
            assert_eq!(count(rounds.clone()), number);
            // Not only as many: the same.
            let pair = |(a, b): (&u64, &u64)| a ^ b.rotate_left(32);
            assert_eq!(count(once.iter().zip(&rounds).map(pair).collect()), number);
            assert!(number < once.len());
        };
        check(&Simulated(FastFault::new(2, 1)));
        check(&Simulated(LastZero(4)));
    }
}

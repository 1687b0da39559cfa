//! Partition refinement by hashes: states are of one class if they look alike and each move of one
//! shows what the same move of the other shows, and leads to a state of the same class.
//!
//! Of n states any two classes have the same 64-bit hash by accident with a chance below
//! n^2 / 2^65: for 10 million states that is 3 in a million.

use crate::machine::hash::Chain;

/// The class behind a step that leads nowhere.
const NOWHERE: u64 = 0;

/// What a state is seen to be by its own look and by its steps: what each shows, and the class that
/// it leads to. In whatever order: what they show tells the steps of a state apart.
fn refine(own: u64, steps: impl Iterator<Item = (u64, u64)>) -> u64 {
    let hash = |chain: Chain| chain.part(0) as u64;
    let sum = steps
        .fold(0_u64, |sum, (shown, to)| sum.wrapping_add(hash(Chain::EMPTY.then(shown).then(to))));
    hash(Chain::EMPTY.then(own).then(sum))
}

/// The classes of states that look like this at first and have these steps.
pub(crate) fn partition<S: Iterator<Item = (u64, Option<u32>)>>(
    looks: Vec<u64>,
    steps: impl Fn(usize) -> S,
) -> Vec<u64> {
    let (mut classes, mut last) = (looks, 0);
    loop {
        let number = count(classes.clone());
        if number == last {
            return classes;
        }
        last = number;
        let class = |to: Option<u32>| to.map_or(NOWHERE, |to| classes[to as usize]);
        let refined = (0..classes.len())
            .map(|s| refine(classes[s], steps(s).map(|(shown, to)| (shown, class(to)))));
        classes = refined.collect();
    }
}

/// The same for a graph without cycles, all at once. `order` has each state behind those that its
/// steps lead to.
pub(super) fn fold<S: Iterator<Item = (u64, Option<u32>)>>(
    looks: Vec<u64>,
    order: &[u32],
    steps: impl Fn(usize) -> S,
) -> Vec<u64> {
    let mut classes = looks;
    for s in order.iter().map(|state| *state as usize) {
        let class = |to: Option<u32>| to.map_or(NOWHERE, |to| classes[to as usize]);
        classes[s] = refine(classes[s], steps(s).map(|(shown, to)| (shown, class(to))));
    }
    classes
}

/// How many different ones there are.
pub(crate) fn count(mut values: Vec<u64>) -> usize {
    values.sort_unstable();
    values.dedup();
    values.len()
}

//! The part of the search tree that is being explored: a node for each state on the current
//! execution, the steps between them, and the alternatives that races have shown to be necessary.

use super::trail::Trail;
use crate::explore::trace_hash::Clock;
use crate::machine::ACTORS_MAX;
use crate::machine::footprint::Footprint;
use crate::machine::memory::bytes;
use crate::machine::pending::Kind;
use crate::record::schedule::Move;

/// A state on the current execution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// The actors that can take a step.
    pub(super) enabled: u32,
    /// The actors whose steps are explored from here: when the node is left, a source set.
    pub(super) backtrack: u32,
    /// The actors all of whose steps are asleep: explored from here, or from a node above in an
    /// order that differs by steps that commute.
    pub(super) done: u32,
    /// Its part of [`Tree::sleepers`].
    pub(super) asleep: (u32, u32),
    /// Up to here they came from the node above.
    pub(super) inherited: u32,
    /// How many outcomes the step that is being explored may have.
    pub(super) choices: u8,
    /// The actors that [`Tree::promises`] has something about.
    pub(super) promised: u32,
}

/// A step that need not be explored until something that it depends on happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sleeper {
    pub(super) step: Move,
    /// What it touched when it was explored. Nothing that it depends on has changed since.
    pub(super) footprint: Footprint,
}

/// An actor is to be explored from a node because its step seems to commute with some others,
/// judging by what it touched elsewhere. Should it turn out not to, other actors take its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    node: u32,
    actor: u32,
    /// What the others touched.
    footprint: Footprint,
    /// Who takes its place.
    instead: u32,
}

/// A step woke a sleeper and may have changed what that would touch. What it would have touched
/// before the step still matters, for orders in which both of them come later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    node: u32,
    /// What the sleeper would have touched, without what the step has overwritten.
    footprint: Footprint,
}

/// A step that was taken, or that a blocked actor would take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Next {
    /// The index of its actor.
    pub(super) actor: usize,
    pub(super) kind: Kind,
    pub(super) footprint: Footprint,
}

/// The tree.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) trail: Trail,
    pub(super) nodes: Vec<Node>,
    pub(super) sleepers: Vec<Sleeper>,
    pub(super) promises: Vec<Promise>,
    pub(super) watches: Vec<Watch>,
}

impl Tree {
    /// How much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        let (events, nodes) = (bytes(&self.trail.events), bytes(&self.nodes));
        events
            + bytes(&self.trail.heads)
            + nodes
            + bytes(&self.sleepers)
            + bytes(&self.promises)
            + bytes(&self.watches)
    }

    /// The steps asleep at a node.
    #[inline(always)]
    pub(super) fn asleep(&self, node: &Node) -> &[Sleeper] {
        &self.sleepers[node.asleep.0 as usize..node.asleep.1 as usize]
    }

    /// A step was taken from the last node: passes on what stays asleep.
    #[inline(always)]
    pub(super) fn pass_sleepers(&mut self, actor: usize, footprint: &Footprint) {
        let Some(node) = self.nodes.last() else { return };
        for i in node.asleep.0..node.asleep.1 {
            let sleeper = self.sleepers[i as usize];
            if sleeper.step.actor.index() == actor {
                continue;
            }
            if !sleeper.footprint.depends(footprint) {
                self.sleepers.push(sleeper);
            } else if i < node.inherited
                && !(sleeper.footprint.reads & footprint.written()).is_empty()
            {
                let rest = sleeper.footprint.data_without(footprint.written());
                if rest != Footprint::default() {
                    self.watches.push(Watch { node: self.nodes.len() as u32 - 1, footprint: rest });
                }
            }
        }
    }

    /// Steps whose footprint depends on what they read are not quite what the theory is made for.
    /// Say step `s` is asleep at a node, because its subtree above was explored and left orders in
    /// which some `x` comes before it to this node. Then `a` is taken; after it, `s` touches less
    /// and commutes with `x`, so that no race shows that `x`, `s`, `a` is another order. Therefore
    /// `x` is compared with what `s` touched without `a`.
    fn races_with_sleepers(&mut self, next: &Next, own: &Clock, past: &Clock) {
        for i in 0..self.watches.len() {
            let Watch { node, footprint } = self.watches[i];
            let event = &self.trail.events[node as usize];
            if !event.is_before(past) && footprint.depends(&next.footprint) {
                self.reverse(node as usize, next, own);
            }
        }
    }

    /// Forgets what was noted about the step from the last node, which is taken back.
    #[inline(always)]
    pub(super) fn forget_watches(&mut self) {
        let last = self.nodes.len() as u32 - 1;
        while self.watches.last().is_some_and(|watch| watch.node >= last) {
            self.watches.pop();
        }
    }

    /// Finds the races of a step that comes next, or would come next if its actor were not
    /// blocked, and returns what happened before it.
    #[inline]
    pub(super) fn races(&mut self, next: &Next) -> Clock {
        let own = self.trail.clock(next.actor);
        let past = match next.kind {
            Kind::Acquire => self.races_of_acquire(next, own),
            Kind::WaitIs
            | Kind::WaitNot
            | Kind::WaitNotAll
            | Kind::WaitClear
            | Kind::WaitAny
            | Kind::WaitChange => self.races_of_wait(next, own),
            _ => self.races_since(next, own),
        };
        if !self.watches.is_empty() {
            self.races_with_sleepers(next, &own, &past);
        }
        past
    }

    /// Races with steps that did not happen before `past`, and directly before the step.
    #[inline(always)]
    fn races_since(&mut self, next: &Next, mut past: Clock) -> Clock {
        let own = past;
        // How many steps are not known to have happened before; when all of them have been looked
        // at, none is left further down.
        let mut rest = self.trail.len() - total(&past);
        let mut at = self.trail.len();
        let sketch = next.footprint.sketch();
        while rest > 0 {
            at -= 1;
            let head = &self.trail.heads[at];
            if head.is_before(&past) {
                continue;
            }
            if !head.sketch.meets(&sketch)
                || !self.trail.events[at].footprint.depends(&next.footprint)
            {
                rest -= 1;
                continue;
            }
            let before = total(&past);
            self.trail.join(&mut past, at);
            rest -= total(&past) - before;
            self.reverse(at, next, &own);
        }
        past
    }

    /// A lock is contended from the moment that it was last acquired: not the release but that
    /// acquisition races with this one.
    fn races_of_acquire(&mut self, next: &Next, mut past: Clock) -> Clock {
        let (last, acquired) = self.trail.lock_steps(next.footprint.acquired);
        if let Some(at) = acquired
            && !self.trail.events[at].is_before(&past)
        {
            self.reverse(at, next, &past);
        }
        if let Some(at) = last {
            self.trail.join(&mut past, at);
        }
        self.races_since(next, past)
    }

    /// A wait may have become possible by the step that it depends on; then it may race with an
    /// earlier one, at which it was possible too, or would be with what does not depend on that
    /// one.
    fn races_of_wait(&mut self, next: &Next, own: Clock) -> Clock {
        let (mut past, mut covered) = (own, own);
        let published = self.trail.published(next.actor);
        for at in (0..self.trail.len()).rev() {
            let event = &self.trail.events[at];
            if event.is_before(&covered) || !event.footprint.depends(&next.footprint) {
                continue;
            }
            self.trail.join(&mut past, at);
            if self.reverse(at, next, &own) && at >= published {
                self.trail.join(&mut covered, at);
            }
        }
        past
    }

    /// The step at `at` and `next` race: sees to it that some execution is explored in which `next`
    /// comes first. `own` is the past of `next` as far as its actor is concerned. Returns true if
    /// `next` itself may be the first step of that execution.
    fn reverse(&mut self, at: usize, next: &Next, own: &Clock) -> bool {
        let node = &self.nodes[at];
        let covered = node.backtrack | node.done;
        if node.enabled & !covered == 0 {
            return false;
        }
        let event = &self.trail.events[at];
        let (actor, number) = (event.actor(), event.number);
        // Of the steps that did not happen after `event`: the first one of each actor, the actors
        // whose first one can come before all others, and what they all touched.
        let mut firsts = [0u16; ACTORS_MAX];
        let (mut seen, mut initials) = (0u32, 0u32);
        let mut touched = Footprint::default();
        for other in &self.trail.events[at + 1..] {
            if other.clock[actor] >= number {
                continue;
            }
            let (t, bit) = (other.actor(), 1 << other.actor());
            if seen & bit == 0 {
                if !any_before(seen, &firsts, &other.clock) {
                    initials |= bit;
                    if covered & bit != 0 {
                        return false;
                    }
                }
                firsts[t] = other.number;
                seen |= bit;
            }
            touched = touched.union(&other.footprint);
        }
        debug_assert_eq!(initials & !node.enabled, 0);
        let me = 1 << next.actor & node.enabled;
        if seen == 0 {
            self.nodes[at].backtrack |= me;
            return me != 0;
        }
        let depends = touched.depends(&next.footprint);
        if me == 0 && seen >> next.actor & 1 == 0 && !depends {
            // It is blocked at the node, and nothing of this would let it go on.
            return false;
        }
        let instead = initials & initials.wrapping_neg();
        if seen & me != 0 || me == 0 || depends || any_before(seen, &firsts, own) {
            self.nodes[at].backtrack |= if initials & me != 0 { me } else { instead };
            return false;
        }
        let (node, actor) = (at as u32, next.actor as u32);
        self.promise(Promise { node, actor, footprint: touched, instead });
        true
    }

    /// Has an actor explored from a node in the belief that its step depends on nothing of a
    /// footprint.
    fn promise(&mut self, promise: Promise) {
        let at = promise.node as usize;
        let node = self.nodes[at];
        let broken = |sleeper: &Sleeper| {
            sleeper.step.actor.index() as u32 == promise.actor
                && sleeper.footprint.depends(&promise.footprint)
        };
        let broken = self.asleep(&node).iter().any(broken);
        let node = &mut self.nodes[at];
        let bit = 1 << promise.actor;
        if broken {
            node.backtrack |= promise.instead;
            return;
        }
        node.backtrack |= bit;
        if node.done & bit != 0 {
            return;
        }
        if node.promised & bit == 0 {
            node.promised |= bit;
            self.promises.push(promise);
            return;
        }
        let same = |p: &&mut Promise| p.node == promise.node && p.actor == promise.actor;
        if let Some(known) = self.promises.iter_mut().find(same) {
            known.footprint = known.footprint.union(&promise.footprint);
            known.instead |= promise.instead;
        }
    }

    /// An actor took its step from the last node: looks whether what was promised about it is true.
    #[inline(always)]
    pub(super) fn check_promises(&mut self, actor: usize, footprint: &Footprint) {
        let Some(node) = self.nodes.last() else { return };
        if node.promised >> actor & 1 == 1 {
            self.check_promise(self.nodes.len() as u32 - 1, actor as u32, footprint);
        }
    }

    fn check_promise(&mut self, node: u32, actor: u32, footprint: &Footprint) {
        for promise in self.promises.iter().filter(|p| p.node == node && p.actor == actor) {
            if promise.footprint.depends(footprint) {
                self.nodes[node as usize].backtrack |= promise.instead;
            }
        }
    }

    /// Leaves the last node.
    #[inline(always)]
    pub(super) fn leave(&mut self) {
        let Some(node) = self.nodes.pop() else { return };
        self.sleepers.truncate(node.asleep.0 as usize);
        if node.promised != 0 {
            let at = self.nodes.len() as u32;
            self.promises.retain(|promise| promise.node != at);
        }
    }
}

/// How many steps a clock counts.
#[inline(always)]
fn total(clock: &Clock) -> usize {
    // No more than `u16::MAX` steps in all.
    clock.iter().fold(0, |sum: u16, count| sum.wrapping_add(*count)) as usize
}

/// True if the first step of one of these actors happened before what has this clock.
#[inline(always)]
fn any_before(actors: u32, firsts: &[u16; ACTORS_MAX], clock: &Clock) -> bool {
    let mut rest = actors;
    while rest != 0 {
        let t = rest.trailing_zeros() as usize % ACTORS_MAX;
        rest &= rest - 1;
        if clock[t] >= firsts[t] {
            return true;
        }
    }
    false
}

//! The states that a search knows: its own, or those of all engines that share it.

use super::futures::{Future, Futures};
use super::shared::Member;
use super::visited::{Insert, Place, Visited};

/// The states.
#[derive(Debug)]
pub(crate) struct States {
    pub(crate) own: Visited,
    /// That the search is shared: `own` is empty then.
    pub(crate) member: Option<Box<Member>>,
}

impl States {
    /// None, which nobody shares.
    pub(crate) fn new(own: Visited) -> States {
        States { own, member: None }
    }

    /// How many there are, of a shared search those that somebody is done with.
    #[inline(always)]
    pub(crate) fn len(&self) -> u64 {
        match &self.member {
            None => self.own.len() as u64,
            Some(member) => member.shared.closed(),
        }
    }

    /// [`Visited::expect`], where that is of use.
    #[inline(always)]
    pub(crate) fn expect(&self, place: Place) {
        if self.member.is_none() {
            self.own.expect(place);
        }
    }

    /// [`Visited::insert`].
    #[inline(always)]
    pub(crate) fn insert(&mut self, place: Place) -> Insert {
        match &mut self.member {
            None => self.own.insert(place),
            Some(member) => member.insert(place),
        }
    }

    /// [`Visited::clear_flag`]: nobody need look at the state again. Its number was set before.
    #[inline(always)]
    pub(crate) fn close(&mut self, place: Place) {
        match &mut self.member {
            None => self.own.clear_flag(place),
            Some(member) => member.clear_flag(place),
        }
    }

    /// The future of a state that was looked at.
    #[inline(always)]
    pub(crate) fn know(&mut self, place: Place, future: Future, futures: &Futures) {
        match &mut self.member {
            None => self.own.set_number(place, future.0),
            Some(member) => {
                let number = member.export(futures, future);
                member.set_number(place, number);
            }
        }
    }

    /// The future with a number that [`States::insert`] gave of a closed state.
    #[inline(always)]
    pub(crate) fn future(&mut self, number: u32, futures: &mut Futures) -> Future {
        match &mut self.member {
            None => Future(number),
            Some(member) => member.import(futures, number),
        }
    }
}

//! What the numbers of futures and footprints are for another engine.
//!
//! Each engine interns its own, without locks; those of closed states are shared under other
//! numbers. What was taken over or given once is known from then on.

use super::futures::{Future, Futures};

/// Which numbers of this engine are which shared ones: each plus 1, and 0 for those not asked for.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    rows_in: Vec<u32>,
    rows_out: Vec<u32>,
    footprints_in: Vec<u32>,
    footprints_out: Vec<u32>,
}

impl Exchange {
    /// All numbers are the same.
    pub(crate) fn same(futures: &Futures) -> Exchange {
        let (rows, footprints) = futures.counts();
        let same = |count: usize| (1..=count as u32).collect::<Vec<u32>>();
        Exchange {
            rows_in: same(rows),
            rows_out: same(rows),
            footprints_in: same(footprints),
            footprints_out: same(footprints),
        }
    }

    /// A shared future that was taken over or given before.
    #[inline]
    pub(crate) fn imported(&self, number: u32) -> Option<Future> {
        known(&self.rows_in, number).map(Future)
    }

    /// The shared number of a future that was taken over or given before.
    #[inline]
    pub(crate) fn exported(&self, future: Future) -> Option<Future> {
        known(&self.rows_out, future.0).map(Future)
    }

    /// How much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let all = [&self.rows_in, &self.rows_out, &self.footprints_in, &self.footprints_out];
        all.into_iter().map(|list| list.capacity() * size_of::<u32>()).sum()
    }

    /// Takes a shared future over.
    #[cold]
    pub(crate) fn import(&mut self, own: &mut Futures, shared: &Futures, number: Future) -> Future {
        let Exchange { footprints_in, footprints_out, .. } = self;
        let row: Vec<_> = shared
            .row_numbers(number)
            .map(|id| id.map(|id| footprint(footprints_in, footprints_out, shared, own, id)))
            .collect();
        let future = own.row_of_numbers(&row);
        note(&mut self.rows_in, number.0, future.0);
        note(&mut self.rows_out, future.0, number.0);
        future
    }

    /// Gives a future to all.
    #[cold]
    pub(crate) fn export(&mut self, own: &Futures, shared: &mut Futures, future: Future) -> Future {
        let Exchange { footprints_in, footprints_out, .. } = self;
        let row: Vec<_> = own
            .row_numbers(future)
            .map(|id| id.map(|id| footprint(footprints_out, footprints_in, own, shared, id)))
            .collect();
        let number = shared.row_of_numbers(&row);
        note(&mut self.rows_out, future.0, number.0);
        note(&mut self.rows_in, number.0, future.0);
        number
    }
}

/// What a number is on the other side, if it was noted.
#[inline]
fn known(list: &[u32], number: u32) -> Option<u32> {
    list.get(number as usize)?.checked_sub(1)
}

/// Notes what a number is on the other side.
fn note(list: &mut Vec<u32>, number: u32, other: u32) {
    let at = number as usize;
    if list.len() <= at {
        list.resize(at + 1 + at / 4, 0);
    }
    list[at] = other + 1;
}

/// Takes over a footprint.
fn footprint(
    list: &mut Vec<u32>,
    back: &mut Vec<u32>,
    from: &Futures,
    to: &mut Futures,
    id: u32,
) -> u32 {
    known(list, id).unwrap_or_else(|| {
        let other = to.intern_number(from.footprint(id));
        note(list, id, other);
        note(back, other, id);
        other
    })
}

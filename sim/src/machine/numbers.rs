//! The numbers of locations in footprints, where several engines have to have the same.

use std::sync::{Arc, Mutex, PoisonError};

use super::footprint::LOCS;
use super::state::Machine;

/// Numbers in the order in which some engine first touched a location.
#[derive(Debug)]
pub(crate) struct Numbers {
    touched: u16,
    /// Of each location, plus 1; 0: nobody touched it yet.
    numbers: Vec<u16>,
}

impl Numbers {
    /// Those that this engine's locations have.
    pub(crate) fn of(machine: &Machine) -> Numbers {
        let (touched, numbers) = machine.numbering();
        Numbers { touched, numbers }
    }

    /// The number of a location plus 1, and how many were touched.
    fn number(&mut self, loc: u16) -> (u16, u16) {
        let number = &mut self.numbers[loc as usize];
        if *number == 0 {
            self.touched += 1;
            *number = self.touched.min(LOCS as u16);
        }
        (*number, self.touched)
    }
}

impl Machine {
    /// Takes numbers from `shared` from now on. All that it has are there.
    pub(crate) fn share_numbers(&self, shared: &Arc<Mutex<Numbers>>) {
        *self.shared_numbers.borrow_mut() = Some(Arc::clone(shared));
        let shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        self.number(shared.touched, &shared.numbers);
    }

    /// The number of a location plus 1, if numbers are shared, and how many were touched.
    pub(crate) fn shared_number(&self, loc: u16) -> Option<(u16, u16)> {
        let shared = self.shared_numbers.borrow();
        let shared = shared.as_ref()?;
        Some(shared.lock().unwrap_or_else(PoisonError::into_inner).number(loc))
    }
}

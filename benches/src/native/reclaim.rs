//! The memory of freed page tables, and when it may be used again.
//!
//! Guarantee: memory that was freed is in use again only after every section has ended in which it
//! may have been reached. Mechanism: freeing defers, by the epochs of [`super::section`], what
//! makes it available; allocating waits for that. By the protocol (the flush before the free waits
//! for lockless walkers) no access can be late; if one is, because a guard is removed, it meets a
//! tombstone, and never a table that is in use again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_utils::Backoff;
use parking_lot::Mutex;

use super::section::Domain;

/// What was freed, by address. The flag: its grace period is over.
#[derive(Debug, Default)]
pub struct Freed(Mutex<HashMap<usize, Arc<AtomicBool>>>);

/// The address that stands for some memory.
fn address<W>(words: &[W]) -> usize {
    words.as_ptr().addr()
}

impl Freed {
    /// The memory of these words is free from now on.
    pub fn free<W>(&self, words: &[W], domain: &Domain) {
        let available = Arc::new(AtomicBool::new(false));
        self.0.lock().insert(address(words), Arc::clone(&available));
        // ORDERING: release pairs with the acquire below: the next user of the memory is after all
        // who were late.
        domain.defer(move || available.store(true, Ordering::Release));
    }

    /// Takes the memory of these words back into use. True if it was free before.
    pub fn take<W>(&self, words: &[W], domain: &Domain, mut kick: impl FnMut()) -> bool {
        let Some(available) = self.0.lock().remove(&address(words)) else { return false };
        let backoff = Backoff::new();
        // ORDERING: as in free.
        while !available.load(Ordering::Acquire) {
            kick();
            domain.help();
            backoff.snooze();
        }
        true
    }
}

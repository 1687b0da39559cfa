//! How much memory searches may take, all of a process together.
//!
//! Searches say what their tables and snapshots take before they grow, so that a search without
//! room ends with [`Reason::Memory`](crate::outcome::Reason::Memory) where the allocator would end
//! the process. Accounts, not a counting allocator: a search by itself ends at the same state in
//! each run, and a step costs nothing more.

use std::sync::atomic::{AtomicU64, Ordering};

/// A bound that searches share, on any number of threads.
#[derive(Debug)]
pub struct Memory {
    max: u64,
    taken: AtomicU64,
}

impl Memory {
    /// At most `max` bytes.
    pub const fn new(max: u64) -> Memory {
        Memory { max, taken: AtomicU64::new(0) }
    }

    /// The bound, in bytes.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// How many bytes are taken now.
    pub fn taken(&self) -> u64 {
        // ORDERING: a number, with which nothing else is published.
        self.taken.load(Ordering::Relaxed)
    }
}

/// What one table or one search has of a [`Memory`]. Gives it back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Account {
    memory: Option<&'static Memory>,
    bytes: u64,
}

impl Account {
    /// An account of nothing; without `memory` there is no bound.
    pub(crate) fn new(memory: Option<&'static Memory>) -> Account {
        Account { memory, bytes: 0 }
    }

    /// Another account of the same memory.
    pub(crate) fn another(&self) -> Account {
        Account::new(self.memory)
    }

    /// The account holds `bytes` from now on. False, and it holds what it held, if there is no
    /// room.
    pub(crate) fn hold(&mut self, bytes: usize) -> bool {
        let (Some(memory), bytes) = (self.memory, bytes as u64) else { return true };
        let more = bytes.saturating_sub(self.bytes);
        // ORDERING: a number, with which nothing else is published.
        let before = memory.taken.fetch_add(more, Ordering::Relaxed);
        if more != 0 && before.saturating_add(more) > memory.max {
            memory.taken.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        memory.taken.fetch_sub(self.bytes.saturating_sub(bytes), Ordering::Relaxed);
        self.bytes = bytes;
        true
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.hold(0);
    }
}

/// What a list takes, and what it will take after it grows if that is near.
pub(crate) fn bytes<T>(list: &Vec<T>) -> usize {
    let capacity = list.capacity();
    let full = capacity - list.len() <= capacity / 8;
    capacity * size_of::<T>() * if full { 2 } else { 1 }
}

/// `n` zeros, or `None` if the allocator has no room for them.
pub(crate) fn zeros<T: Copy + Default>(n: usize) -> Option<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(n).ok()?;
    list.resize(n, T::default());
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_share_what_there_is_and_give_it_back() {
        static MEMORY: Memory = Memory::new(100);
        let mut one = Account::new(Some(&MEMORY));
        let mut other = one.another();
        assert!(one.hold(60) && !other.hold(41) && other.hold(40));
        assert!(!one.hold(61) && one.hold(10) && other.hold(90));
        assert_eq!(MEMORY.taken(), 100);
        drop(one);
        assert_eq!(MEMORY.taken(), 90);
        drop(other);
        assert_eq!(MEMORY.taken(), 0);
    }
}

//! What the key of a state is made of, part by part: for those who look for values that nobody will
//! read any more.

use super::engine::Engine;

/// How many of the parts each thread has. Those of threads are the last ones, thread by thread.
pub(crate) const THREAD_PARTS: usize = 2;

impl Engine {
    /// Appends a number for each part of the state. If all are equal, so are the keys of states
    /// whose threads have the same pending operations.
    pub(crate) fn parts(&self, parts: &mut Vec<u64>) {
        let mut unread = Vec::new();
        self.unread(&mut |loc| unread.push(loc));
        self.machine.values(|loc| !unread.contains(&loc), parts);
        for thread in &self.machine.threads[..self.threads()] {
            parts.push(thread.seen.get().part(0) as u64);
            parts.push(thread.attempt.key() as u64);
        }
    }

    /// What the numbers of [`Engine::parts`] are called.
    pub(crate) fn part_names(&self) -> Vec<String> {
        let mut names = self.machine.value_names();
        for name in self.thread_names() {
            names.push(format!("what {name} has seen"));
            names.push(format!("what {name} has touched since its attempt began"));
        }
        names
    }

    /// Which of [`Engine::parts`] are the values of words; the others are hashes.
    pub(crate) fn part_words(&self) -> Vec<bool> {
        let mut words = self.machine.value_words();
        words.resize(words.len() + THREAD_PARTS * self.threads(), false);
        words
    }

    /// The locks that thread `t` holds, and whether its interrupts are off, one bit each.
    pub(crate) fn held(&self, t: usize) -> u64 {
        self.machine.threads[t].held.get()
    }
}

//! Small programs of which everything is known: what explorers are tested and measured with.

pub mod mini;
